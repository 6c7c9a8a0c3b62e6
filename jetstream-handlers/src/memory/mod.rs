//! The in-memory transport: streams and consumers that behave like those of nats-server, on tokio's clock.
//!
//! It is meant for tests and demonstrations, and persists nothing.
//! nats-server is the reference for its behaviour: the contract tests run on both.

mod announcements;
mod consumer;
mod copies;
mod deliveries;
mod faults;
mod ingest;
mod message;
mod pending;
mod refusal;
mod server;
mod stream;

pub(crate) use announcements::Announcements;
pub(crate) use deliveries::Deliveries;
pub(crate) use faults::Faults;
pub(crate) use ingest::Ingest;
pub(crate) use server::Memory;
