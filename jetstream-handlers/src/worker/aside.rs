//! Messages that have left their slots, so that they do not keep other messages from them.

use std::sync::OnceLock;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::Worker;
use super::attempts::killed;
use super::buffer::{Buffer, Next};
use super::caller::Caller;
use super::running_calls::Alone;
use crate::delivery::Isolation;
use crate::message::Message;
use crate::observe::settled::{Settled, Settlement};
use crate::outcome::{Outcome, Settle};

/// The maximum number of messages that wait aside; more of them are redelivered later.
const MAX_ASIDE: usize = 256;

/// The times for which a message waits until no other call runs, before it is tried beside those that run.
const PATIENCE: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(4), Duration::from_secs(16)];

/// The maximum time that other calls wait for those in isolation, one after the other.
const MAX_ALONE: Duration = Duration::from_secs(1);

/// A queue beside the slots, whose messages are handled one by one; they are kept alive like those in the slots.
#[derive(Debug, Default)]
pub(super) struct Aside {
    pub(super) buffer: Buffer,
}

impl Aside {
    /// Adds a message; returns `false` if there are too many, or the worker stops.
    pub(super) fn push(&self, message: &Message) -> bool {
        let fits = !self.buffer.is_closed() && self.buffer.len() < MAX_ASIDE;
        if fits {
            self.buffer.fill(Instant::now()).push(message.clone());
        }
        fits
    }
}

/// The queues beside the slots, which are made for a handler that has received something.
#[derive(Debug, Default)]
pub(super) struct Asides(OnceLock<Box<[Aside; 2]>>);

impl Asides {
    /// Returns the queue of messages to be tried in isolation.
    pub(super) fn isolated(&self) -> &Aside {
        &self.get()[0]
    }

    /// Returns the queue of the message whose dead letter shows whether dead letters can be stored.
    pub(super) fn probing(&self) -> &Aside {
        &self.get()[1]
    }

    /// Returns the queues that are made.
    pub(super) fn made(&self) -> impl Iterator<Item = &Aside> {
        self.0.get().into_iter().flat_map(|asides| asides.iter())
    }

    fn get(&self) -> &[Aside; 2] {
        self.0.get_or_init(Box::default)
    }
}

/// A time in which calls in isolation run one after the other.
struct AloneUntil<'a> {
    until: Instant,
    _alone: Alone<'a>,
}

impl Worker {
    /// Sets a message aside to be tried in isolation; if too many are, it is redelivered later.
    pub(super) async fn isolate(&self, message: &Message) -> Option<Settled> {
        if self.asides.isolated().push(message) {
            return None;
        }
        if self.binding.unfinished.is_none() && self.was_redelivered(&message.info) {
            return Some(Settled::LOST);
        }
        let delay = self.dead_letter_delay(message.info.delivered());
        if self.binding.unfinished.is_some() {
            self.park(message, delay).await;
        } else {
            self.nak_later(message, delay).await;
        }
        Some(Settled { settlement: Settlement::Retry, failed: None })
    }

    /// Tries the messages that were set aside to be tried in isolation, until the buffer is closed.
    pub(super) async fn work_isolated(&self) {
        if self.asides.isolated().buffer.arrived(|| false).await.is_some() {
            // Boxed, because most handlers never need it.
            Box::pin(self.try_isolated()).await;
        }
    }

    async fn try_isolated(&self) {
        let (buffer, slot) = (&self.asides.isolated().buffer, self.slots.isolated());
        let shutdown = self.context.shutdown();
        let mut caller = self.caller();
        let mut alone = None;
        loop {
            if buffer.is_empty() {
                alone = None;
            }
            if buffer.arrived(|| false).await.is_none() {
                return;
            }
            // The message stays in the buffer meanwhile, from which a stop takes it.
            let isolation = tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                isolation = self.until_alone(&mut alone) => isolation,
            };
            let now = Instant::now();
            let mut place = None;
            let Some(Next { waiting, .. }) = buffer.pop(now, self.max_age(), &mut place) else { continue };
            slot.take(self.delivery_id(&waiting.message.info), now, waiting.since);
            let mut taken = self.taken_again(waiting, now);
            let scope = self.scope(taken.message);
            let handling = self.handle_isolated(&mut caller, taken.message, isolation, &mut alone);
            let settled = scope.clone().run(handling).await;
            match self.limits {
                None => self.handled(&scope, &mut taken, settled.as_ref(), &mut caller),
                // Each call of a part of a batch is reported by itself.
                Some(_) => taken.settled(&scope, settled.as_ref(), caller.take_call()),
            }
            drop((scope, taken));
            self.release(slot, settled.as_ref());
            slot.thread_idle(&mut caller, &self.buffer).await;
        }
    }

    /// Tries a message in isolation.
    async fn handle_isolated(
        &self,
        caller: &mut Caller,
        message: &Message,
        isolation: Isolation,
        alone: &mut Option<AloneUntil<'_>>,
    ) -> Option<Settled> {
        let until = alone.as_ref().map_or_else(|| Instant::now() + MAX_ALONE, |alone| alone.until);
        let outcome = if self.was_tried_enough(message, isolation, until).await {
            *alone = None;
            Outcome::dead_letter(killed(message.info.delivered() - 1))
        } else {
            let mut call = std::pin::pin!(self.call_alone(caller, message, Instant::now()));
            match timeout_at(until, &mut call).await {
                Ok(outcome) => outcome,
                Err(_) => {
                    // The others wait no longer. If the process ends from now on, one of them may be the cause, which
                    // the record does not tell.
                    *alone = None;
                    call.await
                }
            }
        };
        caller.ended(Instant::now());
        if outcome.settle == Settle::Ack {
            // If the ack is lost, the next delivery takes the message for one that has crashed the process.
            self.ack_confirmed(message, alone).await;
            return Some(Settled::ACK);
        }
        // Its dead letter may take long.
        *alone = None;
        self.settle_after_call(self.slots.isolated(), caller, message, outcome).await
    }

    /// Acks a message that was tried in isolation until the server confirms it; the others wait only for the first try.
    async fn ack_confirmed(&self, message: &Message, alone: &mut Option<AloneUntil<'_>>) {
        self.record_end(&message.info);
        let until = alone.as_ref().map_or_else(Instant::now, |alone| alone.until);
        let mut confirmed = std::pin::pin!(self.ack_until_confirmed(&message.info));
        if timeout_at(until, &mut confirmed).await.is_err() {
            *alone = None;
            confirmed.await;
        }
    }

    /// Waits until no other call runs, for a limited time.
    async fn until_alone<'a>(&'a self, alone: &mut Option<AloneUntil<'a>>) -> Isolation {
        if alone.as_ref().is_some_and(|alone| Instant::now() < alone.until) {
            return Isolation::Alone;
        }
        *alone = None;
        self.until_ready().await;
        for patience in PATIENCE {
            if let Some(guard) = self.running_calls.alone(patience).await {
                *alone = Some(AloneUntil { until: Instant::now() + MAX_ALONE, _alone: guard });
                return Isolation::Alone;
            }
        }
        Isolation::Beside
    }
}
