//! The loop around one handler: what waits, what runs, what keeps both alive, and the stop.
//!
//! It knows the seam (`transport.rs`) and nothing of what is behind it.
//! A worker is one task: its lanes are futures inside it, so that a message costs no spawn.

mod ack_all;
mod attempts;
mod buffer;
mod call;
mod delayed;
mod max_deliveries;
mod prefetch;
mod settle;
mod slot;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::task::Poll;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::sync::RwLock;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::backoff::jittered;
use crate::delivery::{Binding, DeliveryEvent};
use crate::error::problem::Problem;
use crate::error::{Error, ErrorKind};
use crate::extract::Context;
use crate::handler::Handler;
use crate::message::Info;
use crate::observe::health::StatusCell;
use crate::observe::recorder::Recorder;
use crate::plan::Declaration;
use crate::transport::{Deliveries, Transport};
use ack_all::AckAll;
use attempts::Attempts;
use buffer::{Buffer, BufferGuard};
pub(crate) use delayed::Delayed;
use max_deliveries::ExhaustedMessages;
use prefetch::Prefetch;
use slot::Slot;

/// How long the stop waits for any answer; a user who may not publish to an inbox gets none.
const ROUND_TRIP: Duration = Duration::from_secs(1);

/// How long handing back may take.
const HAND_BACK: Duration = Duration::from_secs(5);

/// How long the stop waits for the server's word that it has the last acks.
const LAST_ACKS: Duration = Duration::from_secs(5);

/// One handler at work.
pub(crate) struct Worker {
    handler: Arc<Handler>,
    source: Arc<Binding>,
    transport: Arc<Transport>,
    context: Context,
    beat: StatusCell,
    prefetch: Prefetch,
    waiting: Buffer,
    attempts: Attempts,
    /// Held to read by every call, and to write by one that is tried alone.
    alone: RwLock<()>,
    delayed: Arc<Delayed>,
    recorder: Option<Recorder>,
    lanes: Vec<Slot>,
    /// Of an ordered handler.
    order: Option<AckAll>,
    graves: ExhaustedMessages,
    /// What the ack subjects of the consumer begin with; the first message says it.
    ack_prefix: OnceLock<String>,
}

impl Worker {
    #[allow(clippy::too_many_arguments)] // each of them is one of its parts
    pub(crate) fn new(
        handler: Arc<Handler>,
        source: Arc<Binding>,
        transport: Arc<Transport>,
        context: Context,
        beat: StatusCell,
        delayed: Arc<Delayed>,
        recorder: Option<Recorder>,
        batch_size: Option<usize>,
    ) -> Box<Self> {
        let lanes: Vec<_> = (0..handler.declaration.plan.concurrency()).map(|_| Slot::default()).collect();
        let order = handler.declaration.plan.ordered.then(|| AckAll::new(handler.declaration.plan.ack_every()));
        // The active one of several replicas has nobody to leave a message to, and always asks for the next.
        let least = usize::from(order.is_some());
        let pinned = handler.declaration.plan.batch_size.or(batch_size);
        let prefetch = Prefetch::new(pinned, source.ack_wait, lanes.len(), least);
        let (waiting, attempts, alone) = (Buffer::default(), Attempts::default(), RwLock::default());
        // In a box, so that it is not carried twice by the task that runs it.
        Box::new(Self {
            handler,
            source,
            transport,
            context,
            beat,
            delayed,
            recorder,
            prefetch,
            waiting,
            attempts,
            alone,
            lanes,
            order,
            graves: ExhaustedMessages::default(),
            ack_prefix: OnceLock::new(),
        })
    }

    /// Works until `stop`, then hands back what waits and gives what runs `grace` to end.
    ///
    /// # Errors
    ///
    /// A handler was still running when the grace period ended; its message was handed back.
    pub(crate) async fn run(
        self: Box<Self>,
        mut deliveries: Deliveries,
        stop: CancellationToken,
        grace: Duration,
    ) -> Result<(), Error> {
        // In boxes, because the set keeps the room of one more future than it has.
        let mut lanes: FuturesUnordered<_> = self.lanes.iter().map(|lane| Box::pin(self.run_lane(lane))).collect();
        let mut heartbeat = pin!(self.heartbeat());
        let mut ack_in_time = pin!(self.ack_in_time());
        let mut undertaker = pin!(self.undertake());
        loop {
            deliveries.room(self.room());
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                // The heartbeat, the lanes and the undertaker do not end before the stop; being polled here is what runs them.
                () = &mut heartbeat => {}
                // Before the lanes: what has arrived and is not known here gets no heartbeat.
                event = deliveries.next() => {
                    let mut waiting = self.waiting.fill(Instant::now());
                    let mut next = Some(event);
                    while let Some(event) = next {
                        self.hear(event, &mut waiting);
                        next = deliveries.ready();
                    }
                }
                Some(()) = lanes.next() => {}
                () = &mut undertaker => {}
                () = &mut ack_in_time => {}
                () = self.waiting.low() => self.prefetch.used_up(),
                () = self.waiting.room() => {}
            }
        }
        // What follows happens once, and is not carried along until then.
        Box::pin(self.end(lanes, heartbeat, deliveries, grace)).await
    }

    /// Gives what runs `grace` to end, and hands back the rest.
    async fn end<'a>(
        &'a self,
        mut lanes: FuturesUnordered<impl Future<Output = ()> + 'a>,
        mut heartbeat: Pin<&mut impl Future<Output = ()>>,
        mut deliveries: Deliveries,
        grace: Duration,
    ) -> Result<(), Error> {
        self.beat.stopping();

        let ended = CancellationToken::new();
        let running = async {
            tokio::select! {
                () = async { while lanes.next().await.is_some() {} } => {}
                () = &mut heartbeat => {}
            }
        };
        let running = async {
            let finished = timeout(grace, running).await;
            ended.cancel();
            finished
        };
        let ordered = self.order.is_some();
        let hand_back = async {
            // First the inbox is given up: what is handed back while it is open would come right back.
            let mut waiting = self.waiting.close();
            while let Some(message) = deliveries.last().await {
                waiting.push(message);
            }
            let waiting: Vec<_> = waiting.into_iter().map(|message| message.info).collect();
            if !ordered {
                self.hand_back_in_time(&waiting).await;
                return (waiting, deliveries);
            }
            // The next replica begins when this one has ended.
            tokio::select! {
                () = ended.cancelled() => {}
                () = deliveries.stay_active() => {}
            }
            (waiting, deliveries)
        };
        let (finished, (waiting, mut deliveries)) = futures::join!(running, hand_back);
        // What cancelled handlers held is dropped here, and may panic.
        if catch_unwind(AssertUnwindSafe(|| drop(lanes))).is_err() {
            tracing::error!(
                handler = self.handler.declaration.name,
                "a cancelled handler panicked while it was dropped"
            );
        }
        let abandoned = self.lanes.iter().filter_map(Slot::current);
        let mut abandoned = abandoned.map(|numbers| self.delivery(numbers)).collect::<Vec<_>>();
        if let Some(order) = &self.order {
            // After a reconnect nobody has asked for the consumer any more.
            if !self.is_verified(order)
                && let Ok(Some(epoch)) = timeout(LAST_ACKS, deliveries.verify()).await
            {
                order.verified(epoch);
            }
            self.ack_all(order).await;
            // In this order they come again.
            abandoned.extend(waiting);
        }
        self.hand_back_in_time(&abandoned).await;
        deliveries.step_down().await;
        // The server takes what one connection sends in order, so its word on anything is its word on all before.
        // A message that has ended can be asked about; one that waits elsewhere by now would begin its `ack_wait` anew.
        let last = self.lanes.iter().find_map(Slot::last);
        let answered = match last {
            _ if !self.transport.is_connected() => Err(Error::new(ErrorKind::Closed, "not connected")),
            Some(numbers) => self.transport.settled(&self.delivery(numbers), LAST_ACKS).await,
            None => self.transport.round_trip(ROUND_TRIP).await,
        };
        if let Err(error) = answered {
            let handler = &self.handler.declaration.name;
            tracing::warn!(handler, "the last answers may be lost, and their messages come again: {error}");
        }
        self.beat.stopped();
        finished.map_err(|_| {
            let Declaration { name, plan, .. } = &self.handler.declaration;
            Error::of(vec![Problem::StillRunning { handler: name.clone(), grace, cancelled: !plan.is_blocking() }])
        })
    }

    async fn hand_back_in_time(&self, messages: &[Info]) {
        if timeout(HAND_BACK, self.hand_back(messages)).await.is_err() {
            let handler = &self.handler.declaration.name;
            tracing::warn!(handler, "what could not be handed back comes again after its ack_wait");
        }
    }

    async fn run_lane(&self, lane: &Slot) {
        match &self.order {
            Some(order) => Box::pin(self.work_in_order(lane, order)).await,
            None => self.work(lane).await,
        }
    }

    fn hear(&self, event: DeliveryEvent, waiting: &mut BufferGuard<'_>) {
        match event {
            DeliveryEvent::Delivery(message) => waiting.push(message),
            DeliveryEvent::Recovering(reason) => self.beat.recovering(reason),
            DeliveryEvent::Running => self.beat.running(),
            DeliveryEvent::Regathering => {
                waiting.clear();
                if let Some(order) = &self.order {
                    order.regather();
                }
            }
            DeliveryEvent::Verified(epoch) => {
                if let Some(order) = &self.order {
                    order.verified(epoch);
                }
            }
            DeliveryEvent::Replaced => {
                if let Some(order) = &self.order {
                    self.source.acked.store(0, Ordering::Relaxed);
                    order.replaced();
                }
            }
            DeliveryEvent::GivenUp { sequence, delivered } => {
                if !self.graves.add(sequence, delivered) {
                    tracing::error!(
                        handler = self.handler.declaration.name,
                        sequence,
                        "the server gave the message up, and too many others too; it stays in its stream"
                    );
                }
            }
        }
    }

    /// How many messages may be on their way: as many as can start at once and soon, once half of them are used up.
    fn room(&self) -> usize {
        let idle = self.lanes.iter().filter(|lane| lane.is_idle()).count();
        let all = idle + self.prefetch.size();
        let waiting = self.waiting.mark(all / 2);
        match waiting <= all / 2 || waiting < idle {
            true => all.saturating_sub(waiting),
            false => 0,
        }
    }

    /// For how long a message may wait without a word to the server.
    fn patience(&self) -> Duration {
        match self.order {
            // It is this replica's until the server says otherwise, and a gap must not arise.
            Some(_) => Duration::MAX,
            None => self.source.ack_wait,
        }
    }

    /// Tells the server again and again that what waits and what runs is in hand.
    async fn heartbeat(&self) {
        // A third of the time that the server gives: one signal may be lost, and the next still comes in time.
        let period = jittered(self.source.ack_wait / 3).max(Duration::from_millis(1));
        let young = self.source.ack_wait / 6;
        loop {
            // A handler with nothing in hand is left alone.
            self.waiting.filled().await;
            while !self.waiting.is_empty() || self.lanes.iter().any(|lane| lane.current().is_some()) {
                sleep(period).await;
                Box::pin(self.keep_alive(young)).await;
            }
        }
    }

    async fn keep_alive(&self, young: Duration) {
        let connected = self.transport.is_connected();
        let waiting = self.waiting.keep(young, self.patience(), connected);
        if !connected {
            // It would arrive late, perhaps for what is somebody else's by then.
            return;
        }
        for delivery in waiting {
            self.send(self.transport.progress(&self.source, &delivery)).await;
        }
        // One by one: a message that was answered meanwhile must not be touched any more.
        for lane in &self.lanes {
            if let Some(numbers) = lane.older_than(young) {
                let delivery = self.delivery(numbers);
                self.send(self.transport.progress(&self.source, &delivery)).await;
            }
        }
    }

    /// Sends an answer; one that cannot be sent is not worth waiting for beyond `ack_wait`, after which the message comes again.
    async fn send(&self, answer: impl Future<Output = Result<(), Error>>) -> bool {
        let mut answer = pin!(answer);
        // Most are sent at once, and need no timer.
        let sent = match futures::poll!(answer.as_mut()) {
            Poll::Ready(sent) => Ok(sent),
            Poll::Pending => timeout(self.source.ack_wait, answer).await,
        };
        match sent {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                tracing::warn!(
                    handler = self.handler.declaration.name,
                    "an answer was not sent, and its message comes again: {error:?}"
                );
                false
            }
            Err(_) => {
                tracing::warn!(
                    handler = self.handler.declaration.name,
                    "an answer could not be sent in time, and its message comes again"
                );
                false
            }
        }
    }
}
