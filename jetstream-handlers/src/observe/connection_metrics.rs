//! The metrics of the connection of a broker.

use std::fmt;

use ::metrics::{Counter, Gauge, counter, gauge};

use super::families as names;

/// The metrics of the connection of a broker.
pub(crate) struct ConnectionMetrics {
    connected: Gauge,
    reconnects: Counter,
}

impl ConnectionMetrics {
    /// Returns the metrics of the broker of this name.
    pub(crate) fn new(broker: Option<&str>) -> Self {
        let broker = broker.unwrap_or_default().to_owned();
        Self {
            connected: gauge!(names::CONNECTED, "broker" => broker.clone()),
            reconnects: counter!(names::RECONNECTS, "broker" => broker),
        }
    }

    /// Sets whether a server is connected, and the number of connections so far.
    pub(crate) fn set(&self, is_connected: bool, connections: u64) {
        self.connected.set(if is_connected { 1.0 } else { 0.0 });
        self.reconnects.absolute(connections.saturating_sub(1));
    }
}

impl fmt::Debug for ConnectionMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ConnectionMetrics")
    }
}
