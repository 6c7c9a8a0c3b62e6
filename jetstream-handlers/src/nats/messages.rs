//! Messages read from a stream by sequence, and what a consumer was told about its handed-back messages.

use std::collections::BTreeMap;
use std::str::FromStr as _;
use std::time::{Duration, SystemTime};

use async_nats::HeaderMap;
use async_nats::header::{HeaderName, HeaderValue};
use async_nats::jetstream::stream::RawMessage;
use async_nats::jetstream::{ErrorCode, consumer, stream};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as BASE64;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::Connection;
use crate::backoff::jittered;
use crate::delivery::Binding;
use crate::error::{Error, ErrorKind};
use crate::message::Stored;

/// Where in a consumer's metadata the handed-back messages stand.
const HANDED_BACK: &str = "jetstream-handlers.handed-back";

/// Where in a consumer's metadata the messages stand that were tried alone.
const TRIED_ALONE: &str = "jetstream-handlers.tried-alone";

/// The most messages in one entry; the server holds at most 128 KiB of metadata.
const MAX_COUNTS: usize = 3000;

/// How often an entry is written until it has stayed.
const WRITES: usize = 5;

/// How long others may finish their own writing.
const WRITE_PAUSE: Duration = Duration::from_millis(15);

/// Up to where every message of a consumer had ended at some time, in the stream that was made at this time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Floor {
    created: SystemTime,
    sequence: u64,
}

impl Floor {
    /// The same consumer has come so far by now.
    pub(super) fn rise(&mut self, sequence: u64) {
        self.sequence = self.sequence.max(sequence);
    }
}

impl Connection {
    /// The message at this sequence, or with `or_later` the next one there is.
    pub(crate) async fn stored(&self, stream: &str, sequence: u64, or_later: bool) -> Result<Option<Stored>, Error> {
        match or_later {
            true => self.stored_on(stream, sequence, ">").await,
            false => self.read_stored(stream, sequence, &json!({ "seq": sequence })).await,
        }
    }

    /// The first message at or behind this sequence on a subject, which may have wildcards.
    pub(super) async fn stored_on(&self, stream: &str, sequence: u64, subject: &str) -> Result<Option<Stored>, Error> {
        self.read_stored(stream, sequence, &json!({ "seq": sequence, "next_by_subj": subject })).await
    }

    async fn read_stored(&self, stream: &str, sequence: u64, request: &Value) -> Result<Option<Stored>, Error> {
        #[derive(Deserialize)]
        struct Answer {
            message: RawMessage,
        }
        let answer: Answer = match self.api(&format!("STREAM.MSG.GET.{stream}"), request).await {
            Ok(answer) => answer,
            Err(error) if error.is(ErrorCode::NO_MESSAGE_FOUND) => return Ok(None),
            Err(error) => return Err(error.into_error(&format!("reading message {sequence} of stream `{stream}`"))),
        };
        let unreadable = |why: &dyn std::fmt::Display| {
            Error::new(ErrorKind::Server, format!("message {sequence} of stream `{stream}` cannot be read: {why}"))
        };
        let RawMessage { subject, sequence, payload, headers, time } = answer.message;
        let payload = BASE64.decode(payload).map_err(|error| unreadable(&error))?;
        let headers = BASE64.decode(headers.unwrap_or_default()).map_err(|error| unreadable(&error))?;
        Ok(Some(Stored {
            sequence,
            subject: subject.into(),
            payload: payload.into(),
            headers: parse_headers(&headers),
            time: SystemTime::from(time),
        }))
    }

    /// The sequence of the last message on a subject, which may have wildcards; 0 if there is none.
    pub(crate) async fn last_sequence(&self, stream: &str, subject: &str) -> Result<u64, Error> {
        #[derive(Deserialize)]
        struct Answer {
            message: Sequence,
        }
        #[derive(Deserialize)]
        struct Sequence {
            seq: u64,
        }
        match self.api::<Answer>(&format!("STREAM.MSG.GET.{stream}"), &json!({ "last_by_subj": subject })).await {
            Ok(answer) => Ok(answer.message.seq),
            Err(error) if error.is(ErrorCode::NO_MESSAGE_FOUND) => Ok(0),
            Err(error) => Err(error.into_error(&format!("reading the last message of stream `{stream}`"))),
        }
    }

    /// Deletes one message; `false` if there was none.
    pub(crate) async fn delete(&self, stream: &str, sequence: u64) -> Result<bool, Error> {
        let request = json!({ "seq": sequence, "no_erase": true });
        match self.api::<Value>(&format!("STREAM.MSG.DELETE.{stream}"), &request).await {
            Ok(_) => Ok(true),
            Err(error) if error.is(ErrorCode::NO_MESSAGE_FOUND) || error.is(ErrorCode::SEQUENCE_NOT_FOUND) => Ok(false),
            Err(error) => Err(error.into_error(&format!("deleting message {sequence} of stream `{stream}`"))),
        }
    }

    /// How many messages of a consumer are not delivered yet, or not answered.
    pub(crate) async fn unanswered(&self, source: &Binding) -> Result<u64, Error> {
        let info: consumer::Info = self.consumer_info(source).await?;
        // Right after a message was stored its consumer may not know of it yet, and count nothing.
        let last = self.last_sequence(&source.stream, &info.config.filter_subject).await?;
        let unheard_of = u64::from(info.delivered.stream_sequence < last && info.num_pending == 0);
        Ok(info.num_pending + info.num_ack_pending as u64 + unheard_of)
    }

    /// How often each message of a consumer was handed back without having been tried.
    pub(crate) async fn handed_back(&self, source: &Binding) -> Result<BTreeMap<u64, u64>, Error> {
        Ok(read(&self.consumer_info::<Value>(source).await?, HANDED_BACK))
    }

    /// Remembers that these messages were handed back, so that nobody counts the delivery as a failed attempt.
    pub(crate) async fn hand_back(&self, source: &Binding, sequences: &[u64]) -> Result<(), Error> {
        self.count(source, HANDED_BACK, sequences).await.map(drop)
    }

    /// Notes that a message is about to be tried alone; `true` if that was noted before.
    pub(crate) async fn suspect(&self, source: &Binding, sequence: u64) -> Result<bool, Error> {
        Ok(self.count(source, TRIED_ALONE, &[sequence]).await?.contains_key(&sequence))
    }

    /// Counts messages up in an entry of the consumer's metadata; gives the counts as they were.
    ///
    /// The metadata is the one place that every replica reads and that lives as long as the count of deliveries does.
    /// Several replicas may write at once, and the last one wins; so each looks whether its own word has stayed.
    async fn count(&self, source: &Binding, key: &str, sequences: &[u64]) -> Result<BTreeMap<u64, u64>, Error> {
        let mut info: Value = self.consumer_info(source).await?;
        let before = read(&info, key);
        let goal: BTreeMap<u64, u64> = sequences
            .iter()
            .map(|sequence| (*sequence, before.get(sequence).copied().unwrap_or_default() + 1))
            .collect();
        for _ in 0..WRITES {
            let floor = info["ack_floor"]["stream_seq"].as_u64().unwrap_or_default();
            let mut counts = read(&info, key);
            // What is below the floor has ended.
            counts.retain(|sequence, _| *sequence > floor);
            counts.extend(goal.iter().map(|(sequence, count)| (*sequence, *count)));
            while counts.len() > MAX_COUNTS {
                counts.pop_first();
            }
            if key == HANDED_BACK {
                // It was not tried to its end.
                let mut alone = read(&info, TRIED_ALONE);
                let before = alone.len();
                alone.retain(|sequence, _| !sequences.contains(sequence));
                if alone.len() < before {
                    info["config"]["metadata"][TRIED_ALONE] = Value::from(words(&alone));
                }
            }
            self.write(source, &mut info, key, &counts).await?;
            info = self.consumer_info(source).await?;
            let now = read(&info, key);
            if goal.iter().all(|(sequence, count)| now.get(sequence).is_some_and(|now| now >= count)) {
                return Ok(before);
            }
            tokio::time::sleep(jittered(WRITE_PAUSE)).await;
        }
        let message = format!("others write the metadata of consumer `{}` all the time", source.consumer);
        Err(Error::new(ErrorKind::Server, message))
    }

    /// Sends the consumer's configuration back with one entry of its metadata changed, and all else as it is.
    async fn write(
        &self,
        source: &Binding,
        info: &mut Value,
        key: &str,
        counts: &BTreeMap<u64, u64>,
    ) -> Result<(), Error> {
        let config = &mut info["config"];
        let mut metadata = config["metadata"].as_object().cloned().unwrap_or_default();
        metadata.retain(|key, _| !key.starts_with("_nats."));
        metadata.insert(key.to_owned(), Value::from(words(counts)));
        config["metadata"] = Value::from(metadata);
        let Binding { stream, consumer, .. } = source;
        let mut subject = format!("CONSUMER.CREATE.{stream}.{consumer}");
        // One filter belongs at the end of the subject, several do not.
        if let Some(filter) = config["filter_subject"].as_str().filter(|filter| !filter.is_empty()) {
            subject.push('.');
            subject.push_str(filter);
        }
        let request = json!({ "stream_name": stream, "config": config, "action": "update" });
        let written = self.api::<Value>(&subject, &request).await;
        written.map(drop).map_err(|error| error.into_error(&format!("writing the metadata of consumer `{consumer}`")))
    }

    /// Up to where a consumer has done with its stream, for the day that it is deleted.
    pub(super) async fn floor(&self, source: &Binding) -> Result<Floor, Error> {
        let Binding { stream, .. } = source;
        // In this order, a stream that is replaced in between gives a floor that fits neither.
        let info: stream::Info = self
            .ask(&format!("STREAM.INFO.{stream}"))
            .await
            .map_err(|error| error.into_error(&format!("reading stream `{stream}`")))?;
        let created = SystemTime::from(info.created);
        Ok(Floor { created, sequence: self.consumer_info::<consumer::Info>(source).await?.ack_floor.stream_sequence })
    }

    /// Where a consumer that was deleted has to begin again: behind the floor, if this is still the same stream.
    pub(super) async fn start_sequence(&self, source: &Binding, floor: Floor) -> Result<Option<u64>, Error> {
        let Binding { stream, .. } = source;
        let info: stream::Info = self
            .ask(&format!("STREAM.INFO.{stream}"))
            .await
            .map_err(|error| error.into_error(&format!("reading stream `{stream}`")))?;
        let same = SystemTime::from(info.created) == floor.created && info.state.last_sequence >= floor.sequence;
        Ok((same && floor.sequence > 0).then_some(floor.sequence + 1))
    }

    pub(super) async fn consumer_info<T: DeserializeOwned>(&self, source: &Binding) -> Result<T, Error> {
        let Binding { stream, consumer, .. } = source;
        let info = self.ask(&format!("CONSUMER.INFO.{stream}.{consumer}")).await;
        info.map_err(|error| error.into_error(&format!("reading consumer `{consumer}` of stream `{stream}`")))
    }
}

/// The lines of a header block.
///
/// The client library's own reading of a stored message keeps one value of a header that has several.
fn parse_headers(block: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in String::from_utf8_lossy(block).split("\r\n").skip(1) {
        if let Some((name, value)) = line.split_once(':')
            && let (Ok(name), Ok(value)) = (HeaderName::from_str(name), HeaderValue::from_str(value.trim()))
        {
            headers.append(name, value);
        }
    }
    headers
}

/// The counts in one entry of a consumer's metadata.
fn read(info: &Value, key: &str) -> BTreeMap<u64, u64> {
    let text = info["config"]["metadata"][key].as_str().unwrap_or_default();
    let pairs = text.split(',').filter_map(|pair| pair.split_once(':'));
    pairs.filter_map(|(sequence, count)| Some((sequence.parse().ok()?, count.parse().ok()?))).collect()
}

fn words(counts: &BTreeMap<u64, u64>) -> String {
    let pairs: Vec<_> = counts.iter().map(|(sequence, count)| format!("{sequence}:{count}")).collect();
    pairs.join(",")
}
