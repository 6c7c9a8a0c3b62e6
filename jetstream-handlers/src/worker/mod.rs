//! The worker of one handler: its state, its run loop and its capacity.
//!
//! A worker reaches the server only through `transport`.
//! It is one task, and its slots are futures inside that task, so that a message requires no new task.

mod ack_all;
mod aside;
mod attempts;
mod batch;
mod batch_limits;
mod buffer;
mod buffered;
mod caller;
mod cpu_time;
mod dead_letter;
mod delayed;
mod denied_acks;
mod guarded_call;
mod hand_over;
mod heartbeat;
mod in_flight;
mod key_order;
mod keys;
mod lateness;
mod lost_time;
mod max_deliveries;
mod ordered;
mod outputs;
mod pause;
mod prefetch;
mod quarantine;
mod readiness;
mod recent_acks;
mod rest;
mod restore;
mod retry;
mod running_calls;
mod running_slots;
mod settle;
mod slot;
mod slots;
mod stop;
mod taken;
#[cfg(test)]
mod tests;
mod thread;
mod uncovered;
mod unstored;
mod waiting;

use std::pin::pin;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::delivery::{Binding, DeliveryEvent};
use crate::error::Error;
use crate::extract::Context;
use crate::future::optional;
use crate::handler::Handler;
use crate::message::{AckPrefix, Message};
use crate::observe::observer::Observer;
use crate::observe::settled::Settlement;
use crate::observe::status_cell::StatusCell;
use crate::outcome::Failure;
use crate::publish::OutputStreams;
use crate::transport::{Deliveries, Transport};
use ack_all::AckAll;
use aside::Asides;
use attempts::Attempts;
use batch_limits::BatchLimits;
use buffer::{Buffer, BufferGuard};
pub(crate) use buffered::Buffered;
pub(crate) use delayed::Delayed;
use denied_acks::DeniedAcks;
use hand_over::HandOver;
use max_deliveries::ExhaustedMessages;
use prefetch::Prefetch;
use quarantine::Quarantine;
use readiness::Readiness;
use recent_acks::RecentAcks;
use running_calls::RunningCalls;
pub(crate) use slots::{Busy, Handling, Slots};
use uncovered::Uncovered;
use unstored::Unstored;

/// The parts that a worker is made from.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) handler: Arc<Handler>,
    pub(crate) binding: Arc<Binding>,
    pub(crate) transport: Arc<Transport>,
    pub(crate) context: Context,
    pub(crate) status: StatusCell,
    pub(crate) delayed: Arc<Delayed>,
    pub(crate) observer: Arc<Observer>,
    /// The broker's `batch_size`, for a handler without its own.
    pub(crate) batch_size: Option<usize>,
}

/// A running handler.
pub(crate) struct Worker {
    handler: Arc<Handler>,
    binding: Arc<Binding>,
    transport: Arc<Transport>,
    context: Context,
    status: StatusCell,
    prefetch: Prefetch,
    buffer: Arc<Buffer>,
    readiness: Readiness,
    attempts: Attempts,
    recent_acks: RecentAcks,
    unstored: Unstored,
    running_calls: RunningCalls,
    /// The messages beside the slots.
    asides: Arc<Asides>,
    /// The time that the machine was suspended, up to the last time that it was noticed.
    suspended_nanos: AtomicU64,
    delayed: Arc<Delayed>,
    observer: Arc<Observer>,
    slots: Arc<Slots>,
    /// The limits of a batch; `None` for a handler of one message.
    limits: Option<BatchLimits>,
    /// The acks of an ordered handler.
    ack_all: Option<AckAll>,
    exhausted: ExhaustedMessages,
    quarantine: Quarantine,
    uncovered: Uncovered,
    hand_over: HandOver,
    denied_acks: DeniedAcks,
    output_streams: OutputStreams,
    /// The common prefix of the consumer's ack subjects, taken from the first message.
    ack_prefix: OnceLock<AckPrefix>,
}

/// The end of the active time of a worker.
enum Active {
    Idle(Deliveries),
    Stopped(Result<(), Error>),
}

impl Worker {
    pub(crate) fn new(parts: Parts) -> Box<Self> {
        let Parts { handler, binding, transport, context, status, delayed, observer, batch_size } = parts;
        let plan = &handler.declaration.plan;
        let slots = Arc::new(Slots::new(plan.concurrency(), plan.messages_per_call()));
        let limits = BatchLimits::of(plan);
        let uncovered = Uncovered::new(handler.declaration.received());
        let ack_all = plan.ordered.then(|| AckAll::new(plan.ack_every()));
        // Only the active worker receives messages if their order is kept, so it always requests the next one.
        let min_size = usize::from(binding.keeps_order());
        let prefetch = Prefetch::new(plan.batch_size.or(batch_size), binding.ack_wait.get(), slots.max(), min_size);
        let suspended = transport.observe_clock().map_or(0, |observed| observed.suspended.as_nanos() as u64);
        // Boxed, so that the task that runs it does not hold it twice.
        Box::new(Self {
            handler,
            binding,
            transport,
            context,
            status,
            prefetch,
            buffer: Arc::default(),
            readiness: Readiness::default(),
            attempts: Attempts::default(),
            recent_acks: RecentAcks::default(),
            unstored: Unstored::default(),
            running_calls: RunningCalls::default(),
            asides: Arc::default(),
            suspended_nanos: AtomicU64::new(suspended),
            delayed,
            observer,
            slots,
            limits,
            ack_all,
            exhausted: ExhaustedMessages::default(),
            quarantine: Quarantine::default(),
            uncovered,
            hand_over: HandOver::default(),
            denied_acks: DeniedAcks::default(),
            output_streams: OutputStreams::default(),
            ack_prefix: OnceLock::new(),
        })
    }

    /// Returns the slots, which show whether the handler is busy.
    pub(crate) fn slots(&self) -> Arc<Slots> {
        self.slots.clone()
    }

    /// Returns the messages that wait, which are counted from outside.
    pub(crate) fn buffered(&self) -> Buffered {
        Buffered { buffer: self.buffer.clone(), asides: self.asides.clone(), slots: self.slots.clone() }
    }

    /// Runs until `stop` is cancelled, then hands back the messages that wait and lets running calls finish within `grace`.
    ///
    /// # Errors
    ///
    /// Returns an error if a call was still running when the grace period ended; its message was handed back.
    pub(crate) async fn run(
        self: Box<Self>,
        mut deliveries: Deliveries,
        stop: CancellationToken,
        grace: Duration,
    ) -> Result<(), Error> {
        if let Some(acks) = &self.ack_all {
            deliveries.follow_acks(acks.acked.clone());
        }
        loop {
            self.rest(&mut deliveries, &stop).await;
            // Boxed, and dropped while the worker rests: it takes kilobytes, and most handlers are idle most of the time.
            deliveries = match Box::pin(self.run_active(deliveries, &stop, grace)).await {
                Active::Idle(deliveries) => deliveries,
                Active::Stopped(result) => return result,
            };
        }
    }

    /// Runs the slots and what is beside them, until the handler was idle for a while or has stopped.
    async fn run_active(&self, mut deliveries: Deliveries, stop: &CancellationToken, grace: Duration) -> Active {
        let mut slots = FuturesUnordered::new();
        let mut unneeded = pin!(self.give_back());
        let mut aside = Box::pin(self.run_aside());
        let mut heartbeat = pin!(self.heartbeat());
        let mut ack_in_time = pin!(self.ack_in_time());
        let mut dead_letters = pin!(self.dead_letter_exhausted());
        let mut unreadable = pin!(self.dead_letter_unreadable());
        let mut restoring = None;
        loop {
            if self.uncovered.is_aside() && self.can_step_aside() {
                Box::pin(self.step_aside(&mut deliveries)).await;
            }
            if self.binding.partition.is_some() {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => break,
                    () = self.attend_to_partition(&mut deliveries) => {}
                }
            }
            deliveries.set_capacity(self.capacity(deliveries.max_messages()), self.prefetch.mean());
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                // The heartbeat, the slots, the acks and the dead letters do not end before the stop: polling runs them.
                () = &mut heartbeat => {}
                // Before the slots: a message that has arrived but is not in the buffer has no heartbeat.
                () = deliveries.arrived() => {
                    let mut buffer = self.buffer.fill(self.arrivals_since());
                    while let Some(event) = deliveries.fill(&mut |message| self.receive(message, &mut buffer)) {
                        self.on_event(event, &mut buffer, &mut restoring);
                    }
                    if let Some(last) = buffer.last() {
                        self.observer.pending(last.pending());
                    }
                }
                result = optional(restoring.as_mut()) => {
                    restoring = None;
                    deliveries.restored(result);
                }
                // Before the slots, which are polled once messages were added.
                () = &mut aside => {}
                () = std::future::poll_fn(|task| self.poll_slots(&mut slots, task)) => {}
                () = &mut unneeded => {
                    if restoring.is_none() && self.can_rest() {
                        return Active::Idle(deliveries);
                    }
                    unneeded.set(self.give_back());
                }
                () = &mut dead_letters => {}
                () = &mut unreadable => {}
                () = &mut ack_in_time => {}
                () = self.buffer.refill() => self.prefetch.used_up(),
                () = self.buffer.capacity_changed() => {}
                () = self.readiness.changed() => {}
                () = self.partition_changed() => {}
            }
        }
        // Boxed, so that the task does not hold its size until then.
        Active::Stopped(Box::pin(self.stop(slots, aside, heartbeat, deliveries, grace)).await)
    }

    /// Puts a message into the buffer, or into quarantine if it cannot be read.
    #[inline]
    fn receive(&self, mut message: Message, buffer: &mut BufferGuard<'_>) {
        self.observer.received(&message.info);
        if self.binding.is_derived {
            message.restore_origin();
        }
        if self.uncovered.is_aside() || !self.uncovered.is_covered(message.subject()) {
            return self.receive_uncovered(message);
        }
        match quarantine::failure(&message) {
            None => match &self.binding.unfinished {
                Some(unfinished) => self.receive_by_key(message, unfinished, buffer),
                // Nothing can keep it from being redelivered, so a call now would be repeated.
                None if self.ack_all.is_none() && self.denied_acks.are_denied() => self.receive_while_denied(message),
                None => buffer.push(message),
            },
            Some(failure) => self.receive_unreadable(message, failure, buffer),
        }
    }

    /// Keeps a message only to try whether acks are permitted.
    #[cold]
    fn receive_while_denied(&self, message: Message) {
        if !self.is_in_progress(&message.info) {
            self.denied_acks.offer(message.info);
        }
        self.observer.count(Settlement::Lost, 1);
    }

    #[cold]
    fn receive_unreadable(&self, message: Message, failure: Failure, buffer: &mut BufferGuard<'_>) {
        self.status.quarantined();
        match &self.ack_all {
            None => self.quarantine.add(message),
            // Its bytes would be lost with the next ack, so it is redelivered, and ends the connection again.
            Some(_) if self.is_irretrievable(&message) => {
                tracing::error!(
                    handler = self.handler.declaration.name,
                    stream = self.binding.stream,
                    sequence = message.info.stream_sequence(),
                    "an unreadable message blocks the handler, because it cannot be read from its stream either; delete it there, or give the user the permission to publish to `$JS.API.STREAM.MSG.GET.{}`",
                    self.binding.stream
                );
            }
            Some(_) => {
                // It ends in its turn, because the next ack covers it.
                self.unstored.remember(&message.info, failure);
                buffer.push(message);
            }
        }
    }

    /// Runs what happens beside the slots; returns when it has ended after the stop.
    async fn run_aside(&self) {
        let exhausted = pin!(self.record_exhausted());
        let denied = pin!(self.resume_when_acks_are_permitted());
        let keys = pin!(self.attend_to_keys());
        let uncovered = pin!(self.hand_back_uncovered());
        let both = async { tokio::join!(self.work_isolated(), self.work_probing()) };
        tokio::select! {
            _ = both => {}
            () = exhausted => {}
            () = denied => {}
            () = keys => {}
            () = uncovered => {}
        }
    }

    fn on_event<'a>(
        &'a self,
        event: DeliveryEvent,
        buffer: &mut BufferGuard<'_>,
        restoring: &mut Option<BoxFuture<'a, Result<Option<SystemTime>, Error>>>,
    ) {
        match event {
            DeliveryEvent::ConsumerMissing { start } => *restoring = Some(Box::pin(self.restore_consumer(start))),
            DeliveryEvent::Recovering(reason) => self.status.recovering(reason),
            DeliveryEvent::Running => self.status.running(),
            DeliveryEvent::Resync => {
                let running: Vec<_> = self.slots.messages();
                buffer.clear(&running);
                // What waits in them belongs to another instance as well, or is delivered again.
                for aside in self.asides.made() {
                    aside.buffer.fill(Instant::now()).clear(&[]);
                }
                if let Some(acks) = &self.ack_all {
                    acks.resync();
                }
            }
            DeliveryEvent::ConsumerVerified(epoch) => {
                if let Some(acks) = &self.ack_all {
                    acks.consumer_verified(epoch);
                }
            }
            DeliveryEvent::ConsumerReplaced => {
                if let Some(acks) = &self.ack_all {
                    acks.consumer_replaced();
                }
            }
            DeliveryEvent::Complete => buffer.release_keys(),
            DeliveryEvent::Paused(pause) => self.paused(pause),
            DeliveryEvent::AcksDenied(reason) => {
                if !self.binding.keeps_order() {
                    buffer.clear(&[]);
                }
                self.acks_denied(reason);
            }
            DeliveryEvent::MaxDeliveries(reports) => self.exhausted.add(reports),
        }
    }

    /// Returns the number of messages that may be requested, of at most `max` that may be held.
    ///
    /// It is 0 until half of the buffered messages are used up, and while the handler is not ready for a call, except for
    /// a message with which acks are tried.
    fn capacity(&self, max: usize) -> usize {
        if self.uncovered.is_aside() || !self.may_request() {
            return 0;
        }
        if !self.is_ready() {
            return usize::from(self.denied_acks.requests_delivery());
        }
        let idle = self.slots.idle();
        // What is being handled is held as well; but the next message is requested meanwhile, however large it is.
        let max = max.saturating_sub(self.slots.max() - idle).max(1);
        let all = (idle + self.prefetch.size()).min(max);
        let buffered = self.buffer.limit(all);
        if self.binding.unfinished.as_ref().is_some_and(|unfinished| !unfinished.is_complete()) {
            // None of those that wait begins; what is missing is requested beside this.
            return all.saturating_sub(self.buffer.buffered());
        }
        if buffered <= all / 2 || buffered < idle { all.saturating_sub(buffered) } else { 0 }
    }

    /// Returns the maximum time that a message may stay in the buffer without a heartbeat before it is dropped.
    fn max_age(&self) -> Duration {
        // If an order is kept, the messages belong to this worker until the server reports otherwise, and dropping one would
        // break the order.
        if self.binding.keeps_order() { Duration::MAX } else { self.binding.ack_wait.get() }
    }
}
