//! The proof of a start that starts nothing.

use super::Broker;
use super::start::Checked;
use crate::error::Error;
#[cfg(feature = "cli")]
use crate::error::ErrorKind;
#[cfg(feature = "cli")]
use crate::extract::{Context, Problems};
#[cfg(feature = "cli")]
use crate::handler::Handler;
#[cfg(feature = "cli")]
use crate::message::Message;
use crate::provision;
#[cfg(feature = "cli")]
use crate::subject::covers;

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
        let Checked { handlers, problems, .. } = self.checked(self.selected()?)?.for_consumers();
        let declarations: Vec<_> = handlers.iter().map(|handler| &handler.declaration).collect();
        provision::check(&self.inner.transport, &declarations, problems).await
    }

    /// Returns the names of the handlers that [`start_all`](Self::start_all) starts; none if that would fail.
    #[cfg(feature = "cli")]
    pub(crate) fn selected_names(&self) -> Vec<String> {
        let selected = self.selected().unwrap_or_default();
        selected.into_iter().map(|handler| handler.declaration.name).collect()
    }

    /// Returns a subject as it is declared, without the prefix of the environment.
    #[cfg(feature = "cli")]
    pub(crate) fn declared_subject<'a>(&self, subject: &'a str) -> &'a str {
        self.inner.transport.settings().declared(subject)
    }

    /// Returns the handlers that would receive a message, or only that of a queue if it is given, and the problems of those
    /// that could not decode it.
    #[cfg(feature = "cli")]
    pub(crate) fn receivers(&self, message: Message, queue: Option<&str>) -> Result<Receivers, Error> {
        let selected = match self.selected() {
            Err(error) if error.kind() == ErrorKind::NoHandlers => Vec::new(),
            selected => selected?,
        };
        if selected.is_empty() {
            return Ok(Receivers::default());
        }
        let Checked { handlers, contexts, .. } = self.checked(selected)?;
        let subject = self.inner.transport.settings().subject(message.subject()).into_owned();
        let receives = |handler: &&(Handler, Context)| {
            let plan = &handler.0.declaration.plan;
            queue.is_none_or(|queue| *plan.queue == *queue)
                && plan.subject.filters().any(|filter| covers(&filter, &subject))
        };
        // A parameter may borrow from the message for any lifetime; one message is leaked by one command.
        let message: &'static _ = Box::leak(Box::new(message));
        let mut receivers = Receivers::default();
        for (handler, context) in handlers.into_iter().zip(contexts).collect::<Vec<_>>().iter().filter(receives) {
            let name = &handler.declaration.name;
            let problem = Problems::of_message(message, context, &*handler.check);
            receivers.undecodable.extend(problem.map(|problem| format!("`{name}`: {problem}")));
            receivers.handlers.push(name.clone());
        }
        Ok(receivers)
    }
}

/// The handlers that would receive a message.
#[cfg(feature = "cli")]
#[derive(Debug, Default)]
pub(crate) struct Receivers {
    /// The names of all of them.
    pub(crate) handlers: Vec<String>,
    /// The problems of those that could not decode the message.
    pub(crate) undecodable: Vec<String>,
}
