//! The pull engine of one handler: asks for what there is room for, and keeps asking whatever happens to the server.
//!
//! Sources: ADR-13 and ADR-37, and `consumer.go` of the server (`processNextMsgRequest`, `checkWaitingForInterest`).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use async_nats::{StatusCode, Subscriber};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::stored::Floor;
use super::{Acker, Connection};
use crate::backoff::Doubling;
use crate::error::{Error, ErrorKind, chain};
use crate::message::{Info, Message};
use crate::provision::restore_consumer;
use crate::subscriber::Handler;
use crate::transport::{self, Delivery, Event, Source, Transport};

/// The most that one request asks for.
const MAX_BATCH: usize = 1000;

/// How long it may take to look for a consumer that does not answer.
const LOOK: Duration = Duration::from_secs(2);

/// The longest time between heartbeats, of which two that are missing mean a silent server.
const LONGEST_HEARTBEAT: Duration = Duration::from_secs(5);

/// The shortest time for which a request is made, should the consumer limit it.
const SHORTEST_EXPIRES: Duration = Duration::from_millis(10);

/// How often it is read how far a busy consumer has come.
const FLOOR_PERIOD: Duration = Duration::from_secs(5);

/// The queue group in which replicas share the advisories.
const QUEUE_GROUP: &str = "jetstream-handlers";

/// How long a stop waits for messages that are on their way.
const QUIET: Duration = Duration::from_millis(50);

/// How long a stop waits for the server's word that nothing more can come.
const DRAIN: Duration = Duration::from_secs(1);

/// How long after its end a request is remembered, in case its status is late.
const LATE: Duration = Duration::from_secs(2);

/// The pulls of one handler.
pub(crate) struct Pull {
    connection: Arc<Connection>,
    handler: Handler,
    source: Source,
    next_subject: String,
    expires: Duration,
    max_batch: usize,

    epoch: watch::Receiver<u64>,
    inbox: String,
    subscriber: Subscriber,
    /// The inbox belongs to pulls that may be dead: take a fresh one before the next request.
    stale: bool,
    /// The server's word on messages that it has given up.
    advisories: Subscriber,

    room: usize,
    /// How many messages the live requests may still bring.
    outstanding: usize,
    requests: BTreeMap<u64, Request>,
    next_number: u64,
    last_heard: Instant,
    /// What the connection had heard in all when the last request was sent.
    heard_at_request: u64,
    /// The client has ended, and nothing will ever come.
    dead: bool,
    /// The server sends no heartbeats: see whether it sends anything.
    silent: bool,

    /// Up to where the consumer had come, should it be deleted; read now and then while messages come.
    floor: Option<Floor>,
    reading_floor: Option<BoxFuture<'static, Result<Floor, Error>>>,
    next_floor: Option<Instant>,

    events: VecDeque<Event>,
    trouble: Option<Trouble>,
    /// Why the handler is unwell; it stays until the server has answered a request.
    reason: Option<String>,
    backoff: Doubling,
    draining: bool,
}

#[derive(Debug)]
struct Request {
    batch: usize,
    ends: Instant,
}

/// Why nothing is asked for now, and what is done about it.
struct Trouble {
    wait_until: Instant,
    /// Whether the consumer is looked for when the wait is over.
    look: bool,
    looking: Option<BoxFuture<'static, Result<(), Error>>>,
}

impl std::fmt::Debug for Pull {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pull")
            .field("source", &self.source)
            .field("outstanding", &self.outstanding)
            .finish_non_exhaustive()
    }
}

impl Pull {
    pub(crate) async fn open(
        connection: Arc<Connection>,
        handler: Handler,
        source: Source,
        expires: Duration,
    ) -> Result<Self, Error> {
        let (inbox, subscriber) = subscribe(&connection).await?;
        let Source { stream, consumer, .. } = &source;
        let advisories = format!("$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.{stream}.{consumer}");
        // One replica is enough; a second would store the same letter under the same id.
        let advisories = connection.client().queue_subscribe(advisories, QUEUE_GROUP.to_owned()).await;
        let advisories = advisories.map_err(|error| {
            Error::new(ErrorKind::Closed, "cannot subscribe to the advisories of a consumer").with_source(error)
        })?;
        Ok(Self {
            next_subject: format!("{}.CONSUMER.MSG.NEXT.{}.{}", connection.api_prefix, source.stream, source.consumer),
            expires,
            max_batch: MAX_BATCH,
            epoch: connection.epoch(),
            inbox,
            subscriber,
            stale: false,
            advisories,
            room: 0,
            outstanding: 0,
            requests: BTreeMap::new(),
            next_number: 0,
            last_heard: Instant::now(),
            heard_at_request: 0,
            dead: false,
            silent: false,
            floor: None,
            reading_floor: source.existed.then(|| read_floor(connection.clone(), source.clone())),
            next_floor: Some(Instant::now()),
            events: VecDeque::new(),
            trouble: None,
            reason: None,
            backoff: Doubling::new(Duration::from_millis(100), Duration::from_secs(2)),
            draining: false,
            connection,
            handler,
            source,
        })
    }

    pub(crate) fn room(&mut self, room: usize) {
        self.room = room;
    }

    /// Cancel safe: what is awaited either leaves no trace when dropped, or is kept in `self`.
    pub(crate) async fn next(&mut self) -> Event {
        loop {
            if let Some(event) = self.events.pop_front() {
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
            tokio::select! {
                biased;
                message = self.subscriber.next(), if !self.dead => match message {
                    Some(message) => self.receive(message),
                    None => {
                        self.dead = true;
                        self.fail("the connection was given up for good", false);
                    }
                },
                result = looking => self.looked(result),
                result = reading_floor => self.read_floor(result),
                Some(advisory) = self.advisories.next(), if !self.dead => self.given_up(&advisory),
                Ok(()) = self.epoch.changed() => {
                    // What was asked of the former connection will not be answered.
                    self.forget_requests();
                    self.stale = true;
                    self.next_floor = Some(Instant::now());
                    if let Some(trouble) = &mut self.trouble {
                        trouble.wait_until = Instant::now();
                    }
                }
                () = sleep_until(wake) => self.on_time(),
            }
        }
    }

    /// Cancel safe: a message is taken from the subscription only to be returned.
    pub(crate) async fn last(&mut self) -> Option<Delivery> {
        self.room = 0;
        if !self.connection.is_connected() {
            return None;
        }
        loop {
            if let Some(event) = self.events.pop_front() {
                match event {
                    Event::Delivery(delivery) => return Some(delivery),
                    Event::Recovering(_) | Event::Running | Event::GivenUp { .. } => continue,
                }
            }
            if !self.draining {
                // Let what is on its way arrive, then have the server forget the inbox, and with it the open requests.
                let quiet = Instant::now() + QUIET;
                if self.outstanding > 0
                    && let Ok(Some(message)) = timeout_at(quiet, self.subscriber.next()).await
                {
                    self.receive(message);
                    continue;
                }
                self.subscriber.drain().await.ok();
                // What the server gives up from now on is for a replica that stays.
                self.advisories.unsubscribe().await.ok();
                self.draining = true;
            }
            match timeout_at(Instant::now() + DRAIN, self.subscriber.next()).await {
                Ok(Some(message)) => self.receive(message),
                Ok(None) | Err(_) => return None,
            }
        }
    }

    /// Sends a request when half of the room is free, so that the next batch is under way while this one arrives.
    async fn ask(&mut self) {
        if self.dead {
            return;
        }
        if self.silent {
            self.connection.leave_if_silent(self.heard_at_request).await;
            self.silent = false;
        }
        if self.trouble.is_some() {
            return;
        }
        if !self.connection.is_connected() {
            // A request would only queue up, and ask an inbox that is given up by then.
            return self.fail("not connected", false);
        }
        if self.stale {
            match subscribe(&self.connection).await {
                Ok((inbox, subscriber)) => {
                    // What has arrived at the old inbox is kept; what has not, nobody can tell of.
                    while let Some(Some(message)) = self.subscriber.next().now_or_never() {
                        self.receive(message);
                    }
                    self.forget_requests();
                    (self.inbox, self.subscriber, self.stale) = (inbox, subscriber, false);
                }
                Err(error) => return self.fail(&chain(&error), false),
            }
        }
        self.prune();
        if self.outstanding > self.room / 2 || self.outstanding >= self.room {
            return;
        }
        let batch = (self.room - self.outstanding).min(self.max_batch);
        let request = format!(
            r#"{{"batch":{batch},"expires":{},"idle_heartbeat":{}}}"#,
            self.expires.as_nanos(),
            self.heartbeat().as_nanos()
        );
        let reply = format!("{}.{}", self.inbox, self.next_number);
        let sent =
            self.connection.client().publish_with_reply(self.next_subject.clone(), reply, Bytes::from(request)).await;
        if let Err(error) = sent {
            return self.fail(&chain(&error), false);
        }
        let now = Instant::now();
        if self.outstanding == 0 {
            self.last_heard = now;
        }
        self.heard_at_request = self.connection.heard();
        self.requests.insert(self.next_number, Request { batch, ends: now + self.expires + LATE });
        self.next_number += 1;
        self.outstanding += batch;
    }

    /// Half of the time a request lives is the longest that the server accepts.
    fn heartbeat(&self) -> Duration {
        (self.expires / 2).min(LONGEST_HEARTBEAT)
    }

    /// When something is to be done even if nothing arrives.
    fn wake(&self) -> Instant {
        match &self.trouble {
            // Someone else wakes us when the looking ends.
            Some(trouble) if trouble.looking.is_some() => Instant::now() + Duration::from_secs(3600),
            Some(trouble) => trouble.wait_until,
            None if self.outstanding == 0 => Instant::now() + Duration::from_secs(3600),
            None => {
                let silent = self.last_heard + self.heartbeat() * 2;
                self.requests.values().map(|request| request.ends).min().map_or(silent, |ends| silent.min(ends))
            }
        }
    }

    fn on_time(&mut self) {
        let now = Instant::now();
        let silent = self.outstanding > 0 && self.last_heard + self.heartbeat() * 2 <= now;
        match &mut self.trouble {
            Some(trouble) if trouble.wait_until <= now => {
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
                            restore_consumer(&Transport::Nats(connection.clone()), &handler, &source, start).await
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
                self.forget_requests();
                self.stale = true;
                self.silent = true;
                self.fail("the server sends no heartbeats; it is away, or the user may not publish to `$JS.API.CONSUMER.MSG.NEXT.>`", false);
            }
            None => self.prune(),
        }
    }

    /// The consumer was looked for: go on, or say why not.
    fn looked(&mut self, result: Result<(), Error>) {
        self.trouble = None;
        match result {
            Ok(()) => {}
            // Without the permission to look we can only try.
            Err(error) if error.kind() == ErrorKind::Timeout => {
                tracing::debug!(handler = self.handler.name, "cannot look for the consumer: {error}");
            }
            Err(error) => self.fail(&chain(&error), true),
        }
    }

    fn receive(&mut self, message: async_nats::Message) {
        self.last_heard = Instant::now();
        match message.status {
            None => self.deliver(message),
            Some(status) => self.status(status, &message),
        }
    }

    fn deliver(&mut self, message: async_nats::Message) {
        self.outstanding = self.outstanding.saturating_sub(1);
        if self.outstanding == 0 {
            self.requests.clear();
        }
        let Some((reply, info)) = message.reply.and_then(|reply| Some((reply.clone(), Info::parse(reply)?))) else {
            tracing::warn!(handler = self.handler.name, subject = %message.subject, "ignored a message that no stream delivered");
            return;
        };
        self.well();
        self.want_floor();
        self.events.push_back(Event::Delivery(Delivery {
            message: Message {
                subject: message.subject,
                payload: message.payload,
                headers: message.headers.map(Arc::new),
                info,
            },
            acker: transport::Acker::Nats(Acker::new(self.connection.clone(), reply)),
        }));
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
                tracing::debug!(handler = self.handler.name, "how far the consumer has come is not known: {error}");
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
                self.events.push_back(Event::GivenUp { sequence: stream_seq, delivered: deliveries });
            }
            Err(error) => tracing::warn!(handler = self.handler.name, "cannot read an advisory of the server: {error}"),
        }
    }

    /// What the server says about a request; the texts are its own (`consumer.go`, `jetstream_api.go`).
    fn status(&mut self, status: StatusCode, message: &async_nats::Message) {
        let text = message.description.as_deref().unwrap_or_default();
        let number = message.subject.rsplit('.').next().and_then(|number| number.parse().ok());
        let Some(request) = number.and_then(|number: u64| self.requests.get(&number)) else {
            // It belongs to a request that was given up.
            return;
        };
        let number = number.expect("it was found among the requests");
        let pending =
            message.headers.as_ref().and_then(|headers| headers.get("Nats-Pending-Messages")?.as_str().parse().ok());
        let left = pending.unwrap_or(request.batch);
        match status.as_u16() {
            100 => self.well(),
            404 | 408 => {
                self.end(number, left);
                self.well();
            }
            409 if text.contains("Batch Completed") || text.contains("Message Size Exceeds") => self.end(number, left),
            409 if text.contains("Leadership Change") || text.contains("Server Shutdown") => {
                // All requests are gone with the leader.
                self.forget_requests();
                self.fail(text, false);
            }
            409 if text.contains("Consumer Deleted") => {
                self.forget_requests();
                self.fail("the consumer was deleted", true);
            }
            409 if text.contains("Exceeded MaxRequestBatch") => {
                self.end(number, left);
                self.max_batch =
                    text.rsplit(' ').next().and_then(|limit| limit.parse().ok()).unwrap_or(1).clamp(1, MAX_BATCH);
            }
            409 if text.contains("Exceeded MaxRequestExpires") => {
                self.end(number, left);
                self.expires = (self.expires / 2).max(SHORTEST_EXPIRES);
                if self.expires == SHORTEST_EXPIRES {
                    self.fail(text, false);
                }
            }
            // Nobody takes requests: the consumer is gone, or its leader is away.
            503 => {
                self.end(number, left);
                let again = self.reason.is_some();
                self.fail("no consumer answers", again);
            }
            _ => {
                self.end(number, left);
                self.fail(&format!("{status} {text}"), true);
            }
        }
    }

    fn end(&mut self, number: u64, left: usize) {
        self.requests.remove(&number);
        self.outstanding = match self.requests.is_empty() {
            true => 0,
            false => self.outstanding.saturating_sub(left),
        };
    }

    fn prune(&mut self) {
        let now = Instant::now();
        let before = self.requests.len();
        self.requests.retain(|_, request| request.ends > now);
        if before > 0 && self.requests.is_empty() {
            self.outstanding = 0;
        }
    }

    fn forget_requests(&mut self) {
        self.requests.clear();
        self.outstanding = 0;
    }

    /// Waits before the next request, and says why if that is news.
    fn fail(&mut self, reason: &str, look: bool) {
        if self.reason.as_deref() != Some(reason) {
            tracing::warn!(handler = self.handler.name, stream = self.source.stream, "no messages for now: {reason}");
            self.reason = Some(reason.to_owned());
            self.events.push_back(Event::Recovering(reason.to_owned()));
        }
        let known = self.trouble.take();
        self.trouble = Some(Trouble {
            wait_until: Instant::now() + self.backoff.next(),
            look: look || known.as_ref().is_some_and(|known| known.look),
            looking: known.and_then(|known| known.looking),
        });
    }

    /// The server has answered a request.
    fn well(&mut self) {
        if self.reason.take().is_some() {
            self.backoff.reset();
            tracing::info!(handler = self.handler.name, stream = self.source.stream, "messages can come again");
            self.events.push_back(Event::Running);
        }
    }
}

fn read_floor(connection: Arc<Connection>, source: Source) -> BoxFuture<'static, Result<Floor, Error>> {
    Box::pin(async move { connection.floor(&source).await })
}

async fn subscribe(connection: &Connection) -> Result<(String, Subscriber), Error> {
    let inbox = connection.client().new_inbox();
    let subscriber = connection.client().subscribe(format!("{inbox}.*")).await;
    let subscriber = subscriber.map_err(|error| {
        Error::new(ErrorKind::Closed, "cannot subscribe to the inbox of a handler").with_source(error)
    })?;
    Ok((inbox, subscriber))
}
