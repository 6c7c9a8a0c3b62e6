//! The messages that this worker has ended last, in case its consumer is restored from an earlier position.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use crate::message::Info;
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
    is_restored: AtomicBool,
    restored: Mutex<Option<Restored>>,
}

#[derive(Debug, Default)]
struct Word {
    ended: AtomicU64,
    /// The time at which the stream stored the first message of the word that ended, in nanoseconds.
    stored_at: AtomicU64,
}

/// A restored consumer, while it repeats messages.
#[derive(Debug, Clone, Copy)]
struct Restored {
    /// The time at which the stream was created; what was stored before belongs to an earlier one of the same name.
    stream_created: u64,
    /// The first stream sequence that the consumer delivers.
    start: u64,
    /// The first stream sequence after those that may be repeated.
    end: u64,
    until: Instant,
}

impl RecentAcks {
    /// Records that a message has ended; only the slots of one task call it.
    pub(super) fn record(&self, info: &Info) {
        let sequence = info.stream_sequence();
        let words = self.words.get_or_init(|| (0..WORDS).map(|_| Word::default()).collect());
        let end = self.end.load(Ordering::Relaxed);
        if sequence >= end {
            let (known, reached) = (end.div_ceil(64), sequence / 64);
            // Parsed once for 64 messages in a row.
            let stored_at = if known <= reached { nanos(info.stored_at()) } else { 0 };
            for number in known.max(reached.saturating_sub(WORDS - 1))..=reached {
                let word = &words[(number % WORDS) as usize];
                word.ended.store(0, Ordering::Relaxed);
                word.stored_at.store(stored_at, Ordering::Relaxed);
            }
            self.end.store(sequence + 1, Ordering::Relaxed);
        } else if !is_in_ring(sequence, end) {
            return;
        }
        let ended = &words[(sequence / 64 % WORDS) as usize].ended;
        ended.store(ended.load(Ordering::Relaxed) | 1 << (sequence % 64), Ordering::Relaxed);
    }

    /// Begins to recognize messages that a restored consumer repeats from `start` on.
    pub(super) fn restored(&self, start: u64, stream_created: SystemTime) {
        let end = self.end.load(Ordering::Relaxed);
        let until = Instant::now() + MAX_REPEATS;
        *lock(&self.restored) = Some(Restored { stream_created: nanos(stream_created), start, end, until });
        self.is_restored.store(true, Ordering::Relaxed);
    }

    /// Returns `true` if a message has ended before, and a restored consumer delivers it again.
    pub(super) fn is_repeated(&self, info: &Info) -> bool {
        self.is_restored.load(Ordering::Relaxed) && self.repeats(info)
    }

    #[cold]
    fn repeats(&self, info: &Info) -> bool {
        let mut restored = lock(&self.restored);
        let sequence = info.stream_sequence();
        let active = restored.filter(|restored| sequence < restored.end && Instant::now() < restored.until);
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
        let word = &words[(sequence / 64 % WORDS) as usize];
        let is_of_this_stream = word.stored_at.load(Ordering::Relaxed) >= stream_created;
        is_of_this_stream && word.ended.load(Ordering::Relaxed) >> (sequence % 64) & 1 == 1
    }
}

/// Returns `true` if the ring whose highest sequence is before `end` has not overwritten this one.
fn is_in_ring(sequence: u64, end: u64) -> bool {
    sequence / 64 + WORDS > end.saturating_sub(1) / 64
}

fn nanos(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{AckPrefix, DeliveryId};

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn info(sequence: u64, stored_at: u64) -> Info {
        let id = DeliveryId { delivered: 1, stream_sequence: sequence, consumer_sequence: sequence, incarnation: 0 };
        AckPrefix::new("S", "C").stored_delivery(id, at(stored_at), 0).into()
    }

    #[tokio::test]
    async fn recognizes_what_has_ended_since_the_start() {
        let acks = RecentAcks::default();
        for sequence in [5, 3, 200, 64, 63, 127] {
            acks.record(&info(sequence, 100));
        }
        assert!(!acks.is_repeated(&info(5, 100)), "nothing was restored");
        acks.restored(4, at(50));
        let repeated: Vec<_> = (0..=200).filter(|sequence| acks.is_repeated(&info(*sequence, 100))).collect();
        assert_eq!(repeated, [5, 63, 64, 127, 200]);
        assert!(!acks.is_repeated(&info(201, 100)));
        assert!(!acks.is_repeated(&info(5, 100)), "a new message ends the repetition");
    }

    #[tokio::test]
    async fn forgets_what_the_ring_has_overwritten() {
        let acks = RecentAcks::default();
        let far = 64 * WORDS + 1;
        acks.record(&info(1, 100));
        acks.record(&info(70, 100));
        acks.record(&info(far, 100));
        acks.record(&info(2, 100));
        acks.restored(1, at(50));
        let repeated: Vec<_> = (0..=far).filter(|sequence| acks.is_repeated(&info(*sequence, 100))).collect();
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
        acks.restored(1, at(150));
        let repeated: Vec<_> = (0..500).filter(|sequence| acks.is_repeated(&info(*sequence, 200))).collect();
        assert_eq!(repeated, (320..500).collect::<Vec<_>>());
    }

    #[tokio::test(start_paused = true)]
    async fn recognizes_for_a_limited_time() {
        let acks = RecentAcks::default();
        acks.record(&info(5, 100));
        acks.restored(1, at(50));
        assert!(acks.is_repeated(&info(5, 100)));
        tokio::time::advance(MAX_REPEATS).await;
        assert!(!acks.is_repeated(&info(5, 100)));
    }
}
