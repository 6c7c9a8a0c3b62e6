//! The reason why a message cannot be handled.

use std::fmt;

use crate::codec::Undecodable;
use crate::error::{BoxError, chain};
use crate::outcome::{HandlerError, Outcome, Reason, Settle};

/// The reason why a message cannot be handled: it does not decode, or lacks something that the handler requires.
///
/// A parameter of the type `Result<T, Rejection>` passes it to the handler instead of turning the message into a dead
/// letter, for payloads and for every other parameter.
/// The `?` operator in the handler then turns it into an error that [terminates](HandlerError::terminate) the message.
///
/// # Examples
///
/// ```
/// use jetstream_handlers::prelude::*;
///
/// #[subscriber(subject = "orders.created", queue = "billing")]
/// async fn bill(order: Result<u64, Rejection>, message: Message) -> HandlerResult {
///     if let Err(rejection) = &order {
///         println!("{:?} is not an order: {rejection}", message.payload());
///     }
///     println!("order {}", order?);
///     Ok(())
/// }
///
/// # async fn test() {
/// // In a unit test:
/// let message = Message::new("orders.created", "seven");
/// let error = bill(Err(Rejection::new("not a number")), message).await.unwrap_err();
/// assert_eq!(error.settle(), Settle::Terminate);
/// # }
/// ```
#[derive(Debug)]
pub struct Rejection {
    reason: BoxError,
    kind: Kind,
}

/// The kind of a rejection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The source of the parameter is invalid.
    Invalid,
    /// The source of the parameter does not exist, so that an `Option` of it is `None`.
    Missing,
}

impl Rejection {
    /// Returns a rejection with this reason.
    pub fn new(reason: impl Into<BoxError>) -> Self {
        Self { reason: reason.into(), kind: Kind::Invalid }
    }

    /// Returns a rejection because something does not exist, such as a header: an `Option` of the parameter is then
    /// `None` instead of a rejection.
    ///
    /// [`FromMessage`](crate::FromMessage) has an example.
    pub fn missing(reason: impl Into<BoxError>) -> Self {
        Self { reason: reason.into(), kind: Kind::Missing }
    }

    pub(super) fn is_missing(&self) -> bool {
        self.kind == Kind::Missing
    }

    /// Returns the reason if it has this type.
    pub(crate) fn downcast_ref<T: std::error::Error + 'static>(&self) -> Option<&T> {
        self.reason.downcast_ref()
    }

    /// Returns the outcome of a call whose parameters could not be made: the message becomes a dead letter.
    pub(crate) fn into_outcome(self) -> Outcome {
        Outcome::failed(Settle::Terminate, Reason::Undecodable, self.to_string())
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&chain(&*self.reason))
    }
}

impl From<Undecodable> for Rejection {
    fn from(undecodable: Undecodable) -> Self {
        Self::new(undecodable)
    }
}

/// Another attempt has the same result, so that the message becomes a dead letter at once.
impl From<Rejection> for HandlerError {
    fn from(rejection: Rejection) -> Self {
        Self::terminate(rejection.reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::DefaultCodec;
    use crate::message::Message;

    #[test]
    fn redacted_rejection_shows_only_the_position() {
        let redacted = |message: Message| {
            let undecodable = DefaultCodec::default().decode::<Vec<u64>>(&message).unwrap_err();
            let mut outcome = Rejection::from(undecodable).into_outcome();
            outcome.redact();
            outcome.into_failure().error
        };
        let secret = Message::new("cards.added", r#"[1, "4242 at line 7 column 7"]"#);
        let position = "a parameter could not be extracted at line 1 column 29 (redacted)";
        assert_eq!(redacted(secret.clone()), position);
        assert_eq!(redacted(secret.with_header("Content-Type", "text/4242")), position);
        let text = Message::new("cards.added", "4242 is secret");
        assert_eq!(redacted(text), "a parameter could not be extracted at line 1 column 4 (redacted)");
        let binary = Message::new("cards.added", "\u{1}4242");
        assert_eq!(redacted(binary), "a parameter could not be extracted (redacted)");
    }

    #[test]
    fn question_mark_terminates_the_message() {
        let handler = || -> crate::outcome::HandlerResult {
            Err::<(), _>(Rejection::missing("no tenant"))?;
            Ok(())
        };
        let error = handler().unwrap_err();
        assert_eq!((error.settle(), error.to_string().as_str()), (Settle::Terminate, "no tenant"));
    }
}
