//! The ends of a command.

use std::process::ExitCode;

/// The end of a command, which its exit code tells: 0, 1 or 2 in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exit {
    /// The command did what it was asked for.
    Done,
    /// The command failed, or a dead letter with a stated sequence does not exist.
    Failed,
    /// The command has found the differences or problems that it looks for; or a change of dead letters has found none
    /// that meets the conditions, or has kept some.
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
