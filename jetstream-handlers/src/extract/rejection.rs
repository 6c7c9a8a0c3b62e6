//! The reason why a message cannot be handled.

use std::fmt;

use crate::error::{BoxError, chain};
use crate::outcome::{Outcome, Reason, Settle};

/// The reason why a message cannot be handled: it does not decode, or lacks something that the handler requires.
#[derive(Debug)]
pub struct Rejection(BoxError);

impl Rejection {
    /// Returns a rejection with this reason.
    pub fn new(reason: impl Into<BoxError>) -> Self {
        Self(reason.into())
    }

    /// Returns the reason if it has this type.
    pub(crate) fn downcast_ref<T: std::error::Error + 'static>(&self) -> Option<&T> {
        self.0.downcast_ref()
    }

    /// Returns the outcome of a call whose parameters could not be made: the message becomes a dead letter.
    pub(crate) fn into_outcome(self) -> Outcome {
        Outcome::failed(Settle::Terminate, Reason::Undecodable, self.to_string())
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&chain(&*self.0))
    }
}
