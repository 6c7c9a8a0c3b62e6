//! Messages that their consumer has given up, as an advisory reports.
//!
//! Everyone without a list of allowed subjects may publish an advisory, so it is only a reason to ask the server.

use async_nats::jetstream::consumer;

use super::Connection;
use crate::delivery::{Binding, GivenUpState};
use crate::error::Error;
use crate::error::printable::printable;
use crate::message::Stored;
use crate::subject::covers;

impl Connection {
    /// Compares the report that a stored message was given up after `delivered` deliveries with its consumer.
    pub(crate) async fn given_up_state(
        &self,
        binding: &Binding,
        stored: &Stored,
        delivered: u64,
    ) -> Result<GivenUpState, Error> {
        let info: consumer::Info = self.consumer_info(binding).await?;
        Ok(given_up_state(&info, stored, delivered))
    }
}

/// Returns the state of a message, from the state of its consumer (`consumer.go`, `hasMaxDeliveries` and
/// `infoWithSnapAndReply`).
///
/// A message that was acknowledged and is kept by its stream looks like one that was given up, unless the numbers of
/// deliveries exclude it: the server does not report the state of one message.
fn given_up_state(info: &consumer::Info, stored: &Stored, delivered: u64) -> GivenUpState {
    let consumer::Config { max_deliver, filter_subject, filter_subjects, .. } = &info.config;
    let mut filters = filter_subjects.iter().chain([filter_subject]).filter(|filter| !filter.is_empty()).peekable();
    let max_deliver = u64::try_from(*max_deliver).unwrap_or_default();
    let wrong = if filters.peek().is_some() && !filters.any(|filter| covers(filter, &stored.subject)) {
        format!("the consumer does not receive subject `{}`", printable(&stored.subject))
    } else if stored.sequence > info.delivered.stream_sequence {
        format!("the consumer has delivered messages only up to {}", info.delivered.stream_sequence)
    } else if max_deliver == 0 {
        "the consumer has no max_deliver".to_owned()
    } else if delivered < max_deliver {
        format!("it is reported after {delivered} deliveries, and max_deliver is {max_deliver}")
    } else if delivered > info.delivered.consumer_sequence {
        format!(
            "it is reported after {delivered} deliveries, and the consumer has made {}",
            info.delivered.consumer_sequence
        )
    } else if max_deliver > 1 && info.num_redelivered == 0 {
        // The server counts a message that it has given up among the redelivered ones, except with `max_deliver: 1`.
        "the consumer has no redelivered message".to_owned()
    } else if info.num_ack_pending > 0 && stored.sequence > info.ack_floor.stream_sequence {
        return GivenUpState::InFlight;
    } else {
        return GivenUpState::GivenUp;
    };
    GivenUpState::NotGivenUp(wrong)
}
