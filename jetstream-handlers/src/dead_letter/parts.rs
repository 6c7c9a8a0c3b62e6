//! The parts of a dead letter that is too large for one message.
//!
//! A dead letter has more headers than its original, so it may exceed a limit that the original did not.
//! Its contents are then stored before it, in messages on the same subject, and it names their sequences.

use std::fmt;

use async_nats::header;
use bytes::Bytes;

use crate::message::{Message, Outgoing, Stored};

/// The header of a part with its content: `headers` or `payload`.
const PART: &str = "Dead-Letter-Part";

/// The header of a part with the message id of its dead letter.
const PART_OF: &str = "Dead-Letter-Part-Of";

/// The header of a dead letter and of its parts with a key that is derived from the whole original message.
///
/// A client that may publish to the subject can forge a dead letter that names the parts of another one, and a replay would
/// publish their content to a subject of the forger's choice; the key cannot be computed without the content.
pub(super) const PARTS_KEY: &str = "Dead-Letter-Parts-Key";

/// The maximum size of a content that is read, in bytes: the largest `max_payload` that a server accepts.
///
/// A forged dead letter could name any number of parts.
pub(super) const MAX_CONTENT: usize = 64 * 1024 * 1024;

/// The separator between the message id of a dead letter and a suffix, which one has that was imported, or whose id
/// another message has; names have no `/`.
pub(super) const ID_SUFFIX: &str = "/";

/// A content of the original message that can be stored apart from its dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    Headers,
    Payload,
}

impl Content {
    /// Returns the header of a dead letter with the sequences of the parts.
    pub(super) fn sequences_header(self) -> &'static str {
        match self {
            Self::Headers => "Dead-Letter-Headers-At",
            Self::Payload => "Dead-Letter-Payload-At",
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Headers => "headers",
            Self::Payload => "payload",
        }
    }
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Returns `true` if a message is a part of a dead letter.
pub(crate) fn is_part(message: &Message) -> bool {
    message.header(PART).is_some()
}

/// The values that identify the parts of one content.
pub(super) struct Part<'a> {
    /// The message id of the dead letter.
    pub(super) id: &'a str,
    pub(super) handler: &'a str,
    /// The key of the dead letter.
    pub(super) key: &'a str,
    pub(super) content: Content,
}

impl Part<'_> {
    /// Returns the message for the bytes of the content that begin at this offset.
    pub(super) fn to_message(&self, subject: &str, offset: usize, payload: Bytes) -> Outgoing {
        let mut headers = async_nats::HeaderMap::new();
        // A part whose ack was lost is a duplicate.
        let id = format!("{}:{}:{offset}:{}:{}", self.id, self.content, payload.len(), self.key);
        headers.insert(header::NATS_MESSAGE_ID, id);
        headers.insert(PART, self.content.as_str());
        headers.insert(PART_OF, self.id);
        headers.insert(PARTS_KEY, self.key);
        headers.insert("Dead-Letter-Handler", self.handler);
        Outgoing { subject: subject.into(), pattern: None, payload, headers }
    }

    /// Returns `true` if a stored message is a part of this content.
    pub(super) fn is(&self, stored: &Stored) -> bool {
        let header = |name| stored.headers.get(name).map(|value| value.as_str());
        header(PART) == Some(self.content.as_str())
            && header(PART_OF) == self.id.split(ID_SUFFIX).next()
            && !self.key.is_empty()
            && header(PARTS_KEY) == Some(self.key)
    }
}
