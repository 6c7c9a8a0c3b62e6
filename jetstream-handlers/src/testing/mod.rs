//! Test support: the application's own handlers on an in-memory broker, with the production worker around them.
//!
//! Decoding, extraction, retries, dead letters and the shutdown are those of production.
//! Only the server is replaced, by one that behaves like nats-server:
//! it redelivers after `ack_wait`, limits messages to `max_ack_pending`, and refuses missing streams and overlapping subjects.
//!
//! # Examples
//!
//! ```
//! use jetstream_handlers::prelude::*;
//! use jetstream_handlers::testing::TestBroker;
//!
//! #[subscriber(subject = "orders.created", queue = "confirmer")]
//! async fn confirm(order: u64, publisher: Publisher) -> HandlerResult {
//!     publisher.publish("orders.confirmed", &order).await?;
//!     Ok(())
//! }
//!
//! // In a test: `#[tokio::test(start_paused = true)]`, so that retries take no time.
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let broker = TestBroker::builder().include::<confirm>().start().await;
//! broker.publish("orders.created", &7).await; // returns when the work that it triggered is done
//! broker.handled::<confirm>().once().with(&7).settled(Settle::Ack);
//! assert_eq!(broker.published::<u64>("orders.confirmed").await, [7]);
//! # }
//! ```

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
