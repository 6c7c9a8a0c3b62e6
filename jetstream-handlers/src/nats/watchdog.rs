//! The task that detects reconnects, and reconnects if the server does not respond.

use std::sync::Weak;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::Connection;
use crate::error::Error;

/// The interval at which the connection is checked.
///
/// async-nats reports events only to a callback set before connecting, which belongs to the application.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// The time without data from the server after which it is probed, and the minimum time between two probes.
const MAX_SILENCE: Duration = Duration::from_millis(2500);

/// The timeout of a probe.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// Publishes the epoch of the connection, and reconnects when the server does not respond to a probe.
///
/// async-nats detects an unresponsive server only after two unanswered pings.
pub(super) async fn watch(connection: Weak<Connection>, epoch: watch::Sender<u64>) {
    let (mut received, mut received_at) = (0, Instant::now());
    // The number of gaps of the process after which the server has answered.
    let mut answered = 0;
    loop {
        tokio::time::sleep(CHECK_INTERVAL).await;
        let Some(connection) = connection.upgrade() else { return };
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
        let reconnected = epoch.send_if_modified(|epoch| std::mem::replace(epoch, connects) != connects);
        connection.record_state(reconnected);
        if connection.bytes_received() != received || reconnected || !connection.is_connected() {
            (received, received_at) = (connection.bytes_received(), Instant::now());
        }
        if received_at.elapsed() < MAX_SILENCE {
            continue;
        }
        // A responsive server answers a request without responders immediately, whatever the user's permissions.
        probe(&connection).await.ok();
        if connection.bytes_received() == received && connection.is_connected() {
            tracing::warn!("the server does not respond; reconnecting");
            connection.client().force_reconnect().await.ok();
        }
        received_at = Instant::now();
    }
}

/// Waits for an answer of the server, and observes the clock meanwhile, which would take the wait for a gap.
async fn probe(connection: &Connection) -> Result<(), Error> {
    let observing = async {
        loop {
            tokio::time::sleep(CHECK_INTERVAL).await;
            connection.clock.observe();
        }
    };
    tokio::select! {
        result = connection.round_trip(PROBE_TIMEOUT) => result,
        () = observing => Ok(()),
    }
}
