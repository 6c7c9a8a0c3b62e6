//! The two ways to make a parameter: from the payload, or by [`FromMessage`].

use std::any::type_name;
use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;

use super::{Context, FromMessage, Rejection};
use crate::codec;
use crate::error::problem::{MissingState, Problem};
use crate::message::Message;

/// The marker of a parameter that is decoded from the payload.
#[derive(Debug)]
pub struct ViaPayload(());

/// The marker of a parameter that is made by [`FromMessage`].
#[derive(Debug)]
pub struct ViaMessage(());

/// The marker of an `Option` of a type that implements [`FromMessage`], which is refused.
#[derive(Debug)]
pub struct ViaOption(());

/// A parameter of a handler: a payload, or a type that implements [`FromMessage`].
///
/// `Via` is the marker that distinguishes the blanket implementations; it is inferred.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a parameter of a handler",
    label = "neither a payload nor extracted from the message",
    note = "a payload implements `serde::Deserialize`",
    note = "other parameters implement `jetstream_handlers::FromMessage`, as `State<T>`, `Subject`, `Headers`, `Info`, `Message`, `Publisher` and `Shutdown` do",
    note = "`State<T>` requires `T: Clone + Send + Sync + 'static`; otherwise wrap it in an `Arc`"
)]
pub trait Argument<'m, Via>: Sized {
    /// `true` if the parameter is decoded from the payload.
    const IS_PAYLOAD: bool;

    /// Makes the parameter from a message.
    fn extract(message: &'m Message, context: &Context) -> Result<Self, Rejection>;

    /// Checks at the start that what the parameter requires is available.
    fn check(context: &Context) -> Result<(), Rejection>;

    /// Returns `true` if the parameter cannot be made from an empty payload.
    fn needs_content() -> bool {
        false
    }
}

impl<'m, T: Deserialize<'m>> Argument<'m, ViaPayload> for T {
    const IS_PAYLOAD: bool = true;

    fn extract(message: &'m Message, _: &Context) -> Result<Self, Rejection> {
        decode(&message.payload)
    }

    fn check(_: &Context) -> Result<(), Rejection> {
        Ok(())
    }

    fn needs_content() -> bool {
        codec::decode::<T>(b"").is_err()
    }
}

impl<T: FromMessage> Argument<'_, ViaMessage> for T {
    const IS_PAYLOAD: bool = false;

    fn extract(message: &Message, context: &Context) -> Result<Self, Rejection> {
        T::from_message(message, context)
    }

    fn check(context: &Context) -> Result<(), Rejection> {
        T::check(context)
    }
}

fn decode<'m, T: Deserialize<'m>>(payload: &'m [u8]) -> Result<T, Rejection> {
    let name = type_name::<T>();
    codec::decode(payload).map_err(|error| {
        Rejection::new(match (payload, codec::other_format(payload)) {
            ([], _) => {
                format!("the payload is empty, which is not valid JSON for `{name}`; `Option<{name}>` accepts it")
            }
            (_, Some(format)) => format!("the payload is not valid JSON for `{name}`: it seems to be {format}"),
            (_, None) => format!("the payload is not valid JSON for `{name}`: {error}"),
        })
    })
}

/// A bound that no type satisfies; its error message describes a type that is both a payload and extracted.
#[diagnostic::on_unimplemented(
    message = "`{Self}` implements both `serde::Deserialize` and `FromMessage`",
    label = "either a payload or extracted from the message, not both",
    note = "remove one of the two implementations, or take a new type that has only one of them"
)]
pub trait OneWay {}

/// A bound that no type satisfies; its error message describes an `Option` of an extracted type.
#[diagnostic::on_unimplemented(
    message = "`Option<{Self}>` is not a parameter of a handler",
    label = "an extracted parameter cannot be an `Option`",
    note = "take `{Self}` itself, or implement `FromMessage` for a type of your own that contains the `Option`"
)]
pub trait Optional {}

#[diagnostic::do_not_recommend]
impl<T: FromMessage> Argument<'_, ViaOption> for Option<T> {
    const IS_PAYLOAD: bool = false;

    fn extract(_: &Message, _: &Context) -> Result<Self, Rejection> {
        Err(Rejection::new("an extracted parameter cannot be an `Option`"))
    }

    fn check(_: &Context) -> Result<(), Rejection> {
        Err(Rejection::new("takes an `Option` of an extracted parameter, which is not supported"))
    }
}

/// A marker that a closure accepts: every one except [`ViaOption`], for which a closure has no specific error message.
pub trait Supported {}

impl Supported for ViaPayload {}
impl Supported for ViaMessage {}

/// The type of a parameter, as the expansion of the attribute names it.
pub struct Parameter<T>(PhantomData<fn() -> T>);

impl<T> Parameter<T> {
    /// The only value of the type.
    pub const NEW: Self = Self(PhantomData);
}

impl<T> fmt::Debug for Parameter<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Parameter<{}>", type_name::<T>())
    }
}

/// The resolution of a parameter's marker by method lookup: of the traits that apply, the one with the most references
/// is used.
///
/// Trait resolution alone reports a type that fits two implementations as "type annotations needed".
pub mod via {
    #![allow(missing_docs, missing_debug_implementations)] // used only by the expansion

    use std::marker::PhantomData;

    use serde::Deserialize;

    use super::{FromMessage, OneWay, Optional, Parameter, ViaMessage, ViaOption, ViaPayload};

    pub trait First<'m, T> {
        fn __jetstream_handlers_via(&self) -> PhantomData<ViaMessage>
        where
            T: OneWay,
        {
            PhantomData
        }
    }
    impl<'m, T: Deserialize<'m> + FromMessage> First<'m, T> for &&&Parameter<T> {}

    pub trait Second<'m> {
        fn __jetstream_handlers_via(&self) -> PhantomData<ViaPayload> {
            PhantomData
        }
    }
    impl<'m, T: Deserialize<'m>> Second<'m> for &&Parameter<T> {}

    pub trait Third<T> {
        fn __jetstream_handlers_via(&self) -> PhantomData<ViaOption>
        where
            T: Optional,
        {
            PhantomData
        }
    }
    impl<T: FromMessage> Third<T> for &Parameter<Option<T>> {}

    pub trait Fourth {
        fn __jetstream_handlers_via<Via>(&self) -> PhantomData<Via> {
            PhantomData
        }
    }
    impl<T> Fourth for Parameter<T> {}
}

/// The body of a message, which one parameter of a handler may take.
#[derive(Debug)]
pub struct Body<State>(PhantomData<State>);

/// The state of a body that no parameter has taken.
#[derive(Debug)]
pub struct Unread(());

/// The state of a body that a parameter has taken.
#[derive(Debug)]
pub struct Read(());

impl Body<Unread> {
    /// The body before the first parameter.
    pub const UNREAD: Self = Self(PhantomData);
}

/// A bound that only the state of an unread body satisfies, so that a handler takes one payload.
pub trait NotRead {}

impl NotRead for Unread {}

/// The state of the body after a parameter with this marker.
#[diagnostic::on_unimplemented(
    message = "a handler takes one payload, and this is the second",
    label = "a second payload",
    note = "a message has one body: declare one type with all fields, or take a `Message` and decode its `payload()` in the handler"
)]
pub trait After<State> {
    /// The state of the body after the parameter.
    type State;
}

impl<State> After<State> for ViaMessage {
    type State = State;
}

#[diagnostic::do_not_recommend]
impl<State: NotRead> After<State> for ViaPayload {
    type State = Read;
}

impl<State> After<State> for ViaOption {
    type State = State;
}

/// Makes one parameter from a message.
pub fn extract<'m, T: Argument<'m, Via>, Via>(
    message: &'m Message,
    context: &Context,
    _: PhantomData<Via>,
) -> Result<T, Rejection> {
    T::extract(message, context)
}

/// Checks one parameter at the start.
pub fn check<'m, T: Argument<'m, Via>, Via: After<State>, State>(
    context: &Context,
    problems: &mut Problems,
    _: PhantomData<Via>,
    _: Body<State>,
) -> Body<Via::State> {
    problems.check::<T, Via>(context);
    Body(PhantomData)
}

/// The problems of the parameters of one handler, and what else a start needs to know of them.
#[derive(Debug)]
pub struct Problems {
    context: Context,
    pub(crate) found: Vec<Problem>,
    /// `true` if a parameter is decoded from the payload and cannot be made from an empty one.
    pub(crate) needs_content: bool,
    /// `true` if the handler is a closure whose return type has no outputs.
    pub(crate) returns_nothing: bool,
}

impl Problems {
    pub(crate) fn of(context: &Context, check: impl FnOnce(&Context, &mut Problems)) -> Self {
        let mut problems =
            Self { context: context.clone(), found: Vec::new(), needs_content: false, returns_nothing: false };
        check(context, &mut problems);
        problems
    }

    /// Checks one parameter.
    pub(crate) fn check<'m, T: Argument<'m, Via>, Via>(&mut self, context: &Context) {
        self.needs_content |= T::needs_content();
        if let Err(rejection) = T::check(context) {
            let handler = self.context.handler().to_owned();
            self.found.push(match rejection.downcast_ref() {
                Some(MissingState { type_name }) => Problem::MissingState { handler, type_name },
                None => Problem::Parameter { handler, problem: rejection.to_string() },
            });
        }
    }

    /// Reports a closure with more than one payload; the attribute refuses such a function at compile time.
    pub(crate) fn check_payloads(&mut self, payloads: usize) {
        if payloads > 1 {
            self.found.push(Problem::SeveralPayloads { handler: self.context.handler().to_owned(), payloads });
        }
    }
}
