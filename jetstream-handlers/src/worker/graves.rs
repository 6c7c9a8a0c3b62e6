//! Messages that the server gave up, until they are dead letters.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

/// How many messages can wait to be stored as dead letters.
pub(super) const MOST: usize = 1024;

#[derive(Debug, Default)]
pub(super) struct Graves {
    waiting: Mutex<VecDeque<(u64, u64)>>,
    news: Notify,
}

impl Graves {
    /// Adds a message by its sequence and how often it was delivered; `false` if there are too many.
    pub(super) fn add(&self, sequence: u64, delivered: u64) -> bool {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let room = waiting.len() < MOST;
        if room {
            waiting.push_back((sequence, delivered));
            self.news.notify_one();
        }
        room
    }

    /// Puts back one that was taken, whatever else has come.
    pub(super) fn add_again(&self, sequence: u64, delivered: u64) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push_back((sequence, delivered));
        self.news.notify_one();
    }

    pub(super) fn take(&self) -> Option<(u64, u64)> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    pub(super) async fn news(&self) {
        self.news.notified().await;
    }
}
