//! The diagnosis of a service: its connection, its rights, and the state of what it uses on the server.

mod diagnosis;
mod handlers;
mod rights;
mod server;

pub use diagnosis::{Diagnosis, Finding, FindingStatus};
pub(crate) use handlers::check_handlers;
pub(crate) use rights::check_rights;
pub(crate) use server::check_server;
