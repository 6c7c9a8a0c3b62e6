//! Questions before something is changed.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use tokio::task::spawn_blocking;

use crate::error::{Error, ErrorKind};

/// The answer to every question of a command.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub(super) struct Consent {
    /// Answers every question with yes
    #[arg(long, short, display_order = 91)]
    yes: bool,
}

impl Consent {
    /// Returns `true` if every question is answered with yes.
    pub(super) fn is_given(self) -> bool {
        self.yes
    }

    /// Asks a question; returns an error unless it is answered with yes.
    ///
    /// Without a terminal for the answer, the command is refused.
    pub(super) async fn ask(self, question: &str) -> Result<(), Error> {
        if self.yes {
            return Ok(());
        }
        let refused = |text: &str| Err(Error::new(ErrorKind::Config, text));
        if !io::stdin().is_terminal() {
            return refused("this needs a confirmation, and the standard input is no terminal; pass `--yes`");
        }
        eprint!("{question} [y/N] ");
        io::stderr().flush().ok();
        // The connection must answer the server meanwhile.
        let answer = spawn_blocking(|| {
            let mut answer = String::new();
            io::stdin().lock().read_line(&mut answer).map(|_| answer)
        });
        let answer = answer.await.ok().and_then(Result::ok).unwrap_or_default();
        if !answer.ends_with('\n') {
            // The end of the input leaves the cursor behind the question.
            eprintln!();
        }
        match answer.trim().to_lowercase().as_str() {
            "y" | "yes" => Ok(()),
            _ => refused("not confirmed; nothing was changed"),
        }
    }
}
