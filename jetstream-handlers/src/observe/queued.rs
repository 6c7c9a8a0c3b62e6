//! The time that a message has waited in its stream.

use std::time::{Duration, SystemTime};

/// The time since a message was stored; the clocks of the server and of this machine differ.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Queued {
    /// In nanoseconds since 1970.
    pub(crate) stored_at: u64,
}

impl Queued {
    pub(super) fn until_now(self) -> Duration {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        now.saturating_sub(Duration::from_nanos(self.stored_at))
    }
}

/// The conversion for a histogram, which reads the clock only if the application has installed a recorder.
#[cfg(feature = "metrics")]
impl ::metrics::IntoF64 for Queued {
    fn into_f64(self) -> f64 {
        self.until_now().as_secs_f64()
    }
}
