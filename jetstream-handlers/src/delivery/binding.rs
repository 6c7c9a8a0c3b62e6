//! The stream and the consumer that a handler is bound to.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use async_nats::jetstream::consumer;

/// What start-up found or made for one handler.
#[derive(Debug, Clone)]
pub(crate) struct Binding {
    pub(crate) stream: String,
    pub(crate) consumer: String,
    /// The consumer's effective one, which paces the in-progress signals.
    pub(crate) ack_wait: Duration,
    /// The consumer's effective one.
    pub(crate) max_ack_pending: usize,
    /// The consumer as it is on the server, should it have to be made again.
    pub(crate) config: Arc<consumer::Config>,
    /// Whether the consumer was there before this start.
    pub(crate) existed: bool,
    /// Of an ordered handler: up to where in the stream this process has sent an ack.
    pub(crate) acked: Arc<AtomicU64>,
    /// Whether the stream keeps messages that all consumers have done with.
    pub(crate) keeps_handled: bool,
    /// Whether a message leaves the stream when its consumer has done with it, and stays for ever if that gives up.
    pub(crate) work_queue: bool,
    /// Where dead letters go; `None` where the handler wants none.
    pub(crate) dead_letter: Option<String>,
}

impl Binding {
    /// Whether the messages come in strict order, and an ack is for all that came before.
    pub(crate) fn ordered(&self) -> bool {
        self.config.ack_policy == consumer::AckPolicy::All
    }

    /// The priority group that each pull has to name, where the server chooses the one worker that gets the messages.
    pub(crate) fn group(&self) -> Option<&str> {
        self.config.priority_groups.first().map(String::as_str).filter(|_| self.pinned())
    }

    /// Whether the server chooses the one worker that gets the messages.
    pub(crate) fn pinned(&self) -> bool {
        self.config.priority_policy == consumer::PriorityPolicy::PinnedClient
    }
}
