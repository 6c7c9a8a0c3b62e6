//! The message id and the headers of a message that replays a dead letter.

use async_nats::HeaderMap;
use async_nats::header::{self, HeaderName};

/// The header that identifies the dead letter of a replayed message, as `<stream>:<sequence>`.
pub(crate) const REPLAY_OF: &str = "Dead-Letter-Replay-Of";

/// The header that names the only consumer for which a message is replayed, as `<stream>.<consumer>`.
pub(crate) const REPLAY_FOR: &str = "Dead-Letter-Replay-For";

/// The header with the idempotency key of the original message.
pub(crate) const MESSAGE_ID: &str = "Dead-Letter-Message-Id";

/// The first part of the message id of every replay.
const REPLAY: &str = "replay";

/// Returns the message id of a replay: the dead letter, and the only consumer for which it is replayed.
///
/// The id alone suffices, because a message whose headers are almost as large as a stream accepts has no space for the
/// other headers. Names have no `/`.
pub(crate) fn replay_id(stream: &str, sequence: u64, stored_at: u128, only: Option<&str>) -> String {
    format!("{REPLAY}/{stream}/{sequence}/{stored_at}/{}", only.unwrap_or_default())
}

/// Returns a random message id of the same replay, for a stream that has another message with its id.
pub(crate) fn unguessable_replay_id(id: &str) -> String {
    // The token before the consumer is only there to make the id unique.
    let (before, only) = id.rsplit_once('/').unwrap_or((id, ""));
    format!("{before}-{}/{only}", nuid::next())
}

/// Returns the consumer in the message id of a replay, which is empty if the message is replayed to all; `None` if the
/// message is no replay.
///
/// A message that was published with headers copied from a replay has another message id, or none.
fn replay_for(headers: &HeaderMap) -> Option<&str> {
    let mut parts = headers.get(header::NATS_MESSAGE_ID)?.as_str().split('/');
    (parts.next()? == REPLAY).then_some(())?;
    let only = parts.nth(3)?;
    parts.next().is_none().then_some(only)
}

/// Returns the idempotency key that a replay keeps.
pub(super) fn original_key(headers: &HeaderMap) -> Option<&str> {
    replay_for(headers)?;
    // A static name, because a lookup by text would allocate.
    Some(headers.get(HeaderName::from_static(MESSAGE_ID))?.as_str())
}

/// Returns `true` if the message is a replay for another consumer; `is_own` tells the own one, by `<stream>.<consumer>`.
///
/// In a stream to which something else has copied it, every consumer receives it.
pub(super) fn is_for_another(headers: &HeaderMap, stream: &str, is_own: impl Fn(&str) -> bool) -> bool {
    let Some(only) = replay_for(headers).filter(|only| !only.is_empty() && !is_own(only)) else { return false };
    let expected = headers.get(header::NATS_EXPECTED_STREAM).is_some_and(|expected| expected.as_str() == stream);
    expected || only.split('.').next() == Some(stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(id: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::NATS_MESSAGE_ID, id);
        headers.insert(MESSAGE_ID, "order-7");
        headers
    }

    #[test]
    fn replay_is_for_one_consumer_of_its_stream() {
        let mut replay = headers(&replay_id("DLQ", 7, 1, Some("WORK.billing")));
        assert!(is_for_another(&replay, "WORK", |own| own == "WORK.shipping"));
        assert!(!is_for_another(&replay, "WORK", |own| own == "WORK.billing"));
        // A stream into which it was copied, and the one that a mirror reads.
        assert!(!is_for_another(&replay, "COPY", |own| own == "COPY.shipping"));
        replay.insert(header::NATS_EXPECTED_STREAM, "ORIGIN");
        assert!(is_for_another(&replay, "ORIGIN", |own| own == "ORIGIN.shipping"));
        assert!(!is_for_another(&headers(&replay_id("DLQ", 7, 1, None)), "WORK", |own| own == "WORK.shipping"));
    }

    #[test]
    fn headers_of_a_replay_count_only_in_the_replay() {
        for id in [replay_id("DLQ", 7, 1, Some("WORK.billing")), replay_id("DLQ", 7, 1, None)] {
            assert_eq!(original_key(&headers(&id)), Some("order-7"));
            let other = unguessable_replay_id(&id);
            assert_ne!(other, id);
            assert_eq!(original_key(&headers(&other)), Some("order-7"), "{other}");
            assert_eq!(replay_for(&headers(&other)), replay_for(&headers(&id)), "{other}");
        }
        for id in ["order-8", "replay", "replay/DLQ/7", "replays/DLQ/7/1/WORK.billing", "replay/DLQ/7/1/WORK.billing/"]
        {
            assert_eq!(original_key(&headers(id)), None, "{id}");
            assert!(!is_for_another(&headers(id), "WORK", |own| own == "WORK.shipping"), "{id}");
        }
    }
}
