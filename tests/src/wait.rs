//! Waiting for a condition, and seeing what happens meanwhile.

use std::panic::Location;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};

/// How long a test waits for what should happen soon; it fails when this is over.
pub const SOON: Duration = Duration::from_secs(30);

const PAUSE: Duration = Duration::from_millis(5);

/// Returns this many milliseconds.
pub const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// Asks `poll` again and again until it returns `Some`, and returns what is in it.
///
/// # Panics
///
/// When the deadline passes first; the message has `what` in it, and the place of the call.
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
        unreachable!("the deadline comes before the numbers end")
    }
}

/// Prints `tracing` events to the standard error, when the variable `JSH_TRACE` names a level.
pub fn trace() {
    use tracing_subscriber::filter::LevelFilter;

    let Ok(level) = std::env::var("JSH_TRACE") else {
        return;
    };
    let level: LevelFilter = level.parse().unwrap_or_else(|error| panic!("JSH_TRACE is {level:?}: {error}"));
    // It fails when another test of this process was first, which is as good.
    let _ = tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr).try_init();
}
