//! Observation of brokers and running handlers: their health, the spans of messages, and the calls recorded for a test.

pub(crate) mod health;
pub(crate) mod recorder;
pub(crate) mod span;
