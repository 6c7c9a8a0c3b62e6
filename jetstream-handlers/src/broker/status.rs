//! The state of the handlers' consumers on the server.

use std::sync::Arc;
use std::time::SystemTime;

use futures::StreamExt as _;
use futures::stream;

use super::Broker;
use super::letters::count_letters;
use super::start::Checked;
use crate::declaration::Declaration;
use crate::error::Error;
use crate::observe::handler_status::{HandlerStatus, StatusCounts};
use crate::provision::{self, Inspection};
use crate::transport::Transport;

/// The maximum number of handlers whose numbers are read at the same time.
const MAX_REQUESTS: usize = 16;

impl Broker {
    /// Returns the state of the consumer of each handler that [`start_all`](Self::start_all) would start, whether it runs
    /// in this process or not.
    ///
    /// A value that cannot be read is `None`, with the reason in [`HandlerStatus::problem`].
    /// The state of this process is its [`health`](Self::health).
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # async fn show(broker: jetstream_handlers::Broker) -> Result<(), jetstream_handlers::Error> {
    /// for handler in broker.status().await? {
    ///     println!("{}: {:?}", handler.handler, handler.counts);
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns an error if the settings of the handlers are invalid, or the broker has none.
    ///
    /// # Cancel safety
    ///
    /// This method is cancel safe: it only reads.
    pub async fn status(&self) -> Result<Vec<HandlerStatus>, Error> {
        let Checked { handlers, .. } = self.checked(self.selected()?)?.for_consumers();
        let transport = &self.inner.transport;
        let declarations: Vec<_> = handlers.iter().map(|handler| &handler.declaration).collect();
        let inspection = provision::inspect(transport, &declarations).await;
        let statuses: Vec<_> =
            declarations.iter().map(|declaration| status(transport, declaration, &inspection)).collect();
        Ok(stream::iter(statuses).buffered(MAX_REQUESTS).collect().await)
    }
}

async fn status(transport: &Arc<Transport>, declaration: &Declaration, inspection: &Inspection<'_>) -> HandlerStatus {
    let mut status = HandlerStatus {
        handler: declaration.name.clone(),
        stream: None,
        queue: declaration.plan.queue.to_string(),
        counts: None,
        max_ack_pending: None,
        paused_until: None,
        dead_letters: None,
        problem: inspection.problem_of(declaration),
    };
    let Some((binding, exists)) = inspection.binding_of(declaration) else { return status };
    status.stream = Some(binding.stream.clone());
    let mut note = |error: Error| _ = status.problem.get_or_insert_with(|| error.to_string());
    let mut letters = binding.dead_letter.as_deref().and_then(|subject| inspection.stream_of(subject));
    match count_letters(transport, binding, &mut letters).await {
        Ok(letters) => status.dead_letters = letters,
        Err(error) => note(error),
    }
    if !exists {
        status.problem.get_or_insert_with(|| "the consumer does not exist; a start creates it".to_owned());
        return status;
    }
    match transport.consumer_counts(binding).await {
        Ok(counts) => {
            let (pending, ack_pending) = (counts.pending, counts.ack_pending);
            let (redelivered, waiting) = (counts.redelivered, counts.waiting);
            status.counts = Some(StatusCounts { pending, ack_pending, redelivered, waiting });
        }
        Err(error) => note(error),
    }
    status.max_ack_pending = u64::try_from(binding.config.max_ack_pending).ok().filter(|limit| *limit > 0);
    let until = binding.config.pause_until.map(SystemTime::from);
    status.paused_until = until.filter(|until| *until > SystemTime::now());
    status
}
