//! The metadata of a consumer, with which the processes that share it distinguish attempts from deliveries.

use std::ops::RangeInclusive;
use std::time::Duration;

use serde_json::{Value, json};

use super::Connection;
use crate::backoff::jittered;
use crate::delivery::{Binding, Counts, Isolation, Record};
use crate::error::{Error, ErrorKind};

/// The metadata key of the messages that were handed back without an attempt.
const HANDED_BACK: &str = "jetstream-handlers.handed-back";

/// The metadata key of the messages that were tried in isolation.
const TRIED_ALONE: &str = "jetstream-handlers.tried-alone";

/// The metadata key of the messages that have no attempts left, and whose dead letters could not be stored yet.
const EXHAUSTED: &str = "jetstream-handlers.exhausted";

/// The maximum length of one entry; the server accepts at most 128 KiB of metadata.
const MAX_LENGTH: usize = 32 * 1024;

/// The maximum number of messages that are read from one entry.
const MAX_DECODED: usize = 100_000;

/// The maximum number of attempts to write an entry.
const MAX_WRITES: usize = 5;

/// The pause between two attempts, so that concurrent writers can finish.
const WRITE_PAUSE: Duration = Duration::from_millis(15);

impl Connection {
    /// Returns what is recorded about a message of a consumer.
    pub(crate) async fn record(&self, binding: &Binding, sequence: u64) -> Result<Record, Error> {
        let info: Value = self.consumer_info(binding).await?;
        // The entries are not decoded for each of thousands of messages.
        let [handed_back, tried_alone, exhausted] = [HANDED_BACK, TRIED_ALONE, EXHAUSTED].map(|key| {
            let counted = ranges(&info, key).find(|(sequences, _)| sequences.contains(&sequence));
            counted.map_or(0, |(_, count)| count)
        });
        Ok(Record { handed_back, tried_alone, exhausted: exhausted > 0 })
    }

    /// Records that these messages were handed back, so that no process counts the delivery as a failed attempt.
    pub(crate) async fn hand_back(&self, binding: &Binding, sequences: &[u64]) -> Result<(), Error> {
        self.add(binding, HANDED_BACK, sequences, 1).await.map(drop)
    }

    /// Records that a message is about to be tried in isolation; returns the sum of the weights before.
    pub(crate) async fn mark_isolated(
        &self,
        binding: &Binding,
        sequence: u64,
        isolation: Isolation,
    ) -> Result<u64, Error> {
        let before = self.add(binding, TRIED_ALONE, &[sequence], isolation.weight()).await?;
        Ok(before.get(&sequence).copied().unwrap_or_default())
    }

    /// Records that these messages have no attempts left, although their dead letters could not be stored.
    pub(crate) async fn mark_exhausted(&self, binding: &Binding, sequences: &[u64]) -> Result<(), Error> {
        self.add(binding, EXHAUSTED, sequences, 1).await.map(drop)
    }

    /// Adds to the counts of messages in one entry of the metadata; returns the previous counts.
    ///
    /// The metadata is shared by all processes and lives as long as the server's own delivery counts.
    /// The last of several concurrent writes wins, so each writer reads the entry back and repeats a lost write.
    ///
    /// JetStream has no update of the metadata alone and none on the condition that nothing has changed, so each write
    /// repeats the whole configuration. An edit of an operator is lost if the server processes it in the time between
    /// the read, which immediately precedes each write, and that write: about one round trip.
    async fn add(&self, binding: &Binding, key: &str, sequences: &[u64], count: u64) -> Result<Counts, Error> {
        let mut info: Value = self.consumer_info(binding).await?;
        let before = decode_counts(&info, key);
        let goal: Counts = sequences
            .iter()
            .map(|sequence| (*sequence, before.get(sequence).copied().unwrap_or_default() + count))
            .collect();
        for _ in 0..MAX_WRITES {
            let counts = merged(&mut info, key, &goal);
            self.write_counts(binding, &mut info, key, &counts).await?;
            info = self.consumer_info(binding).await?;
            let now = decode_counts(&info, key);
            if goal.iter().all(|(sequence, count)| now.get(sequence).is_some_and(|now| now >= count)) {
                return Ok(before);
            }
            tokio::time::sleep(jittered(WRITE_PAUSE)).await;
            info = self.consumer_info(binding).await?;
        }
        let message = format!("the metadata update of consumer `{}` kept conflicting with others", binding.consumer);
        Err(Error::new(ErrorKind::Server, message))
    }

    /// Updates the consumer with its own configuration and one changed entry of its metadata.
    async fn write_counts(&self, binding: &Binding, info: &mut Value, key: &str, counts: &Counts) -> Result<(), Error> {
        let config = &mut info["config"];
        let mut metadata = config["metadata"].as_object().cloned().unwrap_or_default();
        // The server sets these keys itself.
        metadata.retain(|key, _| !key.starts_with("_nats."));
        metadata.insert(key.to_owned(), Value::from(encode_counts(counts)));
        config["metadata"] = Value::from(metadata);
        let Binding { stream, consumer, .. } = binding;
        let mut subject = format!("CONSUMER.CREATE.{stream}.{consumer}");
        // The subject ends with the filter only if there is exactly one.
        if let Some(filter) = config["filter_subject"].as_str().filter(|filter| !filter.is_empty()) {
            subject.push('.');
            subject.push_str(filter);
        }
        let request = json!({ "stream_name": stream, "config": config, "action": "update" });
        let written = self.request::<Value>(&subject, &request).await;
        written.map(drop).map_err(|error| error.into_error(&format!("writing the metadata of consumer `{consumer}`")))
    }
}

/// Returns the counts of an entry with those of `goal`, without those of messages that have ended.
fn merged(info: &mut Value, key: &str, goal: &Counts) -> Counts {
    let floor = info["ack_floor"]["stream_seq"].as_u64().unwrap_or_default();
    let mut counts = decode_counts(info, key);
    // Messages up to the ack floor have ended.
    counts.retain(|sequence, _| *sequence > floor);
    counts.extend(goal.iter().map(|(sequence, count)| (*sequence, *count)));
    if key == HANDED_BACK {
        // A message handed back did not complete its attempt in isolation.
        let mut isolated = decode_counts(info, TRIED_ALONE);
        let before = isolated.len();
        isolated.retain(|sequence, _| !goal.contains_key(sequence));
        if isolated.len() < before {
            info["config"]["metadata"][TRIED_ALONE] = Value::from(encode_counts(&isolated));
        }
    }
    counts
}

/// Decodes one entry of a consumer's metadata: `sequence:count` or `first-last:count`, separated by commas.
fn ranges<'a>(info: &'a Value, key: &str) -> impl Iterator<Item = (RangeInclusive<u64>, u64)> + use<'a> {
    let text = info["config"]["metadata"][key].as_str().unwrap_or_default();
    text.split(',').filter_map(|range| {
        let (sequences, count) = range.split_once(':')?;
        let (first, last) = sequences.split_once('-').unwrap_or((sequences, sequences));
        Some((first.parse().ok()?..=last.parse().ok()?, count.parse().ok()?))
    })
}

/// Decodes all counts of one entry, up to a bound, because others can write the metadata.
fn decode_counts(info: &Value, key: &str) -> Counts {
    let mut counts = Counts::new();
    for (sequences, count) in ranges(info, key) {
        let room = MAX_DECODED.saturating_sub(counts.len());
        counts.extend(sequences.take(room).map(|sequence| (sequence, count)));
    }
    counts
}

/// Encodes an entry; leaves out the oldest messages if it becomes too long.
fn encode_counts(counts: &Counts) -> String {
    let mut ranges: Vec<(u64, u64, u64)> = Vec::new();
    for (&sequence, &count) in counts {
        match ranges.last_mut() {
            Some((_, last, same)) if *last + 1 == sequence && *same == count => *last = sequence,
            _ => ranges.push((sequence, sequence, count)),
        }
    }
    let (mut length, mut texts) = (0, Vec::new());
    for (first, last, count) in ranges.into_iter().rev() {
        let text = if first == last { format!("{first}:{count}") } else { format!("{first}-{last}:{count}") };
        length += text.len() + 1;
        if length > MAX_LENGTH {
            break;
        }
        texts.push(text);
    }
    texts.reverse();
    texts.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(text: &str) -> Counts {
        decode_counts(&json!({ "config": { "metadata": { HANDED_BACK: text } } }), HANDED_BACK)
    }

    #[test]
    fn counts_are_written_as_ranges() {
        let counts: Counts = [(3, 1), (4, 1), (5, 1), (6, 2), (8, 2)].into();
        assert_eq!(encode_counts(&counts), "3-5:1,6:2,8:2");
        assert_eq!(decoded("3-5:1,6:2,8:2"), counts);
    }

    #[test]
    fn entry_that_others_wrote_is_bounded() {
        assert_eq!(decoded("x,7,7:,:1,9-1:1,2:3"), [(2, 3)].into());
        assert_eq!(decoded("1-18446744073709551615:1").len(), MAX_DECODED);
    }

    #[test]
    fn long_entry_keeps_the_newest_messages() {
        let counts: Counts = (0..20_000).map(|number| (number * 2, 1)).collect();
        let text = encode_counts(&counts);
        assert!(text.len() <= MAX_LENGTH && text.ends_with(",39998:1"), "{} bytes", text.len());
    }
}
