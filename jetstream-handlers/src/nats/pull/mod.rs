//! The pull engine of one handler: asks for what there is room for, and keeps asking whatever happens to the server.
//!
//! Sources: ADR-13, ADR-37 and ADR-42, and `consumer.go` of the server (`processNextMsgRequest`,
//! `checkWaitingForInterest`, `nextWaiting`).

mod ordered;
mod requests;
mod resequencer;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use async_nats::StatusCode;
use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::Connection;
use super::connect::CAPACITY;
use super::inbox::{Advisories, Arrival, InboxLease, Route};
use super::messages::Floor;
use crate::backoff::ExponentialBackoff;
use crate::delivery::{Binding, DeliveryEvent};
use crate::error::{Error, ErrorKind, chain};
use crate::handler::Handler;
use crate::message::Message;
use crate::provision::restore_consumer;
use crate::transport::Transport;
use ordered::{KEEP, Ordered};
use requests::Requests;

/// The most that one request asks for.
const MAX_BATCH: usize = 1000;

/// How long it may take to look for a consumer that does not answer.
const LOOK: Duration = Duration::from_secs(2);

/// The longest time between heartbeats, of which two that are missing mean that the consumer has nobody to serve it.
const LONGEST_HEARTBEAT: Duration = Duration::from_secs(15);

/// How long a request lives, unless `fetch_wait` says: the longest time after one that brought nothing.
const FIRST_EXPIRES: Duration = Duration::from_secs(5);
const LONGEST_EXPIRES: Duration = Duration::from_secs(30);

/// The shortest time for which a request is made, should the consumer limit it.
const SHORTEST_EXPIRES: Duration = Duration::from_millis(10);

/// How often it is read how far a busy consumer has come.
const FLOOR_PERIOD: Duration = Duration::from_secs(5);

/// How long a stop waits for messages that are on their way.
const QUIET: Duration = Duration::from_millis(50);

/// How long a stop waits for the server's word that nothing more can come.
const DRAIN: Duration = Duration::from_secs(1);

/// The pulls of one handler.
pub(crate) struct Pull {
    connection: Arc<Connection>,
    handler: Arc<Handler>,
    source: Arc<Binding>,
    next_subject: String,
    /// How long the next request lives, and between which bounds.
    expires: Duration,
    shortest_expires: Duration,
    longest_expires: Duration,
    max_batch: usize,

    epoch: watch::Receiver<u64>,
    route: Arc<Route>,
    seat: Option<InboxLease>,
    /// The inbox belongs to pulls that may be dead: take a fresh one before the next request.
    stale: bool,
    _advisories: Arc<Advisories>,
    arrived: VecDeque<Arrival>,

    room: usize,
    requests: Requests,
    last_heard: Instant,
    /// Nothing will ever come: the inbox is closed.
    closed: bool,

    /// Up to where the consumer had come, should it be deleted; read now and then while messages come.
    floor: Option<Floor>,
    reading_floor: Option<BoxFuture<'static, Result<Floor, Error>>>,
    next_floor: Option<Instant>,

    /// Of an ordered handler.
    order: Option<Box<Ordered>>,

    events: VecDeque<DeliveryEvent>,
    trouble: Option<Recovery>,
    /// Why the handler is unwell; it stays until the server has answered a request.
    reason: Option<String>,
    backoff: ExponentialBackoff,
    draining: bool,
}

/// Why nothing is asked for now, and what is done about it.
struct Recovery {
    wait_until: Instant,
    /// Whether the consumer is looked for when the wait is over.
    look: bool,
    looking: Option<BoxFuture<'static, Result<(), Error>>>,
}

impl std::fmt::Debug for Pull {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pull")
            .field("source", &self.source)
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
    pub(crate) async fn open(
        connection: Arc<Connection>,
        handler: Arc<Handler>,
        source: Arc<Binding>,
        fetch_wait: Option<Duration>,
    ) -> Result<Self, Error> {
        let advisories = connection.routes.advisories(connection.client(), &source.stream).await?;
        let route = connection.routes.open(&source.stream, &source.consumer);
        let mut epoch = connection.epoch();
        let now = *epoch.borrow_and_update();
        let order = source.ordered().then(|| Ordered::new(handler.clone(), &source));
        let mut pull = Self {
            next_subject: format!("{}.CONSUMER.MSG.NEXT.{}.{}", connection.api_prefix, source.stream, source.consumer),
            expires: fetch_wait.unwrap_or(FIRST_EXPIRES),
            shortest_expires: fetch_wait.unwrap_or(FIRST_EXPIRES),
            longest_expires: fetch_wait.unwrap_or(LONGEST_EXPIRES),
            max_batch: MAX_BATCH,
            epoch,
            route,
            seat: None,
            stale: false,
            _advisories: advisories,
            arrived: VecDeque::new(),
            room: 0,
            requests: Requests::default(),
            last_heard: Instant::now(),
            closed: false,
            floor: None,
            reading_floor: source.existed.then(|| read_floor(connection.clone(), source.clone())),
            next_floor: Some(Instant::now()),
            order,
            events: VecDeque::new(),
            trouble: None,
            reason: None,
            backoff: ExponentialBackoff::new(Duration::from_millis(100), Duration::from_secs(2)),
            draining: false,
            connection,
            handler,
            source,
        };
        pull.take_seat(now).await?;
        Ok(pull)
    }

    async fn take_seat(&mut self, epoch: u64) -> Result<(), Error> {
        let left = self.seat.as_ref();
        let seat = self.connection.routes.seat(self.connection.client(), &self.route, epoch, left).await?;
        self.seat = Some(seat);
        Ok(())
    }

    pub(crate) fn room(&mut self, room: usize) {
        self.room = room.min(self.source.max_ack_pending);
    }

    /// An event that is there already.
    pub(crate) fn ready(&mut self) -> Option<DeliveryEvent> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Some(event);
            }
            match self.arrived.pop_front()? {
                Arrival::Delivery(message) => {
                    let Some(message) = self.deliver(message) else { continue };
                    // The usual one does not go through the queue of all others.
                    if self.events.is_empty() {
                        return Some(DeliveryEvent::Delivery(message));
                    }
                    self.events.push_back(DeliveryEvent::Delivery(message));
                }
                Arrival::Status(number, status, message) => self.status(number, status, &message),
                Arrival::Advisory(message) => self.given_up(&message),
                Arrival::Closed if self.draining => self.closed = true,
                // A neighbour has stopped, perhaps before there was time to move; or the client has ended,
                // which the next inbox will tell.
                Arrival::Moving | Arrival::Closed => {
                    self.requests.forget();
                    self.stale = true;
                }
            }
        }
    }

    /// Cancel safe: what is awaited either leaves no trace when dropped, or is kept in `self`.
    pub(crate) async fn next(&mut self) -> DeliveryEvent {
        loop {
            if let Some(event) = self.ready() {
                return event;
            }
            self.ask().await;
            let wake = self.wake();
            let looking = async {
                match self.trouble.as_mut().and_then(|trouble| trouble.looking.as_mut()) {
                    Some(looking) => looking.await,
                    None => std::future::pending().await,
                }
            };
            let reading_floor = async {
                match self.reading_floor.as_mut() {
                    Some(reading) => reading.await,
                    None => std::future::pending().await,
                }
            };
            let asking = async {
                match self.order.as_mut().and_then(|order| order.asking.as_mut()) {
                    Some(asking) => asking.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = self.route.take(&mut self.arrived), if !self.closed => self.last_heard = Instant::now(),
                result = looking => self.looked(result),
                result = reading_floor => self.read_floor(result),
                result = asking => Box::pin(self.heard_of_order(result)).await,
                Ok(()) = self.epoch.changed() => {
                    // What was asked of the former connection will not be answered.
                    self.requests.forget();
                    self.stale = true;
                    self.next_floor = Some(Instant::now());
                    if let Some(order) = &mut self.order {
                        // What was on its way may be lost, in both directions.
                        order.gate.close();
                    }
                    if let Some(trouble) = &mut self.trouble {
                        trouble.wait_until = Instant::now();
                    }
                }
                () = sleep_until(wake) => self.on_time().await,
            }
        }
    }

    /// Cancel safe: a message is taken from the route only to be returned.
    pub(crate) async fn last(&mut self) -> Option<Message> {
        self.room = 0;
        if !self.connection.is_connected() {
            return None;
        }
        loop {
            while let Some(event) = self.ready() {
                if let DeliveryEvent::Delivery(message) = event {
                    return Some(message);
                }
            }
            if self.closed {
                // What waited at the gate was never begun either.
                let held = self.order.as_mut().map(|order| order.gate.empty()).unwrap_or_default();
                if held.is_empty() {
                    return None;
                }
                self.events.extend(held.into_iter().map(DeliveryEvent::Delivery));
                continue;
            }
            if !self.draining {
                // Let what is on its way arrive, then have the server forget the inbox, and with it the open requests.
                let quiet = Instant::now() + QUIET;
                if self.requests.outstanding() > 0
                    && timeout_at(quiet, self.route.take(&mut self.arrived)).await.is_ok()
                {
                    continue;
                }
                if let Some(seat) = &self.seat {
                    self.connection.routes.give_up(seat, &self.route);
                }
                self.draining = true;
            }
            if timeout(DRAIN, self.route.take(&mut self.arrived)).await.is_err() {
                self.closed = true;
            }
        }
    }

    /// Sends a request when half of the room is free, so that the next batch is under way while this one arrives.
    async fn ask(&mut self) {
        if self.closed || self.trouble.is_some() {
            return;
        }
        if !self.connection.is_connected() {
            // A request would only queue up, and ask an inbox that is given up by then.
            return self.fail("not connected", false);
        }
        if self.stale {
            let epoch = *self.epoch.borrow();
            if let Err(error) = Box::pin(self.take_seat(epoch)).await {
                return self.fail(&chain(&error), false);
            }
            self.requests.forget();
            self.stale = false;
        }
        self.requests.prune();
        let (room, outstanding) = (self.room_now(), self.requests.outstanding());
        if outstanding > room / 2 || outstanding >= room {
            return;
        }
        // All handlers together never ask for more than the client can hold.
        let share = (CAPACITY / 2 / self.connection.routes.len().max(1)).max(1);
        let batch = (room - outstanding).min(self.max_batch).min(share);
        // One for hundreds of messages, and too large to be carried along by an idle handler.
        Box::pin(self.request(batch)).await;
    }

    async fn request(&mut self, batch: usize) {
        let mut request = format!(
            r#"{{"batch":{batch},"expires":{},"idle_heartbeat":{}"#,
            self.expires.as_nanos(),
            self.heartbeat().as_nanos()
        );
        self.add_pin(&mut request);
        request.push('}');
        let Some(seat) = &self.seat else { return };
        let reply = seat.reply(&self.route, self.requests.next_number());
        let sent =
            self.connection.client().publish_with_reply(self.next_subject.clone(), reply, Bytes::from(request)).await;
        if let Err(error) = sent {
            return self.fail(&chain(&error), false);
        }
        if self.requests.outstanding() == 0 {
            self.last_heard = Instant::now();
        }
        if let Some(order) = &mut self.order {
            order.kept();
        }
        self.requests.sent(batch, self.expires, self.heartbeat());
    }

    /// How many messages may be on their way.
    fn room_now(&self) -> usize {
        match &self.order {
            Some(order) if !order.gate.is_open() => order.gate.room(),
            _ => self.room,
        }
    }

    /// Half of the time a request lives is the longest that the server accepts.
    fn heartbeat(&self) -> Duration {
        (self.expires / 2).min(LONGEST_HEARTBEAT)
    }

    /// When the server has been silent for too long.
    fn silent_at(&self) -> Instant {
        // By the requests that are open: the next one may be to hear of it more often.
        self.last_heard + self.requests.heartbeat().unwrap_or(self.heartbeat()) * 2
    }

    /// When something is to be done even if nothing arrives.
    fn wake(&self) -> Instant {
        let far = Instant::now() + Duration::from_secs(3600);
        let order = self.order.as_ref().and_then(|order| order.wake()).unwrap_or(far);
        let pull = match &self.trouble {
            // Someone else wakes us when the looking ends.
            Some(trouble) if trouble.looking.is_some() => far,
            Some(trouble) => trouble.wait_until,
            None if self.requests.outstanding() == 0 => far,
            None => {
                let silent = self.silent_at();
                self.requests.first_end().map_or(silent, |ends| silent.min(ends))
            }
        };
        pull.min(order)
    }

    async fn on_time(&mut self) {
        let now = Instant::now();
        let silent = self.requests.outstanding() > 0 && self.silent_at() <= now;
        match &mut self.trouble {
            Some(trouble) if trouble.looking.is_none() && trouble.wait_until <= now => {
                if trouble.look {
                    let (connection, handler, source) =
                        (self.connection.clone(), self.handler.clone(), self.source.clone());
                    let floor = self.floor;
                    trouble.looking = Some(Box::pin(async move {
                        let restored = async {
                            let start = match floor {
                                // A work queue has forgotten what was handled, and delivers all it has or nothing (10101).
                                Some(floor) if !source.work_queue => connection.start_sequence(&source, floor).await?,
                                _ => None,
                            };
                            restore_consumer(
                                &Transport::Nats(connection.clone()),
                                &handler.declaration.name,
                                &source,
                                start,
                            )
                            .await
                        };
                        // A cluster that is electing does not answer; then a request is the better question.
                        timeout(LOOK, restored)
                            .await
                            .unwrap_or_else(|_| Err(Error::new(ErrorKind::Timeout, "no answer")))
                    }));
                } else {
                    self.trouble = None;
                }
            }
            Some(_) => {}
            None if silent => {
                self.requests.forget();
                self.stale = true;
                self.fail("the server sends no heartbeats; it is away, or the user may not publish to `$JS.API.CONSUMER.MSG.NEXT.>`", false);
            }
            None => self.requests.prune(),
        }
        self.keep_order(now).await;
    }

    /// The consumer was looked for: go on, or say why not.
    fn looked(&mut self, result: Result<(), Error>) {
        self.trouble = None;
        match result {
            Ok(()) => {}
            // Without the permission to look we can only try.
            Err(error) if error.kind() == ErrorKind::Timeout => {
                tracing::debug!(handler = self.handler.declaration.name, "cannot look for the consumer: {error}");
            }
            Err(error) => self.fail(&chain(&error), true),
        }
    }

    /// Counts a delivery, and gives it back if it may be handled now.
    fn deliver(&mut self, message: Message) -> Option<Message> {
        self.requests.delivered();
        self.expires = self.shortest_expires;
        self.well();
        self.want_floor();
        let Some(order) = &mut self.order else { return Some(message) };
        if order.gate.counts_anew(&message) {
            self.replaced();
        }
        self.order.as_mut().and_then(|order| order.pass(message))
    }

    /// Begins to read how far the consumer has come, if that is due.
    fn want_floor(&mut self) {
        if self.next_floor.is_some_and(|next| next <= self.last_heard) {
            self.next_floor = Some(self.last_heard + FLOOR_PERIOD);
            self.reading_floor = Some(read_floor(self.connection.clone(), self.source.clone()));
        }
    }

    fn read_floor(&mut self, result: Result<Floor, Error>) {
        self.reading_floor = None;
        match result {
            Ok(floor) => self.floor = Some(floor),
            Err(error) if error.kind() == ErrorKind::Timeout => {
                // The user may not ask, or the server is away; in both cases asking on costs more than it gives.
                tracing::debug!(
                    handler = self.handler.declaration.name,
                    "how far the consumer has come is not known: {error}"
                );
                self.next_floor = None;
            }
            Err(_) => {}
        }
    }

    /// The advisory `io.nats.jetstream.advisory.v1.max_deliver` (`jetstream_events.go`).
    fn given_up(&mut self, advisory: &async_nats::Message) {
        #[derive(serde::Deserialize)]
        struct MaxDeliver {
            stream_seq: u64,
            deliveries: u64,
        }
        match serde_json::from_slice(&advisory.payload) {
            Ok(MaxDeliver { stream_seq, deliveries }) => {
                self.events.push_back(DeliveryEvent::GivenUp { sequence: stream_seq, delivered: deliveries });
            }
            Err(error) => tracing::warn!(
                handler = self.handler.declaration.name,
                "cannot read an advisory of the server: {error}"
            ),
        }
    }

    /// What the server says about a request; the texts are its own (`consumer.go`, `jetstream_api.go`).
    fn status(&mut self, number: u64, status: StatusCode, message: &async_nats::Message) {
        let text = message.description.as_deref().unwrap_or_default();
        let Some(batch) = self.requests.batch(number).or((number == KEEP && status.as_u16() == 423).then_some(0))
        else {
            // It belongs to a request that was given up.
            return;
        };
        let pending =
            message.headers.as_ref().and_then(|headers| headers.get("Nats-Pending-Messages")?.as_str().parse().ok());
        let left = pending.unwrap_or(batch);
        match status.as_u16() {
            100 => self.well(),
            404 | 408 => {
                self.requests.end(number, left);
                self.well();
                if left == batch {
                    // Nothing came: whoever has nothing to do shall ask seldom, and hold no memory.
                    self.expires = self.longest_expires;
                    self.arrived.shrink_to_fit();
                    self.events.shrink_to_fit();
                    self.route.shrink();
                }
            }
            409 if text.contains("Batch Completed") || text.contains("Message Size Exceeds") => {
                self.requests.end(number, left);
            }
            409 if text.contains("Leadership Change") || text.contains("Server Shutdown") => {
                // All requests are gone with the leader.
                self.requests.forget();
                self.fail(text, false);
            }
            409 if text.contains("Consumer Deleted") => {
                self.requests.forget();
                self.replaced();
                self.fail("the consumer was deleted", true);
            }
            409 if text.contains("Exceeded MaxRequestBatch") => {
                self.requests.end(number, left);
                self.max_batch =
                    text.rsplit(' ').next().and_then(|limit| limit.parse().ok()).unwrap_or(1).clamp(1, MAX_BATCH);
            }
            409 if text.contains("Exceeded MaxRequestExpires") => {
                self.requests.end(number, left);
                self.expires = (self.expires / 2).max(SHORTEST_EXPIRES);
                self.longest_expires = self.expires;
                self.shortest_expires = self.shortest_expires.min(self.expires);
                if self.expires == SHORTEST_EXPIRES {
                    self.fail(text, false);
                }
            }
            423 => {
                // Another replica is the active one by now, or nobody; what is in hand here is its to have.
                self.requests.forget();
                if let Some(order) = &mut self.order {
                    order.unpinned();
                }
                self.events.push_back(DeliveryEvent::Regathering);
                self.well();
            }
            // Nobody takes requests: the consumer is gone, or its leader is away.
            503 => {
                self.requests.end(number, left);
                let again = self.reason.is_some();
                self.fail("no consumer answers", again);
            }
            _ => {
                self.requests.end(number, left);
                self.fail(&format!("{status} {text}"), true);
            }
        }
    }

    /// Waits before the next request, and says why if that is news.
    fn fail(&mut self, reason: &str, look: bool) {
        if self.reason.as_deref() != Some(reason) {
            tracing::warn!(
                handler = self.handler.declaration.name,
                stream = self.source.stream,
                "no messages for now: {reason}"
            );
            self.reason = Some(reason.to_owned());
            self.events.push_back(DeliveryEvent::Recovering(reason.to_owned()));
        }
        let known = self.trouble.take();
        self.trouble = Some(Recovery {
            wait_until: Instant::now() + self.backoff.next(),
            look: look || known.as_ref().is_some_and(|known| known.look),
            looking: known.and_then(|known| known.looking),
        });
    }

    /// The server has answered a request.
    fn well(&mut self) {
        if self.reason.take().is_some() {
            self.backoff.reset();
            tracing::info!(
                handler = self.handler.declaration.name,
                stream = self.source.stream,
                "messages can come again"
            );
            self.events.push_back(DeliveryEvent::Running);
        }
    }
}

fn read_floor(connection: Arc<Connection>, source: Arc<Binding>) -> BoxFuture<'static, Result<Floor, Error>> {
    Box::pin(async move { connection.floor(&source).await })
}
