//! Storing dead letters.

use super::draft::Draft;
use super::parts::Content;
use crate::error::{Error, ErrorKind};
use crate::message::{Message, PublishAck};
use crate::outcome::Failure;
use crate::publish::publish;
use crate::transport::Transport;

/// The size of the headers of a part in bytes, unless names are long.
const PART_OVERHEAD: usize = 512;

/// The smallest size into which a content is divided, in bytes; a stream that accepts less accepts no dead letter.
const MIN_PART: usize = 256;

/// Stores the dead letter of a message on `subject`, and returns after its stream has acknowledged it.
///
/// If it is too large for one message, the original headers are stored in messages of their own, then the payload too.
pub(crate) async fn store(
    transport: &Transport,
    subject: &str,
    handler: &str,
    message: &Message,
    failure: &Failure,
) -> Result<PublishAck, Error> {
    let draft = Draft::new(subject, handler, message, failure);
    let mut stored = Vec::new();
    let mut result = publish(transport, draft.whole()).await;
    for content in [Content::Headers, Content::Payload] {
        let size = draft.content(content).len();
        if size == 0 || !is_too_large(&result) {
            continue;
        }
        let sequences = store_content(transport, &draft, content).await?;
        tracing::warn!(
            handler,
            "a dead letter is too large for one message, so its {content} of {size} bytes are stored before it, in messages {sequences:?} on `{subject}`"
        );
        stored.push((content, sequences));
        result = publish(transport, draft.without(&stored)).await;
    }
    result
}

fn is_too_large(result: &Result<PublishAck, Error>) -> bool {
    matches!(result, Err(error) if error.kind() == ErrorKind::PayloadTooLarge)
}

/// Stores a content in as many messages as it requires; returns their sequences.
async fn store_content(transport: &Transport, draft: &Draft<'_>, content: Content) -> Result<Vec<u64>, Error> {
    let bytes = draft.content(content);
    let mut size = transport.max_payload().saturating_sub(PART_OVERHEAD).max(MIN_PART);
    let (mut sequences, mut offset) = (Vec::new(), 0);
    while offset < bytes.len() {
        let end = bytes.len().min(offset + size);
        let part = draft.part(content, offset, bytes.slice(offset..end));
        match publish(transport, part).await {
            Ok(stored) => {
                sequences.push(stored.sequence);
                offset = end;
            }
            // The stream may accept less than the server.
            Err(error) if error.kind() == ErrorKind::PayloadTooLarge && size > MIN_PART => {
                size = (size.min(bytes.len()) / 2).max(MIN_PART);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(sequences)
}
