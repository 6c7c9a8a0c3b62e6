//! A message that was taken from the buffer, until it is settled.

use tokio::time::Instant;

use super::Worker;
use super::waiting::Waiting;
use crate::message::{DeliveryId, Info, Message};
use crate::observe::observer::{Ended, Times};
use crate::observe::settled::{Called, Settled};
use crate::observe::span::Scope;

/// A message that was taken from the buffer, whose end is reported once.
///
/// If its attempt is dropped, the message was handed back by a stop, or is lost with the worker.
pub(super) struct Taken<'a> {
    worker: &'a Worker,
    /// In the place into which it was taken, because moving it costs more than the rest of an attempt.
    pub(super) message: &'a mut Message,
    delivery: DeliveryId,
    times: Times,
    is_reported: bool,
}

impl Taken<'_> {
    /// Reports how the attempt was settled; `None` if the message was set aside, and is settled later.
    #[inline]
    pub(super) fn settled(&mut self, scope: &Scope, settled: Option<&Settled>, call: Option<Called>) {
        if let Some(settled) = settled {
            scope.settled(settled);
        }
        if settled.is_some_and(|settled| self.worker.observer.needs_span(settled)) {
            scope.in_scope(|| self.settled_in_batch(settled, call));
        } else {
            self.settled_in_batch(settled, call);
        }
    }

    /// Reports how one message of a batch was settled; the span of the batch is the current one.
    #[inline]
    pub(super) fn settled_in_batch(&mut self, settled: Option<&Settled>, call: Option<Called>) {
        self.is_reported = true;
        if let Some(settled) = settled {
            self.report(self.delivery, self.times, settled, call);
        }
    }

    /// Reports an attempt at a message that is tried in place, in which its delivery count is that of `info`.
    pub(super) fn report_attempt(&self, info: &Info, begun: Instant, settled: &Settled, call: Option<Called>) {
        // Only before the first attempt, the message has waited for a slot.
        let is_first = begun == self.times.begun;
        let times = Times { begun, received: if is_first { self.times.received } else { begun } };
        self.report(info.id(), times, settled, call);
    }

    #[inline]
    fn report(&self, delivery: DeliveryId, times: Times, settled: &Settled, call: Option<Called>) {
        let ended = Ended { delivery, subject: self.message.subject(), times, call };
        self.worker.observer.settled(ended, settled);
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if self.is_reported || std::thread::panicking() {
            return;
        }
        let is_stopped = self.worker.context.shutdown().is_cancelled();
        let settled = if is_stopped { &Settled::HANDED_BACK } else { &Settled::LOST };
        self.report(self.delivery, self.times, settled, None);
    }
}

impl Worker {
    /// Takes a message from the buffer for an attempt that begins at `begun`.
    #[inline]
    pub(super) fn taken<'a>(&'a self, waiting: &'a mut Waiting, begun: Instant) -> Taken<'a> {
        let taken = self.taken_again(waiting, begun);
        self.observer.started(taken.delivery, taken.times);
        taken
    }

    /// Takes a message that was taken before, and was set aside.
    #[inline]
    pub(super) fn taken_again<'a>(&'a self, waiting: &'a mut Waiting, begun: Instant) -> Taken<'a> {
        let Waiting { received, message, .. } = waiting;
        let delivery = self.delivery_id(&message.info);
        let times = Times { received: *received, begun };
        Taken { worker: self, message, delivery, times, is_reported: false }
    }
}
