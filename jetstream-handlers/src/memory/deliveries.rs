//! The deliveries of one worker, and their acknowledgements.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::{Instant, sleep_until};

use super::Memory;
use super::consumer::Take;
use super::message;
use super::server::State;
use crate::backoff::ExponentialBackoff;
use crate::delivery::{Binding, DeliveryEvent, GivenUpReports, Pause};
use crate::error::{Error, chain};
use crate::message::{Decompressed, Info, Message};

/// The deliveries of one handler.
pub(crate) struct Deliveries {
    memory: Arc<Memory>,
    binding: Arc<Binding>,
    /// The number that identifies this worker to the consumer.
    reader: u64,
    capacity: usize,
    phase: Phase,
    backoff: ExponentialBackoff,
    /// The ack floor that was read last, in case the consumer is deleted.
    floor: Option<Floor>,
    /// The id of the consumer, which a reset changes; `None` while it is recovered.
    consumer: Option<u32>,
    /// The end of the consumer's pause that was reported.
    paused: Option<SystemTime>,
    message: Option<Message>,
    /// State changes for the worker, which [`fill`](Self::fill) returns before it passes `message`.
    events: Vec<DeliveryEvent>,
}

/// The state of the deliveries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Running,
    Recovering,
    /// The consumer was reported missing, and is being restored.
    Restoring,
    /// The consumer could not be restored, and is not reported again before this time.
    Waiting(Instant),
}

/// The ack floor of a consumer.
#[derive(Debug, Clone, Copy)]
struct Floor {
    /// The id of the stream; a later stream of the same name has another id.
    stream: u64,
    sequence: u64,
}

/// The state of a consumer as it is seen with each request.
#[derive(Debug, Clone, Copy)]
struct Seen {
    floor: Floor,
    /// The id of the consumer.
    consumer: u32,
    /// The end of its pause.
    paused: Option<SystemTime>,
}

impl std::fmt::Debug for Deliveries {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Deliveries").field("binding", &self.binding).finish_non_exhaustive()
    }
}

impl Deliveries {
    /// Opens the deliveries of a handler.
    pub(crate) fn open(memory: Arc<Memory>, binding: Arc<Binding>) -> Self {
        memory.add_reader(&binding);
        Self {
            memory,
            binding,
            reader: fastrand::u64(..),
            capacity: 0,
            phase: Phase::Running,
            backoff: ExponentialBackoff::new(Duration::from_millis(100), Duration::from_secs(2)),
            floor: None,
            consumer: None,
            paused: None,
            message: None,
            events: Vec::new(),
        }
    }

    /// Sets the number of messages for which the worker has capacity.
    pub(crate) fn set_capacity(&mut self, capacity: usize) {
        if capacity == 0 && self.capacity > 0 {
            self.memory.leave(&self.binding, self.reader);
        }
        self.capacity = capacity;
    }

    /// Passes arrived messages to `push` up to the next state change, and returns that; `None` if all were passed.
    pub(crate) fn fill(&mut self, push: &mut impl FnMut(Message)) -> Option<DeliveryEvent> {
        if !self.events.is_empty() {
            return Some(self.events.remove(0));
        }
        self.message.take().map(push);
        None
    }

    /// Waits until [`fill`](Self::fill) has something to pass on.
    ///
    /// # Cancel safety
    ///
    /// No message is lost: nothing is awaited after a message was taken from the consumer, and it stays until
    /// [`fill`](Self::fill) passes it on.
    pub(crate) async fn arrived(&mut self) {
        while self.message.is_none() && self.events.is_empty() {
            if self.capacity == 0 || self.phase == Phase::Restoring {
                // The worker calls again when it has capacity, or has restored the consumer.
                std::future::pending::<()>().await;
            }
            let memory = self.memory.clone();
            let changed = memory.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let Some(wait) = self.take() else { return };
            match wait {
                Wait::Until(due) => tokio::select! {
                    () = changed => {}
                    () = sleep_until(due) => {}
                },
                Wait::Change => changed.await,
            }
        }
    }

    /// Takes a message or a state change; if there is none, returns the condition to wait for.
    fn take(&mut self) -> Option<Wait> {
        let (taken, seen) = self.memory.take(&self.binding, self.reader);
        if let Some(Seen { floor, consumer, paused }) = seen {
            self.floor = Some(floor);
            self.on_seen(consumer, paused);
        }
        match taken {
            Take::Message(message, info) => {
                if let Some(unfinished) = &self.binding.unfinished {
                    unfinished.delivered(info.id());
                }
                self.message = Some(delivery(*message, info));
            }
            Take::GivenUp { sequence, delivered } => {
                let mut reports = GivenUpReports::default();
                reports.add(sequence, delivered);
                self.events.push(DeliveryEvent::MaxDeliveries(reports));
            }
            Take::NoConsumer => return self.on_missing_consumer(),
            Take::NoStream if self.phase == Phase::Running => self.recover("there is no such stream"),
            Take::NoStream => return Some(Wait::Change),
            Take::Nothing(_) if self.phase != Phase::Running => {
                self.phase = Phase::Running;
                self.backoff.reset();
                self.events.push(DeliveryEvent::Running);
            }
            Take::Nothing(_) if !self.events.is_empty() => {}
            Take::Nothing(due) => return Some(due.map_or(Wait::Change, Wait::Until)),
        }
        None
    }

    /// Reports that the consumer was reset, paused or resumed.
    fn on_seen(&mut self, consumer: u32, paused: Option<SystemTime>) {
        let before = self.consumer.replace(consumer);
        if self.binding.keeps_order() && before.is_some_and(|before| before != consumer) {
            self.binding.unfinished.iter().for_each(|unfinished| unfinished.clear());
            self.events.extend([DeliveryEvent::ConsumerReplaced, DeliveryEvent::Resync]);
        }
        if std::mem::replace(&mut self.paused, paused) != paused {
            let pause = paused
                .map(|until| Pause { until: Some(until), remaining: until.duration_since(SystemTime::now()).ok() });
            self.events.push(DeliveryEvent::Paused(pause));
        }
    }

    fn on_missing_consumer(&mut self) -> Option<Wait> {
        match self.phase {
            Phase::Running => {
                if self.binding.keeps_order() {
                    self.binding.unfinished.iter().for_each(|unfinished| unfinished.clear());
                    self.events.extend([DeliveryEvent::ConsumerReplaced, DeliveryEvent::Resync]);
                }
                self.recover("the consumer was deleted");
            }
            Phase::Waiting(until) if Instant::now() < until => return Some(Wait::Until(until)),
            Phase::Recovering | Phase::Restoring | Phase::Waiting(_) => {
                self.phase = Phase::Restoring;
                self.events.push(DeliveryEvent::ConsumerMissing { start: self.start() });
            }
        }
        None
    }

    /// Returns the sequence at which a restored consumer must start: one after the floor, or `None` for the beginning
    /// of the stream.
    fn start(&self) -> Option<u64> {
        // A work queue has deleted the acknowledged messages, and its consumers must start at its beginning.
        let floor = self.floor.filter(|floor| !self.binding.work_queue && floor.sequence > 0)?;
        (self.memory.stream_id(&self.binding) == Some(floor.stream)).then_some(floor.sequence + 1)
    }

    /// Resumes after [`DeliveryEvent::ConsumerMissing`], or backs off if the consumer was not restored.
    pub(crate) fn restored(&mut self, result: Result<Option<SystemTime>, Error>) {
        match result {
            Ok(_) => self.phase = Phase::Recovering,
            Err(error) => {
                self.recover(&chain(&error));
                self.phase = Phase::Waiting(Instant::now() + self.backoff.next());
            }
        }
    }

    fn recover(&mut self, reason: &str) {
        self.consumer = None;
        self.phase = Phase::Recovering;
        self.events.push(DeliveryEvent::Recovering(reason.to_owned()));
    }

    /// Returns the message that has arrived, and takes no more; in memory, no other one is in flight.
    pub(crate) fn last(&mut self) -> Option<Message> {
        self.set_capacity(0);
        self.message.take()
    }

    /// Returns `true` if the messages are delivered to this worker alone.
    pub(crate) fn is_active(&self) -> bool {
        let state = self.memory.state();
        let consumer = state.streams.get(&self.binding.stream).and_then(|it| it.consumers.get(&self.binding.consumer));
        consumer.is_some_and(|consumer| consumer.is_active(self.reader))
    }

    /// Forgets what has arrived, and has everything delivered again that is unacknowledged.
    pub(crate) fn forget(&mut self) {
        self.message = None;
        self.memory.redeliver_pending(&self.binding);
    }

    /// Lets another worker of an ordered handler become the active one.
    pub(crate) fn step_down(&mut self) {
        self.memory.step_down(&self.binding, self.reader);
    }
}

/// The condition to wait for before the next message is taken.
enum Wait {
    Change,
    /// A change of the server's state, or this time.
    Until(Instant),
}

fn delivery(message: message::Message, info: Info) -> Message {
    let headers = (!message.headers.is_empty()).then(|| Arc::new(message.headers));
    Message {
        subject: message.subject,
        payload: message.payload,
        headers,
        info,
        unreadable: None,
        origin: None,
        decompressed: Decompressed::default(),
    }
}

impl Drop for Deliveries {
    fn drop(&mut self) {
        self.memory.leave(&self.binding, self.reader);
        self.memory.step_down(&self.binding, self.reader);
        self.memory.remove_reader(&self.binding);
    }
}

/// Deliveries.
impl Memory {
    /// Takes the next message of a consumer, and reads its state.
    fn take(&self, binding: &Binding, reader: u64) -> (Take, Option<Seen>) {
        let (take, seen) = {
            let mut state = self.state();
            let State { streams, faults, .. } = &mut *state;
            let Some(stream) = streams.get_mut(&binding.stream) else { return (Take::NoStream, None) };
            let take = stream.take(&binding.consumer, reader, faults);
            let consumer = stream.consumers.get(&binding.consumer);
            let seen = consumer.map(|consumer| Seen {
                floor: Floor { stream: stream.id, sequence: consumer.ack_floor() },
                consumer: consumer.id,
                paused: consumer.paused().map(|(_, until)| until),
            });
            (take, seen)
        };
        if matches!(take, Take::Message(..) | Take::GivenUp { .. }) {
            self.changed.notify_waiters();
        }
        (take, seen)
    }

    fn stream_id(&self, binding: &Binding) -> Option<u64> {
        self.state().streams.get(&binding.stream).map(|stream| stream.id)
    }
}

/// Acknowledgements: acks, naks, terminations and in-progress signals.
impl Memory {
    pub(crate) fn ack(&self, binding: &Binding, delivery: &Info) {
        self.acknowledge(binding, delivery, |stream, faults| {
            stream.ack(&binding.consumer, delivery.stream_sequence(), delivery.delivered(), faults);
        });
    }

    pub(crate) fn nak(&self, binding: &Binding, delivery: &Info, delay: Duration) {
        self.acknowledge(binding, delivery, |stream, _| {
            if let Some(consumer) = stream.consumers.get_mut(&binding.consumer) {
                consumer.nak(delivery.stream_sequence(), delay);
            }
        });
    }

    pub(crate) fn term(&self, binding: &Binding, delivery: &Info) {
        self.acknowledge(binding, delivery, |stream, _| stream.term(&binding.consumer, delivery.stream_sequence()));
    }

    pub(crate) fn progress(&self, binding: &Binding, delivery: &Info) {
        self.acknowledge(binding, delivery, |stream, _| {
            if let Some(consumer) = stream.consumers.get_mut(&binding.consumer) {
                consumer.progress(delivery.stream_sequence());
            }
        });
    }
}
