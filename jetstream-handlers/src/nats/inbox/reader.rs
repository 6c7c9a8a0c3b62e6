//! The task that reads one inbox, and routes what arrives.

use std::collections::VecDeque;
use std::sync::{Arc, MutexGuard, Weak};
use std::task::{Context, Poll, Waker};

use async_nats::{Message, Subject, Subscriber};
use futures::StreamExt as _;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{Arrival, Route, Routes, tag};
use crate::message::{Decompressed, Info, Message as Delivery, ack_subject};
use crate::nats::Connection;

/// The task that reads one inbox, and routes what arrives.
pub(super) struct Reader {
    pub(super) routes: Arc<Routes>,
    pub(super) connection: Weak<Connection>,
    pub(super) epoch: u64,
    pub(super) inbox: u64,
    /// The ack subjects of deliveries for handlers that no longer exist.
    pub(super) orphaned: Vec<Subject>,
    pub(super) _end: DropGuard,
}

impl Reader {
    pub(super) async fn run(mut self, mut subscriber: Subscriber, closing: CancellationToken) {
        let mut draining = false;
        loop {
            tokio::select! {
                biased;
                // Before the messages, which under load never pause.
                () = closing.cancelled(), if !draining => {
                    draining = true;
                    subscriber.drain().await.ok();
                }
                message = subscriber.next() => match message {
                    Some(message) => self.route(message, &mut subscriber),
                    None => break,
                },
            }
            self.nak_orphaned().await;
        }
        for route in self.routes.at(self.inbox) {
            route.push(Arrival::Closed);
        }
    }

    /// Naks the messages of handlers that no longer exist, so that another instance receives them immediately and not
    /// only after their `ack_wait`.
    async fn nak_orphaned(&mut self) {
        if self.orphaned.is_empty() {
            return;
        }
        let Some(connection) = self.connection.upgrade() else { return };
        for ack_subject in self.orphaned.drain(..) {
            // On another connection, the nak could be for a message of another stream.
            if connection.epoch_now() == Some(self.epoch) {
                connection.client().publish(ack_subject, ack_subject::NAK).await.ok();
            }
        }
    }

    /// Routes a message and all that have arrived with it.
    fn route(&mut self, first: Message, subscriber: &mut Subscriber) {
        let table = self.routes.table();
        // Consecutive deliveries are usually for the same handler, whose queue stays locked for all of them.
        let mut batch: Option<Batch<'_>> = None;
        let mut task = Context::from_waker(Waker::noop());
        let mut next = Poll::Ready(Some(first));
        while let Poll::Ready(Some(mut message)) = next {
            match message.status {
                // A stored message can have a status line as well; a status of the server has no reply subject.
                Some(status) if message.reply.is_none() => {
                    batch = None;
                    table.route_status(status, message);
                }
                // The ack subject is moved, because a clone would cost an allocation.
                _ => match message.reply.take().map(|ack_subject| match &batch {
                    Some(batch) => batch.first.parse_same_consumer(ack_subject),
                    None => Err(ack_subject),
                }) {
                    Some(Ok(info)) => {
                        let queue = batch.as_mut().map(|batch| &mut batch.queue);
                        queue
                            .expect("the ack subject was parsed by the batch")
                            .push_back(arrival(message, info, self.inbox));
                    }
                    Some(Err(ack_subject)) => match Info::parse(ack_subject) {
                        Some(info) => {
                            // The next batch may lock the same queue, if the version of the ack subjects has changed.
                            drop(batch.take());
                            let route = table.find(info.stream_and_consumer(), self.inbox);
                            batch = route.map(|route| Batch::begin(route, info.clone()));
                            match &mut batch {
                                Some(batch) => batch.queue.push_back(arrival(message, info, self.inbox)),
                                None => self.orphaned.push(info.into_ack_subject()),
                            }
                        }
                        None => ignored(&message),
                    },
                    None => ignored(&message),
                },
            }
            next = subscriber.poll_next_unpin(&mut task);
        }
    }
}

/// Consecutive deliveries for one handler.
struct Batch<'a> {
    route: &'a Route,
    queue: MutexGuard<'a, VecDeque<Arrival>>,
    /// The first delivery, by which the ack subjects of the others are parsed.
    first: Info,
}

impl<'a> Batch<'a> {
    fn begin(route: &'a Arc<Route>, first: Info) -> Self {
        Self { route, queue: route.queue(), first }
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        self.route.waker.wake();
    }
}

#[inline]
pub(super) fn arrival(message: Message, mut info: Info, inbox: u64) -> Arrival {
    // Replaced by the incarnation that is read from this inbox.
    info.set_incarnation(tag(inbox));
    let Message { subject, payload, headers, .. } = message;
    Arrival::Delivery(Delivery {
        subject,
        payload,
        headers: headers.map(Arc::new),
        info,
        unreadable: None,
        origin: None,
        decompressed: Decompressed::default(),
    })
}

pub(super) fn ignored(message: &Message) {
    tracing::warn!(subject = %message.subject, "ignored a message without an ack subject");
}
