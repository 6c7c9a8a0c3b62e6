//! Reading the dead letters of a stream in order, several at a time, in bounded memory.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::{DeadLetter, DeadLetters};
use crate::error::{Error, ErrorKind};
use crate::message::Stored;

/// The number of sequences that are read at once at the beginning, so that a short list reads little.
const MIN_AHEAD: u64 = 8;

/// The maximum number of sequences that are read at once.
const MAX_AHEAD: u64 = 512;

/// The dead letters that a [`DeadLetters`] selects, from the oldest on.
pub(super) struct Reading<'a> {
    letters: &'a DeadLetters,
    /// The sequence up to which all messages were returned.
    after: u64,
    /// The last sequence of the stream when the reading began.
    ///
    /// Later dead letters are ignored: a replayed message that failed again may have stored them.
    end: u64,
    ahead: VecDeque<Stored>,
    /// The sequence up to which messages are in `ahead`.
    ahead_up_to: u64,
    /// The time at which those in `ahead` were read.
    read_at: Instant,
    /// The number of sequences that are read at once the next time.
    window: u64,
}

impl<'a> Reading<'a> {
    pub(super) async fn begin(letters: &'a DeadLetters) -> Result<Self, Error> {
        let end = letters.end().await?;
        let mut after = letters.after;
        if let Some(since) = letters.filter.since.filter(|_| end > 0) {
            let first = letters.transport.first_stored_since(&letters.stream, since).await?;
            after = after.max(first.map_or(end, |first| first - 1));
        }
        Ok(Self {
            letters,
            after,
            end,
            ahead: VecDeque::new(),
            ahead_up_to: 0,
            read_at: Instant::now(),
            window: MIN_AHEAD,
        })
    }

    /// Returns `true` if the stream does not exist, or was always empty.
    pub(super) fn is_empty(&self) -> bool {
        self.end == 0
    }

    /// Returns the time since the last returned dead letter was read.
    pub(super) fn age(&self) -> Duration {
        self.read_at.elapsed()
    }

    /// Returns the next dead letter, without the contents that are stored in messages of their own.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the next call reads again.
    pub(super) async fn next(&mut self) -> Result<Option<DeadLetter>, Error> {
        let filter = &self.letters.filter;
        while let Some(stored) = self.next_stored().await? {
            if filter.until.is_some_and(|until| stored.time >= until) {
                // Those behind it were stored later.
                self.after = self.end;
                self.ahead.clear();
                break;
            }
            if let Some(letter) = DeadLetter::parse(stored).filter(|letter| filter.selects(letter)) {
                return Ok(Some(letter));
            }
        }
        Ok(None)
    }

    async fn next_stored(&mut self) -> Result<Option<Stored>, Error> {
        if self.ahead.is_empty() && self.after < self.end {
            self.read_ahead().await?;
        }
        let next = self.ahead.pop_front();
        if let Some(next) = &next {
            self.after = next.sequence;
        }
        if self.ahead.is_empty() {
            self.after = self.after.max(self.ahead_up_to);
        }
        Ok(next)
    }

    /// Finds the next message, and reads those behind it by their sequences, all at the same time.
    ///
    /// Each is read as JSON: the client library cannot parse what a direct get returns if a header is malformed, which
    /// everyone who may publish to `dlq.>` can store.
    async fn read_ahead(&mut self) -> Result<(), Error> {
        let DeadLetters { transport, stream, .. } = self.letters;
        self.read_at = Instant::now();
        let first = match transport.next_stored(stream, self.after + 1).await {
            Err(error) if error.kind() == ErrorKind::StreamNotFound => None,
            result => result?,
        };
        let Some(first) = first.filter(|first| first.sequence <= self.end) else {
            self.after = self.end;
            return Ok(());
        };
        let (from, to) = (first.sequence + 1, (first.sequence + self.window).min(self.end));
        let (found, up_to) = transport.stored_range(stream, from..=to).await?;
        // Few are found where most were deleted.
        let is_dense = found.len() as u64 * 2 >= self.window;
        self.window = if is_dense { (self.window * 2).min(MAX_AHEAD) } else { (self.window / 2).max(1) };
        self.ahead_up_to = up_to.max(first.sequence);
        self.ahead.push_back(first);
        self.ahead.extend(found);
        Ok(())
    }
}
