//! The limit of what the client has been given to send and has not written yet.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_nats::Client;
use tokio::sync::Notify;

use super::time_to_carry;
use crate::sync::lock;

/// The number of bytes at which nothing more is given to the client until it has written them.
///
/// The client moves messages from its queue to a buffer until that has this size (`SOFT_WRITE_BUF_LIMIT` in
/// `connection.rs`), and a reconnect discards the buffer but not the queue. With the same limit, no message waits in
/// the queue while the server reads nothing, to be sent after its publish has failed.
const LIMIT: usize = 64 * 1024;

/// The size of the protocol line of a message, without its subject.
const LINE: usize = 128;

/// The time for which a large message may be on its way.
const LATELY: Duration = Duration::from_secs(30);

/// Admits messages while the client writes.
///
/// The client never holds more than [`LIMIT`] and one message, whatever their number and size, so that large messages
/// need no memory while the server reads nothing. It guards no lock while it waits, so that a publish that nobody
/// polls does not stop the others.
#[derive(Debug, Default)]
pub(in crate::nats) struct WriteLimit {
    state: Mutex<State>,
    written: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// The number of bytes given to the client since the last flush.
    given: usize,
    flushing: bool,
    /// The size of the largest message above [`LIMIT`] that was given to the client lately, and the time of it.
    largest: Option<(usize, Instant)>,
}

impl WriteLimit {
    /// Waits until a message of this size may be given to the client.
    ///
    /// # Cancel safety
    ///
    /// This method is cancel safe: the message counts only if it returns.
    pub(in crate::nats) async fn admit(self: &Arc<Self>, client: &Client, bytes: usize) {
        if self.try_admit(client, bytes) {
            return;
        }
        loop {
            let mut written = std::pin::pin!(self.written.notified());
            // A flush that ends from here on is not missed.
            written.as_mut().enable();
            if self.try_admit(client, bytes) {
                return;
            }
            written.await;
        }
    }

    /// Returns the time that a slow connection may need to carry a message that was given to the client lately, in which
    /// the server answers nothing else.
    pub(in crate::nats) fn time_to_carry(&self) -> Duration {
        let largest = lock(&self.state).largest.filter(|(_, at)| at.elapsed() < LATELY);
        largest.map_or(Duration::ZERO, |(bytes, _)| time_to_carry(bytes))
    }

    /// Returns the time for which a slow connection may still carry such a message.
    pub(super) fn time_left(&self) -> Duration {
        let largest = lock(&self.state).largest;
        largest.map_or(Duration::ZERO, |(bytes, at)| time_to_carry(bytes).saturating_sub(at.elapsed()))
    }

    /// Counts a message if it may be given to the client; otherwise, a flush is in progress.
    pub(in crate::nats) fn try_admit(self: &Arc<Self>, client: &Client, bytes: usize) -> bool {
        let mut state = lock(&self.state);
        if state.given < LIMIT {
            state.given += LINE + bytes;
            if bytes > LIMIT {
                let largest = state.largest.filter(|(size, at)| *size > bytes && at.elapsed() < LATELY);
                state.largest = Some(largest.unwrap_or_else(|| (bytes, Instant::now())));
            }
            return true;
        }
        if !std::mem::replace(&mut state.flushing, true) {
            let (limit, client) = (self.clone(), client.clone());
            tokio::spawn(async move {
                // A client that has ended writes nothing, and returns an error to the sender.
                client.flush().await.ok();
                let mut state = lock(&limit.state);
                (state.given, state.flushing) = (0, false);
                drop(state);
                limit.written.notify_waiters();
            });
        }
        false
    }
}
