//! Layers of [`tower`](https://docs.rs/tower) around handlers: rate limits, concurrency limits, circuit breakers, and
//! your own.
//!
//! A layer wraps the call of a handler, and says when the next call may begin: while its service is not ready, the
//! handler requests no messages. So a limit slows the pull; no message is returned, and the `ack_wait` of those that have
//! arrived does not expire.
//!
//! [`Builder::layer`](crate::Builder::layer) puts a layer around all handlers of a broker,
//! [`Builder::layer_group`](crate::Builder::layer_group) around those of a group, the key `layer` of the attribute around
//! one, and [`Subscribe::layer`](crate::Subscribe::layer) around a closure.
//! Each handler has a service of its own, made by the layer at the start.
//! Of several layers, the first that was added is called first; those of the broker before those of the group, and these
//! before that of the handler.
//!
//! A limit that several handlers share, such as `GlobalConcurrencyLimitLayer`, is also held by a handler that is ready and
//! has no message.
//!
//! A layer can pass a value to the handler, which takes it as an [`Extension<T>`](crate::Extension): a tenant, a trace, a
//! transaction. [`Request::insert_extension`] inserts it.
//!
//! The handler's `timeout` also covers the time that a layer takes; only `Ok` of a handler acknowledges its message, and an
//! error of a layer retries it.
//!
//! # Examples
//!
//! ```
//! use std::time::Duration;
//!
//! use jetstream_handlers::layer::CircuitBreaker;
//! use jetstream_handlers::prelude::*;
//! use tower::limit::{ConcurrencyLimitLayer, RateLimitLayer};
//!
//! /// Ten calls in a second, because the payment provider permits no more.
//! fn provider() -> RateLimitLayer {
//!     RateLimitLayer::new(10, Duration::from_secs(1))
//! }
//!
//! #[subscriber(subject = "orders.created", queue = "billing", concurrency = 4, layer = provider)]
//! async fn bill(order: u64) -> HandlerResult {
//!     println!("order {order}");
//!     Ok(())
//! }
//!
//! # async fn start() -> Result<(), jetstream_handlers::Error> {
//! let broker = Broker::builder()
//!     .layer(CircuitBreaker::new(5, secs(30)))
//!     .layer_group("reports", ConcurrencyLimitLayer::new(2))
//!     .connect()
//!     .await?;
//! # Ok(()) }
//! ```

mod breaker;
mod service;

use std::sync::Arc;

use tower_layer::Layer;
use tower_service::Service;

use crate::error::BoxError;
use crate::handler::Wrapper;

pub use breaker::{Breaker, BreakerFuture, CircuitBreaker};
use service::Layered;
pub use service::{HandlerService, Request, Response};

/// A layer that can be put around a handler: its service takes a [`Request`] and returns a [`Response`].
///
/// It is implemented for every [`tower_layer::Layer`] with such a service.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a layer of handlers",
    label = "not a layer of handlers",
    note = "a layer implements `tower::Layer<HandlerService>`, and its service takes a `jetstream_handlers::layer::Request`, returns a `jetstream_handlers::layer::Response`, and is `Send`"
)]
pub trait LayerOfHandlers: Send + Sync + 'static {
    /// Returns the layer without its type.
    #[doc(hidden)]
    fn into_wrapper(self) -> Wrapper;
}

#[diagnostic::do_not_recommend]
impl<L> LayerOfHandlers for L
where
    L: Layer<HandlerService> + Send + Sync + 'static,
    L::Service: Service<Request, Response = Response, Error: Into<BoxError>, Future: Send + 'static> + Send + 'static,
{
    fn into_wrapper(self) -> Wrapper {
        Wrapper::new(move |call| Arc::new(Layered::new(self.layer(HandlerService::new(call)))))
    }
}
