//! The restoration of a handler's consumer that was deleted.

use std::time::{Duration, SystemTime};

use tokio::time::timeout;

use super::Worker;
use crate::declaration::Declaration;
use crate::error::{Error, ErrorKind};
use crate::provision::restore_consumer;

/// The timeout of restoring a consumer.
const RESTORE_TIMEOUT: Duration = Duration::from_secs(2);

impl Worker {
    /// Restores the consumer, or finds that it exists.
    ///
    /// A restored consumer starts at the stream sequence `start`, or at the beginning of the stream if that is `None`.
    /// Returns the time at which the consumer was created.
    ///
    /// # Errors
    ///
    /// The kind is [`ErrorKind::Timeout`] if it is not known whether the consumer exists.
    pub(super) async fn restore_consumer(&self, start: Option<u64>) -> Result<Option<SystemTime>, Error> {
        let Declaration { name, plan, .. } = &self.handler.declaration;
        let manage = plan.manage.unwrap_or(self.transport.settings().manage);
        let restored = restore_consumer(&self.transport, name, &self.binding, start, manage);
        let no_answer = |_| Err(Error::new(ErrorKind::Timeout, "no answer"));
        let restored = timeout(RESTORE_TIMEOUT, restored).await.unwrap_or_else(no_answer)?;
        if let Some(start) = restored.start {
            self.recognize_repeated(start).await;
        }
        Ok(restored.created)
    }

    /// Begins to recognize the messages that a consumer restored from `start` repeats.
    async fn recognize_repeated(&self, start: u64) {
        match timeout(RESTORE_TIMEOUT, self.transport.stream_created(&self.binding.stream)).await {
            Ok(Ok(Some(created))) => {
                self.recent_acks.restored(start, created, self.binding.incarnations.current());
            }
            Ok(Ok(None)) | Err(_) => {}
            Ok(Err(error)) => tracing::debug!(
                handler = self.handler.declaration.name,
                "messages that the restored consumer repeats are handled again: {error}"
            ),
        }
    }
}
