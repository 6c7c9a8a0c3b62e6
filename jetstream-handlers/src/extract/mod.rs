//! The parameters of a handler, made from a message.

mod argument;
mod batch;
mod context;
mod dead_letter;
mod delivery;
#[cfg(feature = "asyncapi")]
pub mod element;
mod event;
#[cfg(feature = "tower")]
mod extension;
mod headers;
mod path;
mod rejection;
mod shape;
mod shutdown;
mod state;
mod subject;
mod tokens;

pub use argument::{Argument, Body, Parameter, Problems, Results, check, extract, extract_from, via};
pub use batch::Batch;
pub use context::Context;
pub use delivery::Delivery;
pub use event::{decoded, has_pattern, unknown_header, unknown_subject};
#[cfg(feature = "tower")]
pub use extension::Extension;
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
///         let tenant = message.header("Tenant").ok_or_else(|| Rejection::missing("header `Tenant` is missing"))?;
///         if tenant.is_empty() {
///             return Err(Rejection::new("header `Tenant` is empty"));
///         }
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
/// // `None` if the header is missing; an empty one is still a rejection.
/// #[subscriber(subject = "orders.created", queue = "statistics")]
/// async fn count(tenant: Option<Tenant>) {
///     println!("one more for {}", tenant.map_or("a default tenant".into(), |tenant| tenant.0));
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
    /// A parameter of the type `Option<Self>` is `None` for a [`Rejection::missing`], and one of the type
    /// `Result<Self, Rejection>` passes any rejection to the handler.
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

    /// Returns `true` if the parameter is a dead letter, which a part of a large one is not.
    #[doc(hidden)]
    fn is_dead_letter() -> bool {
        false
    }

    /// Returns `true` if the parameter describes one message, so that it cannot stand beside a batch.
    #[doc(hidden)]
    fn is_of_one_message() -> bool {
        false
    }
}

/// `None` if what the parameter is made from is [missing](Rejection::missing).
impl<T: FromMessage> FromMessage for Option<T> {
    fn from_message(message: &Message, context: &Context) -> Result<Self, Rejection> {
        unless_missing(T::from_message(message, context))
    }

    fn check(context: &Context) -> Result<(), Rejection> {
        unless_missing(T::check(context)).map(drop)
    }

    fn is_dead_letter() -> bool {
        T::is_dead_letter()
    }
}

fn unless_missing<T>(result: Result<T, Rejection>) -> Result<Option<T>, Rejection> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(rejection) if rejection.is_missing() => Ok(None),
        Err(rejection) => Err(rejection),
    }
}

/// Passes the rejection to the handler, also one that would prevent the start.
impl<T: FromMessage> FromMessage for Result<T, Rejection> {
    fn from_message(message: &Message, context: &Context) -> Result<Self, Rejection> {
        Ok(T::from_message(message, context))
    }

    fn is_dead_letter() -> bool {
        T::is_dead_letter()
    }

    fn needs_content() -> bool {
        T::needs_content()
    }
}

impl FromMessage for Info {
    fn from_message(message: &Message, _: &Context) -> Result<Self, Rejection> {
        Ok(message.info.clone())
    }

    fn is_of_one_message() -> bool {
        true
    }
}

impl FromMessage for Message {
    fn from_message(message: &Message, _: &Context) -> Result<Self, Rejection> {
        Ok(message.clone())
    }

    fn is_of_one_message() -> bool {
        true
    }
}

impl FromMessage for Publisher {
    fn from_message(_: &Message, context: &Context) -> Result<Self, Rejection> {
        Ok(context.publisher().clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Tenant;

    impl FromMessage for Tenant {
        fn from_message(message: &Message, _: &Context) -> Result<Self, Rejection> {
            match message.header("Tenant") {
                None => Err(Rejection::missing("header `Tenant` is missing")),
                Some("") => Err(Rejection::new("header `Tenant` is empty")),
                Some(_) => Ok(Self),
            }
        }

        fn check(context: &Context) -> Result<(), Rejection> {
            context.state::<u64>().map(drop).ok_or_else(|| Rejection::missing("no tenants"))
        }
    }

    #[test]
    fn option_is_none_only_for_what_is_missing() {
        let context = Context::for_test();
        let message = Message::new("orders.created", "");
        assert!(Option::<Tenant>::from_message(&message, &context).is_ok_and(|tenant| tenant.is_none()));
        let empty = message.clone().with_header("Tenant", "");
        assert!(Option::<Tenant>::from_message(&empty, &context).is_err());
        assert!(Result::<Tenant, Rejection>::from_message(&empty, &context).is_ok_and(|tenant| tenant.is_err()));
        let acme = message.with_header("Tenant", "acme");
        assert!(Option::<Tenant>::from_message(&acme, &context).is_ok_and(|tenant| tenant.is_some()));
        assert!(Result::<Tenant, Rejection>::from_message(&acme, &context).is_ok_and(|tenant| tenant.is_ok()));
        let state = Option::<State<u64>>::from_message(&acme, &context);
        assert!(state.is_ok_and(|state| state.is_none()));
        let state = Option::<State<u64>>::from_message(&acme, &context.with_state(7_u64));
        assert!(state.is_ok_and(|state| state.is_some_and(|State(value)| value == 7)));
    }

    #[test]
    fn option_and_result_do_not_prevent_a_start() {
        fn check<T: FromMessage>() -> Result<(), Rejection> {
            T::check(&Context::for_test())
        }
        assert!(check::<Tenant>().is_err());
        assert!(check::<Option<Tenant>>().is_ok());
        assert!(check::<Result<Tenant, Rejection>>().is_ok());
        assert!(check::<Option<State<u64>>>().is_ok());
    }
}
