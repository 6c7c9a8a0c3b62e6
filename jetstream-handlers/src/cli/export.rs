//! The command `export`.

use std::path::PathBuf;

use clap::ValueEnum;

use super::exit::Exit;
use super::files::write;
use super::session::Session;
use crate::error::Error;
use crate::provision::ExportFormat;

/// Writes the streams and consumers that the handlers need, in the format of another tool.
#[derive(Debug, clap::Args)]
pub struct Export {
    /// The format
    #[arg(long, value_enum)]
    format: Format,
    /// Writes to a file instead of the standard output
    #[arg(long, short, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// The format of an export.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    /// Commands of the `nats` command-line tool
    Nats,
    /// Manifests of the Kubernetes controller NACK
    Nack,
    /// Resources of the Terraform provider
    Terraform,
    /// A snapshot for `plan --against`
    Json,
}

impl From<Format> for ExportFormat {
    fn from(format: Format) -> Self {
        match format {
            Format::Nats => Self::Nats,
            Format::Nack => Self::Nack,
            Format::Terraform => Self::Terraform,
            Format::Json => Self::Json,
        }
    }
}

impl Export {
    pub(super) async fn run(self, session: Session) -> Result<Exit, Error> {
        let (broker, output) = session.offline();
        let text = broker.export(self.format.into()).await?;
        write(self.out.as_deref(), &text, &output)?;
        Ok(Exit::Done)
    }
}
