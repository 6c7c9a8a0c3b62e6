//! The harness of the tests that need a `nats-server`: it finds the server, starts it on a free
//! port of the loopback, breaks it on request and leaves nothing behind.
//!
//! A [`Server`] is one node, a [`Cluster`] is three, a [`Proxy`] stands between a client and
//! either, a [`Program`] is a process of ours beside the test, and [`eventually`] waits for what
//! they do to show.
//!
//! # Examples
//!
//! ```no_run
//! # async fn example() {
//! let mut server = jetstream_handlers_tests::Server::start().await;
//! let jetstream = server.jetstream().await;
//! server.restart().await;
//! # drop(jetstream);
//! # }
//! ```

pub mod assert_error;
pub mod binary;
pub mod broker;
pub mod cluster;
mod cut_connection;
mod port;
mod process;
pub mod program;
pub mod proxy;
pub mod recorder;
pub mod server;
mod target;
pub mod wait;

pub use assert_error::assert_error;
pub use broker::{
    builder, connect, connect_with, dead_letters, dead_letters_of, payload_of, publish, stream_config, until_health,
};
pub use cluster::Cluster;
pub use cut_connection::cut_connection_at;
pub use program::Program;
pub use proxy::Proxy;
pub use recorder::{Recorder, once_each, without_repetitions};
pub use server::{Builder, Server};
pub use wait::{SOON, eventually, ms, trace};
