//! The bound of the bytes that the handlers of a connection request and buffer.
//!
//! A server ends a connection with 64 MiB that the client has not read (`max_pending`), and one that does not take
//! what waits for it within 10 s (`write_deadline`); everything on its way is lost then.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::message::Message;
use crate::nats::Connection;

/// The maximum number of bytes that all handlers of a connection request and buffer together, apart from larger
/// messages.
const BUDGET: usize = 16 * 1024 * 1024;

/// The maximum number of bytes that all handlers of a connection request at a time for messages larger than their
/// shares, except for a single message that is larger.
const LARGE_BUDGET: usize = 16 * 1024 * 1024;

/// The minimum share of a handler.
const MIN_SHARE: usize = 4 * 1024;

/// The maximum `max_bytes` of a request; no server accepts larger messages.
const MAX_BYTES: usize = 128 * 1024 * 1024;

/// The `max_bytes` of the first requests of all handlers on a connection, whose rate is unknown.
const INITIAL_WINDOW: usize = 1024 * 1024;

/// The time within which the bytes of a request arrive on a connection that is quick enough for twice as many.
///
/// What is on its way then arrives within seconds, also if two requests are open.
const QUICK: Duration = Duration::from_millis(500);

/// The difference between the size of a message and of what the server counts: the subjects and the headers.
const OVERHEAD: usize = 8 * 1024;

/// The requests of a connection for messages that are larger than the shares of their handlers.
#[derive(Debug, Clone)]
pub(in crate::nats) struct LargeRequests(Arc<Semaphore>);

/// The right to request a message that is larger than the share of its handler; it ends when the message has arrived.
#[derive(Debug)]
pub(in crate::nats) struct Reservation(
    #[allow(dead_code, reason = "it counts until it is dropped")] OwnedSemaphorePermit,
);

impl Reservation {
    /// Keeps reservations of requests that nobody waits for, until nothing that they request can be on its way.
    ///
    /// The server still serves the requests up to this time or until their inbox has ended, and counts what it has sent
    /// until the connection has carried it.
    pub(super) fn keep(
        reservations: Vec<Self>,
        connection: &Arc<Connection>,
        ends: Instant,
        inbox_ended: Option<CancellationToken>,
    ) {
        if reservations.is_empty() {
            return;
        }
        let connection = Arc::downgrade(connection);
        tokio::spawn(async move {
            let inbox_ended = async {
                match inbox_ended {
                    Some(ended) => ended.cancelled().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = inbox_ended => {}
                () = sleep_until(ends) => {}
            }
            if let Some(connection) = connection.upgrade() {
                let mut epoch = connection.epoch();
                epoch.mark_unchanged();
                tokio::select! {
                    () = connection.caught_up() => {}
                    () = connection.closed() => {}
                    // What was on its way on a former connection does not arrive on this one.
                    _ = epoch.changed() => {}
                }
            }
            drop(reservations);
        });
    }
}

impl Default for LargeRequests {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(LARGE_BUDGET)))
    }
}

impl LargeRequests {
    /// Waits until this many bytes may be requested, after the handlers that have waited longer.
    pub(in crate::nats) fn reserve(&self, bytes: usize) -> BoxFuture<'static, Reservation> {
        let (semaphore, bytes) = (self.0.clone(), bytes.min(LARGE_BUDGET) as u32);
        Box::pin(async move {
            let permit = semaphore.acquire_many_owned(bytes).await;
            Reservation(permit.expect("the semaphore is never closed"))
        })
    }
}

/// The `max_bytes` of a request.
#[derive(Debug)]
pub(super) struct Allowance {
    pub(super) max_bytes: usize,
    /// Present if `max_bytes` is above the share, so that only one message is requested.
    pub(super) reservation: Option<Reservation>,
}

/// The share of one handler, and the sizes of its messages.
pub(super) struct ByteLimit {
    /// The recent size of a message: it rises at once and falls slowly.
    size: usize,
    /// The `max_bytes` that the next message requires; 0 if that is unknown.
    required: usize,
    /// The `max_bytes` for which the connection has shown to be quick enough.
    window: usize,
    /// `true` if the window was raised on this connection.
    is_raised: bool,
    /// The time of a request, and the number of bytes that have arrived since.
    measured: Option<(Instant, usize)>,
    /// The maximum `max_bytes` without a reservation, at the last request.
    half_share: usize,
    reserving: Option<BoxFuture<'static, Reservation>>,
    reserved: Option<Reservation>,
}

impl Default for ByteLimit {
    fn default() -> Self {
        Self {
            size: 0,
            required: 0,
            window: INITIAL_WINDOW,
            is_raised: false,
            measured: None,
            half_share: BUDGET / 2,
            reserving: None,
            reserved: None,
        }
    }
}

impl ByteLimit {
    /// Records the size of a message; returns `true` if it is one that requires a reservation.
    pub(super) fn arrived(&mut self, message: &Message) -> bool {
        let size = message.payload().len();
        self.size = if size >= self.size { size } else { self.size - (self.size - size).div_ceil(16) };
        self.measure(size);
        let is_large = size > self.half_share;
        // More messages of the stream are probably as large; if none waits, nothing is reserved for them.
        if self.required > self.half_share && !(is_large && message.info.pending() > 0) {
            self.required = 0;
        }
        is_large
    }

    /// Raises the window to twice what has arrived quickly.
    fn measure(&mut self, size: usize) {
        let Some((since, received)) = &mut self.measured else { return };
        *received += size;
        if *received >= self.window {
            if since.elapsed() <= QUICK {
                self.window = (*received * 2).min(BUDGET / 2);
                self.is_raised = true;
            }
            self.measured = None;
        }
    }

    /// Returns the maximum number of messages of the recent size that one of these handlers holds.
    pub(super) fn max_messages(&self, handlers: usize) -> usize {
        share(handlers).checked_div(self.size).map_or(usize::MAX, |messages| messages.max(1))
    }

    /// Returns `true` if no other request of the handler may be open beside the next one, because its message is larger
    /// than what two requests may bring.
    pub(super) fn is_alone(&self, handlers: usize) -> bool {
        self.required > (share(handlers) / 2).min(self.window)
    }

    /// Returns the `max_bytes` of the next request of one of these handlers, or `None` if it must wait for a
    /// reservation.
    pub(super) fn next(
        &mut self,
        handlers: usize,
        reservation: Option<Reservation>,
        requests: &LargeRequests,
    ) -> Option<Allowance> {
        self.half_share = share(handlers) / 2;
        if !self.is_raised {
            self.window = (INITIAL_WINDOW / handlers.max(1)).max(MIN_SHARE);
        }
        if self.required <= self.half_share {
            self.reserving = None;
            let max_bytes = self.half_share.min(self.window).max(self.required);
            return Some(Allowance { max_bytes, reservation: None });
        }
        if reservation.is_none() && self.reserving.is_none() {
            self.reserving = Some(requests.reserve(self.required));
        }
        reservation.map(|reservation| Allowance { max_bytes: self.required, reservation: Some(reservation) })
    }

    /// Returns the future of a reservation; its result is passed to [`reserved`](Self::reserved).
    pub(super) fn reserving(&mut self) -> Option<&mut BoxFuture<'static, Reservation>> {
        self.reserving.as_mut()
    }

    pub(super) fn reserved(&mut self, reservation: Reservation) {
        self.reserving = None;
        self.reserved = Some(reservation);
    }

    /// Returns the reservation that was waited for.
    pub(super) fn take_reserved(&mut self) -> Option<Reservation> {
        self.reserved.take()
    }

    /// Records that a request was sent.
    pub(super) fn sent(&mut self) {
        self.measured.get_or_insert_with(|| (Instant::now(), 0));
    }

    /// Raises the `max_bytes` of the next request, because the next message is larger than that of another request.
    pub(super) fn too_large(&mut self, max_bytes: usize) {
        let known = if self.size > max_bytes { self.size + OVERHEAD } else { 0 };
        self.required = self.required.max(max_bytes * 2).max(known).min(MAX_BYTES);
    }

    /// Forgets how large the next message is, because there was none for a while.
    pub(super) fn idle(&mut self) {
        self.required = 0;
        self.reserving = None;
    }

    /// Begins again with small requests, because the rate of the new connection is unknown.
    pub(super) fn reconnected(&mut self) {
        (self.is_raised, self.measured) = (false, None);
    }
}

fn share(handlers: usize) -> usize {
    (BUDGET / handlers.max(1)).max(MIN_SHARE)
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    fn message(size: usize) -> Message {
        Message::new("a", vec![0; size])
    }

    fn max_bytes(limit: &mut ByteLimit, handlers: usize) -> Option<usize> {
        limit.next(handlers, None, &LargeRequests::default()).map(|allowance| allowance.max_bytes)
    }

    #[test]
    fn large_messages_are_requested_one_by_one() {
        let mut limit = ByteLimit::default();
        assert_eq!(limit.max_messages(1), usize::MAX);
        limit.arrived(&message(1024 * 1024));
        assert_eq!((limit.max_messages(1), limit.max_messages(1000)), (16, 1));
        for _ in 0..200 {
            limit.arrived(&message(1024));
        }
        assert!(limit.max_messages(1) > 10_000);
    }

    #[tokio::test(start_paused = true)]
    async fn requests_grow_while_their_bytes_arrive_quickly() {
        let mut limit = ByteLimit::default();
        let mut growth = Vec::new();
        for pause in [10, 10, 600, 10, 10, 10] {
            growth.push(max_bytes(&mut limit, 1).unwrap() / INITIAL_WINDOW);
            limit.sent();
            tokio::time::advance(Duration::from_millis(pause)).await;
            limit.arrived(&message(limit.window));
        }
        assert_eq!(growth, [1, 2, 4, 4, 8, 8]);
        assert_eq!(max_bytes(&mut limit, 4), Some(2 * INITIAL_WINDOW), "half of the share");
        limit.reconnected();
        assert_eq!(max_bytes(&mut limit, 1), Some(INITIAL_WINDOW));
        assert_eq!(max_bytes(&mut limit, 4), Some(INITIAL_WINDOW / 4), "small over all handlers together");
    }

    #[test]
    fn handlers_reserve_what_is_above_their_share() {
        let requests = LargeRequests::default();
        let mut limits = [ByteLimit::default(), ByteLimit::default()];
        let mut reservations = Vec::new();
        for limit in &mut limits {
            assert_eq!((max_bytes(limit, 1000), limit.is_alone(1000)), (Some(MIN_SHARE), false));
            limit.too_large(LARGE_BUDGET / 3);
            assert!(limit.is_alone(1000) && limit.next(1000, None, &requests).is_none());
            reservations.push(limit.reserving().unwrap().now_or_never());
        }
        assert!(reservations[0].is_some() && reservations[1].is_none(), "one at a time");
        reservations.clear();
        let [_, second] = &mut limits;
        let reservation = second.reserving().unwrap().now_or_never().unwrap();
        second.reserved(reservation);
        let reservation = second.take_reserved();
        let allowance = second.next(1000, reservation, &requests).unwrap();
        assert_eq!(allowance.max_bytes, LARGE_BUDGET / 3 * 2);
        assert!(second.arrived(&message(LARGE_BUDGET / 2)));
        assert_eq!(max_bytes(second, 1000), Some(MIN_SHARE), "no other message waits");
        second.too_large(BUDGET / 1000 / 2);
        assert!(second.required > LARGE_BUDGET / 2, "the size is known");
    }

    #[test]
    fn message_above_every_budget_is_requested() {
        let requests = LargeRequests::default();
        let mut limit = ByteLimit { required: MAX_BYTES, ..ByteLimit::default() };
        limit.too_large(MAX_BYTES);
        assert!(limit.next(1, None, &requests).is_none());
        assert!(limit.reserving().unwrap().now_or_never().is_some());
    }
}
