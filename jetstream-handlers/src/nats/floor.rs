//! The ack floor of a consumer, from which a deleted consumer is recreated, and its pause.

use std::time::{Duration, SystemTime};

use async_nats::jetstream::{consumer, stream};
use tokio::time::timeout;

use super::Connection;
use crate::delivery::{Binding, Pause};
use crate::error::Error;
use crate::error::api::ApiError;
use crate::message::nanos;

/// The timeout of reading one message; the server does not answer a user without the permission.
const READ_TIMEOUT: Duration = Duration::from_secs(1);

/// The last known ack floor of a consumer, its pause, and what its stream was at that time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Floor {
    stream_created: SystemTime,
    /// The last message of the stream, by its sequence and the time at which it was stored, in nanoseconds since 1970.
    stream_end: (u64, u64),
    pub(super) sequence: u64,
    /// The number of deliveries that the consumer had made.
    pub(super) delivered: u64,
    pub(super) pause: Option<Pause>,
    pub(super) ack_wait: Duration,
    /// `true` if the consumer had as many pull requests as it serves at a time.
    pub(super) is_full: bool,
}

impl Floor {
    /// Raises the floor to this stream sequence, if it is lower.
    pub(super) fn rise(&mut self, sequence: u64) {
        self.sequence = self.sequence.max(sequence);
    }
}

impl Connection {
    /// Returns the ack floor of a handler's consumer, in case it is deleted later.
    pub(super) async fn floor(&self, binding: &Binding) -> Result<Floor, Error> {
        // In this order, a floor that is read after the stream was replaced is paired with the old stream, and is never
        // used.
        let stream = self.stream_info(&binding.stream).await?;
        let info: consumer::Info = self.consumer_info(binding).await?;
        let pause = info
            .paused
            .then(|| Pause { until: info.config.pause_until.map(SystemTime::from), remaining: info.pause_remaining });
        let max_waiting = usize::try_from(info.config.max_waiting).ok().filter(|max| *max > 0);
        Ok(Floor {
            stream_created: SystemTime::from(stream.created),
            stream_end: (stream.state.last_sequence, nanos(SystemTime::from(stream.state.last_timestamp))),
            sequence: info.ack_floor.stream_sequence,
            delivered: info.delivered.consumer_sequence,
            pause,
            ack_wait: info.config.ack_wait,
            is_full: max_waiting.is_some_and(|max| info.num_waiting >= max),
        })
    }

    /// Returns the time at which a stream was created.
    pub(crate) async fn stream_created(&self, stream: &str) -> Result<SystemTime, Error> {
        Ok(SystemTime::from(self.stream_info(stream).await?.created))
    }

    /// Returns the start sequence of a restored consumer: one after the floor; `None` if the floor is 0, or if the
    /// stream was replaced.
    pub(super) async fn start_sequence(&self, binding: &Binding, floor: Floor) -> Result<Option<u64>, Error> {
        let info = self.stream_info(&binding.stream).await?;
        let is_same = SystemTime::from(info.created) == floor.stream_created
            && info.state.last_sequence >= floor.sequence
            && self.still_has(&binding.stream, floor.stream_end, &info.state).await?;
        Ok((is_same && floor.sequence > 0).then_some(floor.sequence + 1))
    }

    /// Returns `false` if a stream has lost messages and assigned their sequences again, as far as the message that was
    /// its last one shows.
    async fn still_has(
        &self,
        stream: &str,
        (sequence, time): (u64, u64),
        state: &stream::State,
    ) -> Result<bool, Error> {
        if sequence == 0 {
            return Ok(true);
        }
        let read = timeout(READ_TIMEOUT, self.stored_at(stream, sequence)).await;
        Ok(match read {
            Ok(Ok(Some(stored_at))) => stored_at == time,
            // It was deleted since, unless the messages that are left were all stored after it.
            Ok(Ok(None)) => {
                let first = nanos(SystemTime::from(state.first_timestamp));
                state.last_sequence >= sequence && (state.first_sequence > sequence || first <= time)
            }
            // Without the permission to read the stream, this is not known.
            Err(_) | Ok(Err(ApiError::Denied(_))) => true,
            Ok(Err(error)) => {
                return Err(error.into_error(&format!("reading message {sequence} of stream `{stream}`")));
            }
        })
    }
}
