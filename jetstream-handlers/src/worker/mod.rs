//! The loop around one handler: what waits, what runs, what keeps both alive, and the stop.
//!
//! It knows the seam (`transport.rs`) and nothing of what is behind it.
//! A worker is one task: its lanes are futures inside it, so that a message costs no spawn.

mod lane;
mod settle;
mod waiting;

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::backoff::jittered;
use crate::error::{Error, ErrorKind};
use crate::extract::Context;
use crate::health::Beat;
use crate::subscriber::Handler;
use crate::transport::{Deliveries, Event, Source, Transport};
use lane::Lane;
use waiting::Waiting;

/// How many messages are asked for beyond the free lanes, unless `batch_size` says.
const DEFAULT_BATCH: usize = 10;

/// How long the stop waits for the server's word that it has the last acks.
const LAST_ACKS: Duration = Duration::from_secs(5);

/// One handler at work.
pub(crate) struct Worker {
    handler: Handler,
    source: Source,
    transport: Arc<Transport>,
    context: Context,
    beat: Beat,
    batch_size: usize,
    waiting: Waiting,
    lanes: Vec<Lane>,
}

impl Worker {
    pub(crate) fn new(
        handler: Handler,
        source: Source,
        transport: Arc<Transport>,
        context: Context,
        beat: Beat,
        batch_size: Option<usize>,
    ) -> Self {
        let lanes = (0..handler.plan.concurrency()).map(|_| Lane::default()).collect();
        let batch_size = handler.plan.batch_size.or(batch_size).unwrap_or(DEFAULT_BATCH);
        Self { handler, source, transport, context, beat, batch_size, waiting: Waiting::default(), lanes }
    }

    /// Works until `stop`, then hands back what waits and gives what runs `grace` to end.
    ///
    /// # Errors
    ///
    /// A handler was still running when the grace period ended; its message was handed back.
    pub(crate) async fn run(
        self,
        mut deliveries: Deliveries,
        stop: CancellationToken,
        grace: Duration,
    ) -> Result<(), Error> {
        let mut lanes: FuturesUnordered<_> = self.lanes.iter().map(|lane| self.work(lane)).collect();
        // A third of the time that the server gives: one signal may be lost, and the next still comes in time.
        let mut heartbeat = interval(jittered(self.source.ack_wait / 3).max(Duration::from_millis(1)));
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            deliveries.room(self.room());
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                // The lanes end with `waiting`, not before; being polled here is what runs them.
                Some(()) = lanes.next() => {}
                event = deliveries.next() => match event {
                    Event::Delivery(delivery) => self.waiting.push(delivery),
                    Event::Recovering(reason) => self.beat.recovering(reason),
                    Event::Running => self.beat.running(),
                },
                () = self.waiting.taken() => {}
                _ = heartbeat.tick() => self.keep_alive().await,
            }
        }

        let deadline = Instant::now() + grace;
        let hand_back = async {
            for delivery in self.waiting.close() {
                self.hand_back(&delivery).await;
            }
            while let Some(delivery) = deliveries.last().await {
                self.hand_back(&delivery).await;
            }
        };
        let running = async {
            loop {
                tokio::select! {
                    done = lanes.next() => if done.is_none() { break },
                    _ = heartbeat.tick() => self.keep_alive().await,
                }
            }
        };
        let (finished, ()) = futures::join!(timeout_at(deadline, running), hand_back);
        drop(lanes);
        let abandoned = self.lanes.iter().filter_map(Lane::current).collect::<Vec<_>>();
        for acker in &abandoned {
            self.send(acker.nak(Duration::ZERO)).await;
        }
        if let Some(acker) = self.lanes.iter().filter_map(Lane::last).chain(abandoned).next_back()
            && let Err(error) = acker.round_trip(LAST_ACKS).await
        {
            tracing::warn!(
                handler = self.handler.name,
                "the last acks may be lost, and their messages come again: {error}"
            );
        }
        self.beat.stopped();
        finished.map_err(|_| {
            let name = &self.handler.name;
            Error::new(
                ErrorKind::GracePeriod,
                format!("`{name}` was still running when the grace period of {grace:?} ended; it was cancelled, and its message handed back"),
            )
        })
    }

    /// How many messages may be on their way: as many as can start at once, and a batch beyond.
    fn room(&self) -> usize {
        let idle = self.lanes.iter().filter(|lane| lane.is_idle()).count();
        (idle + self.batch_size).saturating_sub(self.waiting.len())
    }

    /// Tells the server that what waits and what runs is in hand.
    async fn keep_alive(&self) {
        let half = self.source.ack_wait / 6;
        let mut ackers = self.waiting.older_than(half);
        ackers.extend(self.lanes.iter().filter_map(|lane| lane.older_than(half)));
        for acker in ackers {
            self.send(acker.progress()).await;
        }
    }

    /// Sends an answer; one that cannot be sent is not worth waiting for beyond `ack_wait`, after which the message comes again.
    async fn send(&self, answer: impl Future<Output = Result<(), Error>>) -> bool {
        match timeout(self.source.ack_wait, answer).await {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                tracing::warn!(
                    handler = self.handler.name,
                    "an answer was not sent, and its message comes again: {error:?}"
                );
                false
            }
            Err(_) => {
                tracing::warn!(
                    handler = self.handler.name,
                    "an answer could not be sent in time, and its message comes again"
                );
                false
            }
        }
    }
}
