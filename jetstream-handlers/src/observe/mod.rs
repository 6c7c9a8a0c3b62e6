//! What is seen of the handlers: their health, and the calls that a test records.

pub(crate) mod health;
pub(crate) mod recorder;
