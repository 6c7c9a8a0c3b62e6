//! Support for tests that need a `nats-server`.
//!
//! It finds or installs the server, starts it with `NatsServer` of the library, makes it fail on request, and removes
//! every process and file at the end.
//! Some files of `NatsServer` are also modules of the harness, which starts other programs too.
//!
//! A [`Server`] is one node, and a [`Cluster`] is three.
//! A [`Proxy`] between a client and a server can interrupt their connection, and a [`Wire`](wire::Wire) ends it at a
//! step of the protocol.
//! A [`Program`] is another process, [`connect`] makes a broker, a [`Recorder`] notes what handlers
//! are called with, and [`eventually`] waits for a condition.
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
pub mod command;
mod cut_connection;
#[path = "../../jetstream-handlers/src/testing/nats_server/locate.rs"]
mod locate;
#[path = "../../jetstream-handlers/src/testing/nats_server/port.rs"]
mod port;
#[path = "../../jetstream-handlers/src/testing/nats_server/process.rs"]
mod process;
pub mod program;
pub mod proxy;
pub mod raw;
pub mod recorder;
pub mod server;
mod target;
pub mod wait;
pub mod wire;

pub use assert_error::assert_error;
pub use broker::{
    builder, connect, connect_with, dead_letters, dead_letters_of, payload_of, publish, stream_config, until_health,
    users, worker,
};
pub use cluster::Cluster;
pub use command::{Ended, run_command};
pub use cut_connection::cut_connection_at;
pub use program::Program;
pub use proxy::Proxy;
pub use raw::RawClient;
pub use recorder::{Recorder, once_each, without_repetitions};
pub use server::{Builder, Server};
pub use wait::{SOON, eventually, ms, trace};

/// Returns a port of the loopback interface that is free now.
pub fn free_port() -> u16 {
    port::free()
}
