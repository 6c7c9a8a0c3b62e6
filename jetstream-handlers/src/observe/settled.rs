//! The settlement of attempts at messages.

use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

use crate::outcome::{Failure, Reason};

/// The settlement of a delivery after an attempt at its message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Settlement {
    /// The message was acknowledged.
    Ack,
    /// The message will be tried again, or its dead letter will be stored later.
    Retry,
    /// The dead letter of the message is stored, and the message has ended.
    DeadLetter,
    /// The message was terminated without a dead letter.
    Terminated,
    /// The message was handed back at a stop, for immediate redelivery to another instance.
    HandedBack,
    /// The delivery was not answered, because the server has redelivered the message, or will do so after its
    /// `ack_wait`.
    Lost,
}

impl Settlement {
    /// All settlements, in the order of their declaration.
    #[cfg_attr(not(feature = "metrics"), allow(dead_code, reason = "only the feature counts them"))]
    pub(crate) const ALL: [Self; 6] =
        [Self::Ack, Self::Retry, Self::DeadLetter, Self::Terminated, Self::HandedBack, Self::Lost];

    /// Returns the name, as metrics and spans have it: the name of the variant in lower case, with underscores.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ack => "ack",
            Self::Retry => "retry",
            Self::DeadLetter => "dead_letter",
            Self::Terminated => "terminated",
            Self::HandedBack => "handed_back",
            Self::Lost => "lost",
        }
    }
}

impl fmt::Display for Settlement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The end of one attempt at a message, as [`Builder::on_settled`](crate::Builder::on_settled) reports it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SettledEvent<'a> {
    /// The full name of the handler.
    pub handler: &'a str,
    /// The durable consumer of the handler.
    pub queue: &'a str,
    /// The stream of the message.
    pub stream: &'a str,
    /// The subject of the message.
    pub subject: &'a str,
    /// The sequence of the message in its stream.
    pub sequence: u64,
    /// The number of deliveries, as [`Info::delivered`](crate::Info::delivered) returns it.
    pub delivered: u64,
    /// The settlement of the delivery.
    pub outcome: Settlement,
    /// The class of the failure; `None` if the attempt has not failed.
    pub reason: Option<Reason>,
    /// The text of the failure, as in the log and the dead letter; `None` if the attempt has not failed.
    pub error: Option<&'a str>,
    /// The time between the storing of the message and the start of the attempt, by the clocks of the server and of
    /// this machine; zero if they differ by more than that.
    pub queued: Duration,
    /// The time for which the message waited in this process before the attempt, since it arrived or its last attempt
    /// ended; zero for another attempt of an `ordered` handler, which waits for its backoff alone.
    pub buffered: Duration,
    /// The duration of the call with the extraction of its parameters; `None` if there was no call, as for a message
    /// whose attempts are used up or one that was acknowledged before and is delivered again, and for a call that a stop
    /// cancels.
    ///
    /// The messages of one batch have the same one.
    pub elapsed: Option<Duration>,
}

/// Calls for one message or batch that have ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Called {
    /// The time at which the first one began.
    pub(crate) begun: Instant,
    /// The time at which the last one ended.
    pub(crate) ended: Instant,
    /// The class of the failure of the last one.
    #[cfg_attr(not(any(feature = "metrics", feature = "otel")), allow(dead_code, reason = "only they show it"))]
    pub(crate) failed: Option<Reason>,
}

impl Called {
    pub(crate) fn took(&self) -> Duration {
        self.ended.saturating_duration_since(self.begun)
    }
}

/// The settlement of an attempt, with the values of its log line.
#[derive(Debug)]
pub(crate) struct Settled {
    pub(crate) settlement: Settlement,
    pub(crate) failed: Option<Box<Failed>>,
}

/// A failed attempt.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) failure: Failure,
    pub(crate) next: Next,
}

/// The step after a failed attempt.
#[derive(Debug)]
pub(crate) enum Next {
    /// Another attempt.
    Attempt { number: u64, max_deliver: u32, delay: Duration },
    /// The message has ended; its dead letter is stored at this place.
    DeadLetter { stream: String, sequence: u64 },
    /// The message has ended without a dead letter.
    Terminated,
    /// Its dead letter could not be stored, which is logged once for all messages.
    DeadLetterLater,
    /// Another instance receives the message, or this one receives it again.
    Redelivery,
}

impl Settled {
    pub(crate) const ACK: Self = Self { settlement: Settlement::Ack, failed: None };
    pub(crate) const HANDED_BACK: Self = Self { settlement: Settlement::HandedBack, failed: None };
    pub(crate) const LOST: Self = Self { settlement: Settlement::Lost, failed: None };

    /// Returns the settlement of a failed attempt.
    pub(crate) fn failed(settlement: Settlement, failure: Failure, next: Next) -> Self {
        Self { settlement, failed: Some(Box::new(Failed { failure, next })) }
    }

    /// Returns `true` if the message was acknowledged or terminated, so that it is not redelivered.
    pub(crate) fn has_ended(&self) -> bool {
        matches!(self.settlement, Settlement::Ack | Settlement::DeadLetter | Settlement::Terminated)
    }
}
