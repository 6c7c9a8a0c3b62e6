//! The statements of the application about its service.

use std::any::type_name;

use crate::event::Event;

/// The title, the version and other facts of a service that its handlers and events do not tell.
///
/// # Examples
///
/// ```
/// use jetstream_handlers::asyncapi::ServiceInfo;
///
/// let info = ServiceInfo::new(env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"))
///     .description("Bills orders.")
///     .server("production", "nats://nats.example.com:4222");
/// # drop(info);
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct ServiceInfo {
    pub(super) title: String,
    pub(super) version: String,
    pub(super) description: Option<String>,
    pub(super) servers: Vec<(String, String)>,
    /// The events that the service publishes; empty for all.
    pub(super) events: Vec<&'static str>,
}

impl ServiceInfo {
    /// Returns the title and the version of the service.
    pub fn new(title: impl Into<String>, version: impl Into<String>) -> Self {
        let (title, version) = (title.into(), version.into());
        Self { title, version, description: None, servers: Vec::new(), events: Vec::new() }
    }

    /// Sets the description of the service, which may be Markdown.
    pub fn description(mut self, description: impl Into<String>) -> Self {
        self.description = Some(description.into());
        self
    }

    /// Adds a server by a name and its address; credentials in it are left out.
    ///
    /// Without one, the document has the servers to which the broker is connected; a broker in memory has none.
    pub fn server(mut self, name: impl Into<String>, address: impl Into<String>) -> Self {
        self.servers.push((name.into(), address.into()));
        self
    }

    /// Restricts the events that the service publishes to this one, all others that are added, and those that its handlers
    /// return.
    ///
    /// Without it, the document has every event that is linked into the program, because the calls of `send` are unknown.
    /// A program that shares a crate of events with others publishes only some of them.
    ///
    /// # Examples
    ///
    /// ```
    /// use jetstream_handlers::asyncapi::ServiceInfo;
    /// use jetstream_handlers::prelude::*;
    /// use serde::Serialize;
    ///
    /// #[derive(Event, Serialize)]
    /// #[event(subject = "orders.{id}.billed")]
    /// struct OrderBilled {
    ///     id: u64,
    /// }
    ///
    /// let info = ServiceInfo::new("billing", "1.2.0").sends::<OrderBilled>();
    /// # drop(info);
    /// ```
    pub fn sends<E: Event>(mut self) -> Self {
        self.events.push(type_name::<E>());
        self
    }
}
