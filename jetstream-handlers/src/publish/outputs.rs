//! The outputs of one call of a handler: one atomic batch if their stream accepts it, or one after the other.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Mutex;
use std::time::Duration;

use async_nats::header;
use tokio::time::Instant;

use super::atomic::{MAX_MESSAGES, require_version, store_batch};
use super::publish;
use crate::error::{Error, ErrorKind};
use crate::message::Outgoing;
use crate::subject::covers;
use crate::sync::lock;
use crate::transport::Transport;

/// The time for which it is known whether a stream accepts atomic batches.
const KNOWN_FOR: Duration = Duration::from_secs(60);

/// The maximum number of streams, and of subjects whose stream is unknown, that are remembered.
const MAX_KNOWN: usize = 64;

/// An output that is not stored.
#[derive(Debug)]
pub(crate) struct NotStored {
    /// The number of the output in its call, counted from 1; `None` if all of them were one batch.
    pub(crate) number: Option<usize>,
    pub(crate) subject: String,
    pub(crate) error: Error,
}

/// Publishes the outputs of one call, each with an id, and returns after all of them are stored.
///
/// Outputs that are stored already, under the same ids, are not stored again.
pub(crate) async fn publish_outputs(
    transport: &Transport,
    streams: &OutputStreams,
    outputs: Vec<Outgoing>,
) -> Result<(), NotStored> {
    if streams.accept_batch(transport, &outputs).await {
        let stored = store_batch(transport, &outputs).await;
        match stored {
            Ok(_) => return Ok(()),
            // They were stored before, or the stream accepts no batches any more.
            Err(error) if matches!(error.kind(), ErrorKind::Duplicate | ErrorKind::StreamMismatch) => {}
            Err(error) => {
                let subject = outputs.first().map_or_else(String::new, |output| output.subject.to_string());
                return Err(NotStored { number: None, subject, error });
            }
        }
    }
    let mut stored = BTreeSet::new();
    for (number, output) in (1..).zip(outputs) {
        let subject = output.subject.clone();
        let id = output.header(header::NATS_MESSAGE_ID).unwrap_or_default().to_owned();
        let result = publish(transport, output)
            .await
            .and_then(|ack| if stored.insert((ack.stream, ack.sequence)) { Ok(()) } else { Err(same_id(&id)) });
        result.map_err(|error| NotStored { number: Some(number), subject: subject.to_string(), error })?;
    }
    Ok(())
}

/// Returns the error of an output with the message id of an earlier one in the same stream, which has dropped it.
fn same_id(id: &str) -> Error {
    Error::new(
        ErrorKind::Duplicate,
        format!(
            "it has the same message id `{id}` as another output of the call in the same stream, which has therefore dropped it; give each a different id, or none"
        ),
    )
}

/// The streams to which a handler publishes, as far as it is known whether they accept atomic batches.
#[derive(Debug, Default)]
pub(crate) struct OutputStreams(Mutex<VecDeque<Known>>);

#[derive(Debug, Clone)]
struct Known {
    /// The subjects of the stream, or the one whose stream could not be found out.
    subjects: Vec<String>,
    accepts_batches: bool,
    until: Instant,
}

impl Known {
    fn has(&self, subject: &str) -> bool {
        self.subjects.iter().any(|own| covers(own, subject))
    }
}

impl OutputStreams {
    /// Returns `true` if these outputs can be one atomic batch.
    async fn accept_batch(&self, transport: &Transport, outputs: &[Outgoing]) -> bool {
        let [first, _, ..] = outputs else { return false };
        if outputs.len() > MAX_MESSAGES || has_repeated_id(outputs) || require_version(transport).is_err() {
            return false;
        }
        let stream = match self.known(&first.subject) {
            Some(stream) => stream,
            // Boxed, because it is rare.
            None => Box::pin(self.look_up(transport, &first.subject)).await,
        };
        stream.accepts_batches && outputs.iter().all(|output| stream.has(&output.subject))
    }

    fn known(&self, subject: &str) -> Option<Known> {
        let now = Instant::now();
        let mut known = lock(&self.0);
        known.retain(|stream| stream.until > now);
        known.iter().find(|stream| stream.has(subject)).cloned()
    }

    async fn look_up(&self, transport: &Transport, subject: &str) -> Known {
        let until = Instant::now() + KNOWN_FOR;
        let found = match find(transport, subject).await {
            Some((subjects, accepts_batches)) => Known { subjects, accepts_batches, until },
            None => Known { subjects: vec![subject.to_owned()], accepts_batches: false, until },
        };
        let mut known = lock(&self.0);
        known.push_back(found.clone());
        if known.len() > MAX_KNOWN {
            known.pop_front();
        }
        found
    }
}

/// Returns the subjects of the stream of this subject, and whether it accepts atomic batches; `None` if that cannot be
/// read.
async fn find(transport: &Transport, subject: &str) -> Option<(Vec<String>, bool)> {
    let names = transport.stream_names(subject).await.ok()?;
    let [name] = &*names else { return None };
    let config = transport.stream(name).await.ok()??;
    config.subjects.iter().any(|own| covers(own, subject)).then_some((config.subjects, config.allow_atomic_publish))
}

fn has_repeated_id(outputs: &[Outgoing]) -> bool {
    let mut ids = BTreeSet::new();
    !outputs.iter().all(|output| ids.insert(output.header(header::NATS_MESSAGE_ID)))
}
