//! The proof of a start that starts nothing.

use super::Broker;
use super::start::Checked;
use crate::error::Error;
use crate::provision;

impl Broker {
    /// Validates what [`start_all`](Self::start_all) validates, and neither starts a handler nor changes anything on the
    /// server.
    ///
    /// A broker in memory has no streams, so that it validates the handlers and the declared streams alone.
    ///
    /// # Examples
    ///
    /// ```
    /// use jetstream_handlers::prelude::*;
    ///
    /// #[subscriber(subject = "orders.created", queue = "billing")]
    /// async fn bill(order: u64, State(tariff): State<u32>) {}
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let error = Broker::in_memory().check().await.unwrap_err();
    /// assert!(error.to_string().contains("none was registered"), "{error}");
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns all problems together, as [`Error::problems`].
    ///
    /// # Cancel safety
    ///
    /// This method is cancel safe: it only reads.
    pub async fn check(&self) -> Result<(), Error> {
        let Checked { handlers, problems, .. } = self.checked(self.selected()?)?;
        let declarations: Vec<_> = handlers.iter().map(|handler| &handler.declaration).collect();
        provision::check(&self.inner.transport, &declarations, problems).await
    }
}
