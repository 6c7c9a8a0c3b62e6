//! The ack floor of a consumer, read periodically in case the consumer is deleted.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::time::{Instant, timeout};

use super::Connection;
use crate::delivery::Binding;
use crate::error::{Error, ErrorKind};
use crate::nats::floor::Floor;

/// The interval at which the ack floor of a busy consumer is read.
const PERIOD: Duration = Duration::from_secs(5);

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
}

impl FloorReader {
    /// Begins to read the floor of a consumer that may have one.
    pub(super) fn new(connection: Arc<Connection>, binding: Arc<Binding>) -> Self {
        let has_floor = binding.has_floor;
        let mut reader = Self { connection, binding, floor: None, reading: None, next: Some(Instant::now()) };
        if has_floor {
            reader.read();
        }
        reader
    }

    fn read(&mut self) {
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
    }

    /// Returns the reading in progress, whose result the caller passes to [`on_read`](Self::on_read).
    pub(super) fn reading(&mut self) -> Option<&mut BoxFuture<'static, Result<Floor, Error>>> {
        self.reading.as_mut()
    }

    pub(super) fn on_read(&mut self, handler: &str, result: Result<Floor, Error>) {
        self.reading = None;
        match result {
            Ok(floor) => self.floor = Some(floor),
            Err(error) if matches!(error.kind(), ErrorKind::Timeout | ErrorKind::Authorization) => {
                // Without the permission, or without a server, further requests would fail as well.
                tracing::debug!(handler, "cannot read the ack floor of the consumer: {error}");
                self.next = None;
            }
            Err(_) => {}
        }
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
