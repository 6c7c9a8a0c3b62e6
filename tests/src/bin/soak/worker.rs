//! A worker: a process with three handlers on one connection, which reports each call that succeeds.

use std::io::Write as _;
use std::net::TcpStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use futures::future::BoxFuture;
use jetstream_handlers::prelude::*;
use jetstream_handlers::{Error, Info};
use tokio::signal::unix::{SignalKind, signal};

use crate::ledger::{Handling, nanos};
use crate::message::{Id, Kind, Order};
use crate::queue::Queue;
use crate::streams;

/// The time after which the server redelivers a message.
pub(crate) const ACK_WAIT: Duration = Duration::from_secs(3);

/// Runs until the process is told to stop.
pub(crate) async fn run(ledger: &str, seed: u64) -> Result<(), Error> {
    jetstream_handlers_tests::trace();
    // The handlers panic often, on purpose.
    std::panic::set_hook(Box::new(|panic| {
        if !panic.to_string().contains("on purpose") {
            eprintln!("{panic}");
        }
    }));
    let reports = Reports::connect(ledger);
    let broker = streams::declared(Broker::from_env(), streams::storage(seed)).connect().await?;
    let handler = |queue: Queue| handler(queue, reports.clone());
    let backoff = [Duration::from_millis(20), Duration::from_millis(100)];
    let subscribe = |queue: Queue| {
        let subscribe = broker.subscribe("work.>", queue.name(), handler(queue)).name(queue.name());
        subscribe.ack_wait(ACK_WAIT).timeout(Duration::from_millis(500)).backoff(&backoff)
    };
    let running = [
        subscribe(Queue::Plain).concurrency(8).await?,
        subscribe(Queue::Ordered).ordered().await?,
        subscribe(Queue::Single).await?,
    ];
    let mut terminate = signal(SignalKind::terminate()).expect("signals can be received");
    println!("started");
    terminate.recv().await;
    for result in futures::future::join_all(running.map(jetstream_handlers::Subscription::unsubscribe)).await {
        result?;
    }
    broker.disconnect().await
}

/// Returns a handler that does what the kind of its message says.
fn handler(
    queue: Queue,
    reports: Reports,
) -> impl Fn(Order, Subject, Info) -> BoxFuture<'static, HandlerResult> + Send + Sync + 'static {
    move |order, subject, info| {
        let reports = reports.clone();
        Box::pin(async move {
            let id = Id::parse(subject.as_str()).ok_or("the subject names no message")?;
            let is_first = info.delivered() == 1;
            match id.kind {
                Kind::AlwaysFails => return Err("fails always".into()),
                Kind::FailsOnce if is_first => return Err("fails once".into()),
                Kind::PanicsOnce if is_first => panic!("on purpose"),
                Kind::HangsOnce if is_first => std::future::pending().await,
                _ if order.number != id.number => return Err("the payload is that of another message".into()),
                _ => {}
            }
            // Random, so that some calls run during each fault.
            tokio::time::sleep(rand::random_range(Duration::ZERO..queue.longest_call())).await;
            reports.send(Handling {
                queue,
                id,
                stream_sequence: info.stream_sequence(),
                stored_at: nanos(info.stored_at()),
                at: nanos(SystemTime::now()),
            });
            Ok(())
        })
    }
}

/// The connection to the ledger.
#[derive(Clone, Debug)]
struct Reports(Arc<Mutex<TcpStream>>);

impl Reports {
    fn connect(ledger: &str) -> Self {
        Self(Arc::new(Mutex::new(TcpStream::connect(ledger).expect("the ledger accepts connections"))))
    }

    /// Reports a call before its message is acknowledged; what was written survives the process.
    fn send(&self, handling: Handling) {
        let mut stream = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        stream.write_all(format!("{handling}\n").as_bytes()).expect("the ledger reads");
    }
}
