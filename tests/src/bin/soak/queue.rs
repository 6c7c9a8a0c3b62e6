//! The queues of the handlers.

use std::time::Duration;

use crate::worker::ACK_WAIT;

/// The three handlers, which share the connection of their worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Queue {
    /// Eight calls at the same time.
    Plain,
    Ordered,
    /// One call at a time.
    Single,
}

pub(crate) const QUEUES: [Queue; 3] = [Queue::Plain, Queue::Ordered, Queue::Single];

impl Queue {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Ordered => "ordered",
            Self::Single => "single",
        }
    }

    /// Returns how long a call takes at most; the calls keep up with the load.
    pub(crate) fn longest_call(self) -> Duration {
        match self {
            Self::Plain => Duration::from_millis(100),
            Self::Ordered | Self::Single => Duration::from_millis(8),
        }
    }

    /// Returns for how long the server keeps what a worker held that is lost: until `ack_wait` has passed, and until
    /// another worker may read in its place, for which an ordered handler waits 5 s.
    pub(crate) fn held_for(self) -> Duration {
        match self {
            Self::Plain | Self::Single => ACK_WAIT,
            Self::Ordered => ACK_WAIT.max(Duration::from_secs(5)),
        }
    }

    pub(crate) fn parse(name: &str) -> Option<Self> {
        QUEUES.into_iter().find(|queue| queue.name() == name)
    }
}
