//! The graceful stop of a worker.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::time::error::Elapsed;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::Worker;
use crate::declaration::Declaration;
use crate::error::problem::Problem;
use crate::error::{Error, ErrorKind};
use crate::message::Info;
use crate::observe::settled::Settlement;
use crate::transport::Deliveries;

/// The timeout of a round trip to the server, whose reply never arrives without the permission for inboxes.
const ROUND_TRIP_TIMEOUT: Duration = Duration::from_secs(1);

/// The timeout of handing messages back.
const HAND_BACK_TIMEOUT: Duration = Duration::from_secs(5);

/// The timeout of the server's confirmation of the last acks.
const LAST_ACKS_TIMEOUT: Duration = Duration::from_secs(5);

impl Worker {
    /// Lets running calls finish within `grace`, and hands back all other messages.
    pub(super) async fn stop<'a>(
        &'a self,
        mut slots: FuturesUnordered<impl Future<Output = ()> + 'a>,
        mut aside: Pin<Box<impl Future<Output = ()> + 'a>>,
        heartbeat: Pin<&mut impl Future<Output = ()>>,
        deliveries: Deliveries,
        grace: Duration,
    ) -> Result<(), Error> {
        self.status.stopping();
        let ended = CancellationToken::new();
        let calls = async {
            let finished = timeout(grace, finish(&mut slots, aside.as_mut(), heartbeat)).await;
            ended.cancel();
            finished
        };
        let (finished, (waiting, mut deliveries)) = futures::join!(calls, self.stop_pulling(deliveries, &ended));
        self.drop_cancelled((slots, aside));
        self.record_unstored().await;
        self.hand_back_cancelled(waiting, &mut deliveries).await;
        deliveries.step_down().await;
        self.confirm_last_answers().await;
        self.status.stopped();
        finished.map_err(|_: Elapsed| self.still_running(grace))
    }

    /// Closes the pull and the buffer, and returns the messages that no slot has taken and that are not handed back yet.
    ///
    /// If an order is kept, they are handed back after the running calls, because the next worker begins with them.
    async fn stop_pulling(&self, mut deliveries: Deliveries, ended: &CancellationToken) -> (Vec<Info>, Deliveries) {
        // The pull ends first: a message that is handed back while a pull request is open would be redelivered to this
        // worker.
        let mut buffered: Vec<_> = self.buffers().flat_map(|buffer| buffer.close(self.max_age())).collect();
        self.readiness.wake();
        self.report_lost();
        let by_key = self.take_by_key();
        while let Some(message) = deliveries.last().await {
            self.observer.received(&message.info);
            buffered.push(message);
        }
        let buffered = buffered.into_iter().map(|message| message.info);
        let mut waiting: Vec<_> =
            buffered.chain(by_key).chain(self.uncovered.take()).chain(self.hand_over.take_left()).collect();
        let is_connected = self.transport.is_connected();
        let settlement = if is_connected { Settlement::HandedBack } else { Settlement::Lost };
        self.observer.count(settlement, waiting.len());
        if self.binding.unfinished.is_some() {
            waiting.sort_by_key(Info::stream_sequence);
        }
        if !self.binding.keeps_order() {
            self.hand_back_in_time(&waiting).await;
            return (Vec::new(), deliveries);
        }
        tokio::select! {
            () = ended.cancelled() => {}
            () = deliveries.stay_active() => {}
        }
        (waiting, deliveries)
    }

    /// Drops calls that did not finish; the user's values in them may panic when they are dropped.
    fn drop_cancelled<T>(&self, slots: T) {
        if catch_unwind(AssertUnwindSafe(|| drop(slots))).is_err() {
            tracing::error!(
                handler = self.handler.declaration.name,
                "a cancelled handler panicked while it was dropped"
            );
        }
    }

    /// Hands back the messages of cancelled calls and those in `waiting`, which are empty unless an order is kept.
    async fn hand_back_cancelled(&self, waiting: Vec<Info>, deliveries: &mut Deliveries) {
        let mut unfinished: Vec<_> = self.held().collect();
        if let Some(acks) = &self.ack_all {
            // Once the pull has ended, a reconnect no longer verifies the consumer.
            if !self.is_verified(acks)
                && let Ok(Some(epoch)) = timeout(LAST_ACKS_TIMEOUT, deliveries.verify()).await
            {
                acks.consumer_verified(epoch);
            }
            self.ack_all(acks).await;
        }
        // The server redelivers messages in the order in which they are handed back.
        unfinished.extend(waiting);
        self.hand_back_in_time(&unfinished).await;
    }

    async fn hand_back_in_time(&self, messages: &[Info]) {
        if timeout(HAND_BACK_TIMEOUT, self.hand_back(messages)).await.is_err() {
            let handler = &self.handler.declaration.name;
            tracing::warn!(handler, "some messages could not be handed back and are redelivered after ack_wait");
        }
    }

    /// Waits until the server has processed every answer.
    ///
    /// It processes the messages of one connection in order, so one reply confirms everything sent before.
    pub(super) async fn confirm_last_answers(&self) {
        // The request is about a message that has ended: it would restart the `ack_wait` of one that waits for its next
        // attempt.
        let last = self.slots.last();
        let confirmed = match last {
            _ if !self.transport.is_connected() => Err(Error::new(ErrorKind::Closed, "not connected")),
            Some(delivery) => self.transport.flush_acks(&self.binding, &self.info(delivery), LAST_ACKS_TIMEOUT).await,
            None => self.transport.round_trip(ROUND_TRIP_TIMEOUT).await,
        };
        if let Err(error) = confirmed {
            let handler = &self.handler.declaration.name;
            tracing::warn!(handler, "the last acks may be lost, and their messages redelivered: {error}");
        }
    }

    fn still_running(&self, grace: Duration) -> Error {
        let Declaration { name, plan, .. } = &self.handler.declaration;
        Error::of(vec![Problem::StillRunning { handler: name.clone(), grace, cancelled: !plan.is_blocking() }])
    }
}

/// Runs the slots and what is beside them to their end, with heartbeats for the messages that they hold.
async fn finish(
    slots: &mut FuturesUnordered<impl Future<Output = ()>>,
    aside: Pin<&mut impl Future<Output = ()>>,
    heartbeat: Pin<&mut impl Future<Output = ()>>,
) {
    let slots = async { while slots.next().await.is_some() {} };
    tokio::select! {
        _ = async { futures::join!(slots, aside) } => {}
        () = heartbeat => {}
    }
}
