//! Dead letters of messages that have no attempts left.

use std::time::Duration;

use super::Worker;
use crate::dead_letter;
use crate::error::Error;
use crate::message::{Message, PublishAck};
use crate::outcome::Failure;

impl Worker {
    /// Stores the dead letter of a message, if the handler has dead letters.
    ///
    /// # Errors
    ///
    /// Returns the delay after which to try again, if the dead letter cannot be stored. The caller must not end the
    /// message before it is stored.
    pub(super) async fn dead_letter(&self, message: &Message, failure: &Failure) -> Result<(), Duration> {
        let Failure { reason, error } = failure;
        let Some(subject) = &self.binding.dead_letter else {
            tracing::error!(reason = reason.as_str(), "terminated, without a dead letter: {error}");
            return Ok(());
        };
        match self.store_dead_letter(subject, message, failure).await {
            Ok(stored) => {
                tracing::error!(
                    reason = reason.as_str(),
                    stream = stored.stream,
                    sequence = stored.sequence,
                    "dead letter: {error}"
                );
                Ok(())
            }
            Err(problem) => {
                let delay = self.dead_letter_delay(message.info.delivered());
                tracing::error!(
                    "the dead letter could not be stored, so the message stays and is redelivered in {delay:.1?}: {problem:?}; it failed with: {error}"
                );
                Err(delay)
            }
        }
    }

    /// Stores the dead letter of a message on `subject`.
    pub(super) async fn store_dead_letter(
        &self,
        subject: &str,
        message: &Message,
        failure: &Failure,
    ) -> Result<PublishAck, Error> {
        let handler = &self.handler.declaration.name;
        dead_letter::store(&self.transport, subject, handler, message, failure).await
    }
}
