//! The futures of the slots, which run inside the task of the worker.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, Stream as _};
use tokio::task::coop::has_budget_remaining;
use tokio::time::sleep;

use super::Worker;
use super::slots::{Need, Slot};

/// The time after which slots that were not needed are given back.
const REVIEW_PERIOD: Duration = Duration::from_secs(30);

/// The slots that are made.
pub(super) type RunningSlots<'a> = FuturesUnordered<InBudget<'a>>;

/// A slot that is polled only while the task has budget left (`tokio::task::coop`).
///
/// Without budget, a future that is polled does nothing but ask to be polled later, and the set would poll all that are
/// ready for the few that make progress each time. The set ends its poll if one asks at once.
pub(super) struct InBudget<'a>(BoxFuture<'a, ()>);

impl Future for InBudget<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<()> {
        if has_budget_remaining() {
            return self.0.as_mut().poll(task);
        }
        task.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Worker {
    /// Runs the slots until all of them wait, and makes those that messages need; returns when one is given back.
    pub(super) fn poll_slots<'a>(&'a self, slots: &mut RunningSlots<'a>, task: &mut Context<'_>) -> Poll<()> {
        loop {
            if let Poll::Ready(Some(())) = Pin::new(&mut *slots).poll_next(task) {
                return Poll::Ready(());
            }
            if !self.buffer.has_messages() {
                return Poll::Pending;
            }
            match self.slots.need() {
                Need::Nothing => return Poll::Pending,
                // A slot that was woken has possibly not been polled yet.
                _ if !has_budget_remaining() => {
                    task.waker().wake_by_ref();
                    return Poll::Pending;
                }
                // A call that is parked waits until its batch is complete.
                Need::Wake if self.limits.is_some() => return Poll::Pending,
                Need::Wake => self.buffer.wake_one(),
                // Boxed, because the set reserves the size of one more future than it holds.
                Need::Make => slots.push(InBudget(Box::pin(self.run_slot(self.slots.make())))),
            }
        }
    }

    async fn run_slot(&self, slot: Slot<'_>) {
        match (&self.ack_all, self.limits) {
            (Some(acks), _) => Box::pin(self.work_in_order(slot, acks)).await,
            (None, Some(limits)) => Box::pin(self.work_in_batches(slot, limits)).await,
            (None, None) => self.work(slot).await,
        }
        slot.end();
    }

    /// Gives slots back that were not needed for a while; returns when none is left.
    pub(super) async fn give_back(&self) {
        loop {
            sleep(REVIEW_PERIOD).await;
            if self.slots.made() == 0 {
                return;
            }
            if self.slots.review() {
                self.buffer.wake_all();
            }
        }
    }
}
