//! The shutdown signal.

use tokio_util::sync::CancellationToken;

use super::{Context, FromMessage, Rejection};
use crate::message::Message;

/// The shutdown signal, for a handler that runs long and can end early.
///
/// A handler that ends early returns [`HandlerError::hand_back`](crate::HandlerError::hand_back) or
/// [`Settle::HandBack`](crate::Settle::HandBack): another instance receives the message immediately, and the call does
/// not count as an attempt. Any other error counts, so that a message that is interrupted by restarts could become a
/// dead letter. A handler that ignores the signal may run until the
/// [grace period](crate::Builder::shutdown_grace) ends; it is then cancelled, which does not count either.
///
/// # Examples
///
/// ```
/// use jetstream_handlers::prelude::*;
///
/// #[subscriber(subject = "reports.requested", queue = "reports")]
/// async fn report(pages: u32, shutdown: Shutdown) -> HandlerResult {
///     for _page in 0..pages {
///         if shutdown.is_requested() {
///             return Err(HandlerError::hand_back("stopping; another instance starts over"));
///         }
///         // write the page
///     }
///     Ok(())
/// }
///
/// # async fn test() {
/// // In a unit test:
/// let shutdown = Shutdown::new();
/// shutdown.token().cancel();
/// let error = report(3, shutdown).await.unwrap_err();
/// assert_eq!(error.settle(), Settle::HandBack);
/// # }
/// ```
#[derive(Debug, Clone, Default)]
pub struct Shutdown(CancellationToken);

impl Shutdown {
    /// Returns a signal to call a handler in a unit test; cancelling its [`token`](Self::token) requests the shutdown.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns `true` if a graceful shutdown has begun.
    pub fn is_requested(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Waits until a graceful shutdown begins.
    ///
    /// # Cancel safety
    ///
    /// This method is cancel safe.
    pub async fn requested(&self) {
        self.0.cancelled().await;
    }

    /// Returns the cancellation token, for code that takes one.
    pub fn token(&self) -> CancellationToken {
        self.0.clone()
    }
}

impl FromMessage for Shutdown {
    fn from_message(_: &Message, context: &Context) -> Result<Self, Rejection> {
        Ok(Self(context.shutdown().clone()))
    }
}
