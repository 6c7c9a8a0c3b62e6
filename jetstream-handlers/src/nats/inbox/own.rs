//! The inbox of one busy handler, which reads it without a task in between.

use std::pin::pin;
use std::task::{Context, Poll, Waker, ready};

use async_nats::{Message, Subscriber};
use futures::StreamExt as _;
use tokio::task::coop::unconstrained;
use tokio_util::sync::CancellationToken;

use super::reader::{Reader, arrival, ignored};
use super::{Arrival, Route, status_tokens};
use crate::message::Info;

/// The subscription of an inbox that its only handler reads.
pub(super) struct OwnInbox {
    /// Reads what is left when the handler has given the inbox up.
    reader: Reader,
    subscriber: Subscriber,
    /// A delivery of the consumer, by which the ack subjects of the others are parsed.
    template: Option<Info>,
    /// `true` if the client has ended the subscription.
    is_ended: bool,
}

impl OwnInbox {
    pub(super) fn new(reader: Reader, subscriber: Subscriber) -> Self {
        Self { reader, subscriber, template: None, is_ended: false }
    }

    /// Returns the next arrival for the handler with this route, and registers the task if nothing has arrived.
    pub(super) fn poll_next(&mut self, route: &Route, task: &mut Context<'_>) -> Poll<Arrival> {
        while !self.is_ended {
            let Some(message) = ready!(self.subscriber.poll_next_unpin(task)) else {
                self.is_ended = true;
                return Poll::Ready(Arrival::Closed);
            };
            if let Some(arrival) = self.arrival(message, route) {
                return Poll::Ready(arrival);
            }
        }
        Poll::Pending
    }

    /// Returns the next arrival if there is one already.
    ///
    /// It is not bounded by the budget of the task, because no more arrives than was requested.
    pub(super) fn try_next(&mut self, route: &Route) -> Option<Arrival> {
        let next = pin!(unconstrained(std::future::poll_fn(|task| self.poll_next(route, task))));
        match next.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(arrival) => Some(arrival),
            Poll::Pending => None,
        }
    }

    #[inline]
    fn arrival(&mut self, mut message: Message, route: &Route) -> Option<Arrival> {
        let inbox = self.reader.inbox;
        let Some(ack_subject) = message.reply.take() else {
            let (of, request) = status_tokens(&message.subject)?;
            let status = message.status.filter(|_| of == route.number)?;
            return Some(Arrival::Status(request, status, Box::new(message)));
        };
        let parsed = match &self.template {
            Some(template) => template.parse_same_consumer(ack_subject),
            None => Err(ack_subject),
        };
        let parsed = parsed.or_else(|ack_subject| self.parse(ack_subject, route).ok_or(()));
        match parsed {
            Ok(info) => Some(arrival(message, info, inbox)),
            Err(()) => {
                ignored(&message);
                None
            }
        }
    }

    /// Parses the ack subject of the first delivery, or of one after the version of the ack subjects has changed.
    #[cold]
    fn parse(&mut self, ack_subject: async_nats::Subject, route: &Route) -> Option<Info> {
        let info = Info::parse(ack_subject).filter(|info| info.stream_and_consumer() == route.consumer)?;
        self.template = Some(info.clone());
        Some(info)
    }

    /// Ends the subscription; what is on its way goes to the handler by its route.
    pub(super) fn drain(self, closing: &CancellationToken) {
        closing.cancel();
        // Without a runtime, nothing can arrive.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(self.reader.run(self.subscriber, closing.clone()));
        }
    }
}
