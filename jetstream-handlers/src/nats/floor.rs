//! The ack floor of a consumer, from which a deleted consumer is recreated, and its pause.

use std::time::SystemTime;

use async_nats::jetstream::consumer;

use super::Connection;
use crate::delivery::{Binding, Pause};
use crate::error::Error;

/// The last known ack floor of a consumer, its pause, and the creation time of its stream.
#[derive(Debug, Clone, Copy)]
pub(super) struct Floor {
    stream_created: SystemTime,
    sequence: u64,
    /// The number of deliveries that the consumer had made.
    pub(super) delivered: u64,
    pub(super) pause: Option<Pause>,
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
        // In this order, a floor that is read after the stream was replaced is paired with the creation time of the old
        // stream, and is never used.
        let stream_created = self.stream_created(&binding.stream).await?;
        let info: consumer::Info = self.consumer_info(binding).await?;
        let (sequence, delivered) = (info.ack_floor.stream_sequence, info.delivered.consumer_sequence);
        let pause = info
            .paused
            .then(|| Pause { until: info.config.pause_until.map(SystemTime::from), remaining: info.pause_remaining });
        let max_waiting = usize::try_from(info.config.max_waiting).ok().filter(|max| *max > 0);
        let is_full = max_waiting.is_some_and(|max| info.num_waiting >= max);
        Ok(Floor { stream_created, sequence, delivered, pause, is_full })
    }

    /// Returns the time at which a stream was created.
    pub(crate) async fn stream_created(&self, stream: &str) -> Result<SystemTime, Error> {
        Ok(SystemTime::from(self.stream_info(stream).await?.created))
    }

    /// Returns the start sequence of a restored consumer: one after the floor; `None` if the floor is 0, or if the
    /// stream was replaced.
    pub(super) async fn start_sequence(&self, binding: &Binding, floor: Floor) -> Result<Option<u64>, Error> {
        let info = self.stream_info(&binding.stream).await?;
        let is_same =
            SystemTime::from(info.created) == floor.stream_created && info.state.last_sequence >= floor.sequence;
        Ok((is_same && floor.sequence > 0).then_some(floor.sequence + 1))
    }
}
