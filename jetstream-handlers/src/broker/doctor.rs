//! The diagnosis of a service.

use super::Broker;
use crate::doctor::{Diagnosis, check_handlers, check_rights, check_server};
use crate::error::{Error, ErrorKind};
use crate::memory::Memory;
use crate::provision::Needs;
use crate::rights::{PermissionLevel, Permissions, Sources};
use crate::transport::Transport;

impl Broker {
    /// Examines the connection, the rights of the user, the server, and the streams and consumers of the handlers, without
    /// changing anything.
    ///
    /// Every right of the handlers is probed with a message that the server refuses after it has permitted it: requests
    /// that it cannot read, acks of no delivery, and empty messages with the header `Nats-Expected-Stream` for a stream
    /// that cannot exist.
    /// Nothing is delivered, stored or created.
    /// Subscribers to the subjects of outputs, events and dead letters that are no streams receive such an empty message;
    /// a wildcard in these subjects is replaced by `probe`.
    /// For each missing right, the server logs a violation, and the [health](Self::health) shows the last one.
    ///
    /// It takes a few seconds. A broker in memory has no server, which is its only finding.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # async fn examine(broker: jetstream_handlers::Broker) -> Result<(), jetstream_handlers::Error> {
    /// let diagnosis = broker.doctor().await?;
    /// println!("{diagnosis}");
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns the problems of the handlers' settings, which no server is needed to find.
    ///
    /// # Cancel safety
    ///
    /// This method is cancel safe: it changes nothing.
    pub async fn doctor(&self) -> Result<Diagnosis, Error> {
        let mut found = Diagnosis::default();
        let Transport::Nats(connection) = self.transport() else {
            found.warn("connection", "the broker is in memory, and has no server", "connect it to a server");
            return Ok(found);
        };
        let events = self.linked_events();
        let offline = self.offline();
        let answers = check_server(connection, &self.transport().inbox_prefix(), &mut found).await;
        let inspected = if answers { self.needs(self.transport(), &events).await.ok() } else { None };
        let is_inspected = inspected.is_some();
        let needs = match inspected {
            Some(needs) => needs,
            // Without the rights to read, the names of the streams are those that the service would create.
            None => self.needs(&offline, &events).await?,
        };
        let level = if is_inspected { level(&needs) } else { PermissionLevel::RunInfo };
        let (settings, inbox_prefix) = (self.transport().settings(), self.transport().inbox_prefix());
        let sources = Sources { settings, inbox_prefix, needs: &needs, events: &events };
        check_rights(connection, &Permissions::derive(level, sources), &mut found).await;
        if answers {
            self.check_start(&mut found).await;
        }
        if is_inspected {
            check_handlers(self.transport(), connection, &needs, &mut found).await;
        }
        Ok(found)
    }

    /// Returns an empty transport in memory with the settings of this broker.
    fn offline(&self) -> Transport {
        Transport::Memory(Memory::new(self.transport().settings().clone()))
    }

    async fn check_start(&self, found: &mut Diagnosis) {
        let fix = "change the code or the server as the text says";
        match self.check().await {
            Ok(()) => found.ok("start", "a start would succeed"),
            Err(error) if error.kind() == ErrorKind::NoHandlers => {
                found.ok("start", "there are no handlers to start");
            }
            Err(error) if error.problems().is_empty() => found.fail("start", error.to_string(), fix),
            Err(error) => error.problems().iter().for_each(|problem| found.fail("start", problem.to_string(), fix)),
        }
    }
}

/// Returns the level of the rights to probe: those of creation only if something is missing.
fn level(needs: &Needs) -> PermissionLevel {
    let is_missing = needs.handlers.iter().any(|it| it.consumer_is_missing)
        || needs.streams.values().any(|it| it.is_missing && it.is_created);
    if is_missing { PermissionLevel::Provision } else { PermissionLevel::RunInfo }
}
