//! The parameters of a handler, made from a message.

mod argument;
mod context;
mod event;
mod headers;
mod path;
mod rejection;
mod shape;
mod shutdown;
mod state;
mod subject;
mod tokens;

pub(crate) use argument::Supported;
pub use argument::{Argument, Body, Parameter, Problems, check, extract, via};
pub use context::Context;
pub use event::{decoded, has_pattern, unknown_header, unknown_subject};
pub use headers::Headers;
pub use path::Path;
pub use rejection::Rejection;
pub use shutdown::Shutdown;
pub use state::State;
pub(crate) use state::States;
pub use subject::Subject;

use crate::message::{Info, Message};
use crate::publish::Publisher;

/// A type that a handler can take as a parameter besides its payload.
///
/// An application can implement it for its own types, and use them in a signature like [`State`] and [`Subject`].
/// Extraction does no I/O; a type that requires I/O takes a handle from the state and uses it in the handler.
/// A type must not implement `serde::Deserialize` as well, because it would then also be a payload.
///
/// # Examples
///
/// ```
/// use jetstream_handlers::{Context, prelude::*};
///
/// struct Tenant(String);
///
/// impl FromMessage for Tenant {
///     fn from_message(message: &Message, _: &Context) -> Result<Self, Rejection> {
///         let tenant = message.header("Tenant").ok_or(Rejection::new("header `Tenant` is missing"))?;
///         Ok(Tenant(tenant.to_owned()))
///     }
/// }
///
/// #[subscriber(subject = "orders.created", queue = "billing")]
/// async fn bill(order: serde_json::Value, tenant: Tenant) -> HandlerResult {
///     println!("{order} for {}", tenant.0);
///     Ok(())
/// }
///
/// // In a unit test:
/// let message = Message::new("orders.created", "{}");
/// assert!(Tenant::from_message(&message, &Context::for_test()).is_err());
/// let message = message.with_header("Tenant", "acme");
/// assert!(Tenant::from_message(&message, &Context::for_test()).is_ok_and(|tenant| tenant.0 == "acme"));
/// ```
pub trait FromMessage: Sized {
    /// Makes the parameter from a message.
    ///
    /// # Errors
    ///
    /// Returns a [`Rejection`] if the handler can never handle this message;
    /// the message is then dead-lettered at once, without a retry.
    fn from_message(message: &Message, context: &Context) -> Result<Self, Rejection>;

    /// Checks at the start, before the first message, that everything that the parameter requires is available.
    ///
    /// # Errors
    ///
    /// Returns a [`Rejection`] to fail the start, which reports it together with all other problems of the handlers.
    fn check(context: &Context) -> Result<(), Rejection> {
        let _ = context;
        Ok(())
    }

    /// Returns `true` if the parameter is made from the payload, and cannot be made from an empty one.
    #[doc(hidden)]
    fn needs_content() -> bool {
        false
    }
}

impl FromMessage for Info {
    fn from_message(message: &Message, _: &Context) -> Result<Self, Rejection> {
        Ok(message.info.clone())
    }
}

impl FromMessage for Message {
    fn from_message(message: &Message, _: &Context) -> Result<Self, Rejection> {
        Ok(message.clone())
    }
}

impl FromMessage for Publisher {
    fn from_message(_: &Message, context: &Context) -> Result<Self, Rejection> {
        Ok(context.publisher().clone())
    }
}
