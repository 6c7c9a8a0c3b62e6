//! The stop of the pulls, which loses nothing that the server has sent.

use std::collections::VecDeque;
use std::time::Duration;

use futures::FutureExt as _;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::Pull;
use crate::future::optional;
use crate::message::Message;

/// The maximum time for which a stop waits for what the server has sent: the client drops what arrives at an inbox
/// after it was closed, and it would be redelivered only after `ack_wait`.
const MAX_IN_FLIGHT: Duration = Duration::from_secs(5);

/// The time after the close of the inbox up to which a stop waits for what has arrived.
const DRAIN: Duration = Duration::from_secs(1);

/// The progress of a stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Open,
    /// The stop has begun at this time, and messages in flight may arrive at the open inbox.
    Stopping(Instant),
    /// The inbox is being closed until this time; what the server has sent may still arrive.
    Draining(Instant),
    /// The inbox is closed, and no more messages arrive.
    Closed,
}

impl Pull {
    /// Stops sending requests, and returns the next message that still arrives; `None` once none can arrive.
    ///
    /// # Cancel safety
    ///
    /// No message is lost: a message that was not returned stays for the next call.
    pub(crate) async fn last(&mut self) -> Option<Message> {
        self.capacity = 0;
        if !self.connection.is_connected() {
            return None;
        }
        if self.phase == Phase::Open {
            self.phase = Phase::Stopping(Instant::now());
            self.catching_up = None;
            // The calls may take long, and other handlers wait for what this one does not request any more.
            self.byte_limit.idle();
            self.byte_limit.take_reserved();
        }
        loop {
            if let Some(message) = self.next_delivery() {
                return Some(message);
            }
            match self.phase {
                Phase::Open | Phase::Closed => {
                    self.requests.forget();
                    // The messages in the resequencer were not begun either, so they are returned as well.
                    let pending = self.order.as_mut().map(|order| order.sequencer.take_pending()).unwrap_or_default();
                    if pending.is_empty() {
                        return None;
                    }
                    self.released.extend(pending);
                }
                Phase::Stopping(begun) => {
                    // Closing the inbox cancels the open requests.
                    if self.requests.outstanding() == 0 || !self.arrives_in_flight(begun).await {
                        if let Some(lease) = &mut self.lease {
                            self.connection.routes.close_inbox(lease, &self.route);
                        }
                        self.phase = Phase::Draining(Instant::now() + DRAIN);
                    }
                }
                Phase::Draining(until) => {
                    if !self.arrives_until(until).await {
                        self.route.take(self.lease.as_mut(), &mut self.arrived).now_or_never();
                        self.phase = Phase::Closed;
                    }
                }
            }
        }
    }

    /// Waits until something arrives; returns `false` once everything has arrived that the server had sent when the stop
    /// began.
    async fn arrives_in_flight(&mut self, begun: Instant) -> bool {
        let until = begun + MAX_IN_FLIGHT;
        if Instant::now() >= until {
            return false;
        }
        self.catch_up(begun);
        tokio::select! {
            biased;
            () = self.route.take(self.lease.as_mut(), &mut self.arrived) => {}
            () = optional(self.catching_up.as_mut().map(|(_, caught_up)| caught_up)) => {
                self.catching_up = None;
                return false;
            }
            () = sleep_until(until) => return false,
        }
        self.heard();
        true
    }

    /// Waits until something arrives; returns `false` after the deadline, even if something has arrived.
    async fn arrives_until(&mut self, deadline: Instant) -> bool {
        let arrives = Instant::now() < deadline
            && timeout_at(deadline, self.route.take(self.lease.as_mut(), &mut self.arrived)).await.is_ok();
        if arrives {
            self.heard();
        }
        arrives
    }

    /// Returns the next delivery that has arrived; discards the state changes, which do not matter to a stop.
    fn next_delivery(&mut self) -> Option<Message> {
        if self.released.is_empty() {
            let mut deliveries = VecDeque::new();
            while self.fill(&mut |message| deliveries.push_back(message)).is_some() {}
            self.released = deliveries;
        }
        self.released.pop_front()
    }
}
