//! A fast-ingest batch in memory.

use async_nats::jetstream::publish::PublishAck;

use super::Memory;
use crate::error::ingest::IngestError;
use crate::error::{Error, ErrorKind};
use crate::message::{BeginFailure, Outgoing, PublishFailure};

/// A batch whose first message is stored.
pub(crate) struct Ingest<'a> {
    memory: &'a Memory,
    ack: PublishAck,
    stored: u64,
}

impl<'a> Ingest<'a> {
    pub(crate) async fn begin(memory: &'a Memory, first: &Outgoing) -> Result<Self, BeginFailure> {
        let ack = memory.ingest(first, 1, None).await.map_err(BeginFailure::NotBegun)?;
        Ok(Self { memory, ack, stored: 1 })
    }

    /// Stores the next message; an error ends the batch.
    pub(crate) async fn add(&mut self, message: Result<Outgoing, Error>) -> Result<(), IngestError> {
        let stored = async {
            let ack = self.memory.ingest(&message?, self.stored + 1, Some(&self.ack.stream)).await;
            ack.map_err(|failure| match failure {
                PublishFailure::NoStream(_) => {
                    let number = self.stored + 1;
                    let text = format!("no stream covers the subject of message {number} of the batch");
                    Error::new(ErrorKind::Publish, text)
                }
                PublishFailure::Unanswered(error)
                | PublishFailure::Transient(error)
                | PublishFailure::Permanent(error) => error,
            })
        };
        self.ack = stored.await.map_err(|error| IngestError::new(error, self.stored))?;
        self.stored += 1;
        Ok(())
    }

    /// Returns the ack of the last message, with the size of the batch.
    pub(crate) fn end(&mut self) -> PublishAck {
        PublishAck { batch_size: Some(self.stored), ..std::mem::take(&mut self.ack) }
    }
}
