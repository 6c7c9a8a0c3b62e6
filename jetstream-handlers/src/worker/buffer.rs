//! The messages that have arrived and wait for a slot.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::batch_limits::BatchLimits;
use super::keys::{Keys, Parked};
use super::waiting::Waiting;
use crate::delivery::Unfinished;
use crate::message::{DeliveryId, Info, Message};
use crate::outcome::Failure;
use crate::sync::lock;

/// The queue between the run loop and the slots, which holds no more messages than the run loop has requested.
#[derive(Debug, Default)]
pub(super) struct Buffer {
    queue: Mutex<Queue>,
    /// The wake-up of the slots when messages have arrived.
    arrived: Notify,
    /// The wake-up of the heartbeat, which sleeps while there are no messages.
    filled: Notify,
    refill: Notify,
    capacity: Notify,
    /// The wake-up of [`keys_changed`](Self::keys_changed).
    keys_changed: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    messages: VecDeque<Waiting>,
    /// The messages that wait for others of their keys; most handlers have none.
    keys: Option<Box<Keys>>,
    /// The maximum number of messages that are requested and wait.
    limit: usize,
    /// The number of messages that were dropped, because they belong to another instance or are delivered again.
    lost: usize,
    closed: bool,
    /// `true` while nothing may begin, because the partition is handed over.
    held: bool,
}

impl Queue {
    fn keys(&mut self) -> &mut Keys {
        self.keys.get_or_insert_default()
    }

    /// Returns `true` if messages of keys are to be requested again.
    fn has_requests(&self) -> bool {
        self.keys.as_ref().is_some_and(|keys| !(keys.recalled.is_empty() && keys.overdue.is_empty()))
    }

    /// Returns the length at which more messages are requested.
    fn refill_at(&self) -> usize {
        self.limit / 2
    }

    /// Returns the number of messages that may begin from which those that wait for others of their keys count.
    fn enough(&self) -> usize {
        (self.limit / 4).max(1)
    }

    /// Returns the number of messages that count towards the limit.
    ///
    /// Those that wait for others of their keys count only while enough may begin: a few keys whose messages take long
    /// must not keep the messages of other keys from being requested.
    fn counted(&self) -> usize {
        let may_begin = self.messages.len();
        match &self.keys {
            Some(keys) if may_begin >= self.enough() => may_begin + keys.waiting(),
            _ => may_begin,
        }
    }

    /// Returns the number of messages that fit into a batch, and `true` if no other can be added to it.
    fn batch(&self, limits: BatchLimits) -> (usize, bool) {
        // No more than the limit arrive.
        let most = limits.messages.min(self.limit.max(1));
        if limits.bytes == usize::MAX {
            return (self.messages.len().min(limits.messages), self.messages.len() >= most);
        }
        let mut bytes = 0usize;
        for (count, waiting) in self.messages.iter().take(limits.messages).enumerate() {
            bytes = bytes.saturating_add(waiting.message.payload.len());
            if bytes >= limits.bytes {
                // The message that exceeds the limit is the first of the next batch, unless it is alone.
                let fits = if bytes == limits.bytes { count + 1 } else { count.max(1) };
                return (fits, true);
            }
        }
        (self.messages.len().min(limits.messages), self.messages.len() >= most)
    }

    /// Returns the time at which a batch is complete, which may have passed; `None` without a message that may begin.
    fn complete_at(&self, limits: BatchLimits) -> Option<Instant> {
        if self.held {
            return None;
        }
        let first = self.messages.front()?.arrived;
        let (_, is_full) = self.batch(limits);
        Some(if is_full { first } else { first + limits.wait })
    }
}

/// A message taken from the buffer.
#[derive(Debug)]
pub(super) struct Next<'a> {
    pub(super) waiting: &'a mut Waiting,
    /// `true` if more messages are to be requested now.
    pub(super) refill: bool,
}

/// The locked buffer, while messages are added to it.
pub(super) struct BufferGuard<'a> {
    queue: MutexGuard<'a, Queue>,
    arrived: &'a Notify,
    keys_changed: &'a Notify,
    now: Instant,
    /// `true` if a message was pushed.
    is_pushed: bool,
    /// `true` if a slot was woken.
    is_woken: bool,
}

impl BufferGuard<'_> {
    /// Returns the delivery that was added last with [`push`](Self::push), if any was.
    pub(super) fn last(&self) -> Option<&Info> {
        self.queue.messages.back().filter(|_| self.is_pushed).map(|waiting| &waiting.message.info)
    }

    #[inline]
    pub(super) fn push(&mut self, message: Message) {
        self.queue.messages.push_back(Waiting::new(message, self.now));
        self.is_pushed = true;
        self.wake();
    }

    /// Wakes one slot, which may take all that is added; the others are woken while it is busy.
    fn wake(&mut self) {
        if !std::mem::replace(&mut self.is_woken, true) {
            self.arrived.notify_one();
        }
    }

    /// Adds a message of a handler with a key; `key` is the reason if it has none.
    pub(super) fn push_by_key(&mut self, key: Result<u64, Option<Failure>>, message: Message, unfinished: &Unfinished) {
        let waiting = Waiting::new(message, self.now);
        let next = match key {
            Ok(key) => self.queue.keys().add(key, waiting, unfinished.is_complete()),
            Err(rejected) => self.queue.keys().add_without_key(waiting, rejected),
        };
        self.begin(next);
    }

    /// Lets the messages of all keys begin, because none is missing.
    pub(super) fn release_keys(&mut self) {
        let released = self.queue.keys().release();
        self.begin(released);
    }

    fn begin(&mut self, messages: impl IntoIterator<Item = Waiting>) {
        for waiting in messages {
            self.queue.messages.push_back(Waiting { arrived: self.now, ..waiting });
            self.wake();
        }
        if self.queue.has_requests() {
            self.keys_changed.notify_one();
        }
    }

    /// Forgets all messages; the later ones of a key wait for those in `running`, whose calls go on.
    pub(super) fn clear(&mut self, running: &[DeliveryId]) {
        self.queue.lost += self.queue.messages.len();
        self.queue.messages.clear();
        if let Some(keys) = &mut self.queue.keys {
            keys.reset(running);
        }
    }
}

impl Buffer {
    /// Locks the buffer to add messages that arrived at `now`.
    pub(super) fn fill(&self, now: Instant) -> BufferGuard<'_> {
        self.filled.notify_one();
        self.guard(now)
    }

    /// Takes the next message into `place`.
    ///
    /// Drops messages that had no signal for `max_age`, because the server has redelivered them.
    pub(super) fn pop<'a>(&self, now: Instant, max_age: Duration, place: &'a mut Option<Waiting>) -> Option<Next<'a>> {
        let mut queue = self.queue();
        if queue.held {
            return None;
        }
        let refill = loop {
            *place = queue.messages.pop_front();
            let waiting = place.as_ref()?;
            let left = queue.messages.len();
            let is_low = match queue.keys {
                None => left == queue.refill_at(),
                Some(_) => queue.counted() == queue.refill_at() || left + 1 == queue.enough(),
            };
            let refill = is_low || left == 0;
            if refill {
                self.refill.notify_one();
            }
            if waiting.is_held(now, max_age) {
                break refill;
            }
            queue.lost += 1;
        };
        Some(Next { waiting: place.as_mut()?, refill })
    }

    /// Takes a batch; returns `None` if it is not complete, or if the server has redelivered all of its messages.
    pub(super) fn take_batch(&self, limits: BatchLimits, max_age: Duration) -> Option<Vec<Waiting>> {
        let now = Instant::now();
        let mut queue = self.queue();
        if queue.complete_at(limits)? > now {
            return None;
        }
        let (count, _) = queue.batch(limits);
        let taken: Vec<_> = queue.messages.drain(..count).filter(|waiting| waiting.is_held(now, max_age)).collect();
        queue.lost += count - taken.len();
        let left = queue.messages.len();
        if left <= queue.refill_at() {
            self.refill.notify_one();
        }
        if left > 0 {
            // For the next batch.
            self.arrived.notify_one();
        }
        (!taken.is_empty()).then_some(taken)
    }

    /// Waits until a batch is complete; returns `None` after the close, or if `is_unneeded` returns `true` when there is
    /// no message.
    pub(super) async fn until_batch(&self, limits: BatchLimits, is_unneeded: impl Fn() -> bool) -> Option<()> {
        // An idle call is capacity for a batch.
        self.notify_capacity();
        loop {
            let arrived = self.arrived.notified();
            let complete_at = {
                let queue = self.queue();
                if queue.closed || (queue.messages.is_empty() && is_unneeded()) {
                    return None;
                }
                queue.complete_at(limits)
            };
            match complete_at {
                None => arrived.await,
                Some(at) if at <= Instant::now() => return Some(()),
                Some(at) => tokio::select! {
                    () = arrived => {}
                    () = sleep_until(at) => {}
                },
            }
        }
    }

    /// Waits until there is a message and returns the time, or `None` after the close, or if `is_unneeded` returns `true`
    /// when the slot is woken without a message.
    pub(super) async fn arrived(&self, is_unneeded: impl Fn() -> bool) -> Option<Instant> {
        loop {
            let arrived = self.arrived.notified();
            {
                let queue = self.queue();
                if queue.closed {
                    return None;
                }
                if !queue.messages.is_empty() && !queue.held {
                    return Some(Instant::now());
                }
                if is_unneeded() {
                    return None;
                }
            }
            // An idle slot is capacity for one more message.
            self.notify_capacity();
            arrived.await;
        }
    }

    /// Wakes one slot that waits for a message.
    pub(super) fn wake_one(&self) {
        self.arrived.notify_one();
    }

    /// Wakes the slots that wait for a message, some of which are to be given back.
    pub(super) fn wake_all(&self) {
        self.arrived.notify_waiters();
    }

    /// Waits until messages may have arrived since the last call.
    pub(super) async fn filled(&self) {
        self.filled.notified().await;
    }

    /// Reports that the capacity has changed although no message was taken.
    pub(super) fn notify_capacity(&self) {
        self.capacity.notify_one();
    }

    /// Waits until the capacity has changed although no message was taken.
    pub(super) async fn capacity_changed(&self) {
        self.capacity.notified().await;
    }

    /// Waits until so many messages were taken that more are to be requested.
    pub(super) async fn refill(&self) {
        self.refill.notified().await;
    }

    /// Sets the maximum number of messages that are requested and wait, and returns the number of those that wait.
    ///
    /// More are requested when half of it is used up.
    pub(super) fn limit(&self, messages: usize) -> usize {
        let mut queue = self.queue();
        queue.limit = messages;
        queue.counted()
    }

    /// Returns the number of messages that wait, also for others with the same key or for their next attempt.
    pub(super) fn buffered(&self) -> usize {
        let queue = self.queue();
        queue.messages.len() + queue.keys.as_ref().map_or(0, |keys| keys.buffered())
    }

    pub(super) fn len(&self) -> usize {
        self.queue().messages.len()
    }

    /// Returns `true` if messages wait for a slot.
    pub(super) fn has_messages(&self) -> bool {
        let queue = self.queue();
        !queue.messages.is_empty() && !queue.held
    }

    /// Sets whether nothing may begin, because the partition is handed over.
    pub(super) fn hold(&self, held: bool) {
        let mut queue = self.queue();
        queue.held = held;
        if !held && !queue.messages.is_empty() {
            self.arrived.notify_one();
        }
    }

    /// Returns the messages that no slot has taken, which another instance handles.
    pub(super) fn drain(&self) -> Vec<Message> {
        let mut queue = self.queue();
        queue.messages.drain(..).map(|waiting| waiting.message).collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        let queue = self.queue();
        queue.messages.is_empty() && queue.keys.as_ref().is_none_or(|keys| keys.is_empty())
    }

    /// Returns the number of messages that were dropped since the last call.
    pub(super) fn take_lost(&self) -> usize {
        let mut queue = self.queue();
        let of_keys = queue.keys.as_mut().map_or(0, |keys| std::mem::take(&mut keys.lost));
        std::mem::take(&mut queue.lost) + of_keys
    }

    pub(super) fn is_closed(&self) -> bool {
        self.queue().closed
    }

    /// Drops messages that had no signal for `max_age`, because the server has redelivered them.
    pub(super) fn expire(&self, max_age: Duration) {
        let now = Instant::now();
        let mut queue = self.queue();
        let before = queue.messages.len();
        queue.messages.retain(|waiting| now - waiting.since < max_age);
        let lost = before - queue.messages.len();
        if lost > 0 {
            queue.lost += lost;
            self.notify_capacity();
        }
    }

    /// Returns the messages that had no signal for `min_age`, to which the caller sends one now.
    pub(super) fn refresh(&self, min_age: Duration) -> Vec<Info> {
        let now = Instant::now();
        let mut queue = self.queue();
        let due = queue.messages.iter_mut().filter(|waiting| now - waiting.since >= min_age);
        due.map(|waiting| {
            waiting.since = now;
            waiting.message.info.clone()
        })
        .collect()
    }

    /// Moves the times of the signals back, because the clock stood still for `time`.
    pub(super) fn make_older(&self, time: Duration) {
        for Waiting { since, .. } in &mut self.queue().messages {
            *since = since.checked_sub(time).unwrap_or(*since);
        }
    }

    /// Closes the buffer: ends the slots that wait, and returns the messages that no slot has taken, except those that
    /// had no signal for `max_age`.
    pub(super) fn close(&self, max_age: Duration) -> Vec<Message> {
        let now = Instant::now();
        let mut queue = self.queue();
        queue.closed = true;
        let before = queue.messages.len();
        let left = queue.messages.drain(..);
        let left = left.filter(|waiting| waiting.is_held(now, max_age));
        let left: Vec<_> = left.map(|waiting| waiting.message).collect();
        queue.lost += before - left.len();
        self.arrived.notify_waiters();
        left
    }

    /// Ends a message of a handler with a key, so that the next one of its key may begin.
    pub(super) fn finish(&self, delivery: DeliveryId, unfinished: &Unfinished) {
        let mut guard = self.guard(Instant::now());
        let next = guard.queue.keys().finish(delivery, unfinished.is_complete());
        guard.begin(next);
    }

    /// Keeps a message of a handler with a key until its next attempt; returns the delay after which the server is to
    /// deliver it again if it is not kept.
    pub(super) fn park(&self, message: Message, delay: Duration, unfinished: &Unfinished) -> Option<Duration> {
        let now = Instant::now();
        let mut guard = self.guard(now);
        if guard.queue.closed {
            return Some(Duration::ZERO);
        }
        match guard.queue.keys().park(Waiting::new(message, now), now + delay, unfinished.is_complete()) {
            Parked::Here(next) => guard.begin(next.map(|next| *next)),
            Parked::OnServer => {
                self.keys_changed.notify_one();
                return Some(delay);
            }
        }
        self.keys_changed.notify_one();
        None
    }

    /// Forgets the messages in this range of which only the numbers are known, because they were removed from the
    /// stream, and lets the next ones of their keys begin.
    pub(super) fn forget_removed(&self, range: Range<u64>, unfinished: &Unfinished) {
        let mut guard = self.guard(Instant::now());
        for delivery in guard.queue.keys().forget_removed(range) {
            unfinished.ended(delivery);
        }
        if unfinished.is_complete() {
            guard.release_keys();
        }
    }

    /// Waits until a message that was parked is due, or messages are to be requested again.
    pub(super) async fn keys_changed(&self) {
        let changed = self.keys_changed.notified();
        let due = self.queue().keys.as_ref().and_then(|keys| keys.due());
        match due {
            Some(due) => tokio::select! {
                () = changed => {}
                () = sleep_until(due) => {}
            },
            None => changed.await,
        }
    }

    /// Lets the messages begin whose next attempt is due, and takes the deliveries whose messages are to be requested
    /// again.
    pub(super) fn take_recalled(&self) -> Vec<DeliveryId> {
        let now = Instant::now();
        let mut guard = self.guard(now);
        let due = guard.queue.keys().take_due(now);
        guard.begin(due);
        std::mem::take(&mut guard.queue.keys().recalled)
    }

    /// Calls `with` with the messages by key; returns the default value for a handler without a key.
    pub(super) fn keys<T: Default>(&self, with: impl FnOnce(&mut Keys) -> T) -> T {
        self.queue().keys.as_mut().map(|keys| with(keys)).unwrap_or_default()
    }

    fn guard(&self, now: Instant) -> BufferGuard<'_> {
        BufferGuard {
            queue: self.queue(),
            arrived: &self.arrived,
            keys_changed: &self.keys_changed,
            now,
            is_pushed: false,
            is_woken: false,
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        lock(&self.queue)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: BatchLimits = BatchLimits { messages: 3, bytes: usize::MAX, wait: Duration::from_millis(500) };

    fn buffer(limit: usize, payloads: &[&'static str]) -> Buffer {
        let buffer = Buffer::default();
        buffer.limit(limit);
        add(&buffer, payloads);
        buffer
    }

    fn add(buffer: &Buffer, payloads: &[&'static str]) {
        let mut guard = buffer.fill(Instant::now());
        payloads.iter().for_each(|payload| guard.push(Message::new("a", *payload)));
    }

    fn taken(buffer: &Buffer, limits: BatchLimits) -> Option<Vec<String>> {
        let batch = buffer.take_batch(limits, Duration::from_secs(30))?;
        Some(batch.iter().map(|waiting| String::from_utf8_lossy(&waiting.message.payload).into_owned()).collect())
    }

    #[tokio::test(start_paused = true)]
    async fn batch_is_complete_by_its_number() {
        let buffer = buffer(10, &["a", "b"]);
        assert_eq!(taken(&buffer, LIMITS), None);
        add(&buffer, &["c", "d"]);
        assert_eq!(taken(&buffer, LIMITS).unwrap(), ["a", "b", "c"]);
        assert_eq!(taken(&buffer, LIMITS), None);
    }

    #[tokio::test(start_paused = true)]
    async fn batch_is_complete_by_its_time_although_it_was_signalled() {
        let buffer = buffer(10, &["a"]);
        let mut waiting = Box::pin(buffer.until_batch(LIMITS, || false));
        assert!(futures::poll!(&mut waiting).is_pending());
        tokio::time::advance(Duration::from_millis(300)).await;
        assert_eq!(buffer.refresh(Duration::ZERO).len(), 1);
        add(&buffer, &["b"]);
        tokio::time::advance(Duration::from_millis(199)).await;
        assert!(futures::poll!(&mut waiting).is_pending());
        tokio::time::advance(Duration::from_millis(1)).await;
        waiting.await.unwrap();
        assert_eq!(taken(&buffer, LIMITS).unwrap(), ["a", "b"]);
    }

    #[tokio::test(start_paused = true)]
    async fn batch_is_complete_by_its_bytes() {
        let limits = BatchLimits { messages: 100, bytes: 4, ..LIMITS };
        let buffer = buffer(100, &["aa", "bb", "ccc", "ddddd", "e"]);
        assert_eq!(taken(&buffer, limits).unwrap(), ["aa", "bb"]);
        assert_eq!(taken(&buffer, limits).unwrap(), ["ccc"]);
        assert_eq!(taken(&buffer, limits).unwrap(), ["ddddd"], "a larger message is alone");
        assert_eq!(taken(&buffer, limits), None);
    }

    #[tokio::test(start_paused = true)]
    async fn batch_is_complete_if_no_more_can_arrive() {
        let buffer = buffer(2, &["a", "b"]);
        assert_eq!(taken(&buffer, LIMITS).unwrap(), ["a", "b"]);
    }

    #[tokio::test(start_paused = true)]
    async fn messages_that_wait_for_others_of_their_keys_count_while_enough_may_begin() {
        let (buffer, unfinished, mut place) = (Buffer::default(), Unfinished::default(), None);
        buffer.limit(8);
        let mut guard = buffer.fill(Instant::now());
        for (sequence, key) in [1, 2, 3, 1, 1, 1, 1].into_iter().enumerate() {
            let info = Info::for_test("S", "D").with_stream_sequence(sequence as u64);
            guard.push_by_key(Ok(key), Message { info, ..Message::new("a", "") }, &unfinished);
        }
        drop(guard);
        let mut pop = || buffer.pop(Instant::now(), Duration::MAX, &mut place).map(|next| next.refill);
        assert_eq!((buffer.limit(8), buffer.buffered()), (7, 7));
        assert_eq!((pop(), buffer.limit(8)), (Some(false), 6));
        assert_eq!((pop(), buffer.limit(8)), (Some(true), 1), "the slots would soon be without one");
        assert_eq!(buffer.buffered(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn redelivered_messages_are_not_in_a_batch() {
        let buffer = buffer(10, &["a", "b"]);
        tokio::time::advance(Duration::from_secs(31)).await;
        assert_eq!(taken(&buffer, LIMITS), None);
        assert!(buffer.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn close_returns_what_waits_for_a_batch() {
        let buffer = buffer(10, &["a", "b"]);
        let mut waiting = Box::pin(buffer.until_batch(LIMITS, || false));
        assert!(futures::poll!(&mut waiting).is_pending());
        assert_eq!(buffer.close(Duration::from_secs(30)).len(), 2);
        assert_eq!(waiting.await, None);
    }
}
