//! Waiting for conditions, and logging.

use std::panic::Location;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};

/// The time within which an expected event must happen, or the test fails.
pub const SOON: Duration = Duration::from_secs(30);

const PAUSE: Duration = Duration::from_millis(5);

/// Returns this many milliseconds.
pub const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// Calls `poll` until it returns `Some`, and returns the value.
///
/// # Panics
///
/// After the deadline; the message contains `what` and the location of the call.
#[track_caller]
pub fn eventually<T, F, Fut>(
    what: &str,
    deadline: Duration,
    mut poll: F,
) -> impl Future<Output = T> + use<'_, T, F, Fut>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    let caller = Location::caller();
    async move {
        let end = Instant::now() + deadline;
        for tries in 1_u32.. {
            match timeout_at(end, poll()).await {
                Ok(Some(value)) => return value,
                Ok(None) if Instant::now() < end => sleep(PAUSE).await,
                Ok(None) => panic!("{caller}: not within {deadline:?}, {tries} tries: {what}"),
                Err(_) => panic!("{caller}: not within {deadline:?}: {what}; try {tries} was still waiting"),
            }
        }
        unreachable!("the deadline is reached first")
    }
}

/// Prints `tracing` events to the standard error if the variable `JSH_TRACE` is set to a level.
pub fn trace() {
    use tracing_subscriber::filter::LevelFilter;

    let Ok(level) = std::env::var("JSH_TRACE") else {
        return;
    };
    let level: LevelFilter = level.parse().unwrap_or_else(|error| panic!("JSH_TRACE is {level:?}: {error}"));
    // This fails if another test of the process has done it already.
    let _ = tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr).try_init();
}
