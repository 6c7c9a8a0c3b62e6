//! The transport over a connection to a NATS server.

mod ack;
mod announcements;
mod api;
mod client_errors;
mod connect;
mod connection;
mod counts;
mod floor;
mod given_up;
mod identity;
mod inbox;
mod messages;
mod metadata;
mod operate;
mod probe;
mod publish;
mod pull;
mod violations;
mod watchdog;

pub(crate) use announcements::Announcements;
pub(crate) use client_errors::ClientErrors;
pub(crate) use connect::{ClientEvents, Environment, Servers, credentials_file, options, without_credentials};
pub(crate) use connection::Connection;
pub(crate) use probe::Probe;
pub(crate) use publish::{AtomicBatch, Ingest, Pipeline, check, first_send, publish_once};
pub(crate) use pull::Pull;
pub(crate) use violations::Violations;
