//! The metrics of one handler.

use std::fmt;

use ::metrics::{Counter, Gauge, Histogram, Label, counter, gauge, histogram};

use super::families as names;
use super::handler_state::HandlerState;
use super::health::HandlerHealth;
use super::queued::Queued;
use super::settled::{Called, Settlement};
use crate::delivery::{Binding, ConsumerCounts};
use crate::outcome::Reason;

/// The metrics of one handler, which are created at its start.
pub(crate) struct HandlerMetrics {
    received: Counter,
    redelivered: Counter,
    settled: [Counter; Settlement::ALL.len()],
    attempts_failed: [Counter; Reason::KNOWN.len()],
    dead_letters: [Counter; Reason::KNOWN.len()],
    succeeded_calls: Histogram,
    failed_calls: Histogram,
    queue: Histogram,
    buffered_for: Histogram,
    in_flight: Gauge,
    buffered: Gauge,
    concurrency: Gauge,
    oldest: Gauge,
    /// Of a handler with partitions.
    active: Option<Gauge>,
    pending: Gauge,
    ack_pending: Gauge,
    consumer_redelivered: Gauge,
    waiting: Gauge,
    dead_letters_stored: Gauge,
    states: [Gauge; STATES.len()],
    poll_errors: [Counter; 2],
}

/// The values of the label `state`.
const STATES: [HandlerState; 6] = [
    HandlerState::Running,
    HandlerState::Degraded,
    HandlerState::Recovering,
    HandlerState::Stopping,
    HandlerState::Stopped,
    HandlerState::Failed,
];

/// The source of gauges that are read from the server.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Target {
    Consumer,
    DeadLetters,
}

impl HandlerMetrics {
    pub(crate) fn new(handler: &str, Binding { stream, consumer, max_ack_pending, partition, .. }: &Binding) -> Self {
        let label = |name: &'static str, value: &str| Label::new(name, value.to_owned());
        let labels = [label("handler", handler), label("stream", stream), label("consumer", consumer)];
        let with = |name: &'static str, value: &'static str| {
            let [handler, stream, consumer] = labels.clone();
            vec![handler, stream, consumer, Label::from_static_parts(name, value)]
        };
        let plain = || labels.to_vec();
        gauge!(names::MAX_ACK_PENDING, plain()).set(*max_ack_pending as f64);
        Self {
            received: counter!(names::RECEIVED, plain()),
            redelivered: counter!(names::REDELIVERED, plain()),
            settled: Settlement::ALL.map(|outcome| counter!(names::SETTLED, with("outcome", outcome.as_str()))),
            attempts_failed: Reason::KNOWN
                .map(|reason| counter!(names::ATTEMPTS_FAILED, with("reason", reason.as_str()))),
            dead_letters: Reason::KNOWN.map(|reason| counter!(names::DEAD_LETTERS, with("reason", reason.as_str()))),
            succeeded_calls: histogram!(names::HANDLER_DURATION, with("outcome", "ack")),
            failed_calls: histogram!(names::HANDLER_DURATION, with("outcome", "error")),
            queue: histogram!(names::QUEUE, plain()),
            buffered_for: histogram!(names::BUFFERED, plain()),
            in_flight: gauge!(names::IN_FLIGHT, plain()),
            buffered: gauge!(names::BUFFERED_MESSAGES, plain()),
            concurrency: gauge!(names::CONCURRENCY, plain()),
            oldest: gauge!(names::OLDEST, plain()),
            active: partition.as_ref().map(|_| gauge!(names::ACTIVE, plain())),
            pending: gauge!(names::PENDING, plain()),
            ack_pending: gauge!(names::ACK_PENDING, plain()),
            consumer_redelivered: gauge!(names::CONSUMER_REDELIVERED, plain()),
            waiting: gauge!(names::WAITING, plain()),
            dead_letters_stored: gauge!(names::DEAD_LETTERS_STORED, plain()),
            states: STATES.map(|state| gauge!(names::UP, with("state", state.as_str()))),
            poll_errors: ["consumer", "dead_letters"]
                .map(|target| counter!(names::POLL_ERRORS, with("target", target))),
        }
    }

    pub(crate) fn received(&self, is_redelivered: bool) {
        self.received.increment(1);
        if is_redelivered {
            self.redelivered.increment(1);
        }
    }

    pub(crate) fn pending(&self, pending: u64) {
        self.pending.set(pending as f64);
    }

    pub(crate) fn started(&self, queued: Option<Queued>, buffered: impl ::metrics::IntoF64) {
        if let Some(queued) = queued {
            self.queue.record(queued);
        }
        self.buffered_for.record(buffered);
    }

    pub(crate) fn called(&self, call: Called) {
        match call.failed {
            None => self.succeeded_calls.record(call),
            Some(_) => self.failed_calls.record(call),
        }
    }

    pub(crate) fn attempt_failed(&self, reason: Reason) {
        count_reason(&self.attempts_failed, reason);
    }

    pub(crate) fn dead_lettered(&self, reason: Reason) {
        count_reason(&self.dead_letters, reason);
    }

    pub(crate) fn settled(&self, settlement: Settlement, deliveries: usize) {
        let position = Settlement::ALL.iter().position(|known| *known == settlement);
        if let Some(counter) = position.and_then(|position| self.settled.get(position)) {
            counter.increment(deliveries as u64);
        }
    }

    /// Sets the gauges of this process, in which the handler has `concurrency` slots.
    pub(crate) fn load(&self, health: &HandlerHealth, concurrency: usize) {
        self.in_flight.set(health.in_flight as f64);
        self.buffered.set(health.buffered as f64);
        self.concurrency.set(concurrency as f64);
        if let (Some(gauge), Some(active)) = (&self.active, health.active) {
            gauge.set(if active { 1.0 } else { 0.0 });
        }
        self.oldest.set(health.oldest_in_flight.map(|since| since.elapsed()).unwrap_or_default());
        for (state, gauge) in STATES.iter().zip(&self.states) {
            gauge.set(if *state == HandlerState::from(&health.status) { 1.0 } else { 0.0 });
        }
    }

    /// Sets the gauges of the consumer.
    pub(crate) fn consumer(&self, counts: &ConsumerCounts) {
        self.pending(counts.pending);
        self.ack_pending.set(counts.ack_pending as f64);
        self.consumer_redelivered.set(counts.redelivered as f64);
        self.waiting.set(counts.waiting as f64);
    }

    pub(crate) fn dead_letters_stored(&self, letters: u64) {
        self.dead_letters_stored.set(letters as f64);
    }

    /// Counts a request for gauges that failed.
    pub(crate) fn poll_failed(&self, target: Target) {
        let [consumer, dead_letters] = &self.poll_errors;
        match target {
            Target::Consumer => consumer.increment(1),
            Target::DeadLetters => dead_letters.increment(1),
        }
    }
}

fn count_reason(counters: &[Counter], reason: Reason) {
    let position = Reason::KNOWN.iter().position(|known| *known == reason);
    if let Some(counter) = position.and_then(|position| counters.get(position)) {
        counter.increment(1);
    }
}

impl fmt::Debug for HandlerMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HandlerMetrics")
    }
}

/// The duration of a call, which a histogram computes only if the application has installed a recorder.
impl ::metrics::IntoF64 for Called {
    fn into_f64(self) -> f64 {
        self.took().as_secs_f64()
    }
}
