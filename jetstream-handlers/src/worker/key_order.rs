//! The order of the messages of one key.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use tokio::sync::mpsc;

use super::Worker;
use super::attempts::Verdict;
use super::buffer::BufferGuard;
use super::caller::Caller;
use super::guarded_call::panicked;
use super::slot::Start;
use super::slots::Slot;
use crate::delivery::Unfinished;
use crate::error::Error;
use crate::message::{DeliveryId, Info, Message};
use crate::observe::settled::Settled;
use crate::outcome::{Failure, Outcome};

/// The delay before a message is examined again whose earlier delivery is still being handled.
pub(super) const IN_PROGRESS_DELAY: Duration = Duration::from_millis(200);

impl Worker {
    /// Puts a message into the buffer, behind the earlier ones of its key.
    pub(super) fn receive_by_key(&self, message: Message, unfinished: &Unfinished, buffer: &mut BufferGuard<'_>) {
        let delivery = self.delivery_id(&message.info);
        self.observer.pending(message.info.pending());
        if self.denied_acks.are_denied() {
            self.denied_acks.offer(message.info.clone());
        }
        let key = if unfinished.has_ended(delivery) || self.needs_no_call(&message) {
            Err(None)
        } else {
            // A codec of the application may panic.
            let key = catch_unwind(AssertUnwindSafe(|| self.handler.key(&self.context, &message)));
            match key.unwrap_or_else(|panic| Some(Err(panicked(&*panic)))) {
                Some(key) => key.map_err(|rejected| Some(self.rejection(rejected))),
                None => Err(None),
            }
        };
        buffer.push_by_key(key, message, unfinished);
    }

    /// Returns the failure of a message without its key.
    fn rejection(&self, mut outcome: Outcome) -> Failure {
        if self.transport.settings().redact_errors {
            outcome.redact();
        }
        outcome.into_failure()
    }

    /// Decides on a message of a handler with a key.
    pub(super) fn start_by_key(&self, delivery: &Info, unfinished: &Unfinished) -> Start {
        let id = delivery.id();
        if unfinished.has_ended(id) || self.recent_acks.is_repeated(delivery, &self.binding.incarnations) {
            return Start::Known(Verdict::Repeated);
        }
        if self.is_in_progress(delivery) {
            return Start::Leave(None);
        }
        let (rejected, failures) = self.buffer.keys(|keys| (keys.rejected(id), keys.failures(id)));
        if let Some(failure) = rejected.or_else(|| self.unstored.failure(delivery)) {
            return Start::Known(Verdict::DeadLetter(failure));
        }
        if failures > 0 || !delivery.is_redelivered() {
            return Start::Known(Verdict::Try);
        }
        if self.was_acknowledged(delivery) { Start::Known(Verdict::Repeated) } else { Start::LookUp }
    }

    /// Settles a message by the outcome of its call.
    ///
    /// A call with a key that still runs on its thread after its timeout is waited for, so that no other one of its key
    /// runs beside it.
    pub(super) async fn settle_after_call(
        &self,
        slot: Slot<'_>,
        caller: &mut Caller,
        message: &Message,
        outcome: Outcome,
    ) -> Option<Settled> {
        self.until_call_has_ended(slot, caller).await;
        self.settle(message, outcome).await
    }

    /// Waits until a call with a key that has exceeded its timeout has ended.
    pub(super) async fn until_call_has_ended(&self, slot: Slot<'_>, caller: &mut Caller) {
        if self.binding.unfinished.is_some() {
            slot.thread_idle(caller, &self.buffer).await;
        }
    }

    /// Releases a slot whose message was settled; if it has ended, the next one of its key may begin.
    pub(super) fn release(&self, slot: Slot<'_>, settled: Option<&Settled>) {
        let released = slot.release(settled);
        if settled.is_some_and(Settled::has_ended)
            && let (Some(unfinished), Some(delivery)) = (&self.binding.unfinished, released)
        {
            self.buffer.finish(delivery, unfinished);
        }
    }

    /// Keeps a failed message until its next attempt, or hands it to the next worker if this one stops.
    ///
    /// For the handler and the dead letter, an attempt in this process counts as a delivery.
    pub(super) async fn park(&self, message: &Message, delay: Duration) {
        let mut parked = message.clone();
        parked.info.count_attempt();
        if let Some(unfinished) = &self.binding.unfinished
            && let Some(delay) = self.buffer.park(parked, delay, unfinished)
        {
            self.request_later(&message.info, delay).await;
        }
    }

    /// Takes the messages that wait for others of their keys, or for their next attempt in this process.
    pub(super) fn take_by_key(&self) -> Vec<Info> {
        let deliveries = self.buffer.keys(std::mem::take).into_deliveries();
        deliveries.into_iter().map(|delivery| self.info(delivery)).collect()
    }

    /// Leaves a delivery without an answer; one with a key is examined again, so that the later ones wait for it.
    pub(super) fn leave(&self, message: &Message, settled: Option<Settled>) -> Option<Settled> {
        if settled.is_none()
            && let Some(unfinished) = &self.binding.unfinished
        {
            self.buffer.park(message.clone(), IN_PROGRESS_DELAY, unfinished);
        }
        settled
    }

    /// Lets messages begin whose next attempt is due, and requests messages again of which only the numbers are known;
    /// never returns.
    pub(super) async fn attend_to_keys(&self) {
        let Some(unfinished) = &self.binding.unfinished else { return std::future::pending().await };
        let (sender, mut receiver) = mpsc::channel(1);
        let request = async {
            loop {
                self.buffer.keys_changed().await;
                for delivery in self.buffer.take_recalled() {
                    self.request_again(&self.info(delivery)).await;
                }
                let overdue = self.buffer.keys(|keys| std::mem::take(&mut keys.overdue));
                if !overdue.is_empty() {
                    sender.try_send(overdue).ok();
                }
            }
        };
        let search = async {
            let mut has_warned = false;
            while let Some(overdue) = receiver.recv().await {
                let result = self.search(overdue, unfinished).await;
                if let Err(error) = &result
                    && !has_warned
                {
                    self.warn_of_search(error);
                }
                has_warned = result.is_err();
                // What was overdue meanwhile has possibly arrived, and is found again otherwise.
                receiver.try_recv().ok();
            }
        };
        // A search may take long, and requests go on meanwhile.
        tokio::join!(request, search);
    }

    /// Requests messages once more that were requested and have not arrived, and forgets those that were removed from
    /// the stream, for which the others of their keys would wait for ever.
    ///
    /// After an error, the others are only requested: each further lookup could wait for its timeout as well.
    async fn search(&self, mut overdue: Vec<DeliveryId>, unfinished: &Unfinished) -> Result<(), Error> {
        let mut result = Ok(());
        // What is delivered during a request may be stored after the answer.
        let end = self.buffer.keys(|keys| keys.numbers_end());
        let mut removed = 0..0;
        overdue.sort_unstable_by_key(|delivery| delivery.stream_sequence);
        for delivery in overdue {
            let sequence = delivery.stream_sequence;
            if removed.contains(&sequence) {
                continue;
            }
            removed = 0..0;
            if result.is_ok() {
                match self.transport.next_stored(&self.binding.stream, sequence).await {
                    Ok(stored) => removed = sequence..stored.map_or(end, |stored| stored.sequence.min(end)),
                    Err(error) => result = Err(error),
                }
            }
            if removed.is_empty() {
                self.request_again(&self.info(delivery)).await;
            } else {
                self.buffer.forget_removed(removed.clone(), unfinished);
            }
        }
        result
    }

    fn warn_of_search(&self, error: &Error) {
        let (handler, stream) = (&self.handler.declaration.name, &self.binding.stream);
        tracing::warn!(
            handler,
            stream,
            "cannot find out whether messages for which later ones of their keys wait were removed from the stream, which requires the permission to publish to `$JS.API.STREAM.MSG.GET.{stream}`: {error}"
        );
    }
}
