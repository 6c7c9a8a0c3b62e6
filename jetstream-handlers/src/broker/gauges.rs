//! The gauges of running handlers, which are read periodically, behind the feature `metrics`.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::time::{Instant, sleep};

use super::Broker;
use super::running::{Disconnect, WorkerHandle};
use crate::backoff::jittered;
use crate::error::{Error, ErrorKind};
use crate::observe::connection_metrics::ConnectionMetrics;
use crate::observe::handler_metrics::Target;
use crate::observe::publish_metrics;
use crate::transport::Transport;

/// The interval at which the gauges of this process are set.
const LOAD_PERIOD: Duration = Duration::from_secs(1);

/// The interval at which a consumer and its dead letters are read from the server.
const POLL_PERIOD: Duration = Duration::from_secs(15);

/// The pause after a refused request: without the permission, each one is a line in the log of the server.
const REFUSED_PAUSE: Duration = Duration::from_secs(600);

impl Broker {
    /// Sets the gauges of these handlers until all of them have ended.
    pub(super) fn spawn_gauges(&self, workers: &[Arc<WorkerHandle>]) {
        publish_metrics::declare_events();
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
        worker.observer.metrics.load(&worker.health(disconnect.as_ref()));
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
                match transport.consumer_counts(&worker.binding).await {
                    Ok(counts) => metrics.consumer(&counts),
                    Err(error) => consumer.failed(&error, || metrics.poll_failed(Target::Consumer)),
                }
            }
            if letters.is_due() {
                match count_letters(transport, worker, &mut stream).await {
                    Ok(count) => metrics.dead_letters_stored(count),
                    Err(error) => letters.failed(&error, || metrics.poll_failed(Target::DeadLetters)),
                }
            }
        }
        sleep(jittered(POLL_PERIOD)).await;
    }
}

/// Returns the number of dead letters of a handler; `stream` is the stream that has them, once it is known.
async fn count_letters(
    transport: &Transport,
    worker: &WorkerHandle,
    stream: &mut Option<String>,
) -> Result<u64, Error> {
    let Some(subject) = &worker.binding.dead_letter else { return Ok(0) };
    if stream.is_none() {
        let names = transport.stream_names(subject).await;
        let names = names.map_err(|error| error.into_error(&format!("looking up the stream of `{subject}`")))?;
        *stream = names.into_iter().next();
    }
    let Some(name) = stream else { return Ok(0) };
    let count = transport.count_messages(name, subject).await?;
    if count.is_none() {
        *stream = None;
    }
    Ok(count.unwrap_or_default())
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
