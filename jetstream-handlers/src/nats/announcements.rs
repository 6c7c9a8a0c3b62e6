//! The announcements that the instances of a handler exchange.

use std::sync::Arc;

use async_nats::{Subject, Subscriber};
use bytes::Bytes;
use futures::StreamExt as _;

use super::Connection;
use crate::error::{Error, ErrorKind};

/// The announcements on one subject.
#[derive(Debug)]
pub(crate) struct Announcements {
    connection: Arc<Connection>,
    subject: Subject,
    subscriber: Subscriber,
}

impl Connection {
    pub(crate) async fn announcements(self: &Arc<Self>, subject: &str) -> Result<Announcements, Error> {
        let subject = Subject::from(subject);
        let subscriber = self.client().subscribe(subject.clone()).await.map_err(|error| {
            Error::new(ErrorKind::Closed, format!("cannot subscribe to `{subject}`")).with_source(error)
        })?;
        Ok(Announcements { connection: self.clone(), subject, subscriber })
    }
}

impl Announcements {
    pub(crate) async fn announce(&self, announcement: Bytes) {
        // The client would keep it, and announce what is no longer true after a reconnect.
        if self.connection.is_connected() {
            self.connection.client().publish(self.subject.clone(), announcement).await.ok();
        }
    }

    pub(crate) async fn next(&mut self) -> Bytes {
        match self.subscriber.next().await {
            Some(message) => message.payload,
            // The connection is closed, and the handlers stop.
            None => std::future::pending().await,
        }
    }
}
