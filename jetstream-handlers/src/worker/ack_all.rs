//! The acks of an ordered handler.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::time::sleep;

use super::Worker;
use crate::delivery::AckedSequence;
use crate::message::Info;
use crate::sync::lock;

/// The maximum time that a message that has ended waits for the ack that covers it.
const MAX_ACK_DELAY: Duration = Duration::from_millis(100);

/// The acks of an ordered handler, whose consumer has the ack policy `all`: each covers all messages before it.
#[derive(Debug)]
pub(super) struct AckAll {
    /// The number of messages after which an ack is sent.
    every: usize,
    acks: Mutex<Acks>,
    /// The stream sequence up to which an ack was sent.
    pub(super) acked: AckedSequence,
    /// The wake-up of the timer when the first message since the last ack has ended.
    due: Notify,
    /// The number of times that the deliveries were discarded and requested again; earlier attempts are stale.
    resyncs: AtomicU64,
    /// The number of times that the consumer was replaced; an ack for an earlier consumer would end unseen messages.
    replacements: AtomicU64,
    /// The connection on which the consumer is verified; on any other connection nothing is acknowledged.
    ///
    /// 0 is the in-memory connection, which needs no verification; connections to a server are counted from 1.
    epoch: AtomicU64,
    resynced: Notify,
}

#[derive(Debug, Default)]
struct Acks {
    /// The last message that has ended.
    last: Option<Info>,
    /// `true` if an ack for the last message is to be sent.
    due: bool,
    /// The number of messages that have ended since the last ack.
    count: usize,
}

/// The state of a delivered message.
pub(super) enum Progress {
    /// The message has not ended.
    New,
    /// The message is the last one that has ended; its ack was lost or is in flight.
    Last,
    /// The message has ended, and so has a later one, whose ack covers it.
    Covered,
}

impl AckAll {
    pub(super) fn new(every: usize) -> Self {
        Self {
            every,
            acks: Mutex::default(),
            acked: AckedSequence::default(),
            due: Notify::new(),
            resyncs: AtomicU64::new(0),
            replacements: AtomicU64::new(0),
            epoch: AtomicU64::new(0),
            resynced: Notify::new(),
        }
    }

    /// Invalidates the running attempt, because all unacknowledged messages will be redelivered.
    pub(super) fn resync(&self) {
        self.resyncs.fetch_add(1, Ordering::Relaxed);
        self.resynced.notify_waiters();
    }

    /// Allows acks on a connection, and repeats the last one, which may be lost with the previous connection.
    pub(super) fn consumer_verified(&self, epoch: u64) {
        self.epoch.store(epoch, Ordering::Relaxed);
        self.repeat_last();
    }

    /// Discards the acks of a consumer that was replaced by another one with the same name.
    pub(super) fn consumer_replaced(&self) {
        *self.acks() = Acks::default();
        self.acked.reset();
        self.replacements.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the number of resyncs, which identifies the deliveries that an attempt belongs to.
    pub(super) fn resyncs(&self) -> u64 {
        self.resyncs.load(Ordering::Relaxed)
    }

    /// Returns the number of replacements, which identifies the consumer.
    pub(super) fn replacements(&self) -> u64 {
        self.replacements.load(Ordering::Relaxed)
    }

    /// Waits for the next resync after this call.
    pub(super) fn resynced(&self) -> Notified<'_> {
        self.resynced.notified()
    }

    pub(super) fn progress(&self, info: &Info) -> Progress {
        let acks = self.acks();
        let Some(last) = &acks.last else { return Progress::New };
        // The sequences of a recreated stream start over, with later times.
        if info.stream_sequence() > last.stream_sequence() || info.stored_at() > last.stored_at() {
            Progress::New
        } else if info.stream_sequence() == last.stream_sequence() {
            Progress::Last
        } else {
            Progress::Covered
        }
    }

    /// Records that a message has ended; returns `true` if enough messages have ended for an ack.
    pub(super) fn ended(&self, delivery: Info) -> bool {
        let mut acks = self.acks();
        if !std::mem::replace(&mut acks.due, true) {
            self.due.notify_one();
        }
        acks.count += 1;
        acks.last = Some(delivery);
        acks.count >= self.every
    }

    /// Returns `true` if a message that has ended is not acknowledged.
    pub(super) fn is_due(&self) -> bool {
        self.acks().due
    }

    /// Takes the delivery to acknowledge, if an ack is due.
    pub(super) fn take(&self) -> Option<Info> {
        let mut acks = self.acks();
        acks.count = 0;
        std::mem::take(&mut acks.due).then(|| acks.last.clone()).flatten()
    }

    /// Makes the last ack due again, because it was not sent or may be lost.
    pub(super) fn repeat_last(&self) {
        let mut acks = self.acks();
        acks.due = acks.last.is_some();
        self.due.notify_one();
    }

    fn acks(&self) -> MutexGuard<'_, Acks> {
        lock(&self.acks)
    }
}

impl Worker {
    /// Returns `true` if the consumer is verified on the current connection.
    pub(super) fn is_verified(&self, acks: &AckAll) -> bool {
        self.transport.epoch() == Some(acks.epoch.load(Ordering::Relaxed))
    }

    /// Acknowledges messages soon after they have ended, even while the next call takes long; never returns.
    pub(super) async fn ack_in_time(&self) {
        match &self.ack_all {
            Some(acks) => Box::pin(self.ack_all_in_time(acks)).await,
            None => std::future::pending().await,
        }
    }

    async fn ack_all_in_time(&self, acks: &AckAll) {
        loop {
            acks.due.notified().await;
            sleep(MAX_ACK_DELAY).await;
            self.ack_all(acks).await;
        }
    }
}
