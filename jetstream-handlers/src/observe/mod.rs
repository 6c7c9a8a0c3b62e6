//! Observation of running handlers: their health, and the calls recorded for a test.

pub(crate) mod health;
pub(crate) mod recorder;
