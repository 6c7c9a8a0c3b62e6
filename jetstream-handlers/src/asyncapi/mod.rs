#![doc = include_str!("../docs/asyncapi.md")]

mod channels;
mod components;
mod diff;

mod messages;
mod operations;
mod read;
mod service;
mod service_info;
mod text;

use std::fmt;

use serde::{Serialize, Serializer};
use serde_json::Value;

pub use diff::{Change, Severity, diff};
pub use read::read;
pub(crate) use service::Service;
pub use service_info::ServiceInfo;

/// A document in the format AsyncAPI 3.1, from [`Broker::asyncapi`](crate::Broker::asyncapi).
///
/// `Serialize` writes it with the keys in a stable order, as [`to_json`](Self::to_json) does.
#[derive(Clone, PartialEq)]
pub struct AsyncApi {
    document: Value,
    without_schema: Vec<String>,
}

impl AsyncApi {
    /// Returns the document.
    pub fn as_value(&self) -> &Value {
        &self.document
    }

    /// Returns the document as JSON, over several lines, with the keys in a stable order.
    pub fn to_json(&self) -> String {
        text::json(&self.document)
    }

    /// Returns the document as YAML, with the keys in a stable order.
    pub fn to_yaml(&self) -> String {
        text::yaml(&self.document)
    }

    /// Returns the payloads whose type does not implement `JsonSchema`, sorted, each with the handler or the event that
    /// has it.
    ///
    /// # Examples
    ///
    /// A test that requires a schema for each payload:
    ///
    /// ```
    /// # use jetstream_handlers::{Broker, asyncapi::ServiceInfo};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), jetstream_handlers::Error> {
    /// # use jetstream_handlers::prelude::*;
    /// # #[subscriber(subject = "orders.created", queue = "billing")]
    /// # async fn bill(order: u64) {}
    /// # #[derive(Event, serde::Serialize, schemars::JsonSchema)]
    /// # #[event(subject = "orders.billed")]
    /// # struct Billed {}
    /// # let broker = Broker::in_memory();
    /// # broker.include::<bill>();
    /// let document = broker.asyncapi(ServiceInfo::new("billing", "1.2.0").sends::<Billed>()).await?;
    /// assert!(document.without_schema().is_empty(), "{:?}", document.without_schema());
    /// # Ok(()) }
    /// ```
    pub fn without_schema(&self) -> &[String] {
        &self.without_schema
    }
}

impl fmt::Debug for AsyncApi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AsyncApi").field("without_schema", &self.without_schema).finish_non_exhaustive()
    }
}

impl Serialize for AsyncApi {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        text::Ordered(&self.document).serialize(serializer)
    }
}
