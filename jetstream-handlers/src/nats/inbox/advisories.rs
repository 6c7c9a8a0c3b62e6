//! Advisories of the server about the consumers and streams of handlers, and the violations that concern handlers.

use std::sync::{Arc, Weak};

use async_nats::{Client, Subject};
use futures::StreamExt as _;
use tokio_util::task::AbortOnDropHandle;

use super::{Arrival, Route, Routes, subscribe};
use crate::error::Error;
use crate::message::Info;
use crate::nats::Connection;
use crate::nats::violations::Violation;

/// The subject of a max-deliveries advisory, without its last tokens: stream and consumer (`jetstream_api.go`).
const MAX_DELIVERIES: &str = "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.";

/// The subject of an advisory about a deleted stream, without its last token, the stream.
const STREAM_DELETED: &str = "$JS.EVENT.ADVISORY.STREAM.DELETED.";

/// The subject of an advisory about a deleted consumer, without its last tokens: stream and consumer.
const CONSUMER_DELETED: &str = "$JS.EVENT.ADVISORY.CONSUMER.DELETED.";

/// The subject of an advisory about a consumer that is paused or resumed, without its last tokens: stream and consumer.
const PAUSED: &str = "$JS.EVENT.ADVISORY.CONSUMER.PAUSE.";

/// The subject of an advisory about a consumer that has another leader, without its last tokens: stream and consumer.
const LEADER_ELECTED: &str = "$JS.EVENT.ADVISORY.CONSUMER.LEADER_ELECTED.";

/// A subscription to advisories, and the task that reads it.
#[derive(Debug)]
pub(in crate::nats) struct Advisories {
    reader: AbortOnDropHandle<()>,
}

impl Advisories {
    /// Returns `false` if the client that delivered them has ended.
    fn is_open(&self) -> bool {
        !self.reader.is_finished()
    }
}

impl Routes {
    /// Subscribes to the advisories about messages of this stream that reached their `max_deliver`.
    pub(in crate::nats) async fn advisories(
        self: &Arc<Self>,
        client: &Client,
        stream: &str,
    ) -> Result<Arc<Advisories>, Error> {
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

    /// Subscribes to the advisories about deleted streams and consumers, and about consumers that are paused or have another
    /// leader.
    pub(in crate::nats) async fn deletions(
        self: &Arc<Self>,
        connection: &Connection,
    ) -> Result<Arc<Advisories>, Error> {
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
        let mut elections = subscribe(&client, format!("{LEADER_ELECTED}*.*")).await?;
        let mut violations = connection.violations.subscribe();
        let next_prefix = format!("{}.CONSUMER.MSG.NEXT.", connection.api_prefix);
        let routes = self.clone();
        let reader = tokio::spawn(async move {
            loop {
                let message = tokio::select! {
                    message = streams.next() => message,
                    message = consumers.next() => message,
                    message = paused.next() => message,
                    message = elections.next() => message,
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

    /// Tells the handlers whose stream or consumer was deleted, or whose consumer was paused, resumed or has another
    /// leader, by the subject of the advisory.
    ///
    /// Everyone can publish an advisory, so the handlers only ask the server about their consumer.
    fn changed(&self, subject: &str) {
        let table = self.table();
        let of_consumer = |consumer| table.by_consumer.get(consumer).into_iter().flatten();
        if let Some(stream) = subject.strip_prefix(STREAM_DELETED) {
            let of_stream = |route: &&Arc<Route>| route.consumer.split('.').next() == Some(stream);
            table.by_number.values().filter(of_stream).for_each(|route| route.push(Arrival::Deleted));
        } else if let Some(consumer) = subject.strip_prefix(CONSUMER_DELETED) {
            of_consumer(consumer).for_each(|route| route.push(Arrival::Deleted));
        } else if let Some(consumer) = subject.strip_prefix(PAUSED) {
            of_consumer(consumer).for_each(|route| route.report_pause());
        } else if let Some(consumer) = subject.strip_prefix(LEADER_ELECTED) {
            of_consumer(consumer).for_each(|route| route.push(Arrival::LeaderElected));
        }
    }

    /// Tells the handlers of a consumer that their stream has replaced messages, as was found in this incarnation.
    pub(in crate::nats) fn replaced(&self, stream: &str, consumer: &str, incarnation: u32) {
        let routes = self.table().by_consumer.get(&format!("{stream}.{consumer}")).cloned();
        routes.into_iter().flatten().for_each(|route| route.push(Arrival::Replaced(incarnation)));
    }
}
