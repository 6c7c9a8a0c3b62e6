//! The statuses with which the server answers a pull request (`consumer.go`, `jetstream_api.go`).

use async_nats::StatusCode;

use super::Pull;
use super::ordered::PIN_KEEPALIVE;
use crate::delivery::DeliveryEvent;

const NO_RESPONDERS: &str = "no responders: the consumer does not exist, or has no leader";

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

impl Pull {
    /// Handles the status of a request.
    pub(super) fn on_status(&mut self, number: u64, code: StatusCode, message: &async_nats::Message) {
        let text = message.description.as_deref().unwrap_or_default();
        let status = Status::parse(code, text);
        let refused_keepalive = number == PIN_KEEPALIVE && status == Status::WrongPin;
        let Some(batch) = self.requests.batch(number).or(refused_keepalive.then_some(0)) else {
            // The request is no longer tracked.
            return;
        };
        let pending =
            message.headers.as_ref().and_then(|headers| headers.get("Nats-Pending-Messages")?.as_str().parse().ok());
        let left = pending.unwrap_or(batch);
        match status {
            Status::Heartbeat => {
                self.binding.sent_acks.heartbeat();
                self.losses.tick(self.last_heard);
                self.floor.heartbeat();
                self.mark_healthy();
            }
            Status::Expired => {
                self.requests.end(number, left);
                self.mark_healthy();
                if left == batch {
                    // An idle handler sends few requests, and holds no memory.
                    self.limits.idle();
                    self.byte_limit.idle();
                    self.share_inbox();
                    self.arrived.shrink_to_fit();
                    self.events.shrink_to_fit();
                    self.released.shrink_to_fit();
                    self.route.shrink();
                }
            }
            Status::Completed => self.requests.end(number, left),
            Status::BytesUsedUp => {
                let max_bytes = self.requests.max_bytes(number);
                self.requests.end(number, left);
                self.mark_healthy();
                if let Some(max_bytes) = max_bytes.filter(|_| left == batch) {
                    self.byte_limit.too_large(max_bytes);
                    // The message waits, so that it is not requested for long.
                    self.limits.busy();
                }
            }
            Status::LeaderChanged => {
                self.requests.forget();
                self.back_off(text);
            }
            Status::ConsumerDeleted => {
                self.requests.forget();
                // A client that may publish to an inbox can send a status, so the server is asked before an answer.
                self.on_replaced();
                self.back_off_and_restore("the consumer was deleted");
            }
            Status::BatchTooLarge(limit) => {
                self.requests.end(number, left);
                self.limits.limit_batch(limit);
            }
            Status::ExpiresTooLong => {
                self.requests.end(number, left);
                if !self.limits.shorten_expires() {
                    self.back_off(text);
                }
            }
            Status::TooManyRequests => {
                self.requests.end(number, left);
                self.back_off_crowded();
            }
            Status::WrongPin => {
                self.requests.forget();
                if let Some(order) = &mut self.order {
                    order.unpinned();
                }
                // Another instance may be active, and receives the messages that were not begun here.
                self.released.clear();
                self.events.push_back(DeliveryEvent::Resync);
                self.mark_healthy();
            }
            Status::NoResponders => {
                self.requests.end(number, left);
                self.doubt();
                // A leader may be elected soon; the consumer is restored only if the next request fails as well.
                if self.recovery.has_reason() {
                    self.back_off_and_restore(NO_RESPONDERS);
                } else {
                    self.back_off(NO_RESPONDERS);
                }
            }
            Status::Refused => {
                self.requests.end(number, left);
                self.doubt();
                self.back_off_and_restore(&format!("{code} {text}"));
            }
        }
    }
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
