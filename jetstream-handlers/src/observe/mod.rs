//! Observation of brokers and running handlers: what happens to messages, for the log, health, spans, metrics, the
//! functions of the application, and the recorder of a test.

pub(crate) mod activity;
#[cfg(feature = "metrics")]
pub(crate) mod connection_metrics;
#[cfg(feature = "metrics")]
pub(crate) mod families;
pub(crate) mod handler_info;
#[cfg(feature = "metrics")]
pub(crate) mod handler_metrics;
pub(crate) mod handler_state;
pub(crate) mod handler_status;
pub(crate) mod health;
pub(crate) mod hooks;
pub(crate) mod observer;
#[cfg(feature = "otel")]
mod otel;
#[cfg(feature = "metrics")]
pub(crate) mod publish_metrics;
pub(crate) mod publishing;
mod queued;
pub(crate) mod recorder;
pub(crate) mod settled;
pub(crate) mod span;
pub(crate) mod status_cell;
pub(crate) mod times;
pub(crate) mod trace_context;
