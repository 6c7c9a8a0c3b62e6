//! The open requests of one handler: what they may still bring, and when they end.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// How long after its end a request is remembered, in case its status is late.
const LATE: Duration = Duration::from_secs(2);

/// How many requests are remembered.
const MOST: usize = 64;

/// The requests that the server may still answer.
///
/// A delivery does not say which request it belongs to, so what is outstanding is counted over all of them;
/// a status does, and says what its own request will not bring any more.
#[derive(Debug, Default)]
pub(super) struct Requests {
    /// A request that was served in full gets no word about it, and stays until its time is over or there are too many.
    live: VecDeque<Request>,
    outstanding: usize,
    next_number: u64,
}

#[derive(Debug)]
struct Request {
    number: u64,
    batch: usize,
    heartbeat: Duration,
    ends: Instant,
}

impl Requests {
    /// How many messages the live requests may still bring.
    pub(super) fn outstanding(&self) -> usize {
        self.outstanding
    }

    /// The number that the next request gets.
    pub(super) fn next_number(&self) -> u64 {
        self.next_number
    }

    /// A request for `batch` messages was sent, which ends after `expires` and is owed a sign of life every `heartbeat`.
    pub(super) fn sent(&mut self, batch: usize, expires: Duration, heartbeat: Duration) {
        if self.live.len() == MOST {
            // Long since served, or its late status is not missed.
            self.live.pop_front();
        }
        let ends = Instant::now() + expires + LATE;
        self.live.push_back(Request { number: self.next_number, batch, heartbeat, ends });
        self.next_number += 1;
        self.outstanding += batch;
    }

    pub(super) fn delivered(&mut self) {
        self.outstanding = self.outstanding.saturating_sub(1);
        if self.outstanding == 0 {
            self.live.clear();
        }
    }

    /// What a request asked for, if it is a live one.
    pub(super) fn batch(&self, number: u64) -> Option<usize> {
        self.live.iter().find(|request| request.number == number).map(|request| request.batch)
    }

    /// A request has ended, and brings `left` messages less than it asked for.
    pub(super) fn end(&mut self, number: u64, left: usize) {
        self.live.retain(|request| request.number != number);
        self.outstanding = match self.live.is_empty() {
            true => 0,
            false => self.outstanding.saturating_sub(left),
        };
    }

    /// Nothing that was asked for will come any more.
    pub(super) fn forget(&mut self) {
        self.live.clear();
        self.outstanding = 0;
    }

    /// Ends the requests whose time is over, should their status be lost.
    pub(super) fn prune(&mut self) {
        if self.live.is_empty() {
            return;
        }
        let now = Instant::now();
        self.live.retain(|request| request.ends > now);
        if self.live.is_empty() {
            self.outstanding = 0;
        }
    }

    /// How long the server may be silent about all of them.
    pub(super) fn heartbeat(&self) -> Option<Duration> {
        self.live.iter().map(|request| request.heartbeat).max()
    }

    /// When the first of them ends.
    pub(super) fn first_end(&self) -> Option<Instant> {
        self.live.iter().map(|request| request.ends).min()
    }
}
