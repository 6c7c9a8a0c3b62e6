//! Messages without attempts left, whose dead letters could not be stored.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};

use super::Worker;
use super::buffer;
use super::retry::MAX_DEAD_LETTER_DELAY;
use crate::backoff::ExponentialBackoff;
use crate::error::{Error, ErrorKind};
use crate::message::{Info, Message};
use crate::observe::settled::{Next, Settled, Settlement};
use crate::observe::status_cell::Condition;
use crate::outcome::{Failure, Reason};
use crate::sync::lock;

/// The maximum number of failures whose texts are kept.
const MAX_TEXTS: usize = 1000;

/// The maximum number of messages that are known to have no attempts left.
const MAX_MESSAGES: usize = 100_000;

/// The time within which a slot stores a dead letter; after it, one message at a time tries beside the slots.
const MAX_STORE: Duration = Duration::from_secs(2);

/// The minimum and maximum delay between two tries while dead letters cannot be stored.
const PROBE_DELAYS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// The time in which messages are collected before they are recorded together, which is shorter than the delay of
/// their redelivery.
const RECORD_DELAY: Duration = Duration::from_millis(300);

/// The pause between two records.
const RECORD_PAUSE: Duration = Duration::from_secs(1);

/// The timeout of a record.
const RECORD_TIMEOUT: Duration = Duration::from_secs(5);

/// The messages without attempts left, which are redelivered but not tried again.
///
/// While dead letters cannot be stored, one message at a time tries it, and all others wait without trying.
#[derive(Debug, Default)]
pub(super) struct Unstored {
    state: Mutex<State>,
    added: Notify,
}

#[derive(Debug, Default)]
struct State {
    messages: BTreeMap<Key, Known>,
    texts: usize,
    /// The state while dead letters cannot be stored.
    failing: Option<Failing>,
}

/// The identity of a message; the time distinguishes it from that of a recreated stream, whose sequences start over.
type Key = (u64, SystemTime);

#[derive(Debug)]
struct Known {
    /// The failure; `None` if too many texts are kept.
    failure: Option<Failure>,
    /// `true` if other processes can know the message too.
    recorded: bool,
}

#[derive(Debug)]
struct Failing {
    backoff: ExponentialBackoff,
    /// The time of the next try.
    probe_at: Instant,
}

/// The next step of a message without attempts left.
enum Turn {
    /// Stores its dead letter.
    Store,
    /// Tries whether dead letters can be stored again.
    Probe,
    /// Waits for its next delivery.
    Wait,
}

impl Unstored {
    /// Keeps the failure of a message until its dead letter is stored.
    pub(super) fn remember(&self, info: &Info, failure: Failure) {
        let mut state = self.state();
        if state.messages.contains_key(&key(info)) {
            return;
        }
        let failure = (state.texts < MAX_TEXTS).then_some(failure);
        state.texts += usize::from(failure.is_some());
        state.messages.insert(key(info), Known { failure, recorded: false });
        if state.messages.len() > MAX_MESSAGES {
            state.remove_first();
        }
        self.added.notify_one();
    }

    /// Returns the failure of a message that has no attempts left.
    pub(super) fn failure(&self, info: &Info) -> Option<Failure> {
        let state = self.state();
        let known = state.messages.get(&key(info))?;
        Some(known.failure.clone().unwrap_or_else(exhausted))
    }

    /// Forgets a message that has ended.
    fn forget(&self, info: &Info) {
        let mut state = self.state();
        if let Some(known) = state.messages.remove(&key(info)) {
            state.texts -= usize::from(known.failure.is_some());
        }
    }

    fn turn(&self) -> Turn {
        let mut state = self.state();
        let Some(failing) = &mut state.failing else { return Turn::Store };
        let now = Instant::now();
        if now < failing.probe_at {
            return Turn::Wait;
        }
        // In case the message is lost before it has tried.
        failing.probe_at = now + PROBE_DELAYS.1;
        Turn::Probe
    }

    /// Returns the sequences of at most as many messages as a record can hold that are not recorded.
    fn unrecorded(&self) -> Vec<u64> {
        let state = self.state();
        state.messages.iter().filter(|(_, known)| !known.recorded).map(|((sequence, _), _)| *sequence).collect()
    }

    /// Returns `true` if a message is to be recorded.
    pub(super) fn has_unrecorded(&self) -> bool {
        self.state().messages.values().any(|known| !known.recorded)
    }

    fn recorded(&self, sequences: &[u64]) {
        let mut state = self.state();
        for ((sequence, _), known) in &mut state.messages {
            known.recorded |= sequences.binary_search(sequence).is_ok();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl State {
    fn remove_first(&mut self) {
        if let Some((_, known)) = self.messages.pop_first() {
            self.texts -= usize::from(known.failure.is_some());
        }
    }
}

fn key(info: &Info) -> Key {
    (info.stream_sequence(), info.stored_at())
}

/// Returns the failure of a message whose own is not known any more.
pub(super) fn exhausted() -> Failure {
    let error = "all attempts are used up; the failure is not known any more, because the dead letter could not be stored for a while";
    Failure { reason: Reason::Exhausted, error: error.to_owned() }
}

impl Worker {
    /// Ends a message that has no attempts left with a dead letter, or lets it wait until that can be stored.
    ///
    /// Returns `None` if the message was set aside and is settled later.
    pub(super) async fn end_failed(&self, message: &Message, failure: Failure) -> Option<Settled> {
        match self.unstored.turn() {
            Turn::Store => match timeout(MAX_STORE, self.dead_letter(message, &failure)).await {
                Ok(stored) => return Some(self.ended_failed(message, failure, stored).await),
                Err(_) => {
                    let error = Error::new(ErrorKind::Timeout, format!("no answer within {MAX_STORE:?}"));
                    return Some(self.ended_failed(message, failure, Err(error)).await);
                }
            },
            Turn::Probe => {
                self.unstored.remember(&message.info, failure.clone());
                if self.asides.probing().push(message) {
                    return None;
                }
            }
            Turn::Wait => self.unstored.remember(&message.info, failure.clone()),
        }
        let delay = self.dead_letter_delay(message.info.delivered());
        Some(self.retry(message, delay, failure, Next::DeadLetterLater).await)
    }

    async fn ended_failed(&self, message: &Message, failure: Failure, stored: Result<Next, Error>) -> Settled {
        match self.dead_letter_result(message, &failure, stored) {
            Ok(settled) => {
                self.terminate(message, &failure.error).await;
                settled
            }
            Err(delay) => self.retry(message, delay, failure, Next::DeadLetterLater).await,
        }
    }

    /// Records the result of storing a dead letter; returns how its message is settled, or the delay before the next try
    /// if the dead letter is not stored.
    pub(super) fn dead_letter_result(
        &self,
        message: &Message,
        failure: &Failure,
        stored: Result<Next, Error>,
    ) -> Result<Settled, Duration> {
        let error = match stored {
            Ok(next) => {
                self.unstored.forget(&message.info);
                self.dead_letters_work();
                let is_stored = matches!(next, Next::DeadLetter { .. });
                let settlement = if is_stored { Settlement::DeadLetter } else { Settlement::Terminated };
                return Ok(Settled::failed(settlement, failure.clone(), next));
            }
            Err(error) => error,
        };
        let delay = self.dead_letter_delay(message.info.delivered());
        if error.kind() == ErrorKind::PayloadTooLarge {
            // It says nothing about other dead letters.
            tracing::error!(
                "the dead letter could not be stored, so the message stays and is redelivered in {delay:.1?}: {error:?}; it failed with: {}",
                failure.error
            );
        } else {
            self.dead_letters_fail(&error, failure);
        }
        self.unstored.remember(&message.info, failure.clone());
        Err(delay)
    }

    /// Notes that dead letters cannot be stored, and logs it once.
    fn dead_letters_fail(&self, error: &Error, failure: &Failure) {
        let handler = &self.handler.declaration.name;
        let subject = self.binding.dead_letter.as_deref().unwrap_or_default();
        let (first, delay) = {
            let mut state = self.unstored.state();
            let first = state.failing.is_none();
            let failing = state.failing.get_or_insert_with(|| Failing {
                backoff: ExponentialBackoff::new(PROBE_DELAYS.0, PROBE_DELAYS.1),
                probe_at: Instant::now(),
            });
            let delay = failing.backoff.next();
            failing.probe_at = Instant::now() + delay;
            (first, delay)
        };
        let reason = format!("dead letters cannot be stored on `{subject}`: {error}");
        // No message may be left that would try it.
        self.status.report(Condition::DeadLetters, reason, Some(delay + MAX_DEAD_LETTER_DELAY * 2));
        if first {
            tracing::error!(
                handler,
                "dead letters cannot be stored on `{subject}`, so their messages stay and are redelivered later without a call: {error:?}; the first one failed with: {}",
                failure.error
            );
        } else {
            tracing::debug!(handler, "dead letters still cannot be stored: {error}");
        }
    }

    fn dead_letters_work(&self) {
        let count = {
            let mut state = self.unstored.state();
            if state.failing.take().is_none() {
                return;
            }
            state.messages.len()
        };
        let lasted = self.status.condition_ended(Condition::DeadLetters).unwrap_or_default();
        let handler = &self.handler.declaration.name;
        tracing::info!(
            handler,
            count,
            "dead letters can be stored again after {lasted:.0?}; some messages wait for it"
        );
    }

    /// Tries with one message after the other whether dead letters can be stored again, until the buffer is closed.
    pub(super) async fn work_probing(&self) {
        if self.asides.probing().buffer.arrived(|| false).await.is_some() {
            // Boxed, because most handlers never need it.
            Box::pin(self.probe()).await;
        }
    }

    async fn probe(&self) {
        let (buffer, slot) = (&self.asides.probing().buffer, self.slots.probing());
        while let Some(now) = buffer.arrived(|| false).await {
            let mut place = None;
            let Some(buffer::Next { waiting, .. }) = buffer.pop(now, self.max_age(), &mut place) else { continue };
            slot.take(self.delivery_id(&waiting.message.info), now, waiting.since);
            let mut taken = self.taken_again(waiting, now);
            let message = &*taken.message;
            let scope = self.scope(message);
            let failure = self.unstored.failure(&message.info).unwrap_or_else(exhausted);
            let storing = async {
                let stored = self.dead_letter(message, &failure).await;
                self.ended_failed(message, failure, stored).await
            };
            let settled = scope.clone().run(storing).await;
            taken.settled(&scope, Some(&settled), None);
            self.release(slot, Some(&settled));
        }
    }

    /// Records the messages without attempts left for other processes; never returns.
    pub(super) async fn record_exhausted(&self) {
        loop {
            self.unstored.added.notified().await;
            Box::pin(async {
                sleep(RECORD_DELAY).await;
                self.record_unstored().await;
                sleep(RECORD_PAUSE).await;
            })
            .await;
        }
    }

    /// Records the messages without attempts left, so that no process tries them again.
    pub(super) async fn record_unstored(&self) {
        let sequences = self.unstored.unrecorded();
        if sequences.is_empty() || !self.transport.is_connected() {
            return;
        }
        let recorded = timeout(RECORD_TIMEOUT, self.transport.mark_exhausted(&self.binding, &sequences)).await;
        let problem = match recorded {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some("no answer in time".to_owned()),
        };
        // Not repeated: without the permission it would fail again, and the next ones are recorded with another write.
        self.unstored.recorded(&sequences);
        if let Some(problem) = problem {
            tracing::warn!(
                handler = self.handler.declaration.name,
                count = sequences.len(),
                "messages without attempts left are not recorded, so another process tries them once more: {problem}"
            );
        }
    }
}
