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
use std::time::{Duration, SystemTime};

use async_nats::{StatusCode, Subject};
use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::task::AbortOnDropHandle;

use super::Connection;
use super::connect::CAPACITY;
use super::floor::Floor;
use super::inbox::{Advisories, Arrival, InboxLease, Inboxes, Route};
use super::violations::Violation;
use crate::delivery::{Binding, DeliveryEvent};
use crate::error::{Error, ErrorKind, chain};
use crate::future::optional;
use crate::message::{Info, Message};
use byte_limit::{Allowance, ByteLimit};
use floor_reader::FloorReader;
use losses::{Losses, Progress};
use ordered::{Answer, Ordered, PIN_KEEPALIVE, answer};
use own_inbox::Load;
use reconnect::subscribe_to_advisories;
use recovery::{Recovery, Then};
use requests::{Limits, Requests};
use status::Status;
use stop::Phase;

/// The time in which what has arrived at an inbox is passed on.
const ROUTED: Duration = Duration::from_millis(50);

/// The `expires` of a request with a reservation, whose message usually arrives at once.
const RESERVED_EXPIRES: Duration = Duration::from_secs(1);

const NO_RESPONDERS: &str = "no responders: the consumer does not exist, or has no leader";

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
            limits: Limits::new(fetch_wait),
            requests: Requests::default(),
            catching_up: None,
            byte_limit: ByteLimit::default(),
            last_heard: Instant::now(),
            deletions: (0, 0),
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

    /// Sends a request when half of the capacity is free, so that the next batch is requested while this one arrives.
    async fn request_more(&mut self) {
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
        self.limits.set_advisories(self.connection.has_advisories());
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

    /// Reports the consumer as missing, once the start sequence of a restored one is known.
    fn on_located(&mut self, start: Result<Option<u64>, Error>) {
        match start {
            Ok(start) => {
                self.recovery.restoring();
                self.events.push_back(DeliveryEvent::ConsumerMissing { start });
            }
            Err(error) => self.restored(Err(error)),
        }
    }

    /// Sends requests again after [`DeliveryEvent::ConsumerMissing`], or backs off if the consumer was not restored.
    pub(crate) fn restored(&mut self, result: Result<Option<SystemTime>, Error>) {
        self.recovery.restored();
        match result {
            Ok(created) => {
                let incarnations = &self.binding.incarnations;
                incarnations.identify(incarnations.current(), created);
                if let Some(created) = created {
                    self.losses.set_created(created);
                }
            }
            // A cluster that elects a leader does not answer, nor does a server that does not permit the request;
            // the next pull request shows whether the consumer exists.
            Err(error) if matches!(error.kind(), ErrorKind::Timeout | ErrorKind::Authorization) => {
                tracing::debug!(handler = &*self.handler, "cannot restore the consumer: {error}");
            }
            Err(error) => self.back_off_and_restore(&chain(&error)),
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
        if order.becomes_active(&message) {
            self.requests.forget_unpinned();
        }
        if let Some(message) = order.sequencer.pass(message) {
            // A `Resync` among the events precedes the message, and must not discard it.
            if self.events.is_empty() { push(message) } else { self.released.push_back(message) }
        }
    }

    fn on_status(&mut self, number: u64, code: StatusCode, message: &async_nats::Message) {
        let text = message.description.as_deref().unwrap_or_default();
        let status = Status::parse(code, text);
        let refused_keepalive = number == PIN_KEEPALIVE && status == Status::WrongPin;
        let Some(batch) = self.requests.batch(number).or(refused_keepalive.then_some(0)) else {
            // The request is no longer tracked.
            return;
        };
        let pending =
            message.headers.as_ref().and_then(|headers| headers.get("Nats-Pending-Messages")?.as_str().parse().ok());
        let left = pending.unwrap_or(batch);
        match status {
            Status::Heartbeat => {
                self.binding.sent_acks.heartbeat();
                self.losses.tick(self.last_heard);
                self.floor.heartbeat();
                self.mark_healthy();
            }
            Status::Expired => {
                self.requests.end(number, left);
                self.mark_healthy();
                if left == batch {
                    // An idle handler sends few requests, and holds no memory.
                    self.limits.idle();
                    self.byte_limit.idle();
                    self.share_inbox();
                    self.arrived.shrink_to_fit();
                    self.events.shrink_to_fit();
                    self.released.shrink_to_fit();
                    self.route.shrink();
                }
            }
            Status::Completed => self.requests.end(number, left),
            Status::BytesUsedUp => {
                let max_bytes = self.requests.max_bytes(number);
                self.requests.end(number, left);
                self.mark_healthy();
                if let Some(max_bytes) = max_bytes.filter(|_| left == batch) {
                    self.byte_limit.too_large(max_bytes);
                    // The message waits, so that it is not requested for long.
                    self.limits.busy();
                }
            }
            Status::LeaderChanged => {
                self.requests.forget();
                self.back_off(text);
            }
            Status::ConsumerDeleted => {
                self.requests.forget();
                // A client that may publish to an inbox can send a status, so the server is asked before an answer.
                self.on_replaced();
                self.back_off_and_restore("the consumer was deleted");
            }
            Status::BatchTooLarge(limit) => {
                self.requests.end(number, left);
                self.limits.limit_batch(limit);
            }
            Status::ExpiresTooLong => {
                self.requests.end(number, left);
                if !self.limits.shorten_expires() {
                    self.back_off(text);
                }
            }
            Status::TooManyRequests => {
                self.requests.end(number, left);
                self.back_off_crowded();
            }
            Status::WrongPin => {
                self.requests.forget();
                if let Some(order) = &mut self.order {
                    order.unpinned();
                }
                // Another instance may be active, and receives the messages that were not begun here.
                self.released.clear();
                self.events.push_back(DeliveryEvent::Resync);
                self.mark_healthy();
            }
            Status::NoResponders => {
                self.requests.end(number, left);
                self.doubt();
                // A leader may be elected soon; the consumer is restored only if the next request fails as well.
                if self.recovery.has_reason() {
                    self.back_off_and_restore(NO_RESPONDERS);
                } else {
                    self.back_off(NO_RESPONDERS);
                }
            }
            Status::Refused => {
                self.requests.end(number, left);
                self.doubt();
                self.back_off_and_restore(&format!("{code} {text}"));
            }
        }
    }

    /// Waits before the next request.
    fn back_off(&mut self, reason: &str) {
        self.recover(reason, Then::Request);
    }

    /// Waits before the next request, because the consumer serves those of other instances.
    fn back_off_crowded(&mut self) {
        self.is_crowded = true;
        let max = self.binding.config.max_waiting;
        self.back_off(&format!(
            "409 Exceeded MaxWaiting: the consumer serves {max} pull requests at a time (`max_waiting`), and has those of other instances; run fewer instances, or create the consumer again with a higher `max_waiting`"
        ));
    }

    /// Waits before the consumer is restored, in case it does not exist.
    fn back_off_and_restore(&mut self, reason: &str) {
        self.recover(reason, Then::Restore);
    }

    fn recover(&mut self, reason: &str, then: Then) {
        if self.recovery.back_off(reason, then) {
            tracing::warn!(handler = &*self.handler, stream = self.binding.stream, "pull paused: {reason}");
            self.events.push_back(DeliveryEvent::Recovering(reason.to_owned()));
        }
    }

    /// Ends the recovery, because the server has answered a request.
    fn mark_healthy(&mut self) {
        self.is_crowded = false;
        if self.recovery.end() {
            tracing::info!(handler = &*self.handler, stream = self.binding.stream, "pull resumed");
            self.events.push_back(DeliveryEvent::Running);
        }
    }
}
