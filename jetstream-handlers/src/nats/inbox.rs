//! Inboxes that many handlers share, and the routes from there to each handler.
//!
//! The subject of a delivery is the one on which its message was published, so a delivery is routed by the consumer in
//! its ack subject. The subject of a status is the reply subject of its request, so a status is routed by a token of
//! it.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::task::{Context, Poll, Waker};

use async_nats::{Client, Message, StatusCode, Subject, Subscriber};
use futures::StreamExt as _;
use futures::task::AtomicWaker;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::AbortOnDropHandle;

use super::Connection;
use super::violations::Violation;
use crate::delivery::GivenUpReports;
use crate::error::{Error, ErrorKind};
use crate::message::{Info, Message as Delivery, ack_subject};
use crate::sync::lock;

/// The maximum number of handlers that share one inbox.
///
/// Sharing saves memory, because a subscription takes kilobytes; but when one handler stops, all others at its inbox
/// must lease another one.
const MAX_SHARED: usize = 64;

/// The subject of a max-deliveries advisory, without its last tokens: stream and consumer (`jetstream_api.go`).
const MAX_DELIVERIES: &str = "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.";

/// The subject of an advisory about a deleted stream, without its last token, the stream.
const STREAM_DELETED: &str = "$JS.EVENT.ADVISORY.STREAM.DELETED.";

/// The subject of an advisory about a deleted consumer, without its last tokens: stream and consumer.
const CONSUMER_DELETED: &str = "$JS.EVENT.ADVISORY.CONSUMER.DELETED.";

/// The subject of an advisory about a consumer that is paused or resumed, without its last tokens: stream and consumer.
const PAUSED: &str = "$JS.EVENT.ADVISORY.CONSUMER.PAUSE.";

/// An entry in the queue of one handler.
#[derive(Debug)]
pub(super) enum Arrival {
    Delivery(Delivery),
    /// A status of the request with this number.
    Status(u64, StatusCode, Box<Message>),
    /// Messages are reported to have reached `max_deliver`; [`Route::take_reports`] returns them.
    MaxDeliveries,
    /// The inbox is about to close because another handler stops; the handler must lease another one.
    Moving,
    /// The stream or the consumer was deleted, and may have been created again.
    Deleted,
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
pub(super) struct Route {
    number: u64,
    /// `<stream>.<consumer>`, as in ack subjects and advisories.
    consumer: String,
    inbox: AtomicU64,
    queue: Mutex<VecDeque<Arrival>>,
    /// Apart from the queue, because everyone may send any number of them.
    reports: Mutex<GivenUpReports>,
    /// `true` while [`Arrival::Paused`] is in the queue.
    is_pause_reported: AtomicBool,
    waker: AtomicWaker,
}

impl Route {
    fn is_at(&self, inbox: u64) -> bool {
        self.inbox.load(Ordering::Relaxed) == inbox
    }

    fn push(&self, arrival: Arrival) {
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

    /// Waits until the queue has entries, and moves all of them into `arrived`, which must be empty.
    ///
    /// # Cancel safety
    ///
    /// An entry is in `arrived` or stays in the queue.
    pub(super) async fn take(&self, arrived: &mut VecDeque<Arrival>) {
        std::future::poll_fn(|task| {
            self.waker.register(task.waker());
            let mut queue = self.queue();
            if queue.is_empty() {
                return Poll::Pending;
            }
            std::mem::swap(&mut *queue, arrived);
            Poll::Ready(())
        })
        .await;
    }

    /// Adds the advisory `io.nats.jetstream.advisory.v1.max_deliver` about a message (`jetstream_events.go`).
    fn report(&self, advisory: &[u8]) {
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
    pub(super) fn take_reports(&self) -> GivenUpReports {
        std::mem::take(&mut *lock(&self.reports))
    }

    /// Adds the report that the consumer is paused or resumed, unless it is in the queue.
    fn report_pause(&self) {
        if !self.is_pause_reported.swap(true, Ordering::Relaxed) {
            self.push(Arrival::Paused);
        }
    }

    /// Accepts another report that the consumer is paused or resumed.
    pub(super) fn pause_taken(&self) {
        self.is_pause_reported.store(false, Ordering::Relaxed);
    }

    /// Releases the memory of an idle handler.
    pub(super) fn shrink(&self) {
        self.queue().shrink_to_fit();
    }

    fn queue(&self) -> MutexGuard<'_, VecDeque<Arrival>> {
        lock(&self.queue)
    }
}

/// The routes and inboxes of a connection.
#[derive(Debug, Default)]
pub(super) struct Routes {
    table: Mutex<Table>,
    /// Held while an inbox is found or created, so that handlers that start together share one.
    inboxes: tokio::sync::Mutex<Vec<Weak<Inbox>>>,
    advisories: tokio::sync::Mutex<HashMap<String, Weak<Advisories>>>,
    deletions: tokio::sync::Mutex<Weak<Advisories>>,
    last_number: AtomicU64,
}

#[derive(Debug, Default)]
struct Table {
    /// Usually one route per consumer; if two workers of a process read the same consumer, each has its own inbox.
    by_consumer: HashMap<String, Vec<Arc<Route>>>,
    by_number: HashMap<u64, Arc<Route>>,
}

/// A subscription that a task reads.
pub(super) struct Inbox {
    number: u64,
    subject: String,
    epoch: u64,
    leases: AtomicUsize,
    closing: CancellationToken,
    /// Cancelled when everything that has arrived at the inbox is routed, and nothing more can arrive.
    ended: CancellationToken,
}

impl Drop for Inbox {
    fn drop(&mut self) {
        // The reader ends once it has routed what the server has sent already.
        self.closing.cancel();
    }
}

impl fmt::Debug for Inbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Inbox").field(&self.subject).finish()
    }
}

/// A subscription to advisories, and the task that reads it.
#[derive(Debug)]
pub(super) struct Advisories {
    reader: AbortOnDropHandle<()>,
}

impl Advisories {
    /// Returns `false` if the client that delivered them has ended.
    fn is_open(&self) -> bool {
        !self.reader.is_finished()
    }
}

/// The inboxes that a handler has leased, each with the incarnation of its consumer at that time.
#[derive(Debug, Default)]
pub(super) struct Inboxes(VecDeque<(u32, u32)>);

impl Inboxes {
    /// The maximum number of former inboxes that are remembered; a message of an older one does not arrive any more.
    const MAX: usize = 16;

    /// Adds the inbox that was leased last.
    pub(super) fn add(&mut self, inbox: u32, incarnation: u32) {
        self.0.truncate(Self::MAX);
        self.0.push_front((inbox, incarnation));
    }

    /// Returns the incarnation whose deliveries arrive at an inbox.
    pub(super) fn incarnation(&self, inbox: u32) -> Option<u32> {
        self.0.iter().find(|(known, _)| *known == inbox).map(|(_, incarnation)| *incarnation)
    }
}

/// A handler's share of an inbox.
#[derive(Debug)]
pub(super) struct InboxLease(Arc<Inbox>);

impl InboxLease {
    fn new(inbox: Arc<Inbox>, route: &Route) -> Self {
        inbox.leases.fetch_add(1, Ordering::Relaxed);
        route.inbox.store(inbox.number, Ordering::Relaxed);
        Self(inbox)
    }

    /// Returns the number of the inbox.
    pub(super) fn number(&self) -> u32 {
        self.0.tag()
    }

    /// Returns a token that is cancelled when nothing more can arrive at the inbox.
    pub(super) fn ended(&self) -> CancellationToken {
        self.0.ended.clone()
    }

    /// Returns the reply subject of the request with this number.
    pub(super) fn reply(&self, route: &Route, request: u64) -> String {
        format!("{}.{}.{request}", self.0.subject, route.number)
    }
}

impl Inbox {
    /// Returns the number by which a delivery names its inbox, in place of an incarnation.
    fn tag(&self) -> u32 {
        tag(self.number)
    }
}

impl Drop for InboxLease {
    fn drop(&mut self) {
        self.0.leases.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Routes {
    /// Opens the route to a handler; from now on it receives what the server delivers for this consumer.
    pub(super) fn open(&self, stream: &str, consumer: &str) -> Arc<Route> {
        let route = Arc::new(Route {
            number: self.last_number.fetch_add(1, Ordering::Relaxed),
            consumer: format!("{stream}.{consumer}"),
            inbox: AtomicU64::new(u64::MAX),
            queue: Mutex::default(),
            reports: Mutex::default(),
            is_pause_reported: AtomicBool::new(false),
            waker: AtomicWaker::new(),
        });
        let mut table = self.table();
        table.by_consumer.entry(route.consumer.clone()).or_default().push(route.clone());
        table.by_number.insert(route.number, route.clone());
        route
    }

    /// Closes the route to a handler.
    pub(super) fn close(&self, route: &Route) {
        let mut table = self.table();
        table.by_number.remove(&route.number);
        let Some(routes) = table.by_consumer.get_mut(&route.consumer) else { return };
        routes.retain(|known| known.number != route.number);
        if routes.is_empty() {
            table.by_consumer.remove(&route.consumer);
        }
    }

    /// Returns the number of handlers.
    pub(super) fn len(&self) -> usize {
        self.table().by_number.len()
    }

    /// Leases an inbox that was created on this connection (`epoch`) and is none of the `former` ones.
    ///
    /// # Cancel safety
    ///
    /// A subscription that was not leased is dropped.
    pub(super) async fn lease(
        self: &Arc<Self>,
        connection: &Arc<Connection>,
        route: &Route,
        epoch: u64,
        former: &Inboxes,
    ) -> Result<InboxLease, Error> {
        let mut inboxes = self.inboxes.lock().await;
        inboxes.retain(|inbox| inbox.strong_count() > 0);
        let free = inboxes.iter().filter_map(Weak::upgrade).find(|inbox| {
            inbox.epoch == epoch
                && !inbox.closing.is_cancelled()
                && inbox.leases.load(Ordering::Relaxed) < MAX_SHARED
                && former.incarnation(inbox.tag()).is_none()
                && !self.table().serves(inbox.number, &route.consumer)
        });
        if let Some(inbox) = free {
            return Ok(InboxLease::new(inbox, route));
        }
        let client = connection.client();
        let subject = client.new_inbox();
        let subscriber = subscribe(&client, format!("{subject}.*.*")).await?;
        let (number, closing) = (self.last_number.fetch_add(1, Ordering::Relaxed), CancellationToken::new());
        let connection = Arc::downgrade(connection);
        let ended = CancellationToken::new();
        let end = ended.clone().drop_guard();
        let reader = Reader { routes: self.clone(), connection, epoch, inbox: number, orphaned: Vec::new(), _end: end };
        tokio::spawn(reader.run(subscriber, closing.clone()));
        let inbox = Arc::new(Inbox { number, subject, epoch, leases: AtomicUsize::new(0), closing, ended });
        inboxes.push(Arc::downgrade(&inbox));
        Ok(InboxLease::new(inbox, route))
    }

    /// Closes an inbox, which cancels the open requests of a handler; the other handlers at the inbox lease another
    /// one.
    ///
    /// JetStream has no request that cancels a pull.
    pub(super) fn close_inbox(&self, lease: &InboxLease, route: &Route) {
        if lease.0.closing.is_cancelled() {
            return;
        }
        lease.0.closing.cancel();
        for other in self.at(lease.0.number) {
            if other.number != route.number {
                other.push(Arrival::Moving);
            }
        }
    }

    /// Subscribes to the advisories about messages of this stream that reached their `max_deliver`.
    pub(super) async fn advisories(self: &Arc<Self>, client: &Client, stream: &str) -> Result<Arc<Advisories>, Error> {
        let mut all = self.advisories.lock().await;
        all.retain(|_, advisories| advisories.strong_count() > 0);
        if let Some(advisories) = all.get(stream).and_then(Weak::upgrade)
            && advisories.is_open()
        {
            return Ok(advisories);
        }
        let mut subscriber = subscribe(client, format!("{MAX_DELIVERIES}{stream}.*")).await?;
        let routes = self.clone();
        let reader = tokio::spawn(async move {
            while let Some(message) = subscriber.next().await {
                let consumer = message.subject.strip_prefix(MAX_DELIVERIES).unwrap_or_default();
                let route = routes.table().by_consumer.get(consumer).and_then(|routes| routes.first()).cloned();
                if let Some(route) = route {
                    route.report(&message.payload);
                }
            }
        });
        let advisories = Arc::new(Advisories { reader: AbortOnDropHandle::new(reader) });
        all.insert(stream.to_owned(), Arc::downgrade(&advisories));
        Ok(advisories)
    }

    /// Subscribes to the advisories about deleted streams and consumers, and about paused consumers.
    pub(super) async fn deletions(self: &Arc<Self>, connection: &Connection) -> Result<Arc<Advisories>, Error> {
        let mut known = self.deletions.lock().await;
        if let Some(advisories) = known.upgrade()
            && advisories.is_open()
        {
            return Ok(advisories);
        }
        let client = connection.client();
        let mut streams = subscribe(&client, format!("{STREAM_DELETED}*")).await?;
        let mut consumers = subscribe(&client, format!("{CONSUMER_DELETED}*.*")).await?;
        let mut paused = subscribe(&client, format!("{PAUSED}*.*")).await?;
        let mut violations = connection.violations.subscribe();
        let next_prefix = format!("{}.CONSUMER.MSG.NEXT.", connection.api_prefix);
        let routes = self.clone();
        let reader = tokio::spawn(async move {
            loop {
                let message = tokio::select! {
                    message = streams.next() => message,
                    message = consumers.next() => message,
                    message = paused.next() => message,
                    violation = violations.recv() => {
                        if let Ok(violation) = violation {
                            routes.denied(&violation, &next_prefix);
                        }
                        continue;
                    }
                };
                let Some(message) = message else { return };
                routes.changed(&message.subject);
            }
        });
        let advisories = Arc::new(Advisories { reader: AbortOnDropHandle::new(reader) });
        *known = Arc::downgrade(&advisories);
        Ok(advisories)
    }

    /// Tells a handler that the user may not send its acks or its pull requests, which begin with `next_prefix`; or all
    /// of them that their inbox is denied.
    fn denied(&self, violation: &Violation, next_prefix: &str) {
        let table = self.table();
        let routes = table.by_number.values();
        let tell = |route: &Arc<Route>| route.push(Arrival::Denied(violation.clone()));
        let ack = Info::parse(Subject::from(&*violation.subject));
        if let Some(consumer) =
            ack.as_ref().map(Info::stream_and_consumer).or(violation.subject.strip_prefix(next_prefix))
        {
            routes.filter(|route| route.consumer == consumer).for_each(tell);
        } else if violation.concerns_inbox() {
            routes.for_each(tell);
        }
    }

    /// Tells the handlers whose stream or consumer was deleted, or whose consumer was paused or resumed, by the subject
    /// of the advisory.
    ///
    /// Everyone can publish an advisory, so the handlers only ask the server about their consumer.
    fn changed(&self, subject: &str) {
        let table = self.table();
        let routes = table.by_number.values();
        if let Some(stream) = subject.strip_prefix(STREAM_DELETED) {
            let of_stream = |route: &&Arc<Route>| route.consumer.split('.').next() == Some(stream);
            routes.filter(of_stream).for_each(|route| route.push(Arrival::Deleted));
        } else if let Some(consumer) = subject.strip_prefix(CONSUMER_DELETED) {
            routes.filter(|route| route.consumer == consumer).for_each(|route| route.push(Arrival::Deleted));
        } else if let Some(consumer) = subject.strip_prefix(PAUSED) {
            routes.filter(|route| route.consumer == consumer).for_each(|route| route.report_pause());
        }
    }

    /// Tells the handlers of a consumer that their stream has replaced messages, as was found in this incarnation.
    pub(super) fn replaced(&self, stream: &str, consumer: &str, incarnation: u32) {
        let routes = self.table().by_consumer.get(&format!("{stream}.{consumer}")).cloned();
        routes.into_iter().flatten().for_each(|route| route.push(Arrival::Replaced(incarnation)));
    }

    /// Returns the routes of the handlers at an inbox.
    fn at(&self, inbox: u64) -> Vec<Arc<Route>> {
        let table = self.table();
        table.by_number.values().filter(|route| route.is_at(inbox)).cloned().collect()
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        lock(&self.table)
    }
}

/// The task that reads one inbox, and routes what arrives.
struct Reader {
    routes: Arc<Routes>,
    connection: Weak<Connection>,
    epoch: u64,
    inbox: u64,
    /// The ack subjects of deliveries for handlers that no longer exist.
    orphaned: Vec<Subject>,
    _end: DropGuard,
}

impl Reader {
    async fn run(mut self, mut subscriber: Subscriber, closing: CancellationToken) {
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

impl Table {
    /// Returns `true` if a handler of this consumer leases this inbox.
    fn serves(&self, inbox: u64, consumer: &str) -> bool {
        let mut routes = self.by_consumer.get(consumer).into_iter().flatten();
        routes.any(|route| route.is_at(inbox))
    }

    /// Returns the route of a delivery of this consumer that arrived at this inbox.
    fn find(&self, consumer: &str, inbox: u64) -> Option<&Arc<Route>> {
        let routes = self.by_consumer.get(consumer)?;
        match &routes[..] {
            // The handler may have leased another inbox since, and still receives what it requested at this one.
            [only] => Some(only),
            several => several.iter().find(|route| route.is_at(inbox)),
        }
    }

    /// Routes a status by the last two tokens of its subject: the route and the request.
    fn route_status(&self, status: StatusCode, message: Message) {
        let mut tokens = message.subject.rsplitn(3, '.').map(str::parse);
        if let (Some(Ok(request)), Some(Ok(route))) = (tokens.next(), tokens.next())
            && let Some(route) = self.by_number.get(&route)
        {
            route.push(Arrival::Status(request, status, Box::new(message)));
        }
    }
}

async fn subscribe(client: &Client, subject: String) -> Result<Subscriber, Error> {
    client.subscribe(subject).await.map_err(|error| {
        Error::new(ErrorKind::Closed, "cannot subscribe to the inbox of the deliveries").with_source(error)
    })
}

/// Returns the number of an inbox as a delivery contains it; the inboxes of one handler never differ by that much.
fn tag(inbox: u64) -> u32 {
    inbox as u32
}

fn arrival(message: Message, mut info: Info, inbox: u64) -> Arrival {
    // Replaced by the incarnation that is read from this inbox.
    info.set_incarnation(tag(inbox));
    let Message { subject, payload, headers, .. } = message;
    Arrival::Delivery(Delivery { subject, payload, headers: headers.map(Arc::new), info, unreadable: None })
}

fn ignored(message: &Message) {
    tracing::warn!(subject = %message.subject, "ignored a message without an ack subject");
}
