//! What the workers have handled.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::message::Id;
use crate::queue::Queue;

/// A call that succeeded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Handling {
    pub(crate) queue: Queue,
    pub(crate) id: Id,
    pub(crate) stream_sequence: u64,
    /// When the stream stored the message.
    pub(crate) stored_at: u128,
    /// When the call ended, by the clock that all processes share.
    pub(crate) at: u128,
}

/// Returns a time as nanoseconds since 1970.
pub(crate) fn nanos(time: SystemTime) -> u128 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos())
}

/// As a worker reports it, on one line.
impl fmt::Display for Handling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { queue, id, stream_sequence, stored_at, at } = self;
        write!(f, "{} {} {stream_sequence} {stored_at} {at}", queue.name(), id.subject())
    }
}

impl Handling {
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        Some(Self {
            queue: Queue::parse(words.next()?)?,
            id: Id::parse(words.next()?)?,
            stream_sequence: words.next()?.parse().ok()?,
            stored_at: words.next()?.parse().ok()?,
            at: words.next()?.parse().ok()?,
        })
    }
}

/// All calls that succeeded, and when they were reported; clones share one record.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ledger(Arc<Mutex<Vec<(Handling, Instant)>>>);

impl Ledger {
    fn with<T>(&self, read: impl FnOnce(&mut Vec<(Handling, Instant)>) -> T) -> T {
        read(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn add(&self, handling: Handling) {
        self.with(|all| all.push((handling, Instant::now())));
    }

    /// Returns how often each message was handled.
    pub(crate) fn counts(&self) -> BTreeMap<(Queue, Id), usize> {
        let mut counts = BTreeMap::new();
        self.with(|all| all.iter().for_each(|(it, _)| *counts.entry((it.queue, it.id)).or_default() += 1));
        counts
    }

    /// Returns the number of calls for messages that were handled before.
    pub(crate) fn repetitions(&self) -> usize {
        self.counts().values().map(|count| count - 1).sum()
    }

    /// Returns the calls of a queue in the order in which they ended.
    pub(crate) fn of_queue(&self, queue: Queue) -> Vec<Handling> {
        let all = self.with(|all| all.clone());
        let mut handlings: Vec<_> = all.into_iter().map(|(it, _)| it).filter(|it| it.queue == queue).collect();
        handlings.sort_by_key(|it| it.at);
        handlings
    }

    /// Returns when calls were reported, of one queue or of all.
    pub(crate) fn times(&self, queue: Option<Queue>) -> Vec<Instant> {
        self.with(|all| {
            all.iter().filter(|(it, _)| queue.is_none_or(|queue| it.queue == queue)).map(|(_, time)| *time).collect()
        })
    }
}

/// A period of time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Period {
    pub(crate) from: Instant,
    pub(crate) to: Instant,
}

impl Period {
    /// Returns the period since `from`.
    pub(crate) fn since(from: Instant) -> Self {
        Self { from, to: Instant::now() }
    }

    /// Returns the part of another period that is in this one.
    fn overlap(self, other: Self) -> Duration {
        self.to.min(other.to).saturating_duration_since(self.from.max(other.from))
    }
}

/// Returns the longest time without an event in a period, not counting the excused periods.
pub(crate) fn longest_pause(events: &[Instant], within: Period, excused: &[Period]) -> Duration {
    let inside = events.iter().copied().filter(|event| within.from < *event && *event < within.to);
    let ends: Vec<_> = std::iter::once(within.from).chain(inside).chain([within.to]).collect();
    let pauses = ends.windows(2).map(|pair| {
        let pause = Period { from: pair[0], to: pair[1] };
        let length = pause.to.saturating_duration_since(pause.from);
        length.saturating_sub(excused.iter().map(|period| period.overlap(pause)).sum())
    });
    pauses.max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longest_pause_is_inside_and_without_what_is_excused() {
        let begin = Instant::now();
        let at = |seconds: u64| begin + Duration::from_secs(seconds);
        let period = |from: u64, to: u64| Period { from: at(from), to: at(to) };
        let events = [at(0), at(12), at(20)];
        assert_eq!(longest_pause(&events, period(5, 25), &[]), Duration::from_secs(8));
        assert_eq!(longest_pause(&events, period(5, 25), &[period(13, 16)]), Duration::from_secs(7));
        assert_eq!(longest_pause(&[], period(5, 25), &[]), Duration::from_secs(20), "nothing happened at all");
    }

    #[test]
    fn report_of_a_worker_is_parsed() {
        let line = "ordered work.fails-once.7 3 100 200";
        let handling = Handling::parse(line).expect("it is complete");
        assert_eq!(handling.to_string(), line);
        assert!(Handling::parse("ordered work.fails-once.7 3 1").is_none(), "the process was killed while it wrote");
    }
}
