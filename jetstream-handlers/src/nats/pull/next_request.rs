//! The next request of one handler: when it is sent, and for how many messages.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::Pull;
use super::byte_limit::Allowance;
use super::stop::Phase;
use crate::error::chain;
use crate::nats::connect::CAPACITY;

/// The `expires` of a request with a reservation, whose message usually arrives at once.
const RESERVED_EXPIRES: Duration = Duration::from_secs(1);

impl Pull {
    /// Sends a request when half of the capacity is free, so that the next batch is requested while this one arrives.
    pub(super) async fn request_more(&mut self) {
        // If it cannot be used now, it is left to the other handlers.
        let reservation = self.byte_limit.take_reserved();
        let is_searching = self.losses.holds_requests()
            || self.order.as_ref().is_some_and(|order| order.awaits_examination() || order.is_aside());
        if self.phase == Phase::Closed || self.recovery.is_active() || is_searching {
            return;
        }
        if !self.connection.is_connected() {
            // The client would send the request after a reconnect, with the reply subject of an abandoned inbox.
            return self.back_off("not connected");
        }
        if self.stale {
            if let Err(error) = Box::pin(self.lease_again()).await {
                return self.back_off(&chain(&error));
            }
            self.abandon_requests();
            self.stale = false;
        }
        self.requests.prune();
        if self.wants_own_inbox() {
            if self.requests.outstanding() > 0 {
                // They arrive at the shared inbox.
                return;
            }
            if let Err(error) = Box::pin(self.lease_own_inbox()).await {
                return self.back_off(&chain(&error));
            }
        }
        let (mut capacity, outstanding) = (self.capacity_now(), self.requests.outstanding());
        if self.losses.is_careful() {
            capacity = capacity.min(1);
        }
        if outstanding > capacity / 2 || outstanding >= capacity {
            return;
        }
        let handlers = self.connection.routes.len();
        if outstanding > 0 && self.byte_limit.is_alone(handlers) {
            return;
        }
        let allowance = self.byte_limit.next(handlers, reservation, &self.connection.large_requests);
        let Some(allowance) = allowance else { return };
        // All handlers together never request more than the client can buffer.
        let share = if allowance.reservation.is_some() { 1 } else { (CAPACITY / 2 / handlers.max(1)).max(1) };
        let batch = (capacity - outstanding).min(self.limits.max_batch()).min(share);
        // Boxed, because the future is large, and only needed once for hundreds of messages.
        Box::pin(self.request(batch, allowance)).await;
    }

    async fn request(&mut self, batch: usize, allowance: Allowance) {
        // Another instance may have taken the message for which this one has a reservation, and others wait for that.
        let max_expires = if allowance.reservation.is_some() { RESERVED_EXPIRES } else { Duration::MAX };
        let expires = self.limits.expires().min(max_expires);
        let mut request = format!(
            r#"{{"batch":{batch},"max_bytes":{},"expires":{},"idle_heartbeat":{}"#,
            allowance.max_bytes,
            expires.as_nanos(),
            self.limits.heartbeat().min(expires / 2).as_nanos()
        );
        self.add_pin(&mut request);
        request.push('}');
        let Some(lease) = &self.lease else { return };
        let reply = lease.reply(&self.route, self.requests.next_number());
        let sent =
            self.connection.client().publish_with_reply(self.next_subject.clone(), reply, Bytes::from(request)).await;
        if let Err(error) = sent {
            return self.back_off(&chain(&error));
        }
        if self.requests.outstanding() == 0 {
            self.last_heard = Instant::now();
        }
        if let Some(order) = &mut self.order {
            order.pin_refreshed();
        }
        self.byte_limit.sent();
        self.requests.sent(batch, &self.limits, allowance);
    }

    /// Returns the number of messages that may be in flight.
    fn capacity_now(&self) -> usize {
        match &self.order {
            Some(order) if !order.sequencer.is_open() => order.sequencer.capacity(self.capacity),
            _ => self.capacity,
        }
    }
}
