//! The slots of a worker, which are made when messages need them, and given back when they did not.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::Instant;

use super::buffer::Buffer;
use super::caller::Caller;
use super::in_flight::{Current, InFlight};
use crate::message::DeliveryId;
use crate::observe::settled::Settled;
use crate::sync::lock;

/// The slot of a message that is tried in isolation.
const ISOLATED: usize = 0;

/// The slot of the message whose dead letter shows whether dead letters can be stored.
const PROBING: usize = 1;

/// The index of the first slot of the first call.
const FIRST: usize = 2;

/// The slots of a worker: one for each call, or for each message of a call of a handler of batches.
///
/// Shared with the heartbeat, the stop and the health.
#[derive(Debug)]
pub(crate) struct Slots {
    /// The maximum number of calls at the same time.
    calls: usize,
    per_call: usize,
    state: Mutex<State>,
    /// The number of calls that wait for a message.
    parked: AtomicUsize,
}

#[derive(Debug, Default)]
struct State {
    in_flight: InFlight,
    /// The calls by their number, each `true` while it is made; the last one is.
    made: Vec<bool>,
    count: usize,
    /// The number of calls that have a message, or a thread that still runs a call after its timeout.
    busy: usize,
    /// The maximum of `busy` since the last review.
    peak: usize,
    /// The number of calls that stay when they are idle. All calls with a lower number are made.
    keep: usize,
    /// The message that ended last.
    last: Option<DeliveryId>,
}

/// One slot of a worker.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slot<'a> {
    slots: &'a Slots,
    index: usize,
}

/// A call that waits for a message, until it is dropped.
pub(super) struct Parked<'a>(&'a Slots);

/// The step by which one more message that waits can begin.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// A call goes on by itself, or none can begin.
    Nothing,
    /// A call that is parked has to be woken.
    Wake,
    /// A call has to be made.
    Make,
}

/// The messages that the slots of a worker handle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Handling {
    pub(crate) count: usize,
    /// The time at which the oldest of them was taken.
    pub(crate) oldest: Option<Instant>,
    /// The time of the latest signal to the server about one of them.
    pub(crate) signalled: Option<Instant>,
}

/// The state of a worker that has no free slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Busy {
    /// The time since which all slots have been busy with what they do now.
    pub(crate) since: Instant,
    /// `true` if all slots are taken by calls that still run after their timeout.
    pub(crate) late: bool,
}

impl Slots {
    pub(super) fn new(calls: usize, per_call: usize) -> Self {
        Self { calls, per_call, state: Mutex::default(), parked: AtomicUsize::new(0) }
    }

    /// Returns the number of slots that can be made.
    pub(crate) fn max(&self) -> usize {
        self.calls * self.per_call
    }

    /// Returns the number of slots of calls that can begin, whether or not they are made.
    pub(super) fn idle(&self) -> usize {
        (self.calls - self.state().busy) * self.per_call
    }

    /// Returns the number of calls that are made.
    pub(crate) fn made(&self) -> usize {
        self.state().count
    }

    /// Returns the slot of a message that is tried in isolation.
    pub(super) fn isolated(&self) -> Slot<'_> {
        Slot { slots: self, index: ISOLATED }
    }

    /// Returns the slot of the message whose dead letter shows whether dead letters can be stored.
    pub(super) fn probing(&self) -> Slot<'_> {
        Slot { slots: self, index: PROBING }
    }

    /// Returns the number of messages that are handled beside the calls.
    pub(super) fn aside(&self) -> usize {
        let state = self.state();
        let is_busy = |index: &usize| state.in_flight.get(*index).is_some_and(|entry| !entry.is_idle());
        [ISOLATED, PROBING].iter().filter(|index| is_busy(index)).count()
    }

    pub(crate) fn handling(&self) -> Handling {
        let state = self.state();
        let entries = state.in_flight.entries().iter().skip(FIRST);
        entries.filter_map(|entry| entry.current).fold(Handling::default(), |all, current| Handling {
            count: all.count + 1,
            oldest: all.oldest.into_iter().chain([current.begun]).min(),
            signalled: all.signalled.max(Some(current.since)),
        })
    }

    /// Returns the state of the slots while no call can begin; `None` if one can.
    pub(crate) fn busy(&self) -> Option<Busy> {
        let state = self.state();
        if state.busy < self.calls {
            return None;
        }
        let firsts = state.in_flight.entries().iter().skip(FIRST).step_by(self.per_call);
        let busy = firsts.filter_map(|first| match (first.late, first.current) {
            (Some(since), _) => Some(Busy { since, late: true }),
            (None, Some(Current { begun, .. })) => Some(Busy { since: begun, late: false }),
            (None, None) => None,
        });
        busy.reduce(|one, other| Busy { since: one.since.max(other.since), late: one.late && other.late })
    }

    /// Returns the step by which one more message can begin, if one waits.
    pub(super) fn need(&self) -> Need {
        let parked = self.parked.load(Ordering::Relaxed);
        let state = self.state();
        if state.busy + parked < state.count {
            Need::Nothing
        } else if parked > 0 {
            Need::Wake
        } else if state.count < self.calls {
            Need::Make
        } else {
            Need::Nothing
        }
    }

    /// Makes one more call; returns its first slot.
    pub(super) fn make(&self) -> Slot<'_> {
        let mut state = self.state();
        while state.made.get(state.keep).copied().unwrap_or_default() {
            state.keep += 1;
        }
        let number = state.keep;
        state.keep += 1;
        state.count += 1;
        match state.made.get_mut(number) {
            Some(made) => *made = true,
            None => state.made.push(true),
        }
        let slots = FIRST + state.made.len() * self.per_call;
        state.in_flight.grow(slots);
        Slot { slots: self, index: FIRST + number * self.per_call }
    }

    /// Decides how many calls stay: as many as were busy at the same time since the last review.
    ///
    /// Returns `true` if others are to be given back.
    pub(super) fn review(&self) -> bool {
        let mut state = self.state();
        let peak = state.peak;
        state.peak = state.busy;
        state.keep = state.keep.min(peak);
        peak < state.count
    }

    /// Counts a call as waiting for a message.
    pub(super) fn park(&self) -> Parked<'_> {
        self.parked.fetch_add(1, Ordering::Relaxed);
        Parked(self)
    }

    /// Returns `true` if a message is being handled.
    pub(super) fn hold_messages(&self) -> bool {
        self.state().in_flight.count() > 0
    }

    /// Returns the messages that are being handled.
    pub(super) fn messages(&self) -> Vec<DeliveryId> {
        self.state().in_flight.messages().map(|current| current.delivery).collect()
    }

    /// Returns the messages that are being handled, except those that had no signal for `ack_wait` at some time.
    pub(super) fn held(&self, ack_wait: Duration) -> Vec<DeliveryId> {
        let state = self.state();
        let held = state.in_flight.messages().filter(|current| !current.is_lost(ack_wait));
        held.map(|current| current.delivery).collect()
    }

    /// Returns the message that ended last.
    pub(super) fn last(&self) -> Option<DeliveryId> {
        self.state().last
    }

    /// Returns the first message from the slot with the index `from` on whose last signal to the server is at least
    /// `age` old, and the index of the slot after it; the caller sends a signal now.
    pub(super) fn refresh(&self, from: usize, age: Duration, ack_wait: Duration) -> Option<(usize, DeliveryId)> {
        let now = Instant::now();
        let mut state = self.state();
        let (index, current) = state.in_flight.next_due(from, |current| now - current.since >= age)?;
        current.lost |= now - current.since >= ack_wait;
        current.since = now;
        Some((index + 1, current.delivery))
    }

    /// Moves the times of the signals back, because the clock stood still for `time`.
    pub(super) fn make_older(&self, time: Duration) {
        for current in self.state().in_flight.messages_mut() {
            current.since = current.since.checked_sub(time).unwrap_or(current.since);
        }
    }

    /// Returns `true` if this message is being handled, and had no signal for `ack_wait` at some time.
    pub(super) fn has_lost(&self, delivery: DeliveryId, ack_wait: Duration) -> bool {
        let state = self.state();
        let mut messages = state.in_flight.with_sequence(delivery.stream_sequence);
        messages.any(|current| current.delivery == delivery && current.is_lost(ack_wait))
    }

    /// Returns `true` if an earlier delivery of this message is being handled, and had a signal in every `ack_wait`.
    pub(super) fn has_earlier(&self, delivery: DeliveryId, ack_wait: Duration) -> bool {
        let state = self.state();
        let mut messages = state.in_flight.with_sequence(delivery.stream_sequence);
        messages.any(|current| {
            current.delivery.consumer_sequence < delivery.consumer_sequence
                && current.delivery.stored_at == delivery.stored_at
                && !current.is_lost(ack_wait)
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Returns `true` if a slot is the first one of its call.
    fn is_first(&self, index: usize) -> bool {
        index >= FIRST && (self.per_call == 1 || (index - FIRST).is_multiple_of(self.per_call))
    }
}

impl State {
    fn began(&mut self) {
        self.busy += 1;
        self.peak = self.peak.max(self.busy);
    }
}

impl<'a> Slot<'a> {
    /// Returns the slots of the call that begins with this one.
    pub(super) fn of_call(self) -> impl Iterator<Item = Self> {
        let Self { slots, index } = self;
        (index..index + slots.per_call).map(move |index| Self { slots, index })
    }

    /// Returns `true` if the call that begins with this slot is to be given back.
    pub(super) fn is_unneeded(self) -> bool {
        self.number() >= self.slots.state().keep
    }

    /// Gives back the call that begins with this slot, unless a message was left in it for the stop.
    pub(super) fn end(self) {
        let mut state = self.slots.state();
        let number = self.number();
        if self.of_call().any(|slot| state.in_flight.get(slot.index).is_some_and(|entry| !entry.is_idle())) {
            return;
        }
        state.made[number] = false;
        state.count -= 1;
        state.keep = state.keep.min(number);
        while state.made.last() == Some(&false) {
            state.made.pop();
        }
        let calls = state.made.len();
        if state.made.capacity() / 4 >= calls {
            state.made.shrink_to_fit();
        }
        // The first slots have no call.
        state.in_flight.truncate(FIRST + calls * self.slots.per_call);
    }

    /// Takes a message whose last signal to the server was at `since`.
    pub(super) fn take(self, delivery: DeliveryId, begun: Instant, since: Instant) {
        let mut state = self.slots.state();
        if self.slots.is_first(self.index) {
            state.began();
        }
        state.in_flight.take(self.index, Current { delivery, begun, since, lost: false });
    }

    /// Releases the message, and returns it.
    ///
    /// It becomes the last message only if it has ended, because the stop sends a request about the last message, which
    /// would restart the `ack_wait` of one that waits for its next attempt.
    pub(super) fn release(self, settled: Option<&Settled>) -> Option<DeliveryId> {
        let mut state = self.slots.state();
        let delivery = state.in_flight.release(self.index)?;
        if settled.is_some_and(Settled::has_ended) {
            state.last = Some(delivery);
        }
        if self.slots.is_first(self.index) {
            state.busy -= 1;
        }
        Some(delivery)
    }

    /// Waits until the thread of the slot has finished a call that timed out.
    pub(super) async fn thread_idle(self, caller: &mut Caller, buffer: &Buffer) {
        if caller.is_late() {
            self.set_late(Some(Instant::now()));
            caller.thread_idle().await;
            self.set_late(None);
            buffer.notify_capacity();
        }
    }

    fn set_late(self, late: Option<Instant>) {
        let mut state = self.slots.state();
        let has_message = state.in_flight.get(self.index).is_some_and(|entry| entry.current.is_some());
        state.in_flight.set_late(self.index, late);
        match late {
            _ if has_message || !self.slots.is_first(self.index) => {}
            Some(_) => state.began(),
            None => state.busy -= 1,
        }
    }

    fn number(self) -> usize {
        (self.index - FIRST) / self.slots.per_call
    }
}

impl Drop for Parked<'_> {
    fn drop(&mut self) {
        self.0.parked.fetch_sub(1, Ordering::Relaxed);
    }
}
