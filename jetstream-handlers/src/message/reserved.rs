//! Headers that have a meaning to the server.

use async_nats::HeaderMap;

/// The prefix of the headers that belong to the server.
const SERVER_PREFIX: &str = "Nats-";

/// The header by which the server names the pinned worker, which it adds to each delivery (ADR-42).
///
/// It is a secret of that worker: a client that knows it can pull in its place.
const PIN_ID: &str = "Nats-Pin-Id";

/// The header of a delete marker, which the server stores in the place of a removed value (ADR-43).
pub(crate) const MARKER_REASON: &str = "Nats-Marker-Reason";

/// Returns `true` if a header belongs to the server, which may act on it in a published message.
///
/// The server compares names by case, but other servers between it and a client may not.
pub(crate) fn is_for_server(name: &str) -> bool {
    let start = name.as_bytes().get(..SERVER_PREFIX.len());
    start.is_some_and(|start| start.eq_ignore_ascii_case(SERVER_PREFIX.as_bytes()))
}

/// Returns `true` if a header is part of the delivery and not of the message.
pub(crate) fn is_of_delivery(name: &str) -> bool {
    name.eq_ignore_ascii_case(PIN_ID)
}

/// Returns the id of the pinned worker.
///
/// The last value counts: the server adds its own after those that a publisher has set.
pub(crate) fn pin_id(headers: &HeaderMap) -> Option<&str> {
    headers.get_last(PIN_ID).map(async_nats::HeaderValue::as_str)
}
