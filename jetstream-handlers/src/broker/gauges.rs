//! The gauges of running handlers, which are read periodically, behind the feature `metrics`.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::time::{Instant, sleep};

use super::Broker;
use super::letters::count_letters;
use super::running::{Disconnect, WorkerHandle};
use crate::backoff::jittered;
use crate::error::{Error, ErrorKind};
use crate::observe::connection_metrics::ConnectionMetrics;
use crate::observe::families::describe;
use crate::observe::handler_metrics::Target;
use crate::observe::health::Status;
use crate::observe::publish_metrics;
use crate::transport::Transport;

/// The interval at which the gauges of this process are set.
const LOAD_PERIOD: Duration = Duration::from_secs(1);

/// The interval at which a consumer and its dead letters are read from the server.
const POLL_PERIOD: Duration = Duration::from_secs(15);

/// The pause after a refused request: without the permission, each one is a line in the log of the server.
const REFUSED_PAUSE: Duration = Duration::from_secs(600);

impl Broker {
    /// Reports that no server is connected any more.
    pub(super) fn report_disconnected(&self) {
        let connection = ConnectionMetrics::new(self.inner.name.as_deref());
        connection.set(false, self.inner.transport.count_connections());
    }

    /// Sets the gauges of these handlers until all of them have ended.
    pub(super) fn spawn_gauges(&self, workers: &[Arc<WorkerHandle>]) {
        describe();
        publish_metrics::declare(declared_subjects(&self.inner.transport, workers));
        let connection = ConnectionMetrics::new(self.inner.name.as_deref());
        let (transport, workers) = (self.inner.transport.clone(), workers.to_vec());
        tokio::spawn(async move {
            // Spread over the period, so that many handlers do not ask at once.
            let pause = POLL_PERIOD / u32::try_from(workers.len()).unwrap_or(u32::MAX).max(1);
            let polls = (0..).zip(&workers).map(|(number, worker)| poll(&transport, worker, pause * number));
            let polls = join_all(polls);
            let all_ended = async { join_all(workers.iter().map(|worker| worker.ended.cancelled())).await };
            tokio::select! {
                _ = all_ended => {}
                _ = polls => {}
                () = follow(&transport, &connection, &workers) => {}
            }
            set_load(&transport, &connection, &workers);
        });
    }
}

/// Returns the subjects that the handlers declare, without the prefix of the environment.
fn declared_subjects(transport: &Transport, workers: &[Arc<WorkerHandle>]) -> Vec<String> {
    let of_handler = |worker: &Arc<WorkerHandle>| {
        let plan = &worker.handler.declaration.plan;
        let subjects = worker.handler.declaration.subjects().iter().chain(plan.publish.as_deref());
        subjects.map(|subject| transport.settings().declared(subject).to_owned()).collect::<Vec<_>>()
    };
    workers.iter().flat_map(of_handler).collect()
}

/// Sets the gauges of this process; never returns.
async fn follow(transport: &Transport, connection: &ConnectionMetrics, workers: &[Arc<WorkerHandle>]) {
    loop {
        set_load(transport, connection, workers);
        sleep(LOAD_PERIOD).await;
    }
}

fn set_load(transport: &Transport, connection: &ConnectionMetrics, workers: &[Arc<WorkerHandle>]) {
    connection.set(transport.is_connected(), transport.count_connections());
    let disconnect = Disconnect::of(transport);
    for worker in workers {
        worker.observer.metrics.load(&worker.health(disconnect.as_ref()), worker.slots.max());
    }
}

/// Reads a consumer and its dead letters from the server periodically, from `delay` on; never returns.
async fn poll(transport: &Transport, worker: &WorkerHandle, delay: Duration) {
    let metrics = &worker.observer.metrics;
    let (mut consumer, mut letters) = (Poll::new(), Poll::new());
    let mut stream = None;
    sleep(delay).await;
    loop {
        // Without a connection the gauges keep their values.
        if transport.is_connected() && !worker.ended.is_cancelled() {
            if consumer.is_due() {
                // Boxed, because they are large, and the poll waits most of the time.
                match Box::pin(transport.consumer_counts(&worker.binding)).await {
                    Ok(counts) => metrics.consumer(&counts),
                    Err(error) => consumer.failed(&error, || metrics.poll_failed(Target::Consumer)),
                }
            }
            if !consumer.is_due() && has_nothing_to_do(worker) {
                metrics.pending(0);
            }
            // The partitions of a handler have the same dead letters.
            if letters.is_due() && worker.is_first() {
                match Box::pin(count_letters(transport, &worker.binding, &mut stream)).await {
                    Ok(count) => metrics.dead_letters_stored(count.unwrap_or_default()),
                    Err(error) => letters.failed(&error, || metrics.poll_failed(Target::DeadLetters)),
                }
            }
        }
        sleep(jittered(POLL_PERIOD)).await;
    }
}

/// Returns `true` if no message has arrived since the last call although the handler could begin with one, so that its
/// consumer has none for it.
///
/// The last delivery cannot tell that if another instance has received the rest.
fn has_nothing_to_do(worker: &WorkerHandle) -> bool {
    let has_received = worker.observer.activity.take_received();
    let health = worker.health(None);
    let is_elsewhere = health.active == Some(false);
    !has_received && !is_elsewhere && health.status == Status::Running && health.in_flight == 0 && health.buffered == 0
}

/// The requests for one kind of gauge.
struct Poll {
    paused_until: Option<Instant>,
}

impl Poll {
    fn new() -> Self {
        Self { paused_until: None }
    }

    fn is_due(&self) -> bool {
        self.paused_until.is_none_or(|until| Instant::now() >= until)
    }

    fn failed(&mut self, error: &Error, count: impl FnOnce()) {
        count();
        tracing::debug!("cannot read the numbers for gauges: {error}");
        if error.kind() == ErrorKind::Authorization {
            self.paused_until = Some(Instant::now() + REFUSED_PAUSE);
        }
    }
}
