#![doc = include_str!("../docs/cli.md")]

mod apply;
mod ask;
#[cfg(feature = "asyncapi")]
mod asyncapi;
mod check;
mod connection;
mod describe;
mod dlq;
mod doctor;
mod exit;
mod export;
mod files;
mod handlers;
mod operate;
mod output;
mod permissions;
mod plan;
mod publish;
mod run;
mod session;
mod status;
mod times;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::broker::Builder;
use crate::error::Error;
use exit::Exit;
use output::Output;
use session::Session;

// An included text is no help text: clap would show one here as that of every program which flattens the commands.
#[doc = include_str!("../docs/command.md")]
#[derive(Debug, Subcommand)]
#[non_exhaustive]
pub enum Command {
    /// Starts the handlers, and runs them until SIGINT or SIGTERM
    #[command(display_order = 1)]
    Run(Run),
    /// Lists the handlers of the program
    #[command(display_order = 2)]
    Handlers(Handlers),
    /// Shows everything that a handler declares
    #[command(display_order = 3)]
    Describe(Describe),
    /// Finds every problem that a start would have, and starts nothing
    #[command(display_order = 4)]
    Check(Check),
    /// Shows what has to change on the server, and changes nothing
    #[command(display_order = 5)]
    Plan(Plan),
    /// Makes the changes on the server that `plan` shows
    #[command(display_order = 6)]
    Apply(Apply),
    /// Shows the messages that wait for the handlers
    #[command(display_order = 7)]
    Status(Status),
    /// Pauses a handler on the server, for all its instances
    #[command(display_order = 8)]
    Pause(Pause),
    /// Ends the pause of a handler
    #[command(display_order = 9)]
    Resume(Resume),
    /// Moves a handler to a place in its stream, from which on it receives all messages
    #[command(display_order = 10)]
    Reset(Reset),
    /// Lists, replays and deletes dead letters
    #[command(display_order = 11)]
    Dlq(Dlq),
    /// Publishes a message, if the handlers of its subject can decode it
    #[command(display_order = 12)]
    Publish(Publish),
    /// Writes the streams and consumers that the handlers need, in the format of another tool
    #[command(display_order = 13)]
    Export(Export),
    /// Prints a document of the service in the format AsyncAPI, or compares it with an earlier one
    #[cfg(feature = "asyncapi")]
    #[command(display_order = 15)]
    Asyncapi(Asyncapi),
    /// Prints the rights that the user of the service needs on the server
    #[command(display_order = 14)]
    Permissions(Permissions),
    /// Examines the connection, the rights, the server and the consumers, and changes nothing
    #[command(display_order = 14)]
    Doctor(Doctor),
}

pub use apply::Apply;
#[cfg(feature = "asyncapi")]
pub use asyncapi::Asyncapi;
pub use check::Check;
pub use describe::Describe;
pub use dlq::Dlq;
pub use doctor::Doctor;
pub use export::Export;
pub use handlers::Handlers;
pub use operate::{Pause, Reset, Resume};
pub use permissions::Permissions;
pub use plan::Plan;
pub use publish::Publish;
pub use run::Run;
pub use status::Status;

// No documentation comment, because it would be the first line of the help.
#[derive(Debug, Parser)]
#[command(about = "Runs the handlers of the service, or operates them", max_term_width = 120)]
struct Arguments {
    #[command(subcommand)]
    command: Option<TopCommand>,
}

#[derive(Debug, Subcommand)]
enum TopCommand {
    #[command(flatten)]
    Command(Command),
    /// Prints the completions of a shell
    #[command(display_order = 20)]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

impl Command {
    /// Runs the command with the handlers and the settings of a builder.
    ///
    /// The builder is connected only by commands that need a server.
    /// The exit code is 0 if the command has done what it was asked for, 1 after an error, which is printed to the standard
    /// error, and 2 if it looks for differences or problems and has found some.
    /// A replay that keeps dead letters, and a replay or a deletion whose conditions no dead letter meets, also exit with 2.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends the command; what it has changed on the server stays.
    pub async fn run(self, builder: Builder) -> ExitCode {
        let output = Output::new();
        let result = self.execute(Session::new(builder, output.clone())).await;
        output.finish(result)
    }

    async fn execute(self, session: Session) -> Result<Exit, Error> {
        match self {
            Self::Run(command) => command.run(session).await,
            Self::Handlers(command) => command.run(session).await,
            Self::Describe(command) => command.run(session).await,
            Self::Check(command) => command.run(session).await,
            Self::Status(command) => command.run(session).await,
            Self::Pause(command) => command.run(session).await,
            Self::Resume(command) => command.run(session).await,
            Self::Reset(command) => command.run(session).await,
            Self::Dlq(command) => command.run(session).await,
            Self::Publish(command) => command.run(session).await,
            Self::Plan(command) => command.run(session).await,
            Self::Apply(command) => command.run(session).await,
            Self::Export(command) => command.run(session).await,
            #[cfg(feature = "asyncapi")]
            Self::Asyncapi(command) => command.run(session).await,
            Self::Permissions(command) => command.run(session).await,
            Self::Doctor(command) => command.run(session).await,
        }
    }
}

impl Builder {
    /// Runs the command that the arguments of the program name, or the handlers if there are none.
    ///
    /// [`cli`](crate::cli) lists the commands and their exit codes; [`Command`] fits them into the parser of a program
    /// that has arguments of its own.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use std::process::ExitCode;
    ///
    /// use jetstream_handlers::prelude::*;
    ///
    /// #[subscriber(subject = "orders.created", queue = "billing")]
    /// async fn bill(order: u64) {}
    ///
    /// #[tokio::main]
    /// async fn main() -> ExitCode {
    ///     Broker::from_env().run_cli().await
    /// }
    /// ```
    ///
    /// # Cancel safety
    ///
    /// The same as for [`Command::run`].
    pub async fn run_cli(self) -> ExitCode {
        self.run_cli_from(std::env::args_os()).await
    }

    /// Runs the command that these arguments name, of which the first is the name of the program.
    ///
    /// # Cancel safety
    ///
    /// The same as for [`Command::run`].
    pub async fn run_cli_from<A: Into<OsString> + Clone>(self, arguments: impl IntoIterator<Item = A>) -> ExitCode {
        let mut parser = Arguments::command().name(program());
        if let Some(version) = self.version_text() {
            parser = parser.version(version.to_owned());
        }
        let parsed = parser.clone().try_get_matches_from(arguments);
        let parsed = parsed.and_then(|matches| Arguments::from_arg_matches(&matches));
        match parsed.map(|arguments| arguments.command) {
            Ok(None) => Command::Run(Run::default()).run(self).await,
            Ok(Some(TopCommand::Command(command))) => command.run(self).await,
            Ok(Some(TopCommand::Completions { shell })) => {
                let output = Output::new();
                let mut script = Vec::new();
                clap_complete::generate(shell, &mut parser, program(), &mut script);
                let result = output.text(&String::from_utf8_lossy(&script)).map(|()| Exit::Done);
                output.finish(result)
            }
            Err(error) => {
                // The text is the help, or the problem of an argument.
                error.print().ok();
                if error.use_stderr() { Exit::Failed.into() } else { Exit::Done.into() }
            }
        }
    }
}

/// Returns the name of the program's file.
fn program() -> String {
    let path = std::env::current_exe().unwrap_or_default();
    let name = path.file_name().map_or_else(|| "service".to_owned(), |name| name.to_string_lossy().into_owned());
    name.strip_suffix(std::env::consts::EXE_SUFFIX).unwrap_or(&name).to_owned()
}
