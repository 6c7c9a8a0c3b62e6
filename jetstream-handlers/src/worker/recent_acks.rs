//! The messages that this worker has ended last, in case its consumer is restored from an earlier position.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use crate::delivery::Incarnations;
use crate::message::{DeliveryId, Info, nanos};
use crate::sync::lock;

/// The number of words, each for 64 consecutive stream sequences.
const WORDS: u64 = 2048;

/// The time after a restoration during which repeated messages are recognized.
const MAX_REPEATS: Duration = Duration::from_secs(60);

/// The latest stream sequences that ended, as a ring of bits up to the highest one.
///
/// The ack floor of a consumer is read every few seconds, so a consumer that is deleted and restored delivers again
/// what ended since.
#[derive(Debug, Default)]
pub(super) struct RecentAcks {
    words: OnceLock<Box<[Word]>>,
    /// One after the highest sequence.
    end: AtomicU64,
    /// The time at which the stream stored the message with the highest sequence, in nanoseconds since 1970.
    end_stored_at: AtomicU64,
    is_restored: AtomicBool,
    restored: Mutex<Option<Restored>>,
}

#[derive(Debug, Default)]
struct Word {
    ended: AtomicU64,
    /// The earliest and the latest time at which the stream stored a message of the word that ended, in nanoseconds
    /// since 1970.
    stored_from: AtomicU64,
    stored_to: AtomicU64,
}

impl Word {
    fn clear(&self) {
        self.ended.store(0, Ordering::Relaxed);
        self.stored_from.store(u64::MAX, Ordering::Relaxed);
        self.stored_to.store(0, Ordering::Relaxed);
    }

    /// Records a message; only one task calls it.
    fn record(&self, sequence: u64, stored_at: u64) {
        let update = |value: &AtomicU64, with: fn(u64, u64) -> u64, other| {
            value.store(with(value.load(Ordering::Relaxed), other), Ordering::Relaxed);
        };
        update(&self.ended, |ended, bit| ended | bit, 1 << (sequence % 64));
        update(&self.stored_from, u64::min, stored_at);
        update(&self.stored_to, u64::max, stored_at);
    }

    /// Returns `true` if the message at this sequence has ended, in a stream that was created at this time.
    ///
    /// Another message at the same sequence was stored later than all that have ended before.
    fn has(&self, sequence: u64, stored_at: u64, stream_created: u64) -> bool {
        self.ended.load(Ordering::Relaxed) >> (sequence % 64) & 1 == 1
            && self.stored_from.load(Ordering::Relaxed) >= stream_created
            && self.stored_to.load(Ordering::Relaxed) >= stored_at
    }
}

/// A restored consumer, while it repeats messages.
#[derive(Debug, Clone, Copy)]
struct Restored {
    /// The time at which the stream was created; what was stored before belongs to an earlier one of the same name.
    stream_created: u64,
    /// An incarnation of the restored consumer; one that is made later may have another stream.
    incarnation: u32,
    /// The first stream sequence that the consumer delivers.
    start: u64,
    /// The first stream sequence after those that may be repeated.
    end: u64,
    until: Instant,
}

impl RecentAcks {
    /// Records that a message has ended; only the slots of one task call it.
    pub(super) fn record(&self, info: &Info) {
        let (sequence, stored_at) = (info.stream_sequence(), info.id().stored_at);
        let words = self.words.get_or_init(|| (0..WORDS).map(|_| Word::default()).collect());
        let mut end = self.end.load(Ordering::Relaxed);
        if sequence < end && stored_at > self.end_stored_at.load(Ordering::Relaxed) {
            // The stream has lost its messages and assigns their sequences again.
            words.iter().for_each(Word::clear);
            end = 0;
        }
        if sequence >= end {
            self.end_stored_at.store(stored_at, Ordering::Relaxed);
            let (known, reached) = (end.div_ceil(64), sequence / 64);
            for number in known.max(reached.saturating_sub(WORDS - 1))..=reached {
                words[(number % WORDS) as usize].clear();
            }
            self.end.store(sequence + 1, Ordering::Relaxed);
        } else if !is_in_ring(sequence, end) {
            return;
        }
        words[(sequence / 64 % WORDS) as usize].record(sequence, stored_at);
    }

    /// Begins to recognize messages that a restored consumer of this incarnation repeats from `start` on.
    pub(super) fn restored(&self, start: u64, stream_created: SystemTime, incarnation: u32) {
        let end = self.end.load(Ordering::Relaxed);
        let until = Instant::now() + MAX_REPEATS;
        *lock(&self.restored) =
            Some(Restored { stream_created: nanos(stream_created), incarnation, start, end, until });
        self.is_restored.store(true, Ordering::Relaxed);
    }

    /// Returns `true` if a message has ended before, and a restored consumer delivers it again.
    pub(super) fn is_repeated(&self, info: &Info, incarnations: &Incarnations) -> bool {
        self.is_restored.load(Ordering::Relaxed) && self.repeats(info, incarnations.oldest())
    }

    /// See [`is_repeated`](Self::is_repeated); `oldest` is the first incarnation of the present consumer.
    #[cold]
    fn repeats(&self, info: &Info, oldest: u32) -> bool {
        let mut restored = lock(&self.restored);
        let DeliveryId { stream_sequence: sequence, stored_at, .. } = info.id();
        let active = restored.filter(|restored| {
            oldest <= restored.incarnation && sequence < restored.end && Instant::now() < restored.until
        });
        let Some(Restored { stream_created, start, .. }) = active else {
            // The consumer delivers in order, so what follows is new.
            *restored = None;
            self.is_restored.store(false, Ordering::Relaxed);
            return false;
        };
        let Some(words) = self.words.get() else { return false };
        if sequence < start || !is_in_ring(sequence, self.end.load(Ordering::Relaxed)) {
            return false;
        }
        words[(sequence / 64 % WORDS) as usize].has(sequence, stored_at, stream_created)
    }
}

/// Returns `true` if the ring whose highest sequence is before `end` has not overwritten this one.
fn is_in_ring(sequence: u64, end: u64) -> bool {
    sequence / 64 + WORDS > end.saturating_sub(1) / 64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::AckPrefix;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn info(sequence: u64, stored_at: u64) -> Info {
        let id = DeliveryId { stream_sequence: sequence, stored_at: nanos(at(stored_at)), ..DeliveryId::default() };
        AckPrefix::new("S", "C").delivery(id).into()
    }

    #[tokio::test]
    async fn recognizes_what_has_ended_since_the_start() {
        let acks = RecentAcks::default();
        for sequence in [5, 3, 200, 64, 63, 127] {
            acks.record(&info(sequence, 100));
        }
        assert!(!acks.is_repeated(&info(5, 100), &Incarnations::default()), "nothing was restored");
        acks.restored(4, at(50), 0);
        let repeated: Vec<_> = (0..=200).filter(|sequence| acks.repeats(&info(*sequence, 100), 0)).collect();
        assert_eq!(repeated, [5, 63, 64, 127, 200]);
        assert!(!acks.repeats(&info(201, 100), 0));
        assert!(!acks.repeats(&info(5, 100), 0), "a new message ends the repetition");
    }

    #[tokio::test]
    async fn forgets_what_the_ring_has_overwritten() {
        let acks = RecentAcks::default();
        let far = 64 * WORDS + 1;
        acks.record(&info(1, 100));
        acks.record(&info(70, 100));
        acks.record(&info(far, 100));
        acks.record(&info(2, 100));
        acks.restored(1, at(50), 0);
        let repeated: Vec<_> = (0..=far).filter(|sequence| acks.repeats(&info(*sequence, 100), 0)).collect();
        assert_eq!(repeated, [70, far]);
    }

    #[tokio::test]
    async fn messages_of_an_earlier_stream_are_not_recognized() {
        let acks = RecentAcks::default();
        for sequence in 0..300 {
            acks.record(&info(sequence, 100));
        }
        // The stream was made anew at 150, and has fewer messages, and then more.
        for sequence in 0..10 {
            acks.record(&info(sequence, 200));
        }
        for sequence in 310..500 {
            acks.record(&info(sequence, 200));
        }
        acks.restored(1, at(150), 0);
        let repeated: Vec<_> = (0..500).filter(|sequence| acks.repeats(&info(*sequence, 200), 0)).collect();
        assert_eq!(repeated, (1..10).chain(310..500).collect::<Vec<_>>());
    }

    #[tokio::test(start_paused = true)]
    async fn recognizes_for_a_limited_time() {
        let acks = RecentAcks::default();
        acks.record(&info(5, 100));
        acks.restored(1, at(50), 0);
        assert!(acks.repeats(&info(5, 100), 0));
        tokio::time::advance(MAX_REPEATS).await;
        assert!(!acks.repeats(&info(5, 100), 0));
    }

    #[tokio::test]
    async fn other_messages_at_the_same_sequences_are_not_recognized() {
        let acks = RecentAcks::default();
        (1..20).for_each(|sequence| acks.record(&info(sequence, 100)));
        acks.restored(1, at(50), 0);
        assert!(acks.repeats(&info(5, 100), 0));
        assert!(!acks.repeats(&info(5, 200), 0), "the server has lost the messages, and kept the stream");
        assert!(!acks.repeats(&info(5, 100), 1), "the consumer was replaced again");
        // The stream assigns the sequences again, and what it had before is forgotten.
        acks.record(&info(7, 200));
        acks.restored(1, at(50), 0);
        assert!(!acks.repeats(&info(5, 150), 0));
    }
}
