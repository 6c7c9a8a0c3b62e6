//! How often a message was tried, which is not how often it was delivered.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use tokio::time::{Instant, timeout};

use super::Worker;
use crate::message::Info;
use crate::outcome::{Failure, Outcome, Reason, Settle};
use crate::sync::lock;

/// How long a stop waits until it is remembered what was handed back; the next replica waits for the messages.
const REMEMBER: Duration = Duration::from_millis(300);

/// How long nobody asks again after the server did not say what was handed back.
const UNSAID: Duration = Duration::from_secs(60);

/// How many failures are kept until their dead letters can be stored; beyond it a letter says less.
const MAX_UNBURIED: usize = 1000;

/// How often a message is tried alone where that cannot be noted for the next process.
const UNNOTED_TRIES: u64 = 10;

/// What a worker knows of the deliveries that were no attempts.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    /// Until when the server is not asked, for it did not answer: a user without the permission would wait each time.
    unsaid_until: Mutex<Option<Instant>>,
    /// Why messages failed whose dead letters could not be stored; they come again, and are not tried again.
    unburied: Mutex<BTreeMap<Key, Failure>>,
}

/// A message for as long as it is the same one: a stream that was replaced counts from 1 again.
type Key = (u64, SystemTime);

/// What is done with a delivery.
pub(super) enum Verdict {
    Try,
    /// Its attempts ended without an answer, perhaps only because another message killed the process: try it alone.
    TryAlone,
    Bury(Outcome),
}

impl Attempts {
    /// Keeps the failure of a message for its next delivery.
    pub(super) fn remember(&self, info: &Info, failure: Failure) {
        let mut unburied = lock(&self.unburied);
        unburied.insert((info.stream_sequence(), info.stored_at()), failure);
        if unburied.len() > MAX_UNBURIED {
            unburied.pop_first();
        }
    }
}

impl Worker {
    /// Which attempt a delivery is.
    ///
    /// The server is asked only when the answer decides: when the deliveries alone would make it the last.
    pub(super) async fn attempt(&self, info: &Info) -> u64 {
        let delivered = info.delivered();
        if delivered < u64::from(self.handler.declaration.plan.max_deliver()) || delivered == 1 {
            return delivered;
        }
        let unsaid_until = *lock(&self.attempts.unsaid_until);
        if unsaid_until.is_some_and(|until| Instant::now() < until) {
            return delivered;
        }
        match self.transport.handed_back(&self.source).await {
            Ok(counts) => {
                let handed_back = counts.get(&info.stream_sequence()).copied().unwrap_or_default();
                delivered.saturating_sub(handed_back).max(1)
            }
            Err(error) => {
                tracing::warn!(
                    handler = self.handler.declaration.name,
                    "cannot tell attempts from deliveries: {error}"
                );
                *lock(&self.attempts.unsaid_until) = Some(Instant::now() + UNSAID);
                delivered
            }
        }
    }

    /// Whether a message shall be tried once more.
    ///
    /// It shall not if its attempts are used up and it is no dead letter yet: that could not be stored,
    /// or the attempts ended without an answer, because a handler killed its process or never came back.
    /// Deliveries alone do not tell the killer from the messages that were in hand with it,
    /// so each of them is tried once more, alone; only one that does not answer then either is buried.
    pub(super) async fn verdict(&self, info: &Info) -> Verdict {
        let max_deliver = u64::from(self.handler.declaration.plan.max_deliver());
        let key = (info.stream_sequence(), info.stored_at());
        let known = lock(&self.attempts.unburied).remove(&key);
        if known.is_some() {
            return Verdict::Bury(Outcome { settle: Settle::Terminate, failure: known });
        }
        if info.delivered() <= max_deliver {
            return Verdict::Try;
        }
        self.late_verdict(info, max_deliver).await
    }

    async fn late_verdict(&self, info: &Info, max_deliver: u64) -> Verdict {
        let before = self.attempt(info).await - 1;
        if before < max_deliver {
            return Verdict::Try;
        }
        let tried_alone = match self.transport.mark_isolated(&self.source, info.stream_sequence()).await {
            Ok(tried_alone) => tried_alone,
            Err(error) => {
                tracing::warn!(
                    handler = self.handler.declaration.name,
                    "cannot note that a message is tried alone: {error}"
                );
                before >= max_deliver + UNNOTED_TRIES
            }
        };
        match tried_alone {
            false => Verdict::TryAlone,
            true => {
                let error =
                    format!("{before} attempts ended without an answer; the handler may have killed its process");
                Verdict::Bury(Outcome::failed(Settle::Terminate, Reason::Killed, error))
            }
        }
    }

    /// Lets every replica know that these deliveries were no attempts.
    pub(super) async fn remember_hand_back(&self, sequences: &[u64]) {
        let problem = match timeout(REMEMBER, self.transport.hand_back(&self.source, sequences)).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer in time".to_owned(),
        };
        tracing::warn!(
            handler = self.handler.declaration.name,
            "what is handed back now counts as an attempt: {problem}"
        );
    }
}
