//! The origin of a message that the server has copied from another stream.

use async_nats::{HeaderMap, Subject};

/// The header that the server adds to a copy; a value that the publisher has set is replaced (`server/stream.go`,
/// `processInboundSourceMsg`).
pub(crate) const STREAM_SOURCE: &str = "Nats-Stream-Source";

/// The stream from which a message was copied, and its sequence there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) stream: String,
    pub(crate) stream_sequence: u64,
}

/// Returns the origin of a copy, and the subject that the message has there; `None` without a valid header.
///
/// The parts are the stream, the sequence, the filters, the transforms and the subject (`genSourceHeader`). The name of a
/// stream of another account or domain has a hash behind a colon, which is removed.
pub(super) fn parse(headers: &HeaderMap) -> Option<(Origin, Subject)> {
    let mut parts = headers.get(STREAM_SOURCE)?.as_str().split(' ');
    let stream = parts.next()?.split(':').next()?.to_owned();
    let stream_sequence = parts.next()?.parse().ok()?;
    let subject = parts.nth(2).filter(|subject| !subject.is_empty())?;
    Some((Origin { stream, stream_sequence }, subject.to_owned().into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(value: &str) -> Option<(Origin, Subject)> {
        let mut headers = HeaderMap::new();
        headers.insert(STREAM_SOURCE, value);
        parse(&headers)
    }

    #[test]
    fn origin_is_that_of_the_header() {
        let origin = |stream: &str| Origin { stream: stream.to_owned(), stream_sequence: 31 };
        let transform = "orders.*.created partition.{{partition(4,1)}} orders.k2.created";
        // The identity of the stream follows since nats-server 2.15.
        for end in ["", " UgVru6De"] {
            let (found, subject) = parsed(&format!("ORDERS 31 {transform}{end}")).unwrap();
            assert_eq!((found, subject.as_str()), (origin("ORDERS"), "orders.k2.created"));
        }
        let (found, _) = parsed(&format!("ORDERS:hKmTQ8Zo 31 {transform}")).unwrap();
        assert_eq!(found, origin("ORDERS"));
        // Before 2.12, the subject is missing.
        for value in ["", "ORDERS", "ORDERS x a b c", "ORDERS 31 orders.*.created partition.{{partition(4,1)}}"] {
            assert_eq!(parsed(value), None, "{value}");
        }
    }
}
