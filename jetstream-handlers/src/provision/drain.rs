//! The wait for the messages of partitions, before their number is changed.
//!
//! A key may be in another partition then. Its earlier messages must have ended before a later one is published.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::derived;
use crate::error::{Error, ErrorKind};
use crate::partition::queue_of_partition;
use crate::transport::Transport;

/// The time without an end of any message after which the drain fails.
const PATIENCE: Duration = Duration::from_secs(30);

/// The interval at which the consumers are read.
const INTERVAL: Duration = Duration::from_millis(250);

/// The interval of the log lines.
const LOG_INTERVAL: Duration = Duration::from_secs(5);

/// The partitions of a handler whose number is changed: all consumers with the name of its queue and a number.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Former {
    stream: String,
    queue: String,
}

impl Former {
    /// Returns the number of messages that have not ended, and that of the partitions.
    async fn left(&self, transport: &Transport) -> Result<(u64, usize), Error> {
        let Self { stream, queue } = self;
        let consumers = transport.found_consumers(stream).await;
        let consumers =
            consumers.map_err(|error| error.into_error(&format!("listing the consumers of stream `{stream}`")))?;
        let partitions: Vec<_> =
            consumers.iter().filter(|it| queue_of_partition(it.name()) == Some(queue.as_str())).collect();
        let left: u64 = partitions.iter().map(|consumer| consumer.left).sum();
        // A copy may be in a partition without a consumer; in a derived stream, all messages are copies.
        let copies = match transport.stream(stream).await {
            Ok(Some(config)) if derived::is_derived(&config) => transport.count_messages(stream, ">").await?,
            _ => None,
        };
        Ok((left.max(copies.unwrap_or_default()), partitions.len()))
    }

    async fn until_drained(&self, transport: &Transport) -> Result<(), Error> {
        let Self { stream, queue } = self;
        let (mut least, mut since) = (u64::MAX, Instant::now());
        let mut logged_at = None;
        let mut was_drained = false;
        loop {
            let (left, partitions) = self.left(transport).await?;
            // A message that has just been stored is not counted yet.
            if std::mem::replace(&mut was_drained, left == 0) && left == 0 {
                return Ok(());
            }
            if left < least {
                (least, since) = (left, Instant::now());
            }
            if since.elapsed() >= PATIENCE {
                let text = format!(
                    "{left} messages are left in the {partitions} partitions of `{queue}` on stream `{stream}`, and none has ended for {PATIENCE:?}; run the version with their number, stop what publishes to them, and apply the plan again; nothing was changed"
                );
                return Err(Error::new(ErrorKind::Plan, text));
            }
            if logged_at.is_none_or(|at: Instant| at.elapsed() >= LOG_INTERVAL) {
                logged_at = Some(Instant::now());
                tracing::info!(stream, queue, "waiting until {left} messages of {partitions} partitions have ended");
            }
            sleep(INTERVAL).await;
        }
    }
}

/// Waits until all messages of the partitions have ended whose number is changed; `consumers` are those of which the plan
/// changes it, each with its stream.
///
/// # Errors
///
/// Returns an error if no message ends for 30 s, and some are left.
pub(super) async fn drain(transport: &Transport, consumers: &[(String, String)]) -> Result<(), Error> {
    let former = consumers.iter().filter_map(|(stream, consumer)| {
        let queue = queue_of_partition(consumer)?.to_owned();
        Some(Former { stream: stream.clone(), queue })
    });
    for former in former.collect::<BTreeSet<_>>() {
        former.until_drained(transport).await?;
    }
    Ok(())
}
