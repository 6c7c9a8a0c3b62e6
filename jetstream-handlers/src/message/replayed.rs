//! The headers of a message that replays a dead letter.

use async_nats::HeaderMap;
use async_nats::header::{self, HeaderName};

/// The header that identifies the dead letter of a replayed message, as `<stream>:<sequence>`.
pub(crate) const REPLAY_OF: &str = "Dead-Letter-Replay-Of";

/// The header that names the only consumer for which a message is replayed, as `<stream>.<consumer>`.
pub(crate) const REPLAY_FOR: &str = "Dead-Letter-Replay-For";

/// The header with the idempotency key of the original message.
pub(crate) const MESSAGE_ID: &str = "Dead-Letter-Message-Id";

/// The start of the message id of every replay.
const ID_PREFIX: &str = "replay:";

/// Returns the message id of a replay; `origin` identifies the dead letter, and `queue` is the only receiver.
pub(crate) fn replay_id(origin: &str, stored_at: u128, queue: Option<&str>) -> String {
    let queue = queue.map_or(String::new(), |queue| format!(":{queue}"));
    format!("{ID_PREFIX}{origin}:{stored_at}{queue}")
}

/// Returns the value of one of these headers, if the message is itself a replay.
///
/// A message that was published with headers copied from a replay has another message id, or none.
pub(super) fn replay_header<'a>(headers: &'a HeaderMap, name: &'static str) -> Option<&'a str> {
    // Static names, because a lookup by text would allocate for every message.
    let value = headers.get(HeaderName::from_static(name))?.as_str();
    let id = headers.get(header::NATS_MESSAGE_ID)?.as_str();
    let origin = headers.get(HeaderName::from_static(REPLAY_OF))?.as_str();
    let rest = id.strip_prefix(ID_PREFIX)?.strip_prefix(origin)?;
    rest.starts_with(':').then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(id: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::NATS_MESSAGE_ID, id);
        headers.insert(REPLAY_OF, "DLQ:7");
        headers.insert(REPLAY_FOR, "WORK.billing");
        headers
    }

    #[test]
    fn headers_of_a_replay_count_only_in_the_replay() {
        let of_replay = headers(&replay_id("DLQ:7", 1, Some("billing")));
        assert_eq!(replay_header(&of_replay, REPLAY_FOR), Some("WORK.billing"));
        assert_eq!(replay_header(&of_replay, MESSAGE_ID), None);
        // Forwarded with all headers: the message has another id, or that of another dead letter.
        for id in ["order-7", "replay:DLQ:8:1", "replay:DLQ:77:1", "replay:DLQ:7"] {
            assert_eq!(replay_header(&headers(id), REPLAY_FOR), None, "{id}");
        }
    }
}
