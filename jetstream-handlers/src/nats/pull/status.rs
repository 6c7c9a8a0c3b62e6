//! The statuses with which the server answers a pull request (`consumer.go`, `jetstream_api.go`).

use async_nats::StatusCode;

/// A status, classified by its effect on the request and on later ones.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Status {
    /// The request is open, and the consumer has no message for it.
    Heartbeat,
    /// The request has expired, or there was no message for it.
    Expired,
    /// The request was served.
    Completed,
    /// The next message does not fit into what is left of the `max_bytes` of the request.
    BytesUsedUp,
    /// The leader of the consumer has changed or stops, and all requests are gone with it.
    LeaderChanged,
    /// The consumer was deleted.
    ConsumerDeleted,
    /// The batch was above the consumer's `max_batch`, which has this value.
    BatchTooLarge(usize),
    /// The `expires` of the request was above the consumer's `max_expires`.
    ExpiresTooLong,
    /// The consumer has as many open requests as its `max_waiting`; servers from 2.11.5 on send this only for requests
    /// without heartbeats, and answer others with silence.
    TooManyRequests,
    /// Another instance holds the pin, or none does (ADR-42).
    WrongPin,
    /// No server serves the consumer: it does not exist, or it has no leader at the moment.
    NoResponders,
    /// Any other refusal.
    Refused,
}

impl Status {
    pub(super) fn parse(code: StatusCode, text: &str) -> Self {
        match code.as_u16() {
            100 => Self::Heartbeat,
            404 | 408 => Self::Expired,
            409 => Self::parse_conflict(text),
            423 => Self::WrongPin,
            503 => Self::NoResponders,
            _ => Self::Refused,
        }
    }

    /// Parses the text of a status 409, which has no finer code.
    fn parse_conflict(text: &str) -> Self {
        let has = |known: &str| text.contains(known);
        if has("Batch Completed") {
            Self::Completed
        } else if has("Message Size Exceeds") {
            Self::BytesUsedUp
        } else if has("Leadership Change") || has("Server Shutdown") {
            Self::LeaderChanged
        } else if has("Consumer Deleted") {
            Self::ConsumerDeleted
        } else if has("Exceeded MaxRequestBatch") {
            Self::BatchTooLarge(last_number(text).unwrap_or(1))
        } else if has("Exceeded MaxRequestExpires") {
            Self::ExpiresTooLong
        } else if has("Exceeded MaxWaiting") {
            Self::TooManyRequests
        } else {
            Self::Refused
        }
    }
}

/// Returns the number at the end of "Exceeded MaxRequestBatch of 10".
fn last_number(text: &str) -> Option<usize> {
    text.rsplit(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_the_statuses_of_the_server() {
        for (code, text, status) in [
            (100, "Idle Heartbeat", Status::Heartbeat),
            (404, "No Messages", Status::Expired),
            (408, "Request Timeout", Status::Expired),
            (408, "Interest Expired", Status::Expired),
            (409, "Batch Completed", Status::Completed),
            (409, "Message Size Exceeds MaxBytes", Status::BytesUsedUp),
            (409, "Leadership Change", Status::LeaderChanged),
            (409, "Server Shutdown", Status::LeaderChanged),
            (409, "Consumer Deleted", Status::ConsumerDeleted),
            (409, "Exceeded MaxRequestBatch of 10", Status::BatchTooLarge(10)),
            (409, "Exceeded MaxRequestExpires of 1s", Status::ExpiresTooLong),
            (409, "Exceeded MaxWaiting", Status::TooManyRequests),
            (409, "Consumer is push based", Status::Refused),
            (423, "Nats-Wrong-Pin-Id", Status::WrongPin),
            (503, "", Status::NoResponders),
            (400, "Bad Request", Status::Refused),
        ] {
            let code = StatusCode::from_u16(code).expect("it is a status code");
            assert_eq!(Status::parse(code, text), status, "{code} {text}");
        }
    }
}
