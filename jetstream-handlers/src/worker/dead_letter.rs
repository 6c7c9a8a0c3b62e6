//! Dead letters of messages that have no attempts left.

use super::Worker;
use crate::dead_letter;
use crate::error::Error;
use crate::message::{Message, PublishAck};
use crate::observe::settled::Next;
use crate::outcome::Failure;

impl Worker {
    /// Stores the dead letter of a message, if the handler has dead letters; returns its place.
    ///
    /// # Errors
    ///
    /// Returns an error if the dead letter cannot be stored. The caller must not end the message before it is stored.
    pub(super) async fn dead_letter(&self, message: &Message, failure: &Failure) -> Result<Next, Error> {
        let Some(subject) = &self.binding.dead_letter else { return Ok(Next::Terminated) };
        let stored = self.store_dead_letter(subject, message, failure).await?;
        Ok(Next::DeadLetter { stream: stored.stream, sequence: stored.sequence })
    }

    /// Stores the dead letter of a message on `subject`.
    pub(super) async fn store_dead_letter(
        &self,
        subject: &str,
        message: &Message,
        failure: &Failure,
    ) -> Result<PublishAck, Error> {
        let handler = &self.handler.declaration.name;
        let stored = dead_letter::store(&self.transport, subject, handler, message, failure).await?;
        // A message that is redelivered after its end was lost has a dead letter already.
        if !stored.duplicate {
            self.observer.dead_lettered(failure.reason);
        }
        Ok(stored)
    }
}
