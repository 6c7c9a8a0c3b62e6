//! The document of a service in the format AsyncAPI.

use super::start::Checked;
use super::{Broker, Inner};
use crate::asyncapi::{AsyncApi, Service, ServiceInfo};
use crate::error::Error;
use crate::provision;

impl Broker {
    /// Returns a document in the format AsyncAPI 3.1 of what the handlers receive and what the service publishes.
    ///
    /// The handlers are those that [`start_all`](Self::start_all) starts; none is started, and nothing is changed on the
    /// server. On a broker in memory, the document has the streams and consumers that the handlers would have on a server
    /// without any. [`asyncapi`](crate::asyncapi) describes the document.
    ///
    /// # Examples
    ///
    /// ```
    /// use jetstream_handlers::asyncapi::ServiceInfo;
    /// use jetstream_handlers::prelude::*;
    ///
    /// /// Bills an order.
    /// #[subscriber(subject = "orders.{id}.created", queue = "billing")]
    /// async fn bill(order: u64) {}
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), jetstream_handlers::Error> {
    /// let broker = Broker::builder().include::<bill>().connect_in_memory();
    /// let document = broker.asyncapi(ServiceInfo::new("billing", "1.2.0")).await?;
    /// let channel = &document.as_value()["channels"]["orders.id.created"];
    /// assert_eq!(channel["address"], "orders.{id}.created");
    /// println!("{}", document.to_yaml());
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns what [`check`](Self::check) returns: all problems that would prevent a start.
    ///
    /// # Cancel safety
    ///
    /// This method is cancel safe: it only reads.
    pub async fn asyncapi(&self, info: ServiceInfo) -> Result<AsyncApi, Error> {
        let Inner { transport, .. } = &*self.inner;
        let Checked { handlers, problems, .. } = self.checked(self.selected()?)?.for_consumers();
        let declarations: Vec<_> = handlers.iter().map(|handler| &handler.declaration).collect();
        let (bindings, streams) = provision::planned(transport, &declarations, problems).await?;
        // A handler with partitions is described once, with its declared subjects.
        let first = handlers.iter().zip(&bindings).filter(|(handler, _)| handler.declaration.is_first());
        let whole: Vec<_> = first.map(|(handler, binding)| (handler.whole(), binding)).collect();
        let service = Service {
            handlers: whole.iter().map(|(handler, binding)| (handler, *binding)).collect(),
            streams: &streams,
            settings: transport.settings(),
            addresses: transport.addresses(),
        };
        Ok(service.document(info))
    }
}
