//! Calls with several messages, each of which is settled by itself.

use std::borrow::Cow;
use std::sync::{Arc, Mutex, PoisonError};

use futures::StreamExt as _;
use tokio::time::Instant;

use super::Worker;
use super::attempts::Verdict;
use super::batch_limits::BatchLimits;
use super::caller::Caller;
use super::slot::Start;
use super::slots::Slot;
use super::taken::Taken;
use super::waiting::Waiting;
use crate::extract::Delivery;
use crate::message::Message;
use crate::observe::settled::{Called, Settled, Settlement};
use crate::outcome::{Elements, Outcome, Reason, Settle};
use crate::plan::OnBatchError;
use crate::sync::lock;

/// The maximum number of messages of a batch that are settled at the same time.
const MAX_SETTLING: usize = 64;

/// The next step for a message of a batch.
enum Step {
    Call,
    /// It ends without a call.
    End(Outcome),
    Isolate,
    /// It is not answered.
    Leave(Option<Settled>),
    Called(Outcome),
}

/// A message of a batch, in the slot that keeps it alive.
struct Held<'a> {
    slot: Slot<'a>,
    taken: Taken<'a>,
    step: Step,
}

impl Worker {
    /// Handles batches until the buffer is closed, or the call is given back; each message of a batch has one of the slots
    /// of the call.
    pub(super) async fn work_in_batches(&self, first: Slot<'_>, limits: BatchLimits) {
        let mut caller = self.caller();
        while let Some(mut waiting) = self.next_batch(first, limits).await {
            let begun = Instant::now();
            let held = first.of_call().zip(&mut waiting).map(|(slot, waiting)| {
                slot.take(self.delivery_id(&waiting.message.info), begun, waiting.since);
                Held { slot, taken: self.taken(waiting, begun), step: Step::Call }
            });
            let held: Vec<_> = held.collect();
            let messages = held.iter().map(|held| &*held.taken.message);
            let scope = self.observer.spans.batch(&self.handler.declaration, &self.binding, &messages);
            let settled = scope.clone().run(self.handle_batch(&mut caller, held)).await;
            scope.settled(&settled);
            drop(scope);
            self.prefetch.measured(begun.elapsed());
            first.thread_idle(&mut caller, &self.buffer).await;
            // The worker requests the next batch first. A handler that never waits would otherwise keep it from heartbeats
            // and arrivals, too.
            self.buffer.notify_capacity();
            tokio::task::yield_now().await;
            self.notice_suspension();
        }
    }

    /// Waits for the next batch, and until the handler is ready for a call; returns `None` after the close, or if the call
    /// is given back.
    ///
    /// The messages stay in the buffer meanwhile, from which a stop takes them.
    async fn next_batch(&self, first: Slot<'_>, limits: BatchLimits) -> Option<Vec<Waiting>> {
        loop {
            self.until_ready().await;
            if let Some(batch) = self.buffer.take_batch(limits, self.max_age()) {
                return Some(batch);
            }
            let _parked = self.slots.park();
            self.buffer.until_batch(limits, || first.is_unneeded()).await?;
        }
    }

    /// Calls the handler with the messages that are to be tried, and settles each message; returns how the batch was
    /// settled as a whole.
    async fn handle_batch(&self, caller: &mut Caller, mut held: Vec<Held<'_>>) -> Settled {
        for held in &mut held {
            held.step = self.step(held.taken.message).await;
        }
        let tried = held.iter().filter(|held| matches!(held.step, Step::Call));
        let tried: Vec<Message> = tried.map(|held| held.taken.message.clone()).collect();
        if !tried.is_empty() {
            let _running = self.running_calls.begin().await;
            let mut outcomes = self.call_batch(caller, &tried).await.into_iter();
            if let Some(first) = held.first() {
                self.until_call_has_ended(first.slot, caller).await;
            }
            for held in held.iter_mut().filter(|held| matches!(held.step, Step::Call)) {
                held.step = outcomes.next().map_or(Step::Leave(Some(Settled::LOST)), Step::Called);
            }
        }
        // Most messages need no wait, and a future for each of them costs more than the rest of its attempt.
        let mut publishing = Vec::new();
        for held in &mut held {
            match &held.step {
                Step::Called(outcome) if outcome.outputs.is_empty() => self.attempted(held.taken.message, outcome),
                Step::Called(_) => publishing.push(held),
                _ => {}
            }
        }
        // In the order of the messages, unless one has to be repeated.
        futures::stream::iter(publishing)
            .for_each_concurrent(MAX_SETTLING, async |held| self.publish_outputs_of(held).await)
            .await;
        let call = caller.take_call();
        // The first slot shows whether the handler is busy, so that its message ends last.
        let mut held = held.into_iter();
        let first = held.next();
        let all = Mutex::new(Settled::ACK);
        let unsettled: Vec<_> = held.filter_map(|held| self.settle_at_once(held, call)).collect();
        futures::stream::iter(unsettled)
            .for_each_concurrent(MAX_SETTLING, async |held| self.settle_held(held, call, &all).await)
            .await;
        if let Some(first) = first.and_then(|first| self.settle_at_once(first, call)) {
            self.settle_held(first, call, &all).await;
        }
        all.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// Decides on a message before the call.
    async fn step(&self, message: &Message) -> Step {
        let verdict = match self.start(&message.info) {
            Start::Known(verdict) => verdict,
            Start::LookUp => self.verdict(&message.info).await,
            Start::Leave(settled) => return Step::Leave(self.leave(message, settled)),
        };
        match verdict {
            Verdict::Try if self.needs_no_call(message) => Step::End(Outcome::ack()),
            Verdict::Try => Step::Call,
            Verdict::Repeated => Step::End(Outcome::ack()),
            Verdict::DeadLetter(failure) => Step::End(Outcome::dead_letter(failure)),
            Verdict::Isolated => Step::Isolate,
        }
    }

    /// Acknowledges a message that has ended, and releases its slot; returns it if that requires a wait, or something else
    /// is to be done.
    fn settle_at_once<'a>(&self, held: Held<'a>, call: Option<Called>) -> Option<Held<'a>> {
        match &held.step {
            Step::End(outcome) | Step::Called(outcome) if self.try_settle(held.taken.message, outcome) => {}
            _ => return Some(held),
        }
        self.end(held.slot, held.taken, Some(&Settled::ACK), call.filter(|_| matches!(held.step, Step::Called(_))));
        None
    }

    /// Settles a message, and releases its slot.
    ///
    /// If it is not acknowledged, that is how the batch was settled as a whole.
    async fn settle_held(&self, Held { slot, taken, step }: Held<'_>, call: Option<Called>, all: &Mutex<Settled>) {
        let call = call.filter(|_| matches!(step, Step::Called(_)));
        let message = &*taken.message;
        let settled = match step {
            Step::Leave(settled) => settled,
            Step::Isolate => self.isolate(message).await,
            Step::Call => Some(Settled::LOST),
            Step::End(outcome) | Step::Called(outcome) => self.settle(message, outcome).await,
        };
        self.end(slot, taken, settled.as_ref(), call);
        if let Some(settled) = settled.filter(|settled| settled.settlement != Settlement::Ack) {
            *lock(all) = settled;
        }
    }

    /// Reports how a message of a batch was settled, and releases its slot.
    fn end(&self, slot: Slot<'_>, mut taken: Taken<'_>, settled: Option<&Settled>, call: Option<Called>) {
        taken.settled_in_batch(settled, call);
        self.release(slot, settled);
    }

    /// Publishes the outputs of one message for which the handler was called, and reports the attempt.
    async fn publish_outputs_of(&self, held: &mut Held<'_>) {
        if let Step::Called(outcome) = &mut held.step {
            let returned = std::mem::replace(outcome, Outcome::ack());
            *outcome = self.publish_outputs(held.taken.message, returned).await;
        }
    }

    /// Publishes the outputs of one message, and reports the attempt.
    async fn published(&self, message: &Message, outcome: Outcome) -> Outcome {
        if outcome.outputs.is_empty() {
            self.attempted(message, &outcome);
            return outcome;
        }
        self.publish_outputs(message, outcome).await
    }

    /// Calls the handler with one message: as a batch of one, if it is a handler of batches.
    pub(super) async fn call_alone(&self, caller: &mut Caller, message: &Message, begun: Instant) -> Outcome {
        if self.limits.is_none() || self.needs_no_call(message) {
            return self.call(caller, message, begun).await;
        }
        let outcomes = self.call_batch(caller, std::slice::from_ref(message)).await;
        let outcome = outcomes.into_iter().next().unwrap_or_else(Outcome::ack);
        self.published(message, outcome).await
    }

    /// Calls the handler, if needed with smaller and smaller parts of a batch that fails, and returns the outcome of each
    /// message.
    async fn call_batch(&self, caller: &mut Caller, messages: &[Message]) -> Vec<Outcome> {
        let mut outcomes: Vec<Option<Outcome>> = messages.iter().map(|_| None).collect();
        let mut parts: Vec<Vec<usize>> = vec![(0..messages.len()).collect()];
        while let Some(part) = parts.pop() {
            let called: Cow<'_, [Message]> = if part.len() == messages.len() {
                messages.into()
            } else {
                part.iter().map(|index| messages[*index].clone()).collect()
            };
            let (outcome, of_elements) = self.call_part(caller, &called).await;
            for (position, outcome) in of_elements {
                outcomes[part[position]] = Some(outcome);
            }
            let count = part.len();
            let mut left: Vec<usize> = part.into_iter().filter(|index| outcomes[*index].is_none()).collect();
            if self.is_split(&outcome, caller) && count > 1 {
                tracing::debug!("a batch of {count} has failed, and is tried in halves");
                let second = left.split_off(left.len().div_ceil(2));
                parts.extend([second, left].into_iter().filter(|half| !half.is_empty()));
            } else {
                left.into_iter().for_each(|index| outcomes[index] = Some(outcome.clone()));
            }
        }
        outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(Outcome::ack)).collect()
    }

    /// Calls the handler once; returns the outcome of the call, and those of single messages with their positions.
    async fn call_part(&self, caller: &mut Caller, messages: &[Message]) -> (Outcome, Vec<(usize, Outcome)>) {
        let elements = Arc::<Elements>::default();
        let mut outcome = caller.call(Delivery::batch(messages, &elements), Instant::now()).await;
        if let Some(call) = caller.ended(Instant::now()) {
            self.observer.called(&call);
        }
        let mut of_elements = elements.take();
        if self.transport.settings().redact_errors {
            outcome.redact();
            of_elements.iter_mut().for_each(|(_, outcome)| outcome.redact());
        }
        (outcome, of_elements)
    }

    /// Returns `true` if the handler is called with each half of a batch after this outcome.
    fn is_split(&self, outcome: &Outcome, caller: &Caller) -> bool {
        let Some(failure) = &outcome.failure else { return false };
        // A parameter beside the batch that could not be made from the first message; the handler was not called.
        if failure.reason == Reason::Undecodable {
            return true;
        }
        let splits = self.handler.declaration.plan.on_batch_error == OnBatchError::Split;
        // Another call now would fail as well: the handler says so, or its thread still runs the call that timed out.
        let is_useless = matches!(outcome.settle, Settle::HandBack | Settle::RetryAfter(_)) || caller.is_late();
        splits && !is_useless
    }
}
