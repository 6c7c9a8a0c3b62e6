//! Inboxes that many handlers share, and the routes from there to each handler.
//!
//! The subject of a delivery is the one on which its message was published, so a delivery is routed by the consumer in
//! its ack subject. The subject of a status is the reply subject of its request, so a status is routed by a token of
//! it.

mod advisories;
mod own;
mod reader;
mod route;

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::task::{Context, Poll};

use async_nats::{Client, Message, StatusCode, Subscriber};
use tokio_util::sync::CancellationToken;

use super::Connection;
use crate::error::{Error, ErrorKind};
use crate::sync::lock;
pub(super) use advisories::Advisories;
use own::OwnInbox;
use reader::Reader;
pub(super) use route::{Arrival, Route};

/// The maximum number of handlers that share one inbox.
///
/// Sharing saves memory, because a subscription takes kilobytes; but when one handler stops, all others at its inbox
/// must lease another one.
const MAX_SHARED: usize = 64;

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

/// A subscription that a task reads, or the only handler that leases it.
pub(super) struct Inbox {
    number: u64,
    subject: String,
    epoch: u64,
    leases: AtomicUsize,
    closing: CancellationToken,
    /// Cancelled when everything that has arrived at the inbox is routed, and nothing more can arrive, because the client
    /// has removed the subscription.
    ended: CancellationToken,
}

impl Drop for Inbox {
    fn drop(&mut self) {
        // The reader ends once it has routed what the server has sent already.
        self.closing.cancel();
    }
}

impl fmt::Debug for InboxLease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InboxLease").field("inbox", &self.inbox).field("is_own", &self.is_own()).finish()
    }
}

impl fmt::Debug for Inbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Inbox").field(&self.subject).finish()
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

/// A handler's share of an inbox, or an inbox of its own.
pub(super) struct InboxLease {
    inbox: Arc<Inbox>,
    /// The subscription, if the handler reads it.
    own: Option<Box<OwnInbox>>,
}

impl InboxLease {
    fn new(inbox: Arc<Inbox>, own: Option<Box<OwnInbox>>, route: &Route) -> Self {
        inbox.leases.fetch_add(1, Ordering::Relaxed);
        let lease = Self { inbox, own };
        lease.attach(route);
        lease
    }

    /// Makes it the inbox at which the handler is found.
    pub(super) fn attach(&self, route: &Route) {
        route.inbox.store(self.inbox.number, Ordering::Relaxed);
    }

    /// Returns the number of the inbox.
    pub(super) fn number(&self) -> u32 {
        self.inbox.tag()
    }

    /// Returns `true` if the handler reads the inbox.
    pub(super) fn is_own(&self) -> bool {
        self.own.is_some()
    }

    /// Returns `true` if the inbox closes, so that nothing more may be requested with it.
    pub(super) fn is_closing(&self) -> bool {
        self.inbox.closing.is_cancelled()
    }

    /// Returns a token that is cancelled when nothing more can arrive at the inbox.
    ///
    /// What the server had sent may then still be on its way: the client drops it, so it never arrives, and the
    /// connection has not carried it ([`Connection::caught_up`] waits for that).
    pub(super) fn ended(&self) -> CancellationToken {
        self.inbox.ended.clone()
    }

    /// Returns the reply subject of the request with this number.
    pub(super) fn reply(&self, route: &Route, request: u64) -> String {
        format!("{}.{}.{request}", self.inbox.subject, route.number)
    }

    /// Returns the next arrival at an inbox that the handler reads, and registers the task if nothing has arrived.
    ///
    /// Arrivals at a shared inbox are in the queue of the route.
    pub(super) fn poll_next(&mut self, route: &Route, task: &mut Context<'_>) -> Poll<Arrival> {
        match &mut self.own {
            Some(own) => own.poll_next(route, task),
            None => Poll::Pending,
        }
    }

    /// Returns the next arrival at an inbox that the handler reads, if there is one already.
    #[inline]
    pub(super) fn try_next(&mut self, route: &Route) -> Option<Arrival> {
        self.own.as_mut()?.try_next(route)
    }

    /// Ends the subscription that the handler reads; what is on its way goes to the queue of the route.
    fn drain(&mut self) {
        if let Some(own) = self.own.take() {
            own.drain(&self.inbox.closing);
        }
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
        self.drain();
        self.inbox.leases.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Routes {
    /// Opens the route to a handler; from now on it receives what the server delivers for this consumer.
    pub(super) fn open(&self, stream: &str, consumer: &str) -> Arc<Route> {
        let number = self.last_number.fetch_add(1, Ordering::Relaxed);
        let route = Arc::new(Route::new(number, format!("{stream}.{consumer}")));
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

    /// Leases an inbox that was created on this connection (`epoch`) and is not one of the `former` ones.
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
            return Ok(InboxLease::new(inbox, None, route));
        }
        let (inbox, reader, subscriber) = self.subscribe(connection, epoch).await?;
        tokio::spawn(reader.run(subscriber, inbox.closing.clone()));
        inboxes.push(Arc::downgrade(&inbox));
        Ok(InboxLease::new(inbox, None, route))
    }

    /// Leases an inbox that no other handler shares, and which the handler reads.
    ///
    /// # Cancel safety
    ///
    /// A subscription that was not leased is dropped.
    pub(super) async fn lease_own(
        self: &Arc<Self>,
        connection: &Arc<Connection>,
        route: &Route,
        epoch: u64,
    ) -> Result<InboxLease, Error> {
        let (inbox, reader, subscriber) = self.subscribe(connection, epoch).await?;
        Ok(InboxLease::new(inbox, Some(Box::new(OwnInbox::new(reader, subscriber))), route))
    }

    async fn subscribe(
        self: &Arc<Self>,
        connection: &Arc<Connection>,
        epoch: u64,
    ) -> Result<(Arc<Inbox>, Reader, Subscriber), Error> {
        let client = connection.client();
        let subject = client.new_inbox();
        let subscriber = subscribe(&client, format!("{subject}.*.*")).await?;
        let (number, closing) = (self.last_number.fetch_add(1, Ordering::Relaxed), CancellationToken::new());
        let connection = Arc::downgrade(connection);
        let ended = CancellationToken::new();
        let end = ended.clone().drop_guard();
        let reader = Reader { routes: self.clone(), connection, epoch, inbox: number, orphaned: Vec::new(), _end: end };
        let inbox = Arc::new(Inbox { number, subject, epoch, leases: AtomicUsize::new(0), closing, ended });
        Ok((inbox, reader, subscriber))
    }

    /// Closes an inbox, which cancels the open requests of a handler; the other handlers at the inbox lease another
    /// one.
    ///
    /// JetStream has no request that cancels a pull.
    pub(super) fn close_inbox(&self, lease: &mut InboxLease, route: &Route) {
        if lease.is_closing() {
            return;
        }
        lease.inbox.closing.cancel();
        lease.drain();
        for other in self.at(lease.inbox.number) {
            if other.number != route.number {
                other.push(Arrival::Moving);
            }
        }
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

    /// Routes a status by its subject.
    fn route_status(&self, status: StatusCode, message: Message) {
        if let Some((route, request)) = status_tokens(&message.subject)
            && let Some(route) = self.by_number.get(&route)
        {
            route.push(Arrival::Status(request, status, Box::new(message)));
        }
    }
}

/// Returns the route and the request of a status, the last two tokens of its subject.
fn status_tokens(subject: &str) -> Option<(u64, u64)> {
    let mut tokens = subject.rsplitn(3, '.').map(|token| token.parse().ok());
    let request = tokens.next()??;
    Some((tokens.next()??, request))
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
