//! The ends of a command.

use std::process::ExitCode;

/// The end of a command, which its exit code tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exit {
    /// The command did what it was asked for.
    Done,
    /// The command failed.
    Failed,
    /// The command has found a difference or a problem, for which it was asked.
    Found,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Done => Self::SUCCESS,
            Exit::Failed => Self::from(1),
            Exit::Found => Self::from(2),
        }
    }
}
