//! The ack floor of a consumer, read periodically in case the consumer is deleted; the same answer tells whether the
//! consumer is paused.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::time::{Instant, timeout};

use super::Connection;
use crate::delivery::{Binding, Pause};
use crate::error::{Error, ErrorKind};
use crate::nats::floor::Floor;

/// The interval at which the ack floor of a busy consumer is read.
const PERIOD: Duration = Duration::from_secs(5);

/// The minimum time between two readings that only tell whether the consumer is paused.
const PAUSE_PERIOD: Duration = Duration::from_secs(1);

/// The timeout of reading the start sequence of a restored consumer.
const TIMEOUT: Duration = Duration::from_secs(2);

/// A periodic reader of one consumer's ack floor.
pub(super) struct FloorReader {
    connection: Arc<Connection>,
    binding: Arc<Binding>,
    floor: Option<Floor>,
    reading: Option<BoxFuture<'static, Result<Floor, Error>>>,
    /// The time of the next reading; `None` if the floor cannot be read on this connection.
    next: Option<Instant>,
    /// The time at which the floor was read last.
    last: Option<Instant>,
    /// The time at which it is read although no message arrives, because the consumer may be paused or resumed.
    soon: Option<Instant>,
    /// The pause of the consumer, as it was read last.
    pause: Option<Pause>,
    /// `true` if it was read on this connection, or the consumer is new.
    is_pause_known: bool,
}

impl FloorReader {
    /// Begins to read the floor of a consumer that may have one.
    pub(super) fn new(connection: Arc<Connection>, binding: Arc<Binding>) -> Self {
        let has_floor = binding.has_floor;
        let mut reader = Self {
            connection,
            binding,
            floor: None,
            reading: None,
            next: Some(Instant::now()),
            last: None,
            soon: None,
            pause: None,
            is_pause_known: !has_floor,
        };
        if has_floor {
            reader.read();
        }
        reader
    }

    fn read(&mut self) {
        (self.last, self.soon) = (Some(Instant::now()), None);
        let (connection, binding) = (self.connection.clone(), self.binding.clone());
        self.reading = Some(Box::pin(async move { connection.floor(&binding).await }));
    }

    /// Begins to read the floor if that is due.
    pub(super) fn read_if_due(&mut self, now: Instant) {
        if self.next.is_some_and(|next| next <= now) {
            self.next = Some(now + PERIOD);
            self.read();
        }
    }

    /// Makes the next reading due, on a new connection.
    pub(super) fn reconnected(&mut self) {
        self.next = Some(Instant::now());
        self.is_pause_known = false;
    }

    /// Schedules a reading, because the consumer is reported to be paused or resumed.
    pub(super) fn pause_reported(&mut self) {
        // Without a right to read it, another request would fail as well.
        if self.next.is_some() && self.soon.is_none() {
            let now = Instant::now();
            self.soon = Some(self.last.map_or(now, |last| now.max(last + PAUSE_PERIOD)));
        }
    }

    /// Schedules a reading while no message arrives: if the pause of the consumer is not known, or may have ended.
    pub(super) fn heartbeat(&mut self) {
        if !self.is_pause_known || self.pause.is_some() {
            self.pause_reported();
        }
    }

    /// Schedules a reading, because the server does not answer: it may have too many requests.
    pub(super) fn silent(&mut self) {
        self.pause_reported();
    }

    /// Returns the time of the scheduled reading, if there is one.
    pub(super) fn wake(&self) -> Option<Instant> {
        // One in progress may have been answered before the change.
        self.soon.filter(|_| self.reading.is_none())
    }

    /// Begins the scheduled reading if that is due.
    pub(super) fn proceed(&mut self, now: Instant) {
        if self.wake().is_some_and(|soon| soon <= now) {
            self.read();
        }
    }

    /// Returns the reading in progress, whose result the caller passes to [`on_read`](Self::on_read).
    pub(super) fn reading(&mut self) -> Option<&mut BoxFuture<'static, Result<Floor, Error>>> {
        self.reading.as_mut()
    }

    /// Keeps the floor that was read; returns the pause of the consumer if that has changed.
    pub(super) fn on_read(&mut self, handler: &str, result: Result<Floor, Error>) -> Option<Option<Pause>> {
        self.reading = None;
        match result {
            Ok(floor) => {
                self.floor = Some(floor);
                self.is_pause_known = true;
                let until = |pause: Option<Pause>| pause.map(|pause| pause.until);
                let former = std::mem::replace(&mut self.pause, floor.pause);
                return (until(former) != until(floor.pause)).then_some(floor.pause);
            }
            Err(error) if matches!(error.kind(), ErrorKind::Timeout | ErrorKind::Authorization) => {
                // Without the permission, or without a server, further requests would fail as well.
                tracing::debug!(handler, "cannot read the ack floor of the consumer: {error}");
                (self.next, self.is_pause_known) = (None, true);
            }
            Err(_) => {}
        }
        None
    }

    /// Raises a floor that was read to one that the same consumer has reported elsewhere.
    pub(super) fn rise(&mut self, sequence: u64) {
        if let Some(floor) = &mut self.floor {
            floor.rise(sequence);
        }
    }

    /// Returns a future of the sequence at which a restored consumer must start: one after the floor, or `None` for the
    /// beginning of the stream.
    pub(super) fn start(&self) -> BoxFuture<'static, Result<Option<u64>, Error>> {
        let (connection, binding, floor) = (self.connection.clone(), self.binding.clone(), self.floor);
        Box::pin(async move {
            let start = async {
                match floor {
                    // A work queue has deleted the acknowledged messages, and its consumers must start at its beginning
                    // (error 10101).
                    Some(floor) if !binding.work_queue => connection.start_sequence(&binding, floor).await,
                    _ => Ok(None),
                }
            };
            let no_answer = |_| Err(Error::new(ErrorKind::Timeout, "no answer"));
            timeout(TIMEOUT, start).await.unwrap_or_else(no_answer)
        })
    }
}
