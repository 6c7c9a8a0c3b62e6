//! The open requests of one handler, and the limits of the next one.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::byte_limit::{Allowance, Reservation};

/// The maximum batch of one request.
const MAX_BATCH: usize = 1000;

/// The `expires` of the first request and of a request after a delivery, unless `fetch_wait` is set.
const INITIAL_EXPIRES: Duration = Duration::from_secs(5);

/// The `expires` of the requests of an idle handler, one after the other, unless `fetch_wait` is set.
const IDLE_EXPIRES: [Duration; 3] = [Duration::from_secs(30), Duration::from_secs(120), Duration::from_secs(600)];

/// The maximum interval of heartbeats, of which two that are missing show that no server has a request any more.
///
/// Nothing else shows it if a server without replicas of the consumer has crashed, or if a route was interrupted when a
/// message was published: the server then drops the request without a status and without an advisory.
const MAX_HEARTBEAT: Duration = Duration::from_secs(15);

/// The minimum `expires`, for a consumer that limits it.
const MIN_EXPIRES: Duration = Duration::from_millis(10);

/// The time for which a request is tracked after its end, in case its status is late.
const LATE: Duration = Duration::from_secs(2);

/// The maximum number of requests that are tracked.
const MAX_LIVE: usize = 64;

/// The limits of the next request.
#[derive(Debug)]
pub(super) struct Limits {
    expires: Duration,
    min_expires: Duration,
    /// The maximum `expires`; `None` without a limit but that of an idle handler.
    max_expires: Option<Duration>,
    max_batch: usize,
}

impl Limits {
    /// Returns the limits of the requests for one of several partitions.
    ///
    /// A request cannot be taken back, so that the first message after another instance has claimed the partition may
    /// arrive here.
    pub(super) fn of_partition(fetch_wait: Option<Duration>) -> Self {
        let limits = Self::new(fetch_wait);
        Self { max_expires: Some(fetch_wait.unwrap_or(INITIAL_EXPIRES)), ..limits }
    }

    pub(super) fn new(fetch_wait: Option<Duration>) -> Self {
        Self {
            expires: fetch_wait.unwrap_or(INITIAL_EXPIRES),
            min_expires: fetch_wait.unwrap_or(INITIAL_EXPIRES),
            max_expires: fetch_wait,
            max_batch: MAX_BATCH,
        }
    }

    /// Returns the `expires` of the next request.
    pub(super) fn expires(&self) -> Duration {
        self.expires
    }

    /// Returns the heartbeat of the next request; the server accepts at most half of its `expires`.
    pub(super) fn heartbeat(&self) -> Duration {
        (self.expires / 2).min(MAX_HEARTBEAT)
    }

    pub(super) fn max_batch(&self) -> usize {
        self.max_batch
    }

    /// Shortens the next request after a delivery.
    pub(super) fn busy(&mut self) {
        self.expires = self.min_expires;
    }

    /// Lengthens the next request after one that returned no message, so that an idle handler seldom sends one.
    pub(super) fn idle(&mut self) {
        let longer = IDLE_EXPIRES.into_iter().find(|expires| *expires > self.expires).unwrap_or(self.expires);
        self.expires = self.max_expires.map_or(longer, |max| max.min(longer.max(self.min_expires)));
    }

    /// Applies the consumer's `max_batch`.
    pub(super) fn limit_batch(&mut self, limit: usize) {
        self.max_batch = limit.clamp(1, MAX_BATCH);
    }

    /// Halves the `expires`, which is above the consumer's `max_expires`; returns `false` if it cannot be any shorter.
    pub(super) fn shorten_expires(&mut self) -> bool {
        self.expires = (self.expires / 2).max(MIN_EXPIRES);
        self.max_expires = Some(self.expires);
        self.min_expires = self.min_expires.min(self.expires);
        self.expires > MIN_EXPIRES
    }
}

/// The requests that the server may still answer.
///
/// A delivery does not name its request, so the outstanding messages are counted over all requests;
/// a status does, and contains the number of messages that its request will no longer deliver.
#[derive(Debug, Default)]
pub(super) struct Requests {
    /// A request that was served in full ends without a status, and stays until its time is over or there are too many.
    live: VecDeque<Request>,
    outstanding: usize,
    /// The number of messages that requests had not delivered when they ended, although the server counts them as
    /// delivered: they may be lost with a connection whose end is not known yet.
    undelivered: usize,
    next_number: u64,
}

#[derive(Debug)]
struct Request {
    number: u64,
    batch: usize,
    heartbeat: Duration,
    ends: Instant,
    allowance: Allowance,
}

impl Requests {
    /// Returns the number of messages that the live requests may still deliver.
    pub(super) fn outstanding(&self) -> usize {
        self.outstanding
    }

    /// Returns the number of messages that may be lost if the connection has ended.
    pub(super) fn at_risk(&self) -> usize {
        self.outstanding.max(self.undelivered)
    }

    /// Returns the number of the next request.
    pub(super) fn next_number(&self) -> u64 {
        self.next_number
    }

    /// Records a request for `batch` messages that was sent under these limits.
    pub(super) fn sent(&mut self, batch: usize, limits: &Limits, allowance: Allowance) {
        if self.live.len() == MAX_LIVE {
            // The oldest request was probably served long ago; otherwise its late status is ignored.
            self.live.pop_front();
        }
        let ends = Instant::now() + limits.expires() + LATE;
        let (number, heartbeat) = (self.next_number, limits.heartbeat());
        self.live.push_back(Request { number, batch, heartbeat, ends, allowance });
        self.next_number += 1;
        self.outstanding += batch;
    }

    /// Records a delivery.
    pub(super) fn delivered(&mut self) {
        self.outstanding = self.outstanding.saturating_sub(1);
        if self.outstanding == 0 {
            self.live.clear();
        }
    }

    /// Ends the reservation, because the large message has arrived.
    pub(super) fn end_reservation(&mut self) {
        self.live.iter_mut().for_each(|request| request.allowance.reservation = None);
    }

    /// Returns the batch of a live request.
    pub(super) fn batch(&self, number: u64) -> Option<usize> {
        self.live.iter().find(|request| request.number == number).map(|request| request.batch)
    }

    /// Returns the `max_bytes` of a live request.
    pub(super) fn max_bytes(&self, number: u64) -> Option<usize> {
        self.live.iter().find(|request| request.number == number).map(|request| request.allowance.max_bytes)
    }

    /// Ends a request that will not deliver `left` messages of its batch.
    pub(super) fn end(&mut self, number: u64, left: usize) {
        self.live.retain(|request| request.number != number);
        self.outstanding = self.outstanding.saturating_sub(left);
        if self.live.is_empty() {
            self.forget();
        }
    }

    /// Ends all requests, because none of them will deliver another message.
    pub(super) fn forget(&mut self) {
        self.live.clear();
        self.undelivered = self.at_risk();
        self.outstanding = 0;
    }

    /// Ends the requests if there are several, because the server has pinned one of them, and serves no other one until
    /// it ends; it is not known which one that is.
    pub(super) fn forget_unpinned(&mut self) {
        if self.live.len() > 1 {
            self.forget();
        }
    }

    /// Ends all requests, which the server may still serve, and forgets what is [`at_risk`](Self::at_risk); returns what
    /// is reserved for the requests, and the time at which the server no longer serves them.
    pub(super) fn abandon(&mut self) -> Option<(Vec<Reservation>, Instant)> {
        let ends = self.live.iter().map(|request| request.ends).max();
        let reserved = self.live.iter_mut().filter_map(|request| request.allowance.reservation.take()).collect();
        self.forget();
        self.undelivered = 0;
        ends.map(|ends| (reserved, ends))
    }

    /// Ends the requests whose time is over, because they were served; if none is newer, what they deliver may still be
    /// on its way.
    pub(super) fn prune(&mut self) {
        if self.live.is_empty() {
            return;
        }
        let now = Instant::now();
        if !self.are_over(now) {
            self.live.retain(|request| request.ends > now);
        }
    }

    /// Returns `true` if there are requests, and the time of all of them is over.
    pub(super) fn are_over(&self, now: Instant) -> bool {
        !self.live.is_empty() && self.live.iter().all(|request| request.ends <= now)
    }

    /// Ends the requests whose time was over at a time up to which everything has arrived, in case their status was
    /// lost.
    pub(super) fn end_before(&mut self, time: Instant) {
        self.live.retain(|request| request.ends > time);
        if self.live.is_empty() {
            self.forget();
        }
    }

    /// Returns `true` if the heartbeats of a request would show late that no server has it.
    pub(super) fn are_long(&self) -> bool {
        self.heartbeat().is_some_and(|heartbeat| heartbeat > INITIAL_EXPIRES / 2)
    }

    /// Returns the longest heartbeat of the live requests.
    pub(super) fn heartbeat(&self) -> Option<Duration> {
        self.live.iter().map(|request| request.heartbeat).max()
    }

    /// Returns the time at which the first live request ends.
    pub(super) fn first_end(&self) -> Option<Instant> {
        self.live.iter().map(|request| request.ends).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(batch: usize) -> Requests {
        let mut requests = Requests::default();
        requests.sent(batch, &Limits::new(None), Allowance { max_bytes: 0, reservation: None });
        requests
    }

    #[test]
    fn requests_of_an_idle_handler_grow_step_by_step() {
        let mut limits = Limits::new(None);
        let mut seconds = || {
            limits.idle();
            (limits.expires().as_secs(), limits.heartbeat().as_secs())
        };
        assert_eq!([seconds(), seconds(), seconds(), seconds()], [(30, 15), (120, 15), (600, 15), (600, 15)]);
        limits.busy();
        assert_eq!(limits.expires(), INITIAL_EXPIRES);
        // Of a consumer that limits it.
        assert!(limits.shorten_expires());
        limits.idle();
        assert_eq!(limits.expires(), INITIAL_EXPIRES / 2);

        for seconds in [2, 40, 1000] {
            let mut limits = Limits::new(Some(Duration::from_secs(seconds)));
            limits.idle();
            assert_eq!(
                (limits.expires().as_secs(), limits.heartbeat().as_secs()),
                (seconds, (seconds / 2).min(15)),
                "it is fixed"
            );
        }
    }

    #[test]
    fn message_of_a_completed_request_that_has_not_arrived_is_at_risk() {
        let mut requests = sent(10);
        (0..9).for_each(|_| requests.delivered());
        requests.end(0, 0);
        assert_eq!((requests.outstanding(), requests.at_risk()), (0, 1), "one was lost with its connection");
        requests.sent(5, &Limits::new(None), Allowance { max_bytes: 0, reservation: None });
        assert_eq!((requests.outstanding(), requests.at_risk()), (5, 5));
        requests.abandon();
        assert_eq!((requests.outstanding(), requests.at_risk()), (0, 0));
    }

    #[test]
    fn request_that_was_served_leaves_nothing_at_risk() {
        let mut requests = sent(10);
        (0..7).for_each(|_| requests.delivered());
        requests.end(0, 3);
        assert_eq!((requests.outstanding(), requests.at_risk()), (0, 0));
    }
}
