//! The announcements that the instances of a handler exchange.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::broadcast::{self, error::RecvError};

use super::Memory;

/// The number of announcements that an instance may not have received yet; the next ones make up for others.
const CAPACITY: usize = 1024;

/// The announcements on one subject, of all brokers of the server.
#[derive(Debug)]
pub(super) struct Board {
    sender: broadcast::Sender<Bytes>,
    /// The last announcement of each instance.
    last: BTreeMap<String, Bytes>,
}

impl Default for Board {
    fn default() -> Self {
        Self { sender: broadcast::Sender::new(CAPACITY), last: BTreeMap::new() }
    }
}

/// The announcements on one subject, as one instance receives them.
#[derive(Debug)]
pub(crate) struct Announcements {
    memory: Arc<Memory>,
    subject: String,
    receiver: broadcast::Receiver<Bytes>,
    /// The last announcement of each instance before.
    kept: Vec<Bytes>,
}

impl Memory {
    /// Returns a number that no other instance has.
    pub(crate) fn new_instance(&self) -> u64 {
        let mut state = self.state();
        state.instances += 1;
        state.instances
    }

    pub(crate) fn announcements(self: &Arc<Self>, subject: &str) -> Announcements {
        let (receiver, kept) = {
            let mut state = self.state();
            let board = state.boards.entry(subject.to_owned()).or_default();
            (board.sender.subscribe(), board.last.values().cloned().collect())
        };
        Announcements { memory: self.clone(), subject: subject.to_owned(), receiver, kept }
    }
}

impl Announcements {
    pub(crate) fn announce(&self, id: &str, announcement: Bytes, is_last: bool) {
        let mut state = self.memory.state();
        let board = state.boards.entry(self.subject.clone()).or_default();
        if is_last {
            board.last.remove(id);
        } else {
            board.last.insert(id.to_owned(), announcement.clone());
        }
        board.sender.send(announcement).ok();
    }

    /// Returns the last announcement of each instance before this one.
    pub(crate) fn take_kept(&mut self) -> Vec<Bytes> {
        std::mem::take(&mut self.kept)
    }

    pub(crate) async fn next(&mut self) -> Bytes {
        loop {
            match self.receiver.recv().await {
                Ok(announcement) => return announcement,
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => std::future::pending().await,
            }
        }
    }
}
