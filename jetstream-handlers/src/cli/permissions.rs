//! The command `permissions`.

use super::connection::Connection;
use super::exit::Exit;
use super::output::Form;
use super::session::Session;
use crate::error::Error;
use crate::rights::{PermissionFormat, PermissionLevel};

/// Prints the rights that the user of the service needs on the server.
#[derive(Debug, clap::Args)]
pub struct Permissions {
    /// The use of the rights: run, run+info, provision, operate or publish
    #[arg(long, value_name = "LEVEL", default_value_t = PermissionLevel::RunInfo)]
    level: PermissionLevel,
    /// The format
    #[arg(long, value_enum, default_value_t = Format::Server, conflicts_with = "json")]
    format: Format,
    /// A subject that the application publishes without an event; may be repeated
    #[arg(long, value_name = "SUBJECT")]
    publish: Vec<String>,
    /// The destination of message traces, `msg_trace.dest` of the account
    #[arg(long, value_name = "SUBJECT")]
    trace_dest: Option<String>,
    /// The name of the user
    #[arg(long, value_name = "NAME", default_value = "service")]
    user: String,
    /// Asks the server of the environment for the streams of the handlers, as `--server` and `--context` ask theirs; without
    /// them, no server is asked
    #[arg(long)]
    connect: bool,
    #[command(flatten)]
    form: Form,
    #[command(flatten)]
    connection: Connection,
}

/// The format of the rights.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Format {
    /// A block of the server's configuration file
    Server,
    /// A command of `nsc`
    Nsc,
    /// A command of `nats`
    Nats,
    /// The claims of a user JWT, as JSON
    Jwt,
}

impl From<Format> for PermissionFormat {
    fn from(format: Format) -> Self {
        match format {
            Format::Server => Self::Server,
            Format::Nsc => Self::Nsc,
            Format::Nats => Self::Nats,
            Format::Jwt => Self::Jwt,
        }
    }
}

impl Permissions {
    pub(super) async fn run(self, session: Session) -> Result<Exit, Error> {
        let Self { level, format, publish, trace_dest, user, connect, form, connection } = self;
        let (broker, output) = if connect || connection.is_named() {
            session.connect(connection).await?
        } else {
            session.offline_as_connected()?
        };
        let permissions = broker.permissions(level).await;
        broker.disconnect().await.ok();
        let mut permissions = permissions?;
        for subject in &publish {
            permissions = permissions.with_publish(subject)?;
        }
        if let Some(subject) = &trace_dest {
            permissions = permissions.with_trace_destination(subject)?;
        }
        match form.json {
            true => output.json(&permissions)?,
            false => output.text(&permissions.format(format.into(), &user))?,
        }
        Ok(Exit::Done)
    }
}
