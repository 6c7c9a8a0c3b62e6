//! The warning about filters that match many subjects.

use std::sync::Arc;

use super::Broker;
use super::running::WorkerHandle;
use crate::delivery::Binding;
use crate::provision::{NARROW_FILTER, WideFilters};
use crate::transport::Transport;

impl Broker {
    /// Logs a warning for each filter of these handlers that matches many subjects.
    ///
    /// The handlers do not wait for it, because the server may need long to count the subjects.
    pub(super) fn spawn_filter_check(&self, workers: &[Arc<WorkerHandle>]) {
        let concerned = workers.iter().filter(|worker| WideFilters::may_be_of(&worker.binding));
        let concerned: Vec<_> =
            concerned.map(|worker| (worker.handler.declaration.name.clone(), worker.binding.clone())).collect();
        if concerned.is_empty() {
            return;
        }
        let (transport, closing) = (self.inner.transport.clone(), self.inner.closing.clone());
        tokio::spawn(async move { closing.run_until_cancelled(log_wide_filters(&transport, concerned)).await });
    }
}

async fn log_wide_filters(transport: &Transport, handlers: Vec<(String, Arc<Binding>)>) {
    let mut filters = WideFilters::default();
    for (handler, binding) in handlers {
        match filters.of(transport, &binding).await {
            Ok(found) => found.iter().for_each(|wide| {
                let (stream, filter, subjects) = (&wide.stream, &wide.filter, wide.subjects);
                tracing::warn!(handler, stream, filter, subjects, "{wide}; {NARROW_FILTER}");
            }),
            Err(error) => tracing::debug!(handler, "cannot find out whether a filter matches many subjects: {error}"),
        }
    }
}
