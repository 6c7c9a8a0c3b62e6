//! An attribute-macro handler framework for NATS JetStream.
//!
//! Annotate async functions, start them with one call, publish typed structs.
//!
//! ```no_run
//! use jetstream_handlers::prelude::*;
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Debug, Serialize, Deserialize)]
//! struct OrderCreated {
//!     id: u64,
//!     customer: String,
//! }
//!
//! #[subscriber(subject = "orders.created", queue = "order-processor")]
//! async fn process_order(order: OrderCreated) -> HandlerResult {
//!     println!("processing order {} for {}", order.id, order.customer);
//!     Ok(()) // Ok acks; Err is retried with backoff, then dead-lettered
//! }
//!
//! #[tokio::main]
//! async fn main() -> Result<(), jetstream_handlers::Error> {
//!     let broker = Broker::connect("nats://localhost:4222").await?;
//!     broker.publish("orders.created", &OrderCreated { id: 123, customer: "Ada".into() }).await?; // returns after the stream stored it
//!     broker.run_all().await // until SIGINT or SIGTERM, then a graceful stop
//! }
//! ```
//!
//! # Handlers
//!
//! [`subscriber`](macro@subscriber) makes an `async fn` a handler; its documentation has every key with its default.
//! [`Broker::subscribe`] takes a closure in its place.
//! Every handler has a durable consumer, named by `queue`: processes with one queue share the messages, and each queue on a subject gets every message.
//!
//! # Parameters
//!
//! A handler takes the decoded payload, any type that implements `serde::Deserialize`, and whatever implements [`FromMessage`]:
//! [`State`], [`Subject`], [`Headers`], [`Info`], [`Message`], [`Publisher`], [`Shutdown`], and types of your own.
//!
//! # Results
//!
//! A message is acked after its handler returned `Ok`.
//! An error, a panic and a time-out lead to another attempt after the handler's `backoff`, and after `max_deliver` attempts to a dead letter.
//! [`HandlerError`] and [`Settle`] say more than "try again".
//! Delivery is at least once: a handler may see a message twice.
//!
//! # Dead letters
//!
//! What cannot be handled is copied to the stream `DLQ` before it is terminated; [`DeadLetters`] lists, shows, replays and purges.
//!
//! # Publishing
//!
//! [`Broker::publish`] and [`Publisher::publish`] return after the stream has stored the message.
//! [`PublishMessage`] adds headers, a message id and conditions.
//! Of many messages, [`Broker::publish_all`] gives the result of each, [`Broker::publish_atomic`] stores all or none, and [`Broker::ingest`] is the fastest.
//!
//! # Lifecycle
//!
//! [`Builder`] has the settings, and nothing happens before [`Builder::connect`].
//! [`Broker::start_all`] proves the wiring and starts the handlers, [`Running::shutdown`] stops them gracefully, [`Broker::disconnect`] ends the connection; [`Broker::run_all`] is all of it.
//! [`Broker::health`] says how they are meanwhile.
//!
//! # Errors
//!
//! Everything fallible returns [`Error`], whose [`kind`](Error::kind) is for a caller that acts on it.
//! What happens while handlers run goes to the log through `tracing`.

mod backoff;
mod broker;
mod dead_letter;
mod delivery;
mod error;
mod extract;
mod handler;
mod memory;
mod message;
mod nats;
mod observe;
mod outcome;
mod plan;
mod provision;
mod publish;
mod rules;
mod settings;
mod subject;
mod sync;
pub mod testing;
mod transport;
mod worker;

pub use async_nats;
pub use async_nats::jetstream::publish::PublishAck;
pub use async_nats::jetstream::stream;

pub use broker::{Broker, Builder, Running, Subscribe, Subscription};
pub use dead_letter::store::{DeadLetter, DeadLetters};
pub use error::{Error, ErrorKind};
#[doc(hidden)]
pub use extract::Argument;
pub use extract::{Context, FromMessage, Headers, Rejection, Shutdown, State, Subject};
#[doc(hidden)]
pub use handler::{Closure, Subscriber};
#[doc = include_str!("docs/subscriber.md")]
#[doc(inline)]
pub use jetstream_handlers_macros::subscriber;
/// Makes an `async fn` a test on a paused clock, with the handlers started on a broker in memory.
///
/// The function has one parameter, a [`TestBroker`](testing::TestBroker).
/// In the parentheses may stand `state = value` (several times), `group = "name"` and `include(handler, ..)`;
/// without the last two every handler is started that the test is linked with.
/// With `live` in front of them the same test runs on the server at `NATS_URL` (`nats://localhost:4222` unless set), on a clock that runs.
/// The crate of the test needs `tokio` with the features `macros` and `test-util`.
///
/// # Examples
///
/// ```
/// use jetstream_handlers::prelude::*;
/// use jetstream_handlers::testing::TestBroker;
///
/// #[subscriber(subject = "orders.created", queue = "greeter")]
/// async fn greet(order: u64, State(greeting): State<String>) -> HandlerResult {
///     println!("{greeting}, {order}");
///     Err("the mail server is down".into())
/// }
///
/// #[jetstream_handlers::test(include(greet), state = String::from("hello"))]
/// async fn a_greeting_is_tried_five_times(broker: TestBroker) {
///     broker.publish("orders.created", &7).await;
///     broker.advance(secs(600)).await;
///     broker.handled::<greet>().once().retried(4);
///     assert_eq!(broker.dead_letters().await.len(), 1);
/// }
/// ```
#[doc(inline)]
pub use jetstream_handlers_macros::test;
pub use message::{Info, Message};
pub use observe::health::{HandlerHealth, Health, Status};
pub use outcome::{HandlerError, HandlerResult, Settle};
#[doc(hidden)]
pub use outcome::{IntoSettle, Outcome};
pub use publish::all::PublishAll;
pub use publish::{PublishMessage, Publisher};

/// What a service needs in scope: `use jetstream_handlers::prelude::*;`.
pub mod prelude {
    pub use crate::{
        Broker, FromMessage, HandlerError, HandlerResult, Headers, Info, Message, Publisher, Rejection, Settle,
        Shutdown, State, Subject, subscriber,
    };

    /// So many seconds, for `fetch_wait(secs(5))` and the like.
    pub const fn secs(seconds: u64) -> std::time::Duration {
        std::time::Duration::from_secs(seconds)
    }
}

/// What the attribute's expansion names; not for use by hand, and free to change.
#[doc(hidden)]
pub mod __private {
    pub use std::borrow::Cow;

    pub use inventory;

    pub use crate::extract::{Argument, Body, Context, Parameter, Problems, Rejection, check, extract, via};
    pub use crate::handler::{CallFuture, Entry, Registration, Subscriber};
    pub use crate::message::Message;
    pub use crate::outcome::{IntoSettle, Outcome};
    pub use crate::plan::{Ack, Backoff, DeadLetter, Plan};

    use crate::outcome::{Reason, Settle};

    /// What becomes of a call whose parameters could not be made.
    #[allow(clippy::needless_pass_by_value)] // it is the error of a `Result`, written by the expansion
    pub fn rejected(rejection: Rejection) -> Outcome {
        Outcome::failed(Settle::Terminate, Reason::Undecodable, rejection.to_string())
    }

    /// What became of a call.
    pub fn outcome<T: IntoSettle>(returned: T) -> Outcome {
        returned.into_outcome()
    }
}

#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;

#[cfg(doctest)]
#[doc = include_str!("../../README.zh-TW.md")]
struct ReadmeZhTw;
