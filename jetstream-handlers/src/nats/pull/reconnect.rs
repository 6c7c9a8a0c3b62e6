//! The change of a handler's connection, inbox or consumer.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::losses::{LostInbox, MAX_HOLD};
use super::ordered::MAX_EXAMINATION;
use super::stop::Phase;
use super::{Connection, Pull, Reservation};
use crate::delivery::Binding;
use crate::error::Error;
use crate::message::{DeliveryId, Message};
use crate::nats::inbox::{Advisories, InboxLease};

/// The maximum number of advisories about a deletion in a second that are believed.
const MAX_DELETIONS: u32 = 20;

/// The minimum time between two repetitions of requests after advisories about another leader.
const MIN_REPEAT: Duration = Duration::from_secs(10);

impl Pull {
    /// Searches for what was lost with the former connection, and starts again on the present one.
    pub(super) fn on_reconnect(&mut self) {
        let epoch = *self.epoch.borrow();
        let outstanding = self.requests.at_risk().max(self.lost_requests);
        // If this connection has ended as well by now, the next call searches.
        self.lost_requests = outstanding;
        if outstanding > 0 && self.connection.may_be_unreadable(epoch) {
            self.lost_requests = 0;
            let other_server = self.connection.is_other_server(epoch);
            match &mut self.order {
                Some(order) => order.may_be_unreadable(if other_server { MAX_HOLD } else { MAX_EXAMINATION }),
                None => {
                    let ended = self.lease.as_ref().map(InboxLease::ended);
                    let lost = LostInbox::Disconnected { ended, other_server };
                    self.losses.search(self.connection.clone(), self.binding.clone(), outstanding, lost);
                }
            }
        }
        // The requests on the former connection are not waited for. The server keeps them, and serves them as long as
        // their inbox is subscribed.
        self.abandon_requests();
        self.catching_up = None;
        self.byte_limit.reconnected();
        (self.lease, self.shared) = (None, None);
        self.repeat_acks();
        self.binding.incarnations.connected(epoch);
        self.stale = true;
        self.floor.reconnected();
        if let Some(order) = &mut self.order {
            // Deliveries and acks that were in flight may be lost.
            order.sequencer.close();
        }
        self.recovery.reconnected();
    }

    /// Leases another inbox, because another handler at this one stops, and requests again what does not arrive at it.
    pub(super) fn move_to_another_inbox(&mut self) {
        let outstanding = self.requests.outstanding();
        self.abandon_requests();
        self.stale = true;
        // An ordered handler finds what is missing by its numbers.
        let Some(lease) = self.lease.take_if(|_| self.order.is_none()) else { return };
        if outstanding > 0 && self.phase == Phase::Open {
            let lost = LostInbox::Closed { ended: lease.ended() };
            self.losses.search(self.connection.clone(), self.binding.clone(), outstanding, lost);
        }
    }

    /// Repeats the acks that may be lost with the former connection.
    fn repeat_acks(&mut self) {
        if self.binding.sent_acks.is_empty() {
            return;
        }
        let (connection, binding) = (self.connection.clone(), self.binding.clone());
        let repeat = tokio::spawn(async move { connection.repeat_acks(&binding, usize::MAX).await });
        self.repeating = Some(AbortOnDropHandle::new(repeat));
    }

    /// Ends all requests, which the server may still serve.
    pub(super) fn abandon_requests(&mut self) {
        if let Some((reserved, ends)) = self.requests.abandon() {
            Reservation::keep(reserved, &self.connection, ends, self.lease.as_ref().map(InboxLease::ended));
        }
    }

    pub(super) async fn lease_inbox(&mut self, epoch: u64) -> Result<(), Error> {
        let lease = self.connection.routes.lease(&self.connection, &self.route, epoch, &self.inboxes).await?;
        self.inboxes.add(lease.number(), self.binding.incarnations.current());
        (self.lease, self.shared) = (Some(lease), None);
        Ok(())
    }

    /// Leases another inbox, and subscribes again to what a client that has ended had subscribed to.
    pub(super) async fn lease_again(&mut self) -> Result<(), Error> {
        let epoch = *self.epoch.borrow();
        self.lease_inbox(epoch).await?;
        self._advisories = subscribe_to_advisories(&self.connection, &self.binding).await?;
        Ok(())
    }

    /// Sets the incarnation of a delivery, which begins another one if the consumer has restarted its numbering; returns
    /// `true` if there are others between it and the last one at the same inbox.
    pub(super) fn check_numbering(&mut self, message: &mut Message) -> bool {
        let DeliveryId { consumer_sequence, incarnation: inbox, .. } = message.info.id();
        let mut incarnation = self.inboxes.incarnation(inbox);
        // Deliveries in two inboxes can overtake each other.
        let last = self.last_delivery.replace((inbox, consumer_sequence));
        let last = last.filter(|(last_inbox, _)| *last_inbox == inbox).map(|(_, last)| last);
        let is_lower = last.is_some_and(|last| consumer_sequence <= last);
        let is_first = self.order.as_ref().is_some_and(|order| order.sequencer.shows_restart(message));
        if is_lower || is_first {
            tracing::debug!(handler = &*self.handler, consumer_sequence, "the consumer has restarted its numbering");
            self.replaced();
            let current = self.binding.incarnations.current();
            self.inboxes.add(inbox, current);
            incarnation = Some(current);
        }
        message.info.set_incarnation(incarnation.unwrap_or_default());
        message.info.set_arrived(self.arrival);
        if self.lease.as_ref().is_some_and(|lease| lease.number() == inbox) {
            message.info.set_incarnation(self.binding.incarnations.arrived(message.info.id()));
        } else {
            self.binding.incarnations.arrived_late(message.info.id());
        }
        last.is_some_and(|last| consumer_sequence > last + 1)
    }

    /// Begins another incarnation of the consumer, because an advisory says that it was deleted.
    ///
    /// Everyone can publish such an advisory, so that nothing else changes; a flood of them has no effect, because the
    /// server could not be asked that often.
    pub(super) fn on_deleted(&mut self) {
        let second = self.binding.incarnations.at(Instant::now());
        if self.deletions.0 != second {
            self.deletions = (second, 0);
        }
        self.deletions.1 += 1;
        if self.deletions.1 <= MAX_DELETIONS {
            self.binding.incarnations.doubt();
        }
    }

    /// Sends the requests again that a former leader of the consumer has lost, because an advisory says that another one was
    /// elected.
    ///
    /// A leader that ends has no status for them, and their heartbeats would show it half a minute later.
    /// Everyone can publish such an advisory, so long requests alone are repeated, and seldom: the server may still have
    /// those before.
    pub(super) fn on_leader_elected(&mut self) {
        let now = Instant::now();
        if self.requests.are_long() && self.repeated_at.is_none_or(|repeated_at| now - repeated_at >= MIN_REPEAT) {
            self.repeated_at = Some(now);
            self.requests.forget();
            self.limits.busy();
        }
    }

    /// Begins another incarnation, because the consumer or messages of its stream were replaced; an ordered handler
    /// starts again.
    pub(super) fn on_replaced(&mut self) {
        if self.order.is_some() {
            self.replaced();
        } else {
            // What was delivered since is answered, once the stream has shown its messages.
            self.doubt();
        }
    }

    /// Begins another incarnation of the consumer, because it may have been replaced.
    pub(super) fn doubt(&mut self) {
        self.binding.incarnations.doubt();
        self.stale = true;
    }

    /// Begins another incarnation of the consumer, because it was replaced.
    pub(super) fn replaced(&mut self) {
        self.binding.incarnations.replace();
        self.losses.reset();
        self.stale = true;
        self.consumer_replaced();
    }
}

pub(super) async fn subscribe_to_advisories(
    connection: &Arc<Connection>,
    binding: &Binding,
) -> Result<[Arc<Advisories>; 2], Error> {
    let client = connection.client();
    let max_deliveries = connection.routes.advisories(&client, &binding.stream).await?;
    Ok([max_deliveries, connection.routes.deletions(connection).await?])
}
