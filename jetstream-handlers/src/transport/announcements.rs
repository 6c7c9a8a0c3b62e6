//! The announcements that the instances of a handler exchange, as core messages that no stream stores.

use bytes::Bytes;

use super::Transport;
use crate::error::Error;
use crate::{memory, nats};

/// The announcements on one subject.
#[derive(Debug)]
pub(crate) enum Announcements {
    Nats(nats::Announcements),
    Memory(memory::Announcements),
}

impl Transport {
    /// Returns an id of an instance: a random one, or in memory the next one, so that tests are deterministic.
    pub(crate) fn new_instance(&self) -> String {
        let id = match self {
            Self::Nats(_) => fastrand::u64(..),
            Self::Memory(memory) => memory.new_instance(),
        };
        format!("{id:016x}")
    }

    /// Subscribes to the announcements on a subject.
    pub(crate) async fn announcements(&self, subject: &str) -> Result<Announcements, Error> {
        match self {
            Self::Nats(connection) => Ok(Announcements::Nats(connection.announcements(subject).await?)),
            Self::Memory(memory) => Ok(Announcements::Memory(memory.announcements(subject))),
        }
    }
}

impl Announcements {
    /// Returns the last announcement of each instance, if they are kept, so that no answer must be waited for.
    pub(crate) fn take_kept(&mut self) -> Option<Vec<Bytes>> {
        match self {
            Self::Nats(_) => None,
            Self::Memory(announcements) => Some(announcements.take_kept()),
        }
    }

    /// Announces something; one that is lost is made up for by the next one.
    pub(crate) async fn announce(&self, id: &str, announcement: Bytes, is_last: bool) {
        match self {
            Self::Nats(announcements) => announcements.announce(announcement).await,
            Self::Memory(announcements) => announcements.announce(id, announcement, is_last),
        }
    }

    /// Waits for the next announcement, also of this instance.
    ///
    /// # Cancel safety
    ///
    /// No announcement is lost.
    pub(crate) async fn next(&mut self) -> Bytes {
        match self {
            Self::Nats(announcements) => announcements.next().await,
            Self::Memory(announcements) => announcements.next().await,
        }
    }
}
