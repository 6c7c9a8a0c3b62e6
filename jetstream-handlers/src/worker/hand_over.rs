//! The hand-over of a partition to the instance that is to have it from now on.

use std::sync::Mutex;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::Worker;
use crate::message::Info;
use crate::observe::settled::Settlement;
use crate::sync::lock;
use crate::transport::Deliveries;

/// The time for which an instance keeps a partition after it has received its first message, so that claims which change
/// all the time do not keep all instances from handling anything.
const MIN_TENURE: Duration = Duration::from_secs(1);

/// The minimum of the time for which nothing begins because running calls must end first; the partition is kept after it.
const MIN_WAIT: Duration = Duration::from_secs(5);

/// The maximum of that time.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// The usual duration of a call is this fraction of that time.
const CALLS_PER_WAIT: u32 = 3;

/// The time for which a partition is kept whose calls have not ended.
const KEPT: Duration = Duration::from_secs(30);

/// The interval at which a worker looks whether its calls have ended.
const INTERVAL: Duration = Duration::from_millis(20);

/// The timeout of the record of the messages that the next instance handles.
const RECORD_TIMEOUT: Duration = Duration::from_secs(5);

/// The state of a hand-over.
#[derive(Debug, Default)]
pub(super) struct HandOver {
    /// The time since which nothing begins; `None` while the partition is not handed over.
    since: Mutex<Option<Instant>>,
    /// The messages that were taken out of the buffer, and are not handed back yet.
    left: Mutex<Vec<Info>>,
}

impl HandOver {
    fn since(&self) -> Option<Instant> {
        *lock(&self.since)
    }

    /// Takes the messages that are not handed back yet, for a stop that interrupts a hand-over.
    pub(super) fn take_left(&self) -> Vec<Info> {
        std::mem::take(&mut *lock(&self.left))
    }
}

impl Worker {
    /// Returns `true` if the worker has no partition, or is to request its messages.
    pub(super) fn may_request(&self) -> bool {
        self.binding.partition.as_ref().is_none_or(|it| it.is_wanted() && self.hand_over.since().is_none())
    }

    /// Waits until the partition may have to be handed over, or a hand-over to continue; never returns without partitions.
    pub(super) async fn partition_changed(&self) {
        match &self.binding.partition {
            None => std::future::pending().await,
            Some(partition) if self.hand_over.since().is_some() || partition.is_unwanted_and_active() => {
                sleep(INTERVAL).await;
            }
            Some(partition) => partition.changed().await,
        }
    }

    /// Hands a partition over that this instance has and is not to have: nothing begins any more, the running calls end,
    /// and the server pins another instance.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, [`HandOver::take_left`] has what is not handed back yet.
    pub(super) async fn attend_to_partition(&self, deliveries: &mut Deliveries) {
        let Some(partition) = &self.binding.partition else { return };
        partition.set_active(deliveries.is_active());
        match self.hand_over.since() {
            None if partition.is_unwanted_and_active() && partition.active_for() >= MIN_TENURE => {
                *lock(&self.hand_over.since) = Some(Instant::now());
                deliveries.hold(true);
                self.buffer.hold(true);
                if !self.slots.hold_messages() {
                    Box::pin(self.end_hand_over(deliveries)).await;
                }
            }
            None => {}
            Some(_) if !self.slots.hold_messages() => Box::pin(self.end_hand_over(deliveries)).await,
            Some(since) if since.elapsed() > self.hand_over_wait() => {
                tracing::info!(
                    handler = self.handler.declaration.name,
                    queue = self.binding.consumer,
                    "the partition is handed over later, because its calls have not ended after {:.0?}",
                    since.elapsed()
                );
                partition.keep(KEPT);
                self.go_on(deliveries);
            }
            Some(_) => {}
        }
    }

    fn hand_over_wait(&self) -> Duration {
        (self.prefetch.mean() * CALLS_PER_WAIT).clamp(MIN_WAIT, MAX_WAIT)
    }

    /// Lets messages begin again.
    fn go_on(&self, deliveries: &mut Deliveries) {
        deliveries.hold(false);
        self.buffer.hold(false);
        *lock(&self.hand_over.since) = None;
    }

    async fn end_hand_over(&self, deliveries: &mut Deliveries) {
        let waiting = self.take_waiting();
        let sequences: Vec<_> = waiting.iter().map(Info::stream_sequence).collect();
        lock(&self.hand_over.left).extend(waiting);
        if let Some(acks) = &self.ack_all {
            self.ack_all(acks).await;
        }
        // An ack that arrives later than the request to pin another instance would be one for a message that this has.
        self.confirm_last_answers().await;
        if !sequences.is_empty() {
            // They were not tried.
            self.record_hand_back(&sequences, RECORD_TIMEOUT).await;
        }
        deliveries.step_down().await;
        deliveries.forget();
        // Not before: this instance has requests that the server would serve with them.
        let left = self.hand_over.take_left();
        for delivery in &left {
            self.request_again(delivery).await;
        }
        self.observer.count(Settlement::HandedBack, left.len());
        if let Some(acks) = &self.ack_all {
            acks.resync();
        }
        if let Some(partition) = &self.binding.partition {
            partition.set_active(false);
        }
        self.go_on(deliveries);
        let (handler, queue) = (&self.handler.declaration.name, &self.binding.consumer);
        tracing::debug!(handler, queue, left = left.len(), "the partition was handed over");
    }

    /// Takes the messages that no slot has taken, in the order of the stream.
    fn take_waiting(&self) -> Vec<Info> {
        let mut waiting: Vec<_> =
            self.buffers().flat_map(|buffer| buffer.drain()).map(|message| message.info).collect();
        waiting.extend(self.take_by_key());
        waiting.sort_by_key(Info::stream_sequence);
        waiting
    }
}
