//! Where deliveries arrive: inboxes that many handlers share, and the routes from there to each handler.
//!
//! A delivery has the subject on which it was published and a status that of the request it belongs to,
//! so a delivery finds its handler by the consumer in its ack subject, and a status by a token of its inbox.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::task::{Context, Poll, Waker};

use async_nats::{Client, Message, StatusCode, Subject, Subscriber};
use bytes::Bytes;
use futures::StreamExt as _;
use futures::task::AtomicWaker;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::error::{Error, ErrorKind};
use crate::message::{Info, Message as Delivery};
use crate::sync::lock;

/// How many handlers share one inbox: a subscription costs kilobytes, and when one of them stops the others have to move.
const SHARED_BY: usize = 64;

/// What comes before stream and consumer in the subject of an advisory (`jetstream_api.go`).
const MAX_DELIVERIES: &str = "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.";

/// Something for one handler.
#[derive(Debug)]
pub(super) enum Arrival {
    Delivery(Delivery),
    /// What the server says about the request of this number.
    Status(u64, StatusCode, Box<Message>),
    /// The server's word on a message that it has given up.
    Advisory(Box<Message>),
    /// The inbox is about to close, for another handler stops: ask elsewhere.
    Moving,
    /// Nothing more comes to the inbox.
    Closed,
}

/// What has arrived for one handler.
#[derive(Debug)]
pub(super) struct Route {
    number: u64,
    /// `<stream>.<consumer>`, as it stands in ack subjects and advisories.
    consumer: String,
    inbox: AtomicU64,
    queue: Mutex<VecDeque<Arrival>>,
    waker: AtomicWaker,
}

impl Route {
    fn is_at(&self, inbox: u64) -> bool {
        self.inbox.load(Ordering::Relaxed) == inbox
    }

    fn push(&self, arrival: Arrival) {
        let mut queue = self.queue();
        if queue.capacity() == 0 {
            // An idle handler gets a heartbeat now and then, and has no use for the room that comes with a first entry.
            queue.reserve_exact(1);
        }
        queue.push_back(arrival);
        let first = queue.len() == 1;
        drop(queue);
        if first {
            self.waker.wake();
        }
    }

    /// Waits until something is there, and puts all of it into `arrived`, which must be empty.
    ///
    /// Cancel safe: what is not in `arrived` stays.
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

    /// Gives back the memory of a handler that has nothing to do.
    pub(super) fn shrink(&self) {
        self.queue().shrink_to_fit();
    }

    fn queue(&self) -> MutexGuard<'_, VecDeque<Arrival>> {
        lock(&self.queue)
    }
}

/// All routes and inboxes of a connection.
#[derive(Debug, Default)]
pub(super) struct Routes {
    table: Mutex<Table>,
    /// Held while an inbox is looked for or made, so that many handlers do not make one each.
    inboxes: tokio::sync::Mutex<Vec<Weak<Inbox>>>,
    advisories: tokio::sync::Mutex<HashMap<String, Weak<Advisories>>>,
    last_number: AtomicU64,
}

#[derive(Debug, Default)]
struct Table {
    /// Mostly one each; where two workers of a process share a queue, each has an inbox of its own.
    by_consumer: HashMap<String, Vec<Arc<Route>>>,
    by_number: HashMap<u64, Arc<Route>>,
}

/// One subscription, and the task that reads it.
pub(super) struct Inbox {
    number: u64,
    subject: String,
    epoch: u64,
    users: AtomicUsize,
    closing: CancellationToken,
    _reader: AbortOnDropHandle<()>,
}

impl fmt::Debug for Inbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Inbox").field(&self.subject).finish()
    }
}

/// The advisories of all consumers of one stream.
#[derive(Debug)]
pub(super) struct Advisories {
    _reader: AbortOnDropHandle<()>,
}

/// A handler's seat at an inbox.
#[derive(Debug)]
pub(super) struct InboxLease(Arc<Inbox>);

impl InboxLease {
    fn take(inbox: Arc<Inbox>, route: &Route) -> Self {
        inbox.users.fetch_add(1, Ordering::Relaxed);
        route.inbox.store(inbox.number, Ordering::Relaxed);
        Self(inbox)
    }

    /// Where the server answers the request of this number.
    pub(super) fn reply(&self, route: &Route, request: u64) -> String {
        format!("{}.{}.{request}", self.0.subject, route.number)
    }
}

impl Drop for InboxLease {
    fn drop(&mut self) {
        self.0.users.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Routes {
    /// The route of a handler: from now on what the server delivers for this consumer goes there.
    pub(super) fn open(&self, stream: &str, consumer: &str) -> Arc<Route> {
        let route = Arc::new(Route {
            number: self.last_number.fetch_add(1, Ordering::Relaxed),
            consumer: format!("{stream}.{consumer}"),
            inbox: AtomicU64::new(u64::MAX),
            queue: Mutex::default(),
            waker: AtomicWaker::new(),
        });
        let mut table = self.table();
        table.by_consumer.entry(route.consumer.clone()).or_default().push(route.clone());
        table.by_number.insert(route.number, route.clone());
        route
    }

    pub(super) fn close(&self, route: &Route) {
        let mut table = self.table();
        table.by_number.remove(&route.number);
        let Some(routes) = table.by_consumer.get_mut(&route.consumer) else { return };
        routes.retain(|known| known.number != route.number);
        if routes.is_empty() {
            table.by_consumer.remove(&route.consumer);
        }
    }

    /// How many handlers there are.
    pub(super) fn len(&self) -> usize {
        self.table().by_number.len()
    }

    /// A seat at an inbox that was made on this connection (`epoch`), and is not the one that is left.
    ///
    /// Cancel safe: a subscription that was made for nothing is given up.
    pub(super) async fn seat(
        self: &Arc<Self>,
        client: &Client,
        route: &Route,
        epoch: u64,
        left: Option<&InboxLease>,
    ) -> Result<InboxLease, Error> {
        let mut inboxes = self.inboxes.lock().await;
        inboxes.retain(|inbox| inbox.strong_count() > 0);
        let free = inboxes.iter().filter_map(Weak::upgrade).find(|inbox| {
            inbox.epoch == epoch
                && !inbox.closing.is_cancelled()
                && inbox.users.load(Ordering::Relaxed) < SHARED_BY
                && left.is_none_or(|left| left.0.number != inbox.number)
                && !self.table().serves(inbox.number, &route.consumer)
        });
        if let Some(inbox) = free {
            return Ok(InboxLease::take(inbox, route));
        }
        let subject = client.new_inbox();
        let subscriber = subscribe(client, format!("{subject}.*.*")).await?;
        let (number, closing) = (self.last_number.fetch_add(1, Ordering::Relaxed), CancellationToken::new());
        let reader = Reader { routes: self.clone(), client: client.clone(), inbox: number, strays: Vec::new() };
        let reader = tokio::spawn(reader.run(subscriber, closing.clone()));
        let inbox = Arc::new(Inbox {
            number,
            subject,
            epoch,
            users: AtomicUsize::new(0),
            closing,
            _reader: AbortOnDropHandle::new(reader),
        });
        inboxes.push(Arc::downgrade(&inbox));
        Ok(InboxLease::take(inbox, route))
    }

    /// Has the server forget an inbox, and with it the open requests; the other handlers at it move elsewhere.
    ///
    /// There is no other way to take a request back. Nobody takes a seat there any more.
    pub(super) fn give_up(&self, seat: &InboxLease, route: &Route) {
        if seat.0.closing.is_cancelled() {
            return;
        }
        seat.0.closing.cancel();
        for other in self.at(seat.0.number) {
            if other.number != route.number {
                other.push(Arrival::Moving);
            }
        }
    }

    /// The server's word on messages of this stream that it has given up.
    pub(super) async fn advisories(self: &Arc<Self>, client: &Client, stream: &str) -> Result<Arc<Advisories>, Error> {
        let mut all = self.advisories.lock().await;
        all.retain(|_, advisories| advisories.strong_count() > 0);
        if let Some(advisories) = all.get(stream).and_then(Weak::upgrade) {
            return Ok(advisories);
        }
        let mut subscriber = subscribe(client, format!("{MAX_DELIVERIES}{stream}.*")).await?;
        let routes = self.clone();
        let reader = tokio::spawn(async move {
            while let Some(message) = subscriber.next().await {
                let consumer = message.subject.strip_prefix(MAX_DELIVERIES).unwrap_or_default();
                let route = routes.table().by_consumer.get(consumer).and_then(|routes| routes.first()).cloned();
                if let Some(route) = route {
                    route.push(Arrival::Advisory(Box::new(message)));
                }
            }
        });
        let advisories = Arc::new(Advisories { _reader: AbortOnDropHandle::new(reader) });
        all.insert(stream.to_owned(), Arc::downgrade(&advisories));
        Ok(advisories)
    }

    /// The handlers at an inbox.
    fn at(&self, inbox: u64) -> Vec<Arc<Route>> {
        let table = self.table();
        table.by_number.values().filter(|route| route.is_at(inbox)).cloned().collect()
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        lock(&self.table)
    }
}

/// Reads one inbox, and gives each handler what is its own.
struct Reader {
    routes: Arc<Routes>,
    client: Client,
    inbox: u64,
    /// Deliveries for a handler that is gone.
    strays: Vec<Subject>,
}

impl Reader {
    async fn run(mut self, mut subscriber: Subscriber, closing: CancellationToken) {
        let mut draining = false;
        loop {
            tokio::select! {
                biased;
                message = subscriber.next() => match message {
                    Some(message) => self.route(message, &mut subscriber),
                    None => break,
                },
                () = closing.cancelled(), if !draining => {
                    draining = true;
                    subscriber.drain().await.ok();
                }
            }
            for stray in self.strays.drain(..) {
                // Somebody else can have it at once, and not only after its `ack_wait`.
                self.client.publish(stray, Bytes::from_static(b"-NAK")).await.ok();
            }
        }
        for route in self.routes.at(self.inbox) {
            route.push(Arrival::Closed);
        }
    }

    /// Gives out a message and all that have arrived with it.
    fn route(&mut self, first: Message, subscriber: &mut Subscriber) {
        let table = self.routes.table();
        // Most come in runs for one handler, whose queue stays locked for as long as the run goes on.
        let mut run: Option<Run<'_>> = None;
        let mut task = Context::from_waker(Waker::noop());
        let mut next = Poll::Ready(Some(first));
        while let Poll::Ready(Some(mut message)) = next {
            match message.status {
                // A stored message can have a status line too; the server's own words have nothing to reply to.
                Some(status) if message.reply.is_none() => {
                    run = None;
                    table.tell(status, message);
                }
                // The ack subject is moved and not cloned, which would cost an allocation.
                _ => match message.reply.take().map(|ack_subject| match &run {
                    Some(run) => run.like.like(ack_subject),
                    None => Err(ack_subject),
                }) {
                    Some(Ok(info)) => {
                        let queue = run.as_mut().map(|run| &mut run.queue);
                        queue.expect("it has told how to read the ack subject").push_back(arrival(message, info));
                    }
                    Some(Err(ack_subject)) => match Info::parse(ack_subject) {
                        Some(info) => {
                            // Its queue may be the same one, where the form of the ack subjects has changed.
                            drop(run.take());
                            run = table.find(info.source(), self.inbox).map(|route| Run::begin(route, info.clone()));
                            match &mut run {
                                Some(run) => run.queue.push_back(arrival(message, info)),
                                None => self.strays.push(info.into_ack_subject()),
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

/// Deliveries for one handler, one after the other.
struct Run<'a> {
    route: &'a Route,
    queue: MutexGuard<'a, VecDeque<Arrival>>,
    /// The first of them, by which the others are read.
    like: Info,
}

impl<'a> Run<'a> {
    fn begin(route: &'a Arc<Route>, like: Info) -> Self {
        Self { route, queue: route.queue(), like }
    }
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        self.route.waker.wake();
    }
}

impl Table {
    /// Whether a handler of this consumer is at this inbox.
    fn serves(&self, inbox: u64, consumer: &str) -> bool {
        let mut routes = self.by_consumer.get(consumer).into_iter().flatten();
        routes.any(|route| route.is_at(inbox))
    }

    /// Whose a delivery of this consumer is that has come to this inbox.
    fn find(&self, consumer: &str, inbox: u64) -> Option<&Arc<Route>> {
        let routes = self.by_consumer.get(consumer)?;
        match &routes[..] {
            // It may have moved meanwhile, and still gets what it has asked for here.
            [only] => Some(only),
            several => several.iter().find(|route| route.is_at(inbox)),
        }
    }

    /// Tells a handler what the server says about its request.
    fn tell(&self, status: StatusCode, message: Message) {
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
        Error::new(ErrorKind::Closed, "cannot subscribe to what the server sends to handlers").with_source(error)
    })
}

fn arrival(message: Message, info: Info) -> Arrival {
    let Message { subject, payload, headers, .. } = message;
    Arrival::Delivery(Delivery { subject, payload, headers: headers.map(Arc::new), info })
}

fn ignored(message: &Message) {
    tracing::warn!(subject = %message.subject, "ignored a message that no stream delivered");
}
