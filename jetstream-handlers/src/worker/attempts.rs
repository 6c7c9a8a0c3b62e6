//! The number of attempts of a message, which differs from the number of its deliveries.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use tokio::time::{Instant, timeout};

use super::Worker;
use crate::message::Info;
use crate::outcome::{Failure, Reason};
use crate::sync::lock;

/// The timeout of recording the messages that a stop hands back; it is short, because other workers wait for them.
const RECORD_TIMEOUT: Duration = Duration::from_millis(300);

/// The time after a failed lookup during which the server is not asked again.
const LOOKUP_PAUSE: Duration = Duration::from_secs(60);

/// The maximum number of failures that are kept until their dead letters can be stored.
const MAX_UNSTORED_FAILURES: usize = 1000;

/// The maximum number of isolated attempts of a message, if they cannot be recorded for other processes.
const MAX_UNRECORDED_ISOLATED_ATTEMPTS: u64 = 10;

/// The state by which a worker distinguishes attempts from deliveries.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    /// The time until which the server is not asked: without the permission to ask, each request would wait for its
    /// timeout.
    lookup_paused_until: Mutex<Option<Instant>>,
    /// The failures of messages whose dead letters could not be stored; these messages are redelivered but not tried again.
    unstored_failures: Mutex<BTreeMap<Key, Failure>>,
    /// The messages of calls that have ended at the shutdown signal and are about to be handed back.
    pub(super) handing_back: Mutex<Vec<Info>>,
}

/// The identity of a message; the time distinguishes it from that of a recreated stream, whose sequences start over.
type Key = (u64, SystemTime);

/// The decision on a delivery.
pub(super) enum Verdict {
    Try,
    /// An attempt while no other call runs, because the earlier attempts ended without an answer, possibly because
    /// another message crashed the process.
    Isolated,
    DeadLetter(Failure),
}

impl Attempts {
    /// Keeps the failure of a message until its next delivery.
    ///
    /// If there are too many failures, one is dropped, and the dead letter of its message lacks it.
    pub(super) fn remember(&self, info: &Info, failure: Failure) {
        let mut failures = lock(&self.unstored_failures);
        failures.insert(key(info), failure);
        if failures.len() > MAX_UNSTORED_FAILURES {
            failures.pop_first();
        }
    }
}

fn key(info: &Info) -> Key {
    (info.stream_sequence(), info.stored_at())
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
        let paused_until = *lock(&self.attempts.lookup_paused_until);
        if paused_until.is_some_and(|until| Instant::now() < until) {
            return delivered;
        }
        match self.transport.handed_back(&self.binding).await {
            Ok(counts) => {
                let handed_back = counts.get(&info.stream_sequence()).copied().unwrap_or_default();
                delivered.saturating_sub(handed_back).max(1)
            }
            Err(error) => {
                tracing::warn!(
                    handler = self.handler.declaration.name,
                    "cannot look up which deliveries were no attempts, so all of them count: {error}"
                );
                *lock(&self.attempts.lookup_paused_until) = Some(Instant::now() + LOOKUP_PAUSE);
                delivered
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
        if let Some(failure) = lock(&self.attempts.unstored_failures).remove(&key(info)) {
            return Verdict::DeadLetter(failure);
        }
        let max_deliver = u64::from(self.handler.declaration.plan.max_deliver());
        if info.delivered() <= max_deliver {
            return Verdict::Try;
        }
        self.verdict_after_max_deliver(info, max_deliver).await
    }

    async fn verdict_after_max_deliver(&self, info: &Info, max_deliver: u64) -> Verdict {
        let before = self.attempt(info).await - 1;
        if before < max_deliver {
            return Verdict::Try;
        }
        let was_isolated = match self.transport.mark_isolated(&self.binding, info.stream_sequence()).await {
            Ok(was_isolated) => was_isolated,
            Err(error) => {
                tracing::warn!(
                    handler = self.handler.declaration.name,
                    "cannot record that a message is tried in isolation: {error}"
                );
                before >= max_deliver + MAX_UNRECORDED_ISOLATED_ATTEMPTS
            }
        };
        if !was_isolated {
            return Verdict::Isolated;
        }
        let error = format!("{before} attempts ended without an answer; the handler may have crashed its process");
        Verdict::DeadLetter(Failure { reason: Reason::Killed, error })
    }

    /// Records for every worker of the consumer that these deliveries were not attempts.
    pub(super) async fn record_hand_back(&self, sequences: &[u64]) {
        let problem = match timeout(RECORD_TIMEOUT, self.transport.hand_back(&self.binding, sequences)).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer in time".to_owned(),
        };
        tracing::warn!(
            handler = self.handler.declaration.name,
            "messages that are handed back now count as attempted: {problem}"
        );
    }
}
