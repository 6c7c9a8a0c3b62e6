//! Dead letters: the copies of messages that could not be handled.

mod headers;
pub(crate) mod store;

pub(crate) use headers::*;
