//! The pulls of one handler: requests for as many messages as it has capacity for, and their recovery after failures.
//!
//! Sources: ADR-13, ADR-37 and ADR-42, and `consumer.go` of the server (`processNextMsgRequest`,
//! `checkWaitingForInterest`, `nextWaiting`).

mod action;
mod byte_limit;
mod floor_reader;
mod gate;
mod losses;
mod missing;
mod next_request;
mod ordered;
mod own_inbox;
mod patience;
mod reading;
mod received;
mod reconnect;
mod recovery;
mod requests;
mod resequencer;
mod sequencer;
mod status;
mod stop;

pub(super) use byte_limit::{LargeRequests, Reservation};

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use async_nats::Subject;
use futures::future::BoxFuture;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::task::AbortOnDropHandle;

use super::Connection;
use super::floor::Floor;
use super::inbox::{Advisories, Arrival, InboxLease, Inboxes, Route};
use super::violations::Violation;
use crate::delivery::{Binding, DeliveryEvent};
use crate::error::{Error, chain};
use crate::future::optional;
use crate::message::{Info, Message};
use byte_limit::ByteLimit;
use floor_reader::FloorReader;
use losses::{Losses, Progress};
use ordered::{Answer, Ordered, Pinned, answer};
use own_inbox::Load;
use reconnect::subscribe_to_advisories;
use recovery::Recovery;
use requests::{Limits, Requests};
use stop::Phase;

/// The time in which what has arrived at an inbox is passed on.
const ROUTED: Duration = Duration::from_millis(50);

/// The reason if the server answers, but sends no heartbeat for a pull request.
const UNANSWERED: &str = "the server answers, but sends no heartbeats for the pull requests: the consumer does not exist or has no leader, or the user may not publish to `$JS.API.CONSUMER.MSG.NEXT.>`";

/// The pulls of one handler.
pub(crate) struct Pull {
    connection: Arc<Connection>,
    /// The name of the handler, for logs.
    handler: Arc<str>,
    binding: Arc<Binding>,
    next_subject: String,

    epoch: watch::Receiver<u64>,
    route: Arc<Route>,
    lease: Option<InboxLease>,
    /// The shared inbox, while the handler has one of its own.
    shared: Option<InboxLease>,
    inboxes: Inboxes,
    load: Load,
    /// `true` if the requests with this inbox may be lost; another inbox is leased before the next request.
    stale: bool,
    _advisories: [Arc<Advisories>; 2],
    phase: Phase,

    capacity: usize,
    limits: Limits,
    requests: Requests,
    /// The wait for what the server had sent at this time.
    catching_up: Option<(Instant, BoxFuture<'static, ()>)>,
    byte_limit: ByteLimit,
    last_heard: Instant,
    /// The number of advisories about a deletion in this second of the clock of the incarnations.
    deletions: (u32, u32),
    /// The time at which requests were last repeated after an advisory about another leader.
    repeated_at: Option<Instant>,
    /// The time of the last arrival on the clock of the incarnations.
    arrival: u32,
    recovery: Recovery,
    floor: FloorReader,
    /// `true` if the consumer has as many requests of other instances as it serves, until it serves one of this
    /// instance.
    is_crowded: bool,
    losses: Losses,
    /// The task that repeats acks.
    repeating: Option<AbortOnDropHandle<()>>,
    /// The number of messages that could have arrived at an inbox that was closed.
    lost_requests: usize,
    /// The state of the pulls of an ordered handler, or of one with a key; `None` for any other handler.
    order: Option<Box<Ordered>>,

    /// The inbox and the consumer sequence of the last delivery.
    last_delivery: Option<(u32, u64)>,
    arrived: VecDeque<Arrival>,
    /// State changes for the worker, which [`fill`](Self::fill) returns before it passes the messages in `released`.
    events: VecDeque<DeliveryEvent>,
    /// Messages that the resequencer has released, which precede those in `arrived`.
    released: VecDeque<Message>,
}

impl std::fmt::Debug for Pull {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pull")
            .field("binding", &self.binding)
            .field("outstanding", &self.requests.outstanding())
            .finish_non_exhaustive()
    }
}

impl Drop for Pull {
    fn drop(&mut self) {
        self.connection.routes.close(&self.route);
    }
}

impl Pull {
    /// Opens the pulls of a handler; `fetch_wait` overrides the `expires` of its requests.
    pub(crate) async fn open(
        connection: Arc<Connection>,
        handler: &str,
        binding: Arc<Binding>,
        fetch_wait: Option<Duration>,
    ) -> Result<Self, Error> {
        let advisories = subscribe_to_advisories(&connection, &binding).await?;
        let route = connection.routes.open(&binding.stream, &binding.consumer);
        let mut epoch = connection.epoch();
        let now = *epoch.borrow_and_update();
        binding.incarnations.connected(now);
        let handler = Arc::<str>::from(handler);
        let order = binding.keeps_order().then(|| Ordered::new(handler.clone(), &binding));
        let mut losses = Losses::default();
        if let Some(created) = binding.incarnations.created() {
            losses.set_created(created);
        }
        if !binding.has_floor {
            losses.begin_after(0);
        }
        let mut pull = Self {
            next_subject: format!(
                "{}.CONSUMER.MSG.NEXT.{}.{}",
                connection.api_prefix, binding.stream, binding.consumer
            ),
            epoch,
            route,
            lease: None,
            shared: None,
            inboxes: Inboxes::default(),
            load: Load::new(),
            stale: false,
            _advisories: advisories,
            phase: Phase::Open,
            capacity: 0,
            limits: match &binding.partition {
                Some(_) => Limits::of_partition(fetch_wait),
                None => Limits::new(fetch_wait),
            },
            requests: Requests::default(),
            catching_up: None,
            byte_limit: ByteLimit::default(),
            last_heard: Instant::now(),
            deletions: (0, 0),
            repeated_at: None,
            arrival: 0,
            recovery: Recovery::new(),
            floor: FloorReader::new(connection.clone(), binding.clone()),
            is_crowded: false,
            losses,
            repeating: None,
            lost_requests: 0,
            order,
            last_delivery: None,
            arrived: VecDeque::new(),
            events: VecDeque::new(),
            released: VecDeque::new(),
            connection,
            handler,
            binding,
        };
        pull.lease_inbox(now).await?;
        Ok(pull)
    }

    /// Limits the number of messages that are requested and have not arrived; `call` is the usual duration of a call.
    pub(crate) fn set_capacity(&mut self, capacity: usize, call: Duration) {
        self.capacity = capacity.min(self.binding.max_ack_pending);
        self.losses.set_call(call);
    }

    /// Returns the maximum number of messages that the handler may hold and request.
    pub(crate) fn max_messages(&self) -> usize {
        self.byte_limit.max_messages(self.connection.routes.len())
    }

    /// Passes arrived messages to `push` up to the next state change, and returns that; `None` if all were passed.
    pub(crate) fn fill(&mut self, push: &mut impl FnMut(Message)) -> Option<DeliveryEvent> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Some(event);
            }
            if let Some(message) = self.released.pop_front() {
                push(message);
                continue;
            }
            let arrival = match self.arrived.pop_front() {
                Some(arrival) => arrival,
                None => self.lease.as_mut()?.try_next(&self.route)?,
            };
            match arrival {
                Arrival::Delivery(message) => self.on_delivery(message, push),
                Arrival::Status(number, status, message) => self.on_status(number, status, &message),
                Arrival::MaxDeliveries => {
                    self.events.push_back(DeliveryEvent::MaxDeliveries(self.route.take_reports()));
                }
                Arrival::Deleted => self.on_deleted(),
                Arrival::LeaderElected => self.on_leader_elected(),
                Arrival::Replaced(incarnation) if incarnation == self.binding.incarnations.current() => {
                    self.on_replaced();
                }
                // The handler has begun another incarnation since.
                Arrival::Replaced(_) => {}
                Arrival::Paused => {
                    self.route.pause_taken();
                    self.floor.pause_reported();
                }
                Arrival::Denied(violation) => self.on_violation(&violation),
                Arrival::Closed if matches!(self.phase, Phase::Draining(_)) => self.phase = Phase::Closed,
                Arrival::Moving => self.move_to_another_inbox(),
                // Another handler at this inbox has stopped before this one could lease another inbox; or the client is
                // closed or has ended, and what was on its way is lost.
                Arrival::Closed => {
                    self.lost_requests = self.lost_requests.max(self.requests.at_risk());
                    self.abandon_requests();
                    self.stale = true;
                }
            }
        }
    }

    /// Handles the statuses in front of what has arrived, and returns `true` if [`fill`](Self::fill) has something to pass
    /// on.
    ///
    /// The heartbeats of the requests of an idle handler need no worker.
    pub(crate) fn has_deliveries(&mut self) -> bool {
        while let Some(Arrival::Status(..)) = self.arrived.front() {
            if let Some(Arrival::Status(number, status, message)) = self.arrived.pop_front() {
                self.on_status(number, status, &message);
            }
        }
        self.has_arrivals()
    }

    /// Waits until [`fill`](Self::fill) has something to pass on.
    ///
    /// # Cancel safety
    ///
    /// No message is lost: every awaited future either has no effect when dropped, or is kept in `self`.
    pub(crate) async fn arrived(&mut self) {
        loop {
            if self.has_arrivals() {
                return;
            }
            self.request_more().await;
            if self.has_arrivals() {
                return;
            }
            let wake = self.wake();
            tokio::select! {
                biased;
                () = self.route.take(self.lease.as_mut(), &mut self.arrived), if self.phase != Phase::Closed => {
                    self.heard();
                }
                start = optional(self.recovery.locating()) => self.on_located(start),
                floor = optional(self.floor.reading()) => self.on_floor(floor),
                progress = self.losses.progress() => Box::pin(self.on_losses(progress)).await,
                answer = answer(&mut self.order) => match answer {
                    Answer::Info(info) => Box::pin(self.on_consumer_info(info)).await,
                    Answer::Examined(found) => Box::pin(self.on_examined(found)).await,
                },
                reservation = optional(self.byte_limit.reserving()) => self.byte_limit.reserved(reservation),
                () = optional(self.catching_up.as_mut().map(|(_, caught_up)| caught_up)) => self.on_caught_up(),
                Ok(()) = self.epoch.changed() => self.on_reconnect(),
                () = sleep_until(wake) => self.on_wake().await,
            }
        }
    }

    fn has_arrivals(&self) -> bool {
        !(self.arrived.is_empty() && self.events.is_empty() && self.released.is_empty())
    }

    /// Records the time of an arrival.
    fn heard(&mut self) {
        self.last_heard = Instant::now();
        self.load.arrived(self.last_heard, self.arrived.len());
        // After the process did not run, it may have been on its way for longer.
        let sent_since = self.connection.clock.observe().sent_since.map_or(self.last_heard, Instant::from_std);
        self.arrival = self.binding.incarnations.at(sent_since);
    }

    /// Returns the time at which two heartbeats have been missed.
    fn silent_at(&self) -> Instant {
        // The interval of the open requests counts, because the next one may request more frequent heartbeats.
        self.last_heard + self.requests.heartbeat().unwrap_or(self.limits.heartbeat()) * 2
    }

    /// Returns the time at which [`on_wake`](Self::on_wake) is due if nothing arrives before.
    fn wake(&self) -> Instant {
        let far = Instant::now() + Duration::from_secs(3600);
        let order = self.order.as_ref().and_then(|order| order.wake()).unwrap_or(far);
        let is_waiting = self.requests.outstanding() == 0 || self.catching_up.is_some();
        let pull = if self.recovery.is_active() {
            // Without a wait, the restoration of the consumer wakes the worker.
            self.recovery.wake().unwrap_or(far)
        } else if is_waiting {
            far
        } else {
            let silent = self.silent_at();
            self.requests.first_end().map_or(silent, |ends| silent.min(ends))
        };
        pull.min(order).min(self.floor.wake().unwrap_or(far)).min(self.losses.wake().unwrap_or(far))
    }

    async fn on_wake(&mut self) {
        let now = Instant::now();
        self.floor.proceed(now);
        if self.recovery.is_active() {
            self.recovery.proceed(now, || self.floor.start());
        } else if self.requests.outstanding() > 0 && (self.silent_at() <= now || self.requests.are_over(now)) {
            self.catch_up(now);
        } else {
            self.requests.prune();
        }
        self.tick(now).await;
    }

    /// Waits for what the server has sent by now: heartbeats wait behind the messages of other handlers.
    fn catch_up(&mut self, now: Instant) {
        let connection = self.connection.clone();
        self.catching_up.get_or_insert_with(|| {
            let caught_up = async move {
                connection.caught_up().await;
                // Another task passes on what arrives at the inbox.
                sleep(ROUTED).await;
            };
            (now, Box::pin(caught_up))
        });
    }

    /// Ends the requests of which nothing was on its way.
    fn on_caught_up(&mut self) {
        let Some((begun, _)) = self.catching_up.take() else { return };
        if self.recovery.is_active() || self.requests.outstanding() == 0 {
            return;
        }
        if self.silent_at() > begun {
            return self.requests.end_before(begun);
        }
        self.abandon_requests();
        self.doubt();
        self.floor.silent();
        if self.is_crowded {
            self.back_off_crowded();
        } else {
            self.back_off_and_restore(UNANSWERED);
        }
    }

    fn on_floor(&mut self, floor: Result<Floor, Error>) {
        self.losses.tick(self.last_heard);
        if let Ok(floor) = &floor {
            self.losses.begin_after(floor.delivered);
            self.losses.set_floor(floor.sequence);
            if self.binding.ack_wait.set(floor.ack_wait) {
                let (handler, ack_wait) = (&*self.handler, floor.ack_wait);
                tracing::info!(handler, "the `ack_wait` of the consumer is {ack_wait:?} from now on");
            }
            if let Some(unfinished) = &self.binding.unfinished {
                unfinished.prune(floor.sequence);
            }
            // The server does not answer a request that it does not serve for this reason.
            if floor.is_full && self.recovery.has_reason() {
                self.back_off_crowded();
            }
        }
        if let Some(pause) = self.floor.on_read(&self.handler, floor) {
            self.events.push_back(DeliveryEvent::Paused(pause));
        }
    }

    /// Passes on the messages that cannot be read, and requests the others that were lost.
    async fn on_losses(&mut self, progress: Progress) {
        let result = match progress {
            Progress::Found(result) => *result,
            Progress::Waited(messages) => {
                let lost = self.losses.waited(messages);
                return self.connection.nak_lost(lost).await;
            }
        };
        if let Err(error) = &result {
            let handler = &*self.handler;
            tracing::warn!(handler, "cannot find out what was lost with the connection: {}", chain(error));
        }
        let (unreadable, lost) = self.losses.found(&self.connection, &self.binding, result);
        self.report_unreadable(&unreadable);
        self.released.extend(unreadable);
        self.connection.nak_lost(lost).await;
    }

    /// Reports that the user may not send acks, or waits if it is the pull requests that are denied.
    fn on_violation(&mut self, violation: &Violation) {
        if let Some(delivery) = Info::parse(Subject::from(&*violation.subject)) {
            self.binding.sent_acks.denied_answer(delivery.id());
            self.events.push_back(DeliveryEvent::AcksDenied(violation.problem()));
        } else {
            self.requests.forget();
            self.back_off(&violation.problem());
        }
    }

    /// Logs the messages that cannot be read.
    fn report_unreadable(&self, messages: &[Message]) {
        for message in messages {
            let Some(unreadable) = &message.unreadable else { continue };
            tracing::warn!(
                handler = &*self.handler,
                stream = self.binding.stream,
                sequence = message.info.stream_sequence(),
                "a message cannot be read, and ended the connection: {}; it becomes a dead letter",
                unreadable.reason
            );
        }
    }

    /// Counts a delivery, and passes it on if it may be handled now.
    fn on_delivery(&mut self, mut message: Message, push: &mut impl FnMut(Message)) {
        let skipped = self.check_numbering(&mut message);
        self.losses.arrived(&mut message.info, self.last_heard, skipped);
        if self.byte_limit.arrived(&message) {
            self.requests.end_reservation();
        }
        self.requests.delivered();
        self.limits.busy();
        self.mark_healthy();
        self.floor.read_if_due(self.last_heard);
        let Some(order) = &mut self.order else { return push(message) };
        match order.pinned(&message) {
            Pinned::AsBefore => {}
            Pinned::Anew => self.requests.forget_unpinned(),
            Pinned::Former => return,
        }
        if let Some(message) = order.sequencer.pass(message) {
            // A `Resync` among the events precedes the message, and must not discard it.
            if self.events.is_empty() { push(message) } else { self.released.push_back(message) }
        }
    }
}
