//! The number of attempts of a message, which differs from the number of its deliveries.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::{Instant, timeout, timeout_at};

use super::Worker;
use super::unstored::exhausted;
use crate::delivery::{Isolation, Record};
use crate::message::{Info, Message};
use crate::outcome::{Failure, Reason};
use crate::sync::lock;

/// The timeout of recording the messages that a stop hands back; it is short, because other workers wait for them.
pub(super) const RECORD_TIMEOUT: Duration = Duration::from_millis(300);

/// The time after a failed lookup during which the server is not asked again.
const LOOKUP_PAUSE: Duration = Duration::from_secs(60);

/// The maximum number of isolated attempts of a message, if they cannot be recorded for other processes.
const MAX_UNRECORDED_ISOLATED_ATTEMPTS: u64 = 10;

/// The state by which a worker distinguishes attempts from deliveries.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    /// The time until which the server is not asked: without the permission to ask, each request would wait for its
    /// timeout.
    lookup_paused_until: Mutex<Option<Instant>>,
    /// The messages of calls that have ended at the shutdown signal and are about to be handed back.
    pub(super) handing_back: Mutex<Vec<Info>>,
    /// `true` after an attempt in isolation could not be recorded.
    unrecordable: AtomicBool,
}

/// The decision on a delivery.
pub(super) enum Verdict {
    Try,
    /// An attempt while no other call runs if possible, because the earlier attempts ended without an answer, possibly because
    /// another message crashed the process.
    Isolated,
    DeadLetter(Failure),
    /// The message has ended, and the server did not know it yet when it delivered it again.
    Repeated,
}

impl Worker {
    /// Returns the number of a delivery's attempt, counted from 1.
    ///
    /// The server is asked only if the number of deliveries alone would make it the last one.
    pub(super) async fn attempt(&self, info: &Info) -> u64 {
        let delivered = info.delivered();
        if delivered < u64::from(self.handler.declaration.plan.max_deliver()) || delivered == 1 {
            return delivered;
        }
        self.look_up(info).await.map_or(delivered, |record| attempts(info, record))
    }

    /// Returns what is recorded about a message; `None` if it cannot be looked up.
    async fn look_up(&self, info: &Info) -> Option<Record> {
        let paused_until = *lock(&self.attempts.lookup_paused_until);
        if paused_until.is_some_and(|until| Instant::now() < until) {
            return None;
        }
        match self.transport.record(&self.binding, info.stream_sequence()).await {
            Ok(record) => Some(record),
            Err(error) => {
                tracing::warn!(
                    handler = self.handler.declaration.name,
                    "cannot look up which deliveries were no attempts, so all of them count: {error}"
                );
                *lock(&self.attempts.lookup_paused_until) = Some(Instant::now() + LOOKUP_PAUSE);
                None
            }
        }
    }

    /// Decides on a delivery: another attempt, or a dead letter.
    ///
    /// A message whose attempts are used up is delivered again if its dead letter could not be stored, or if the
    /// attempts ended without an answer because a handler crashed its process or did not return.
    /// The number of deliveries does not distinguish a message that crashes the process from the others that were in
    /// flight with it. Each of them is therefore tried once more in isolation, and is dead-lettered only if that
    /// attempt ends without an answer too.
    pub(super) async fn verdict(&self, info: &Info) -> Verdict {
        if let Some(failure) = self.unstored.failure(info) {
            return Verdict::DeadLetter(failure);
        }
        let max_deliver = u64::from(self.handler.declaration.plan.max_deliver());
        if info.delivered() <= max_deliver {
            return Verdict::Try;
        }
        self.verdict_after_max_deliver(info, max_deliver).await
    }

    async fn verdict_after_max_deliver(&self, info: &Info, max_deliver: u64) -> Verdict {
        let record = self.look_up(info).await.unwrap_or_default();
        if record.exhausted {
            return Verdict::DeadLetter(exhausted());
        }
        let before = attempts(info, record) - 1;
        if before < max_deliver {
            return Verdict::Try;
        }
        let tried = record.tried_alone >= Isolation::ENOUGH;
        let unrecordable = self.attempts.unrecordable.load(Ordering::Relaxed);
        if tried || (unrecordable && before >= max_deliver + MAX_UNRECORDED_ISOLATED_ATTEMPTS) {
            return Verdict::DeadLetter(killed(before));
        }
        Verdict::Isolated
    }

    /// Records that a message is about to be tried in isolation; returns `true` if it was tried enough before.
    pub(super) async fn was_tried_enough(&self, message: &Message, isolation: Isolation, deadline: Instant) -> bool {
        let sequence = message.info.stream_sequence();
        let marked = timeout_at(deadline, self.transport.mark_isolated(&self.binding, sequence, isolation)).await;
        let problem = match marked {
            Ok(Ok(before)) => return before >= Isolation::ENOUGH,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer in time".to_owned(),
        };
        if !self.attempts.unrecordable.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                handler = self.handler.declaration.name,
                "cannot record that a message is tried in isolation: {problem}"
            );
        }
        false
    }

    /// Records for every worker of the consumer that these deliveries were not attempts; returns `false` if that fails,
    /// also because it takes longer than `limit`.
    pub(super) async fn record_hand_back(&self, sequences: &[u64], limit: Duration) -> bool {
        let problem = match timeout(limit, self.transport.hand_back(&self.binding, sequences)).await {
            Ok(Ok(())) => return true,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer in time".to_owned(),
        };
        tracing::warn!(
            handler = self.handler.declaration.name,
            "messages that are handed back now count as attempted: {problem}"
        );
        false
    }
}

/// Returns the number of a delivery's attempt: the deliveries without those that were handed back.
fn attempts(info: &Info, record: Record) -> u64 {
    info.delivered().saturating_sub(record.handed_back).max(1)
}

/// Returns the failure of a message whose attempts ended without an answer.
pub(super) fn killed(attempts: u64) -> Failure {
    let error = format!("{attempts} attempts ended without an answer; the handler may have crashed its process");
    Failure { reason: Reason::Killed, error }
}
