//! The metadata of a consumer, with which the processes that share it distinguish attempts from deliveries.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::Connection;
use crate::backoff::jittered;
use crate::delivery::Binding;
use crate::error::{Error, ErrorKind};

/// The metadata key of the messages that were handed back without an attempt.
const HANDED_BACK: &str = "jetstream-handlers.handed-back";

/// The metadata key of the messages that were tried in isolation.
const TRIED_ALONE: &str = "jetstream-handlers.tried-alone";

/// The maximum number of messages in one entry; the server accepts at most 128 KiB of metadata.
const MAX_COUNTS: usize = 3000;

/// The maximum number of attempts to write an entry.
const MAX_WRITES: usize = 5;

/// The pause between two attempts, so that concurrent writers can finish.
const WRITE_PAUSE: Duration = Duration::from_millis(15);

impl Connection {
    /// Returns the number of times that each message of a consumer was handed back without an attempt, by stream
    /// sequence.
    pub(crate) async fn handed_back(&self, binding: &Binding) -> Result<BTreeMap<u64, u64>, Error> {
        Ok(decode_counts(&self.consumer_info(binding).await?, HANDED_BACK))
    }

    /// Records that these messages were handed back, so that no process counts the delivery as a failed attempt.
    pub(crate) async fn hand_back(&self, binding: &Binding, sequences: &[u64]) -> Result<(), Error> {
        self.count(binding, HANDED_BACK, sequences).await.map(drop)
    }

    /// Records that a message is about to be tried in isolation; returns `true` if that was recorded before.
    pub(crate) async fn mark_isolated(&self, binding: &Binding, sequence: u64) -> Result<bool, Error> {
        Ok(self.count(binding, TRIED_ALONE, &[sequence]).await?.contains_key(&sequence))
    }

    /// Increments the counts of messages in one entry of the metadata; returns the previous counts.
    ///
    /// The metadata is shared by all processes and lives as long as the server's own delivery counts.
    /// The last of several concurrent writes wins, so each writer reads the entry back and repeats a lost write.
    async fn count(&self, binding: &Binding, key: &str, sequences: &[u64]) -> Result<BTreeMap<u64, u64>, Error> {
        let mut info: Value = self.consumer_info(binding).await?;
        let before = decode_counts(&info, key);
        let goal: BTreeMap<u64, u64> = sequences
            .iter()
            .map(|sequence| (*sequence, before.get(sequence).copied().unwrap_or_default() + 1))
            .collect();
        for _ in 0..MAX_WRITES {
            let floor = info["ack_floor"]["stream_seq"].as_u64().unwrap_or_default();
            let mut counts = decode_counts(&info, key);
            // Messages up to the ack floor have ended.
            counts.retain(|sequence, _| *sequence > floor);
            counts.extend(goal.iter().map(|(sequence, count)| (*sequence, *count)));
            while counts.len() > MAX_COUNTS {
                counts.pop_first();
            }
            if key == HANDED_BACK {
                // A message handed back did not complete its attempt in isolation.
                let mut isolated = decode_counts(&info, TRIED_ALONE);
                let before = isolated.len();
                isolated.retain(|sequence, _| !sequences.contains(sequence));
                if isolated.len() < before {
                    info["config"]["metadata"][TRIED_ALONE] = Value::from(encode_counts(&isolated));
                }
            }
            self.write_counts(binding, &mut info, key, &counts).await?;
            info = self.consumer_info(binding).await?;
            let now = decode_counts(&info, key);
            if goal.iter().all(|(sequence, count)| now.get(sequence).is_some_and(|now| now >= count)) {
                return Ok(before);
            }
            tokio::time::sleep(jittered(WRITE_PAUSE)).await;
        }
        let message = format!("the metadata update of consumer `{}` kept conflicting with others", binding.consumer);
        Err(Error::new(ErrorKind::Server, message))
    }

    /// Updates the consumer with its own configuration and one changed entry of its metadata.
    async fn write_counts(
        &self,
        binding: &Binding,
        info: &mut Value,
        key: &str,
        counts: &BTreeMap<u64, u64>,
    ) -> Result<(), Error> {
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

/// Decodes one entry of a consumer's metadata: `sequence:count` pairs, separated by commas.
fn decode_counts(info: &Value, key: &str) -> BTreeMap<u64, u64> {
    let text = info["config"]["metadata"][key].as_str().unwrap_or_default();
    let pairs = text.split(',').filter_map(|pair| pair.split_once(':'));
    pairs.filter_map(|(sequence, count)| Some((sequence.parse().ok()?, count.parse().ok()?))).collect()
}

fn encode_counts(counts: &BTreeMap<u64, u64>) -> String {
    let pairs: Vec<_> = counts.iter().map(|(sequence, count)| format!("{sequence}:{count}")).collect();
    pairs.join(",")
}
