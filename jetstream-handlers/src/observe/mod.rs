//! Observation of brokers and running handlers: what happens to messages, for the log, health, spans, metrics, the
//! functions of the application, and the recorder of a test.

pub(crate) mod activity;
pub(crate) mod handler_info;
pub(crate) mod handler_state;
pub(crate) mod health;
pub(crate) mod hooks;
pub(crate) mod observer;
#[cfg(feature = "otel")]
mod otel;
pub(crate) mod publishing;
pub(crate) mod recorder;
pub(crate) mod settled;
pub(crate) mod span;
pub(crate) mod trace_context;
