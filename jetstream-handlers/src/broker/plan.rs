//! The plan of what has to change on the server, and its application.

use super::Broker;
use super::start::Checked;
use crate::declaration::Declaration;
use crate::error::{Error, ErrorKind};
use crate::handler::Handler;
use crate::provision::{ExportFormat, Program, ProvisionPlan, apply_plan, export, plan};
use crate::transport::Transport;

impl Broker {
    /// Returns what has to change on the server for the handlers that [`start_all`](Self::start_all) starts, and for the
    /// declared streams; changes nothing.
    ///
    /// It covers creations, and the changes that a start does not make: [`deployment`](mod@crate::deployment) describes
    /// both. A problem that cannot be solved by a change is in the plan as
    /// [`Blocked`](crate::ChangeAction::Blocked).
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # async fn show(broker: jetstream_handlers::Broker) -> Result<(), jetstream_handlers::Error> {
    /// let plan = broker.plan().await?;
    /// println!("{plan}");
    /// std::process::exit(if plan.is_empty() { 0 } else { 2 });
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns an error if settings are invalid, or if the server does not answer or refuses a request.
    ///
    /// # Cancel safety
    ///
    /// This method is cancel safe: it only reads.
    pub async fn plan(&self) -> Result<ProvisionPlan, Error> {
        self.plan_on(&self.inner.transport).await
    }

    /// Returns what would have to change on a server that has what a snapshot says, without asking one.
    ///
    /// The snapshot is the JSON of [`export`](Self::export), usually a file that is committed with the code.
    ///
    /// # Errors
    ///
    /// Returns [`Plan`](ErrorKind::Plan) if the snapshot cannot be read, with the place of the mistake, and the errors of
    /// [`plan`](Self::plan).
    ///
    /// # Cancel safety
    ///
    /// This method is cancel safe: it only reads.
    pub async fn plan_against(&self, snapshot: &str) -> Result<ProvisionPlan, Error> {
        self.plan_on(&crate::provision::loaded(self.inner.transport.settings(), snapshot).await?).await
    }

    async fn plan_on(&self, transport: &Transport) -> Result<ProvisionPlan, Error> {
        let Checked { handlers, problems, .. } = self.checked_selected()?.for_consumers();
        let declarations: Vec<_> = handlers.iter().map(|handler| &handler.declaration).collect();
        plan(transport, &declarations, problems, &self.program(&declarations)).await
    }

    /// Returns the streams and consumers that the handlers of [`start_all`](Self::start_all) and the declared streams need,
    /// in the format of another tool; changes nothing.
    ///
    /// A stream that is neither declared nor missing is written as it is on the server.
    /// A broker in memory needs no server, and writes what an empty one would need.
    ///
    /// # Examples
    ///
    /// ```
    /// use jetstream_handlers::ExportFormat;
    /// use jetstream_handlers::prelude::*;
    ///
    /// #[subscriber(subject = "orders.created", queue = "billing")]
    /// async fn bill(order: u64) {}
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), jetstream_handlers::Error> {
    /// let broker = Broker::in_memory();
    /// broker.include::<bill>();
    /// let snapshot = broker.export(ExportFormat::Json).await?;
    /// // In a later version of the program:
    /// let plan = broker.plan_against(&snapshot).await?;
    /// assert!(plan.is_empty());
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns the problems of the handlers, such as a subject for which no stream can be created.
    ///
    /// # Cancel safety
    ///
    /// This method is cancel safe: it only reads.
    pub async fn export(&self, format: ExportFormat) -> Result<String, Error> {
        let Checked { handlers, problems, .. } = self.checked_selected()?.for_consumers();
        let declarations: Vec<_> = handlers.iter().map(|handler| &handler.declaration).collect();
        export(&self.inner.transport, &declarations, problems, format).await
    }

    /// Makes the changes of a plan, in their order.
    ///
    /// Each object is read again before it is changed. If one is not as it was when the plan was made, nothing is changed
    /// from there on.
    /// Orphans are deleted only if the plan was [pruned](ProvisionPlan::prune).
    ///
    /// # Errors
    ///
    /// Returns [`Plan`](ErrorKind::Plan) if the plan is one of another server, if something in it is blocked, if the
    /// server has changed since, or if this program still needs changes afterwards; and the errors of the server.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, some changes were made, and a new plan has the others. A consumer that is recreated may
    /// be deleted and not created yet, and its position is lost with it; the log has the command that creates it there.
    pub async fn apply(&self, plan: &ProvisionPlan) -> Result<(), Error> {
        apply_plan(&self.inner.transport, plan).await?;
        let left = self.plan().await?;
        if left.is_empty() {
            return Ok(());
        }
        let left: Vec<_> = left.pending().map(|change| format!("\n{change}")).collect();
        let text = format!("the changes of the plan were made, and this program needs others:{}", left.concat());
        Err(Error::new(ErrorKind::Plan, text))
    }

    /// Returns the handlers of the program, by which a consumer without a handler is known.
    fn program(&self, selected: &[&Declaration]) -> Program {
        let all = Handler::all();
        let linked = all.iter().map(|handler| &handler.declaration);
        let named = linked.clone().chain(selected.iter().copied()).filter(|it| !it.is_closure);
        let crates = named.filter_map(|it| it.name.split("::").next()).map(str::to_owned).collect();
        let mut queues: std::collections::BTreeSet<_> = linked
            .chain(selected.iter().copied())
            .flat_map(|it| it.consumers())
            .map(|it| it.plan.queue.to_string())
            .collect();
        queues.extend(self.workers().iter().map(|worker| worker.binding.consumer.clone()));
        Program { crates, queues }
    }
}
