//! Messages that were lost, or that another instance has: requested again after a while.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{Subject, Subscriber};
use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use serde::Deserialize;
use tokio::time::{sleep, timeout};

use super::Connection;
use crate::delivery::Binding;

/// The time in which another instance is assumed to begin the messages that it has buffered.
const BUFFERED: Duration = Duration::from_secs(1);

/// The number of calls that another instance is assumed to make after that; they take as long as those of this one.
const CALLS: u32 = 3;

/// The time after which the nak of another instance that was sent at the same time has arrived.
const COLLISION: Duration = Duration::from_millis(100);

/// The time in which another instance naks what it has lost.
const OTHERS: Duration = Duration::from_millis(500);

/// The maximum number of times that another instance is given way.
const MAX_COLLISIONS: u32 = 5;

/// A lost message: its stream sequence, and the ack subject at which the server accepts a nak for it.
pub(super) type LostMessage = (u64, Subject);

/// The messages that no instance may have, until another instance would have ended them.
#[derive(Default)]
pub(super) struct Patience {
    waiting: FuturesUnordered<BoxFuture<'static, Vec<LostMessage>>>,
    /// The usual duration of a call; 0 if none has ended yet.
    call: Duration,
}

impl Patience {
    pub(super) fn set_call(&mut self, call: Duration) {
        self.call = call;
    }

    /// Waits with these messages.
    ///
    /// The server does not tell who has a message. What another instance has is usually ended meanwhile, so that a nak has
    /// no effect on it; and what another instance has nakked is not nakked again.
    pub(super) fn add(&mut self, connection: Arc<Connection>, binding: &Binding, messages: Vec<LostMessage>) {
        // At different times in different instances.
        let time = if self.call.is_zero() { binding.ack_wait.get() / 2 } else { BUFFERED + self.call * CALLS };
        let time = time.min(binding.ack_wait.get()).mul_f64(1.0 + fastrand::f64());
        // The advisory `io.nats.jetstream.advisory.v1.nak` (`jetstream_api.go`, `JSAdvisoryConsumerMsgNakPre`).
        let subject = format!("$JS.EVENT.ADVISORY.CONSUMER.MSG_NAKED.{}.{}", binding.stream, binding.consumer);
        self.waiting.push(Box::pin(wait(connection, subject, time, messages)));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Returns the messages to request again; must not be called while empty.
    ///
    /// # Cancel safety
    ///
    /// No message is forgotten.
    pub(super) async fn ended(&mut self) -> Vec<LostMessage> {
        self.waiting.next().await.unwrap_or_default()
    }
}

/// The naks of other instances for these messages.
struct Naks {
    advisories: Subscriber,
    messages: HashMap<u64, Subject>,
}

/// Waits for this time; returns the messages that no other instance has nakked meanwhile.
async fn wait(
    connection: Arc<Connection>,
    subject: String,
    time: Duration,
    messages: Vec<LostMessage>,
) -> Vec<LostMessage> {
    let Ok(advisories) = connection.client().subscribe(subject).await else {
        sleep(time).await;
        return messages;
    };
    let mut naks = Naks { advisories, messages: messages.into_iter().collect() };
    naks.listen(time).await;
    // Another instance can have begun at the same time. So one message is tried first.
    for _ in 0..MAX_COLLISIONS {
        let Some(first) = naks.messages.keys().next().copied() else { break };
        connection.nak_lost(naks.messages.remove(&first)).await;
        if !naks.listen(COLLISION.mul_f64(1.0 + fastrand::f64())).await {
            break;
        }
        naks.listen(OTHERS.mul_f64(1.0 + fastrand::f64())).await;
    }
    naks.messages.into_iter().collect()
}

impl Naks {
    /// Removes the messages that are nakked in this time; returns `true` if there were any.
    async fn listen(&mut self, time: Duration) -> bool {
        #[derive(Deserialize)]
        struct Nak {
            stream_seq: u64,
        }
        let before = self.messages.len();
        let listening = async {
            while let Some(advisory) = self.advisories.next().await {
                if let Ok(Nak { stream_seq }) = serde_json::from_slice(&advisory.payload) {
                    self.messages.remove(&stream_seq);
                }
            }
            std::future::pending::<()>().await;
        };
        timeout(time, listening).await.ok();
        self.messages.len() < before
    }
}
