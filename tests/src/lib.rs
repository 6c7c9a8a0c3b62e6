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

pub mod binary;
pub mod cluster;
mod port;
mod process;
pub mod program;
pub mod proxy;
pub mod says;
pub mod server;
mod target;
pub mod wait;
mod wire;

pub use cluster::Cluster;
pub use program::Program;
pub use proxy::Proxy;
pub use says::assert_says;
pub use server::{Builder, Server};
pub use wait::{eventually, trace};
pub use wire::breaking_wire;
