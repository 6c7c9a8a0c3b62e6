#![doc = include_str!("../docs/testing.md")]

mod builder;
mod handled;
mod idempotent;
#[cfg(all(unix, feature = "test-server"))]
mod nats_server;
mod test_broker;

pub use builder::Builder;
pub use handled::Handled;
pub use idempotent::assert_idempotent;
#[cfg(all(unix, feature = "test-server"))]
pub use nats_server::{NatsServer, NatsServerBuilder};
pub use test_broker::TestBroker;
