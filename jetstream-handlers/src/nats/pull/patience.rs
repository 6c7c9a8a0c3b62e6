//! Messages that were lost, or that another instance has: requested again after a while.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use async_nats::Subject;
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

/// A lost message: its stream sequence, and the ack subject at which the server accepts a nak for it.
pub(super) type LostMessage = (u64, Subject);

/// The messages that no instance may have, until another instance would have ended them.
#[derive(Default)]
pub(super) struct Patience {
    waiting: FuturesUnordered<BoxFuture<'static, Vec<LostMessage>>>,
    /// The usual duration of a call.
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
        let time = (BUFFERED + self.call * CALLS).min(binding.ack_wait).mul_f64(1.0 + fastrand::f64());
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

/// Waits for this time; returns the messages that no other instance has nakked meanwhile.
async fn wait(
    connection: Arc<Connection>,
    subject: String,
    time: Duration,
    mut messages: Vec<LostMessage>,
) -> Vec<LostMessage> {
    #[derive(Deserialize)]
    struct Nak {
        stream_seq: u64,
    }
    let Ok(mut naks) = connection.client().subscribe(subject).await else {
        sleep(time).await;
        return messages;
    };
    let mut nakked = HashSet::new();
    let listening = async {
        while let Some(advisory) = naks.next().await {
            if let Ok(Nak { stream_seq }) = serde_json::from_slice(&advisory.payload)
                && messages.iter().any(|(sequence, _)| *sequence == stream_seq)
            {
                nakked.insert(stream_seq);
            }
        }
        std::future::pending::<()>().await;
    };
    timeout(time, listening).await.ok();
    messages.retain(|(sequence, _)| !nakked.contains(sequence));
    messages
}
