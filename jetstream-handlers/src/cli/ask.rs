//! Questions before something is destroyed.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use crate::error::{Error, ErrorKind};

/// The answer to every question of a command.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub(super) struct Consent {
    /// Answers every question with yes
    #[arg(long, short, display_order = 91)]
    yes: bool,
}

impl Consent {
    /// Asks a question; returns an error unless it is answered with yes.
    ///
    /// Without a terminal, nobody can answer, and the command is refused.
    pub(super) fn ask(self, question: &str) -> Result<(), Error> {
        if self.yes {
            return Ok(());
        }
        let refused = |text: &str| Err(Error::new(ErrorKind::Config, format!("{question} {text}")));
        if !io::stdin().is_terminal() {
            return refused("the standard input is no terminal to answer; pass `--yes`");
        }
        eprint!("{question} [y/N] ");
        io::stderr().flush().ok();
        let mut answer = String::new();
        io::stdin().lock().read_line(&mut answer).ok();
        match answer.trim().to_lowercase().as_str() {
            "y" | "yes" => Ok(()),
            _ => refused("was not answered with yes, and nothing was changed"),
        }
    }
}
