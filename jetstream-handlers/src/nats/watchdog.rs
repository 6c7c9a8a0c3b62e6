//! The task that detects reconnects, reconnects if the server does not respond, and replaces a client whose task has
//! ended.

use std::sync::Weak;
use std::time::Duration;

use async_nats::{Client, Subscriber};
use futures::StreamExt as _;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::Connection;
use crate::backoff::ExponentialBackoff;
use crate::error::Error;

/// The interval at which the connection is checked.
///
/// async-nats reports events only to a callback set before connecting, which belongs to the application.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// The time without data from the server after which it is probed, and the minimum time between two probes.
const MAX_SILENCE: Duration = Duration::from_millis(2500);

/// The time in which the server must answer a probe.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// The minimum and the maximum time for which the inbox of the answers is refused before the client connects again.
const REFUSED: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(30));

/// Publishes the epoch of the connection, reconnects when the server does not respond to a probe, and replaces a client
/// whose task has ended.
///
/// async-nats detects an unresponsive server only after two unanswered pings.
pub(super) async fn watch(connection: Weak<Connection>, epoch: watch::Sender<u64>) {
    let (mut received, mut received_at) = (0, Instant::now());
    // A subscription ends with the task of its client, which nothing else shows.
    let Some(first) = connection.upgrade() else { return };
    let (mut client_end, mut server) = (subscribe(&first).await, first.server_id());
    drop(first);
    let mut refusal = Refusal::new();
    // The number of gaps of the process after which the server has answered.
    let mut answered = 0;
    loop {
        let ended = tokio::select! {
            () = sleep(CHECK_INTERVAL) => false,
            () = ended(&mut client_end) => true,
        };
        let Some(connection) = connection.upgrade() else { return };
        if connection.is_closed() {
            return;
        }
        if ended {
            replace_client(&connection).await;
            client_end = subscribe(&connection).await;
        }
        let observed = connection.clock.observe();
        if observed.sent_since.is_some() && connection.is_connected() {
            if answered == observed.gaps {
                // What arrived before the answer has been passed on since.
                connection.clock.caught_up(answered);
            } else if probe(&connection).await.is_ok() {
                answered = observed.gaps;
            }
        }
        let connects = connection.connects();
        if *epoch.borrow() != connects {
            // A server that was restarted has another id, as has another server of the cluster.
            let before = std::mem::replace(&mut server, connection.server_id());
            connection.record_break(connects, server == before);
        }
        let reconnected = epoch.send_if_modified(|epoch| std::mem::replace(epoch, connects) != connects);
        connection.record_state(reconnected);
        if reconnected {
            connection.violations.interrupted.notify_waiters();
        }
        if refusal.is_due(connection.is_connected() && connection.violations.refused_inbox().is_some()) {
            tracing::warn!("connecting again, because no answer arrives until the server permits the inbox");
            connection.force_reconnect().await;
        }
        if connection.bytes_received() != received || reconnected || !connection.is_connected() {
            (received, received_at) = (connection.bytes_received(), Instant::now());
        }
        if received_at.elapsed() < MAX_SILENCE {
            continue;
        }
        if !responds(&connection, received).await && connection.is_connected() {
            tracing::warn!("the server does not respond; reconnecting");
            connection.force_reconnect().await;
        }
        received_at = Instant::now();
    }
}

/// The inbox of the answers while the server refuses it.
///
/// The client subscribes to it once for a connection, and does not notice that the user may do so again.
struct Refusal {
    backoff: ExponentialBackoff,
    /// The time of the next reconnect, while the inbox is refused.
    due: Option<Instant>,
    /// The last time at which the inbox was refused.
    last: Instant,
}

impl Refusal {
    fn new() -> Self {
        Self { backoff: ExponentialBackoff::new(REFUSED.0, REFUSED.1), due: None, last: Instant::now() }
    }

    /// Returns `true` if the client must connect again now, given whether the inbox is refused.
    fn is_due(&mut self, is_refused: bool) -> bool {
        let now = Instant::now();
        if !is_refused {
            self.due = None;
            // It is refused again soon after a reconnect that did not help.
            if now - self.last > REFUSED.1 {
                self.backoff.reset();
            }
            return false;
        }
        self.last = now;
        let is_due = *self.due.get_or_insert_with(|| now + self.backoff.next()) <= now;
        if is_due {
            self.due = None;
        }
        is_due
    }
}

async fn subscribe(connection: &Connection) -> Option<Subscriber> {
    let client = connection.client();
    client.subscribe(client.new_inbox()).await.ok()
}

/// Waits until a subscription has ended; without one, the client had ended before.
async fn ended(subscriber: &mut Option<Subscriber>) {
    match subscriber {
        Some(subscriber) => while subscriber.next().await.is_some() {},
        None => sleep(CHECK_INTERVAL / 10).await,
    }
}

/// Connects another client, and retries until that succeeds or the connection is closed.
async fn replace_client(connection: &Connection) {
    connection.client_has_ended();
    connection.record_state(false);
    tracing::error!("the task of the NATS client has ended unexpectedly; connecting another client");
    let mut backoff = ExponentialBackoff::new(Duration::from_millis(100), Duration::from_secs(4));
    while let Err(error) = connection.replace_client().await {
        tracing::warn!("cannot connect another client: {error:?}");
        connection.errors.failed(&error.to_string());
        tokio::select! {
            () = sleep(backoff.next()) => {}
            () = connection.closed() => return,
        }
    }
}

/// Returns `true` if the server responds to a ping.
///
/// A server always responds to it, for any permissions of the user and any other subscribers.
async fn responds(connection: &Connection, received: u64) -> bool {
    let client = connection.client();
    let answer = async {
        if ping(&client).await.is_none() {
            return std::future::pending().await;
        }
        while connection.bytes_received() == received {
            sleep(CHECK_INTERVAL / 10).await;
            connection.clock.observe();
        }
    };
    // The ping waits behind what was sent before.
    timeout(PROBE_TIMEOUT + connection.write_limit.time_to_carry(), answer).await.is_ok()
}

/// Sends a ping, which async-nats does only when it drains a subscription.
async fn ping(client: &Client) -> Option<()> {
    client.subscribe(client.new_inbox()).await.ok()?.drain().await.ok()
}

/// Waits for an answer of the server, and observes the clock meanwhile, which would take the wait for a gap.
async fn probe(connection: &Connection) -> Result<(), Error> {
    let observing = async {
        loop {
            sleep(CHECK_INTERVAL).await;
            connection.clock.observe();
        }
    };
    tokio::select! {
        result = connection.round_trip(PROBE_TIMEOUT) => result,
        () = observing => Ok(()),
    }
}
