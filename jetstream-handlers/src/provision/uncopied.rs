//! The messages of an origin that a derived stream has not copied yet.

use super::halt::HALTED;
use crate::delivery::StreamCopies;
use crate::error::Error;
use crate::error::api::ApiError;
use crate::transport::Transport;

/// A message of an origin that a stream is to copy, and has not copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Uncopied {
    pub(crate) origin: String,
    pub(crate) sequence: u64,
    /// `true` if the stream copies nothing, because a change of its partitions was interrupted.
    pub(crate) is_halted: bool,
    /// `true` if the stream has as many copies as it may have.
    pub(crate) is_full: bool,
}

/// Returns the first message that a stream has not copied yet; `None` if it has copied all, or if that is unknown.
pub(crate) async fn next_uncopied(transport: &Transport, stream: &str) -> Result<Option<Uncopied>, Error> {
    let failed = |error: ApiError| error.into_error(&format!("reading stream `{stream}`"));
    let Some(copies) = transport.copies(stream).await.map_err(failed)? else { return Ok(None) };
    let StreamCopies { config, copied, messages, .. } = copies;
    let Some(source) = config.sources.iter().flatten().next() else { return Ok(None) };
    // What was stored before the start is never copied.
    if copied.is_none() && source.start_time.is_some() {
        return Ok(None);
    }
    let begin = (copied.unwrap_or_default() + 1).max(source.start_sequence.unwrap_or_default());
    let mut next: Option<u64> = None;
    for transform in &source.subject_transforms {
        let found = transport.next_stored_on(&source.name, begin, &transform.source).await?;
        next = next.into_iter().chain(found.map(|stored| stored.sequence)).min();
    }
    let Some(sequence) = next else { return Ok(None) };
    let is_full = config.max_messages > 0 && messages >= config.max_messages as u64;
    let is_halted = config.max_message_size == HALTED;
    Ok(Some(Uncopied { origin: source.name.clone(), sequence, is_halted, is_full }))
}
