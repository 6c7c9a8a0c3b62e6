//! Messages that the server gave up, until they are dead letters.

use std::collections::VecDeque;
use std::sync::Mutex;

use tokio::sync::Notify;

use crate::sync::lock;

/// How many messages can wait to be stored as dead letters.
pub(super) const MOST: usize = 1024;

#[derive(Debug, Default)]
pub(super) struct ExhaustedMessages {
    waiting: Mutex<VecDeque<(u64, u64)>>,
    news: Notify,
}

impl ExhaustedMessages {
    /// Adds a message by its sequence and how often it was delivered; `false` if there are too many.
    pub(super) fn add(&self, sequence: u64, delivered: u64) -> bool {
        let mut waiting = lock(&self.waiting);
        let room = waiting.len() < MOST;
        if room {
            waiting.push_back((sequence, delivered));
            self.news.notify_one();
        }
        room
    }

    /// Puts back one that was taken, whatever else has come.
    pub(super) fn add_again(&self, sequence: u64, delivered: u64) {
        lock(&self.waiting).push_back((sequence, delivered));
        self.news.notify_one();
    }

    pub(super) fn take(&self) -> Option<(u64, u64)> {
        lock(&self.waiting).pop_front()
    }

    pub(super) async fn news(&self) {
        self.news.notified().await;
    }
}
