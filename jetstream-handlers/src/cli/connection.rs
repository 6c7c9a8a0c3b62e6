//! The arguments that choose a server.

use crate::broker::Builder;

/// The server of a command; without arguments, the one that the program chooses.
#[derive(Debug, Clone, Default, clap::Args)]
pub(super) struct Connection {
    /// The server, or several separated by commas
    #[arg(long, value_name = "URL", display_order = 100)]
    server: Option<String>,
    /// The context of the `nats` command line tool with server and credentials
    #[arg(long, value_name = "NAME", display_order = 101)]
    context: Option<String>,
}

impl Connection {
    /// Returns `true` if an argument chooses a server.
    pub(super) fn is_named(&self) -> bool {
        self.server.is_some() || self.context.is_some()
    }

    pub(super) fn apply(self, mut builder: Builder) -> Builder {
        if let Some(context) = self.context {
            builder = builder.context(context);
        }
        if let Some(server) = self.server {
            builder = builder.servers([server]);
        }
        builder
    }
}
