//! The stream and the consumer that a handler is bound to.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::consumer;

use super::{AckWait, Incarnations, Partition, SentAcks, Unfinished};

/// The stream and the consumer of one handler, as start-up found or created them.
#[derive(Debug)]
pub(crate) struct Binding {
    pub(crate) stream: String,
    pub(crate) consumer: String,
    pub(crate) stream_origin: Origin,
    pub(crate) consumer_origin: Origin,
    /// The effective `ack_wait` of the consumer, which determines the interval of the in-progress signals.
    pub(crate) ack_wait: AckWait,
    /// The effective `max_ack_pending` of the consumer.
    pub(crate) max_ack_pending: usize,
    /// The configuration on the server, from which a deleted consumer is restored.
    pub(crate) config: Arc<consumer::Config>,
    pub(crate) incarnations: Incarnations,
    pub(crate) sent_acks: SentAcks,
    /// The messages of a handler with a `key`; `None` for any other handler.
    pub(crate) unfinished: Option<Arc<Unfinished>>,
    /// The partition of a handler that has several; `None` for any other handler.
    pub(crate) partition: Option<Arc<Partition>>,
    /// `true` if the ack floor of the consumer may be above the beginning of the stream at the start: the consumer
    /// existed before, or begins with a later message.
    pub(crate) has_floor: bool,
    /// `true` if the stream keeps messages that all its consumers have acknowledged or terminated.
    pub(crate) keeps_handled: bool,
    /// `true` if the stream is a work queue: an ack removes the message, and a message that reaches `max_deliver`
    /// stays.
    pub(crate) work_queue: bool,
    /// `true` if the stream has copies of the messages of another one, whose subjects the handler expects.
    pub(crate) is_derived: bool,
    /// The subject of dead letters; `None` if the handler has disabled them.
    pub(crate) dead_letter: Option<String>,
    /// The streams of the handler's outputs, as far as they are known before a call.
    pub(crate) outputs: Vec<OutputStream>,
}

/// The way in which a start came to a stream or a consumer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    Found,
    Created,
}

impl Origin {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Found => "found",
            Self::Created => "created",
        }
    }
}

/// The stream to which a handler publishes what it returns.
#[derive(Debug)]
pub(crate) struct OutputStream {
    pub(crate) stream: String,
    /// The time for which the stream recognizes an output that is published again.
    pub(crate) duplicate_window: Duration,
}

impl Binding {
    /// Adds streams of outputs, each once.
    pub(crate) fn add_outputs(&mut self, streams: Vec<OutputStream>) {
        for stream in streams {
            if self.outputs.iter().all(|known| known.stream != stream.stream) {
                self.outputs.push(stream);
            }
        }
    }

    /// Returns `true` if messages arrive in strict order, and an ack covers all messages before its own.
    pub(crate) fn ordered(&self) -> bool {
        self.config.ack_policy == consumer::AckPolicy::All
    }

    /// Returns `true` if messages arrive in an order, so that one instance at a time receives them.
    pub(crate) fn keeps_order(&self) -> bool {
        self.ordered() || self.unfinished.is_some()
    }

    /// Returns the priority group that each pull request must name, if the server pins one of the workers.
    pub(crate) fn group(&self) -> Option<&str> {
        self.config.priority_groups.first().map(String::as_str).filter(|_| self.pinned())
    }

    /// Returns `true` if the server pins one of the workers, which alone receives messages (ADR-42).
    pub(crate) fn pinned(&self) -> bool {
        self.config.priority_policy == consumer::PriorityPolicy::PinnedClient
    }
}
