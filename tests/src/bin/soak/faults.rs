//! The faults, and how each is injected.

use std::time::{Duration, Instant};

use rand::RngExt as _;
use tokio::time::sleep;

use crate::field::Field;
use crate::ledger::Period;
use crate::queue::{QUEUES, Queue};
use crate::worker::ACK_WAIT;
use crate::{forgery, rights};

/// A fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    NodeKilled,
    NodeFrozen,
    NodeInLameDuckMode,
    AllNodesKilled,
    StreamLeaderKilled,
    StreamLeaderStepsDown,
    StreamReplaced,
    ConsumerLeaderStepsDown,
    ConsumerDeleted,
    ConsumerPaused,
    ConsumerReset,
    WorkerStopped,
    WorkerKilled,
    WorkerFrozen,
    AcksDenied,
    PullsDenied,
    LettersDenied,
    EverythingTapped,
    Unreadable,
    Large,
    Markers,
    ForgedHeaders,
    ForgedAdvisories,
}

pub(crate) const FAULTS: [Fault; 23] = [
    Fault::NodeKilled,
    Fault::NodeFrozen,
    Fault::NodeInLameDuckMode,
    Fault::AllNodesKilled,
    Fault::StreamLeaderKilled,
    Fault::StreamLeaderStepsDown,
    Fault::StreamReplaced,
    Fault::ConsumerLeaderStepsDown,
    Fault::ConsumerDeleted,
    Fault::ConsumerPaused,
    Fault::ConsumerReset,
    Fault::WorkerStopped,
    Fault::WorkerKilled,
    Fault::WorkerFrozen,
    Fault::AcksDenied,
    Fault::PullsDenied,
    Fault::LettersDenied,
    Fault::EverythingTapped,
    Fault::Unreadable,
    Fault::Large,
    Fault::Markers,
    Fault::ForgedHeaders,
    Fault::ForgedAdvisories,
];

/// A period in which nothing can be handled, by one queue or by any.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Excuse {
    pub(crate) queue: Option<Queue>,
    pub(crate) period: Period,
}

impl Fault {
    pub(crate) fn describe(self) -> &'static str {
        match self {
            Self::NodeKilled => "node killed, back after 2 s",
            Self::NodeFrozen => "node frozen for 8 s",
            Self::NodeInLameDuckMode => "node in lame duck mode, restarted",
            Self::AllNodesKilled => "all nodes killed, back at once",
            Self::StreamLeaderKilled => "stream leader killed, back after 2 s",
            Self::StreamLeaderStepsDown => "stream leader steps down",
            Self::StreamReplaced => "stream deleted and created again, twice",
            Self::ConsumerLeaderStepsDown => "consumer leader steps down",
            Self::ConsumerDeleted => "consumer deleted",
            Self::ConsumerPaused => "consumer paused for 3 s",
            Self::ConsumerReset => "consumer reset",
            Self::WorkerStopped => "worker stopped, another started",
            Self::WorkerKilled => "worker killed, another started",
            Self::WorkerFrozen => "worker frozen for 5 s",
            Self::AcksDenied => "acks denied for 3 s",
            Self::PullsDenied => "pull requests denied for 3 s",
            Self::LettersDenied => "dead letters denied for 3 s",
            Self::EverythingTapped => "subscription to `>`, consumer deleted",
            Self::Unreadable => "8 unreadable messages",
            Self::Large => "20 messages of 1 MB",
            Self::Markers => "20 delete markers",
            Self::ForgedHeaders => "20 forged headers and statuses",
            Self::ForgedAdvisories => "forged advisories",
        }
    }

    /// Returns the time until a worker finds out that the fault is over, because no server says so.
    pub(crate) fn retry_delay(self) -> Duration {
        match self {
            Self::AcksDenied | Self::PullsDenied | Self::LettersDenied => Duration::from_secs(3),
            _ => Duration::ZERO,
        }
    }

    /// Injects the fault, and returns when nothing could be handled because of it.
    pub(crate) async fn inject(self, field: &mut Field) -> Option<Excuse> {
        match self {
            Self::NodeKilled | Self::NodeFrozen | Self::NodeInLameDuckMode | Self::StreamLeaderKilled => {
                self.inject_node(field).await;
                None
            }
            Self::AllNodesKilled => {
                field.restart_all().await;
                None
            }
            Self::StreamReplaced => Some(replace_stream(field).await),
            Self::StreamLeaderStepsDown => {
                field.request("$JS.API.STREAM.LEADER.STEPDOWN.WORK", "").await;
                None
            }
            Self::ConsumerLeaderStepsDown | Self::ConsumerDeleted | Self::ConsumerPaused | Self::ConsumerReset => {
                self.inject_consumer(field).await
            }
            Self::WorkerStopped | Self::WorkerKilled | Self::WorkerFrozen => {
                self.inject_worker(field).await;
                None
            }
            Self::AcksDenied => Some(rights::deny(field, "$JS.ACK.>").await),
            Self::PullsDenied => Some(rights::deny(field, "$JS.API.CONSUMER.MSG.NEXT.>").await),
            Self::LettersDenied => {
                let denied = rights::deny(field, "dlq.>").await;
                // In order, nothing is handled before the letter of a failed message is stored.
                Some(Excuse { queue: Some(Queue::Ordered), ..denied })
            }
            Self::EverythingTapped => {
                tap(field).await;
                None
            }
            Self::Unreadable | Self::Large | Self::Markers | Self::ForgedHeaders | Self::ForgedAdvisories => {
                forgery::publish(self, field).await;
                None
            }
        }
    }

    async fn inject_node(self, field: &mut Field) {
        let node = match self {
            Self::StreamLeaderKilled => field.cluster.leader_of_stream("WORK").await,
            _ => field.random.random_range(0..3),
        };
        let node = field.cluster.node(node);
        match self {
            Self::NodeFrozen => {
                node.freeze();
                sleep(Duration::from_secs(8)).await;
                node.thaw();
            }
            Self::NodeInLameDuckMode => {
                node.lame_duck();
                sleep(Duration::from_secs(4)).await;
                node.restart().await;
            }
            _ => {
                node.kill();
                sleep(Duration::from_secs(2)).await;
                node.restart().await;
            }
        }
    }

    async fn inject_consumer(self, field: &mut Field) -> Option<Excuse> {
        let queue = QUEUES[field.random.random_range(0..QUEUES.len())];
        let name = queue.name();
        println!("  of `{name}`");
        match self {
            Self::ConsumerLeaderStepsDown => {
                field.request(&format!("$JS.API.CONSUMER.LEADER.STEPDOWN.WORK.{name}"), "").await;
            }
            Self::ConsumerDeleted => field.request(&format!("$JS.API.CONSUMER.DELETE.WORK.{name}"), "").await,
            Self::ConsumerReset => {
                // To the acknowledged ones, or to before them.
                let floor = field.ack_floor(queue).await;
                let back = [0, 50][field.random.random_range(0..2)];
                let request = format!(r#"{{"seq":{}}}"#, (floor + 1).saturating_sub(back).max(1));
                field.request(&format!("$JS.API.CONSUMER.RESET.WORK.{name}"), &request).await;
            }
            _ => {
                let begin = Instant::now();
                let subject = format!("$JS.API.CONSUMER.PAUSE.WORK.{name}");
                field.request(&subject, r#"{"pause_until":"2100-01-01T00:00:00Z"}"#).await;
                sleep(Duration::from_secs(3)).await;
                field.request(&subject, "{}").await;
                return Some(Excuse { queue: Some(queue), period: Period::since(begin) });
            }
        }
        None
    }

    async fn inject_worker(self, field: &mut Field) {
        if self == Self::WorkerFrozen {
            field.workers.signal("STOP");
            sleep(ACK_WAIT + Duration::from_secs(2)).await;
            field.workers.signal("CONT");
            // The next fault of a worker is for another one.
            field.workers.rotate();
            return;
        }
        field.workers.signal(if self == Self::WorkerKilled { "KILL" } else { "TERM" });
        field.workers.ended().await;
        field.workers.add().await;
    }
}

/// Deletes the stream and creates it again, twice.
///
/// When it is deleted again, messages are in flight whose sequences the next one has as well.
async fn replace_stream(field: &mut Field) -> Excuse {
    let begin = Instant::now();
    field.replace_stream().await;
    sleep(Duration::from_millis(field.random.random_range(500..1500))).await;
    field.replace_stream().await;
    Excuse { queue: None, period: Period::since(begin) }
}

/// Subscribes to everything, which hides that a request has no receiver, and deletes a consumer meanwhile.
async fn tap(field: &mut Field) {
    let client = field.cluster.client().await;
    let mut tap = client.subscribe(">").await.expect("the client is connected");
    let reading = tokio::spawn(async move { while futures::StreamExt::next(&mut tap).await.is_some() {} });
    sleep(Duration::from_secs(1)).await;
    Fault::ConsumerDeleted.inject_consumer(field).await;
    sleep(Duration::from_secs(5)).await;
    reading.abort();
}
