//! The check whether the server continues to copy the messages of handlers with a derived stream.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::Broker;
use super::running::WorkerHandle;
use crate::error::ErrorKind;
use crate::observe::status_cell::Condition;
use crate::provision::next_uncopied;
use crate::transport::Transport;

/// The interval of the checks; the server tries again every two seconds.
const INTERVAL: Duration = Duration::from_secs(15);

impl Broker {
    /// Checks from time to time whether the copying continues; a stop of the handlers ends the checks.
    pub(super) fn spawn_copy_check(&self, workers: &[Arc<WorkerHandle>]) {
        for worker in workers.iter().filter(|worker| worker.binding.is_derived && worker.is_first()) {
            let (transport, worker) = (self.inner.transport.clone(), worker.clone());
            tokio::spawn(async move { worker.ended.clone().run_until_cancelled(check(&transport, &worker)).await });
        }
    }
}

async fn check(transport: &Transport, worker: &WorkerHandle) {
    let (handler, stream) = (&*worker.handler.declaration.name, &*worker.binding.stream);
    let mut before = None;
    loop {
        sleep(INTERVAL).await;
        let found = match next_uncopied(transport, stream).await {
            Ok(found) => found,
            Err(error) => {
                tracing::debug!(handler, stream, "cannot find out whether all messages are copied: {error}");
                // The right to read the origin is optional.
                if error.kind() == ErrorKind::Authorization {
                    return;
                }
                continue;
            }
        };
        // A full stream goes on as soon as messages were handled.
        let stuck = found.clone().filter(|it| !it.is_full && (it.is_halted || before.as_ref() == Some(it)));
        before = found;
        let Some(stuck) = stuck else {
            worker.status.condition_ended(Condition::NotCopied);
            continue;
        };
        let (origin, sequence) = (&stuck.origin, stuck.sequence);
        let reason = if stuck.is_halted {
            format!(
                "stream `{stream}` copies nothing (its `max_msg_size` is 1), because a change of the partitions is in progress, or was interrupted; apply the plan again"
            )
        } else {
            format!(
                "stream `{stream}` does not copy message {sequence} of stream `{origin}`, and nothing behind it; the log of the server has the reason, such as headers of almost 64 KB, to which it adds one; delete the message (`nats stream rmm {origin} {sequence}`) after you have read it"
            )
        };
        if !worker.status.has(Condition::NotCopied) {
            tracing::error!(handler, stream, origin, sequence, "{reason}");
        }
        worker.status.report(Condition::NotCopied, reason, Some(INTERVAL * 3));
    }
}
