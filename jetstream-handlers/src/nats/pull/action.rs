//! Actions that follow from the state of a consumer whose messages arrive in an order.

use std::time::Duration;

use super::missing::Missing;
use crate::message::Message;

/// The interval of the requests for the consumer's info while a message may be missing.
pub(super) const PERIOD: Duration = Duration::from_millis(100);

/// The interval of the requests for the consumer's info while another instance is active, or after an unanswered one.
pub(super) const LONG_PERIOD: Duration = Duration::from_secs(1);

/// The instance to which the server delivers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Active {
    This,
    Other,
    NoInstance,
}

/// The action that follows from the consumer's info.
#[derive(Debug)]
pub(super) enum Action {
    /// Everything unacknowledged has arrived: these messages are next, in order.
    Release(Vec<Message>),
    /// Everything unacknowledged has arrived, and was passed on before.
    Open,
    /// No instance has these messages.
    Nak(Missing),
    /// Messages that this process has acked were delivered again: the last ack was lost, or crossed them.
    AckAgain,
    Wait,
}
