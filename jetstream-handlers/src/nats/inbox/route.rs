//! The queue of one handler, into which the readers of the inboxes put what arrives for it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::task::Poll;

use async_nats::{Message, StatusCode};
use futures::task::AtomicWaker;

use super::InboxLease;
use crate::delivery::GivenUpReports;
use crate::message::Message as Delivery;
use crate::nats::violations::Violation;
use crate::sync::lock;

/// An entry in the queue of one handler.
#[derive(Debug)]
pub(in crate::nats) enum Arrival {
    Delivery(Delivery),
    /// A status of the request with this number.
    Status(u64, StatusCode, Box<Message>),
    /// Messages are reported to have reached `max_deliver`; [`Route::take_reports`] returns them.
    MaxDeliveries,
    /// The inbox is about to close because another handler stops; the handler must lease another one.
    Moving,
    /// The stream or the consumer was deleted, and may have been created again.
    Deleted,
    /// The consumer is reported to have another leader.
    LeaderElected,
    /// The stream has replaced messages that were delivered, as was found in this incarnation of the consumer.
    Replaced(u32),
    /// The consumer is reported to be paused or resumed.
    Paused,
    /// The user may not do what the handler requires.
    Denied(Violation),
    /// The inbox is closed, and no more messages arrive.
    Closed,
}

/// The queue of one handler, and the keys by which it is found.
#[derive(Debug)]
pub(in crate::nats) struct Route {
    pub(super) number: u64,
    /// `<stream>.<consumer>`, as in ack subjects and advisories.
    pub(super) consumer: String,
    pub(super) inbox: AtomicU64,
    pub(super) queue: Mutex<VecDeque<Arrival>>,
    /// Apart from the queue, because everyone may send any number of them.
    reports: Mutex<GivenUpReports>,
    /// `true` while [`Arrival::Paused`] is in the queue.
    is_pause_reported: AtomicBool,
    pub(super) waker: AtomicWaker,
}

impl Route {
    /// Creates the route with this number to the handler of `<stream>.<consumer>`.
    pub(super) fn new(number: u64, consumer: String) -> Self {
        Self {
            number,
            consumer,
            inbox: AtomicU64::new(u64::MAX),
            queue: Mutex::default(),
            waker: AtomicWaker::new(),
            reports: Mutex::default(),
            is_pause_reported: AtomicBool::new(false),
        }
    }

    pub(super) fn is_at(&self, inbox: u64) -> bool {
        self.inbox.load(Ordering::Relaxed) == inbox
    }

    pub(super) fn push(&self, arrival: Arrival) {
        let mut queue = self.queue();
        if queue.capacity() == 0 {
            // An idle handler receives heartbeats one by one, and needs no capacity for more.
            queue.reserve_exact(1);
        }
        queue.push_back(arrival);
        let first = queue.len() == 1;
        drop(queue);
        if first {
            self.waker.wake();
        }
    }

    /// Waits until the queue has entries, or something has arrived at the inbox that the handler reads, and moves it into
    /// `arrived`, which must be empty.
    ///
    /// # Cancel safety
    ///
    /// An entry is in `arrived` or stays where it was.
    pub(in crate::nats) async fn take(&self, mut lease: Option<&mut InboxLease>, arrived: &mut VecDeque<Arrival>) {
        std::future::poll_fn(|task| {
            self.waker.register(task.waker());
            {
                let mut queue = self.queue();
                if !queue.is_empty() {
                    std::mem::swap(&mut *queue, arrived);
                }
            }
            // After the queue, which would wait for the end of a flood otherwise.
            if let Some(lease) = &mut lease
                && let Poll::Ready(arrival) = lease.poll_next(self, task)
            {
                arrived.push_back(arrival);
            }
            if arrived.is_empty() { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
    }

    /// Adds the advisory `io.nats.jetstream.advisory.v1.max_deliver` about a message (`jetstream_events.go`).
    pub(super) fn report(&self, advisory: &[u8]) {
        #[derive(serde::Deserialize)]
        struct MaxDeliver {
            stream_seq: u64,
            deliveries: u64,
        }
        match serde_json::from_slice(advisory) {
            Ok(MaxDeliver { stream_seq, deliveries }) => {
                if lock(&self.reports).add(stream_seq, deliveries) {
                    self.push(Arrival::MaxDeliveries);
                }
            }
            // Everyone may send it, so it is no reason to warn.
            Err(error) => tracing::debug!(consumer = self.consumer, "cannot read an advisory: {error}"),
        }
    }

    /// Returns the reports that messages reached `max_deliver`, and removes them.
    pub(in crate::nats) fn take_reports(&self) -> GivenUpReports {
        std::mem::take(&mut *lock(&self.reports))
    }

    /// Adds the report that the consumer is paused or resumed, unless it is in the queue.
    pub(super) fn report_pause(&self) {
        if !self.is_pause_reported.swap(true, Ordering::Relaxed) {
            self.push(Arrival::Paused);
        }
    }

    /// Accepts another report that the consumer is paused or resumed.
    pub(in crate::nats) fn pause_taken(&self) {
        self.is_pause_reported.store(false, Ordering::Relaxed);
    }

    /// Releases the memory of an idle handler.
    pub(in crate::nats) fn shrink(&self) {
        self.queue().shrink_to_fit();
    }

    pub(super) fn queue(&self) -> MutexGuard<'_, VecDeque<Arrival>> {
        lock(&self.queue)
    }
}
