//! The bound of the bytes that a handler requests and buffers.
//!
//! A server ends a connection with 64 MiB that the client has not read (`max_pending`), and everything in it is lost.

use crate::message::Message;

/// The maximum number of bytes that all handlers of a connection request and buffer together, apart from larger
/// messages.
const BUDGET: usize = 16 * 1024 * 1024;

/// The minimum share of a handler.
const MIN_SHARE: usize = 64 * 1024;

/// The maximum `max_bytes` of a request; no server accepts larger messages.
const MAX_BYTES: usize = 128 * 1024 * 1024;

/// The share of one handler, and the sizes of its messages.
#[derive(Debug, Default)]
pub(super) struct ByteLimit {
    /// The recent size of a message: it rises at once and falls slowly.
    size: usize,
    /// The `max_bytes` that a message requires which is larger than the share.
    required: usize,
}

impl ByteLimit {
    /// Records the size of a message.
    pub(super) fn arrived(&mut self, message: &Message) {
        let size = message.payload().len();
        self.size = if size >= self.size { size } else { self.size - (self.size - size).div_ceil(16) };
    }

    /// Returns the maximum number of messages of the recent size that one of these handlers holds.
    pub(super) fn max_messages(&self, handlers: usize) -> usize {
        share(handlers).checked_div(self.size).map_or(usize::MAX, |messages| messages.max(1))
    }

    /// Returns the `max_bytes` of the next request of one of these handlers; two requests are open at a time.
    pub(super) fn max_bytes(&self, handlers: usize) -> usize {
        (share(handlers) / 2).max(self.required)
    }

    /// Raises the `max_bytes` of the next request, because the next message is larger than `max_bytes`.
    pub(super) fn too_large(&mut self, max_bytes: usize) {
        self.required = (max_bytes * 2).min(MAX_BYTES);
    }
}

fn share(handlers: usize) -> usize {
    (BUDGET / handlers.max(1)).max(MIN_SHARE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_messages_are_requested_one_by_one() {
        let mut bytes = ByteLimit::default();
        assert_eq!(bytes.max_messages(1), usize::MAX);
        bytes.arrived(&Message::new("a", vec![0; 1024 * 1024]));
        assert_eq!((bytes.max_messages(1), bytes.max_messages(1000)), (16, 1));
        for _ in 0..200 {
            bytes.arrived(&Message::new("a", vec![0; 1024]));
        }
        assert!(bytes.max_messages(1) > 10_000);
    }

    #[test]
    fn message_above_the_share_is_requested() {
        let mut bytes = ByteLimit::default();
        let first = bytes.max_bytes(1000);
        assert_eq!(first, MIN_SHARE / 2);
        bytes.too_large(first);
        assert_eq!(bytes.max_bytes(1000), MIN_SHARE);
    }
}
