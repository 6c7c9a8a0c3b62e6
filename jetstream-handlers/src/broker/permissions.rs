//! The rights of the broker's user.

use super::Broker;
use super::start::Checked;
use crate::declaration::Declaration;
use crate::error::Error;
use crate::event::DeclaredEvent;
use crate::pattern::filter;
use crate::provision::{Needs, needs};
use crate::rights::{PermissionLevel, Permissions, Sources};
use crate::transport::Transport;

impl Broker {
    /// Returns the rights that the user of this service needs for one level of use.
    ///
    /// They are derived from the handlers that [`start_all`](Self::start_all) starts, the closures that run, the declared
    /// streams, and every event with `#[derive(Event)]` that is linked into the program.
    /// Subjects that the application publishes by hand are added with
    /// [`with_publish`](Permissions::with_publish).
    ///
    /// A connected broker asks the server for the streams, and its rights are for those. A broker in memory has no
    /// streams, and its rights are for those that the service would create; set `stream` at handlers whose streams have
    /// other names.
    ///
    /// # Examples
    ///
    /// ```
    /// use jetstream_handlers::prelude::*;
    /// use jetstream_handlers::PermissionLevel;
    ///
    /// #[subscriber(subject = "orders.created", queue = "billing")]
    /// async fn bill(order: u64) {}
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), jetstream_handlers::Error> {
    /// let broker = Broker::builder().include::<bill>().connect_in_memory();
    /// let permissions = broker.permissions(PermissionLevel::Run).await?;
    /// assert!(permissions.publish().any(|right| right.subject() == "$JS.ACK.ORDERS.billing.>"));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns the problems of the handlers' settings, and of handlers whose stream cannot be found or read.
    ///
    /// # Cancel safety
    ///
    /// This method is cancel safe: it only reads.
    pub async fn permissions(&self, level: PermissionLevel) -> Result<Permissions, Error> {
        let transport = self.transport();
        let events = self.linked_events();
        let needs = self.needs(transport, &events).await?;
        let (settings, inbox_prefix) = (transport.settings(), transport.inbox_prefix());
        Ok(Permissions::derive(level, Sources { settings, inbox_prefix, needs: &needs, events: &events }))
    }

    /// Returns what the handlers, the declared streams and these events need on the server.
    pub(super) async fn needs(&self, transport: &Transport, events: &[(String, String)]) -> Result<Needs, Error> {
        let Checked { handlers, .. } = self.checked_selected()?.for_consumers();
        let running: Vec<_> = self.workers().iter().map(|worker| worker.handler.clone()).collect();
        let closures = running.iter().map(|handler| &handler.declaration).filter(|it| it.is_closure);
        let declarations: Vec<&Declaration> =
            handlers.iter().map(|handler| &handler.declaration).chain(closures).collect();
        needs(transport, &declarations, events).await
    }

    /// Returns the types and the subjects of the events that are linked into the program.
    pub(super) fn linked_events(&self) -> Vec<(String, String)> {
        let settings = self.transport().settings();
        let mut events: Vec<_> = inventory::iter::<DeclaredEvent>()
            .flat_map(|event| {
                let name = (event.type_name)().to_owned();
                event
                    .patterns
                    .iter()
                    .map(move |pattern| (name.clone(), settings.subject(&filter(pattern)).into_owned()))
            })
            .collect();
        events.sort();
        events.dedup();
        events
    }
}
