//! The wait for the messages of partitions, before their number is changed.
//!
//! A key may be in another partition then. Its earlier messages must have ended before a later one is published.

use std::collections::BTreeSet;
use std::time::Duration;

use async_nats::jetstream::stream;
use tokio::time::{Instant, sleep};

use super::plan::Change;
use super::{drift, halt};
use crate::delivery::FoundConsumer;
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
        let copies = transport.copies(stream).await.ok().flatten();
        let copies = copies.filter(|copies| drift::is_derived(&copies.config)).map(|copies| copies.messages);
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

/// The partitions whose number a plan changes.
#[derive(Debug, Default)]
pub(super) struct Renumbered {
    /// The consumers of which the plan changes it, each with its stream.
    consumers: Vec<(String, String)>,
    /// The derived streams that the plan has not changed yet, as they were before.
    derived: Vec<stream::Config>,
}

impl Renumbered {
    /// Adds the consumer of a change that gives it another number.
    pub(super) fn add_consumer(&mut self, change: &Change, found: &FoundConsumer) {
        let wanted = change.config.as_ref().and_then(|config| config["metadata"][drift::PARTITIONS_ENTRY].as_str());
        let number = found.config.metadata.get(drift::PARTITIONS_ENTRY);
        if wanted.is_some_and(|wanted| number.is_none_or(|number| number != wanted)) {
            self.consumers.push((change.stream.clone().unwrap_or_default(), found.name().to_owned()));
        }
    }

    /// Adds a derived stream that is to copy in another way.
    pub(super) fn add_stream(&mut self, found: stream::Config, wanted: &stream::Config) {
        if halt::changes_copies(&found, wanted) {
            self.derived.push(found);
        }
    }

    /// Removes a stream that was changed.
    pub(super) fn applied(&mut self, change: &Change) {
        self.derived.retain(|stream| Some(&stream.name) != change.stream.as_ref());
    }

    /// Waits until all messages of the partitions have ended; derived streams copy nothing from then on.
    ///
    /// # Errors
    ///
    /// Returns an error if no message ends for 30 s, and some are left; the streams copy again then.
    pub(super) async fn drain(&self, transport: &Transport) -> Result<(), Error> {
        let mut former = Vec::new();
        for (stream, consumer) in &self.consumers {
            // The messages of a derived stream that was changed before, by a plan that was interrupted, have the new number.
            let is_done = !self.derived.iter().any(|it| it.name == *stream)
                && transport.stream(stream).await.is_ok_and(|found| found.is_some_and(|it| drift::is_derived(&it)));
            if !is_done {
                former.push((stream.clone(), consumer.clone()));
            }
        }
        for stream in &self.derived {
            let name = &stream.name;
            let consumers = transport.found_consumers(name).await;
            let consumers =
                consumers.map_err(|error| error.into_error(&format!("listing the consumers of `{name}`")))?;
            former.extend(consumers.iter().map(|consumer| (name.clone(), consumer.name().to_owned())));
            halt::halt(transport, stream).await?;
        }
        let drained = until_drained(transport, former).await;
        if drained.is_err() {
            self.resume(transport).await?;
        }
        drained
    }

    /// Lets the derived streams copy again that were not changed.
    pub(super) async fn resume(&self, transport: &Transport) -> Result<(), Error> {
        for stream in &self.derived {
            halt::resume(transport, stream).await?;
        }
        Ok(())
    }
}

/// Waits until all messages of the partitions have ended that these consumers, each with its stream, are some of.
async fn until_drained(transport: &Transport, consumers: Vec<(String, String)>) -> Result<(), Error> {
    let former = consumers.into_iter().filter_map(|(stream, consumer)| {
        let queue = queue_of_partition(&consumer)?.to_owned();
        Some(Former { stream, queue })
    });
    for former in former.collect::<BTreeSet<_>>() {
        former.until_drained(transport).await?;
    }
    Ok(())
}
