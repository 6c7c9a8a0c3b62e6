//! The builder of the service and the output, with which a command works.

use super::connection::Connection;
use super::output::Output;
use crate::broker::{Broker, Builder};
use crate::error::Error;

/// The builder of the service, and the output of a command.
pub(super) struct Session {
    builder: Builder,
    pub(super) output: Output,
}

impl Session {
    pub(super) fn new(builder: Builder, output: Output) -> Self {
        Self { builder, output }
    }

    /// Returns the version of the program, if it is set.
    #[cfg(feature = "asyncapi")]
    pub(super) fn version(&self) -> Option<&str> {
        self.builder.version_text()
    }

    /// Returns the addresses of the servers that the arguments, the program or the environment name, without credentials.
    #[cfg(feature = "asyncapi")]
    pub(super) fn addresses(self, connection: Connection) -> Result<(Self, Vec<String>), Error> {
        let builder = connection.apply(self.builder);
        let addresses = builder.addresses()?;
        Ok((Self { builder, ..self }, addresses))
    }

    /// Returns a broker with the handlers and the settings of the service, and an empty account.
    pub(super) fn offline(self) -> (Broker, Output) {
        (self.builder.connect_offline(), self.output)
    }

    /// Returns a broker like [`offline`](Self::offline), with the domain and the prefixes of the environment or the context.
    pub(super) fn offline_as_connected(self) -> Result<(Broker, Output), Error> {
        Ok((self.builder.with_settings_of_environment()?.connect_offline(), self.output))
    }

    /// Connects to the server to change nothing that the command was not asked for: no missing stream is created.
    pub(super) async fn connect_to_existing(self, connection: Connection) -> Result<(Broker, Output), Error> {
        let Self { builder, output } = self;
        Self { builder: builder.auto_create(false), output }.connect(connection).await
    }

    /// Connects to the server.
    pub(super) async fn connect(self, connection: Connection) -> Result<(Broker, Output), Error> {
        let broker = connection.apply(self.builder).connect().await?;
        Ok((broker, self.output))
    }
}
