//! The inbox that a busy handler reads itself, in place of the one that it shares while it is idle.
//!
//! A shared inbox is read by a task that routes what arrives, which costs a wake-up and two queues; an inbox of its own
//! costs a subscription.

use std::time::Duration;

use tokio::time::Instant;

use super::Pull;
use super::stop::Phase;
use crate::error::Error;

/// The number of arrivals within [`PERIOD`] from which a handler is busy.
const BUSY: usize = 64;

const PERIOD: Duration = Duration::from_secs(1);

/// The maximum time for which nothing is requested so that nothing is outstanding at the shared inbox.
const MAX_WAIT: Duration = Duration::from_secs(2);

/// The number of arrivals lately.
#[derive(Debug)]
pub(super) struct Load {
    since: Instant,
    count: usize,
    /// The time since which the handler is busy; `None` until then, and after a request that has returned no message.
    busy_since: Option<Instant>,
}

impl Load {
    pub(super) fn new() -> Self {
        Self { since: Instant::now(), count: 0, busy_since: None }
    }

    /// Records arrivals.
    pub(super) fn arrived(&mut self, now: Instant, count: usize) {
        if now - self.since > PERIOD {
            (self.since, self.count) = (now, 0);
        }
        self.count += count;
        if self.count >= BUSY {
            self.busy_since.get_or_insert(now);
        }
    }

    fn reset(&mut self) {
        (self.count, self.busy_since) = (0, None);
    }
}

impl Pull {
    /// Returns `true` if the handler shares an inbox and is busy.
    ///
    /// One whose order is kept compares the deliveries of all inboxes.
    pub(super) fn wants_own_inbox(&mut self) -> bool {
        let Some(busy_since) = self.load.busy_since else { return false };
        let shares = self.lease.as_ref().is_some_and(|lease| !lease.is_own());
        if !shares || self.order.is_some() || self.phase != Phase::Open {
            return false;
        }
        if self.requests.outstanding() > 0 && busy_since.elapsed() > MAX_WAIT {
            // What is outstanding is possibly lost; another attempt is made when the handler is busy again.
            self.load.reset();
            return false;
        }
        true
    }

    /// Leases an inbox of its own; nothing may be outstanding at the shared one.
    pub(super) async fn lease_own_inbox(&mut self) -> Result<(), Error> {
        let epoch = *self.epoch.borrow();
        let lease = self.connection.routes.lease_own(&self.connection, &self.route, epoch).await?;
        self.inboxes.add(lease.number(), self.binding.incarnations.current());
        self.shared = self.lease.replace(lease);
        Ok(())
    }

    /// Returns to the shared inbox, because nothing has arrived for the time of a request.
    pub(super) fn share_inbox(&mut self) {
        self.load.reset();
        if self.requests.outstanding() > 0 || !self.lease.as_ref().is_some_and(|lease| lease.is_own()) {
            return;
        }
        match self.shared.take().filter(|shared| !shared.is_closing()) {
            Some(shared) => {
                shared.attach(&self.route);
                self.inboxes.add(shared.number(), self.binding.incarnations.current());
                self.lease = Some(shared);
            }
            // Another handler has stopped meanwhile.
            None => self.stale = true,
        }
    }
}
