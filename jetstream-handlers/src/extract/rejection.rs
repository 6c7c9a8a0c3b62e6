//! The reason why a message cannot be handled.

use std::fmt;

use crate::error::{BoxError, chain};

/// The reason why a message cannot be handled: it does not decode, or lacks something that the handler requires.
#[derive(Debug)]
pub struct Rejection(BoxError);

impl Rejection {
    /// Returns a rejection with this reason.
    pub fn new(reason: impl Into<BoxError>) -> Self {
        Self(reason.into())
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&chain(&*self.0))
    }
}
