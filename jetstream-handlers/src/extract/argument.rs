//! The ways to make a parameter: from the payload, or by [`FromMessage`].

use std::any::type_name;
use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;

use super::{Context, Delivery, FromMessage, Rejection};
use crate::codec::{self, DefaultCodec, FromPayload, PayloadFormat, Undecodable};
use crate::error::problem::{MissingState, Problem};
use crate::message::Message;
use crate::outcome::DeclaredOutputs;
#[cfg(feature = "asyncapi")]
use crate::schema::{Described, Signature};

/// The marker of a parameter that is decoded from the payload.
#[derive(Debug)]
pub struct ViaPayload(());

/// The marker of a payload whose rejection is passed to the handler.
#[derive(Debug)]
pub struct ViaResult(());

/// The marker of a payload whose type names its format, such as [`Json`](crate::Json).
#[derive(Debug)]
pub struct ViaFormat(());

/// The marker of a parameter that is made by [`FromMessage`].
#[derive(Debug)]
pub struct ViaMessage(());

/// The marker of a batch, whose elements have the marker `Via`.
#[derive(Debug)]
pub struct ViaBatch<Via>(PhantomData<Via>);

/// A parameter of a handler: a payload, or a type that implements [`FromMessage`].
///
/// `Via` is the marker that distinguishes the blanket implementations; it is inferred.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a parameter of a handler",
    label = "neither a payload nor extracted from the message",
    note = "a payload implements `serde::Deserialize`, or is a `Json<T>`, `MessagePack<T>`, `Cbor<T>`, `Protobuf<T>`, `Coded<C, T>` or `Raw<T>`",
    note = "other parameters implement `jetstream_handlers::FromMessage`, as `State<T>`, `Subject`, `Headers`, `Info`, `Message`, `Publisher` and `Shutdown` do",
    note = "`State<T>` requires `T: Clone + Send + Sync + 'static`; otherwise wrap it in an `Arc`"
)]
pub trait Argument<'m, Via>: Sized {
    /// `true` if the parameter is decoded from the payload.
    const IS_PAYLOAD: bool;

    /// `true` if the parameter has all messages of a call.
    const IS_BATCH: bool = false;

    /// Makes the parameter from a message.
    fn extract(message: &'m Message, context: &Context) -> Result<Self, Rejection>;

    /// Makes the parameter from the messages of a call: all of them, or the first.
    fn extract_from(delivery: Delivery<'m>, context: &Context) -> Result<Self, Rejection> {
        Self::extract(delivery.first(), context)
    }

    /// Checks at the start that what the parameter requires is available.
    fn check(_: &Context) -> Result<(), Rejection> {
        Ok(())
    }

    /// Returns `true` if a message that only marks a deletion is no value of the parameter.
    fn needs_content() -> bool {
        false
    }

    /// Returns `true` if the parameter is a dead letter.
    fn is_dead_letter() -> bool {
        false
    }

    /// Returns `true` if the parameter describes one message.
    fn is_of_one_message() -> bool {
        false
    }

    /// Returns the format of the payload that is decoded.
    fn payload_format() -> PayloadFormat {
        PayloadFormat::Default
    }

    /// Returns the name of the type that is decoded from the payload.
    fn payload_name() -> Option<&'static str> {
        Self::IS_PAYLOAD.then(type_name::<Self>)
    }
}

impl<'m, T: Deserialize<'m>> Argument<'m, ViaPayload> for T {
    const IS_PAYLOAD: bool = true;

    fn extract(message: &'m Message, context: &Context) -> Result<Self, Rejection> {
        Ok(context.codec().decode(message)?)
    }

    fn check(_: &Context) -> Result<(), Rejection> {
        refuse_bytes::<T>()
    }

    fn needs_content() -> bool {
        codec::needs_value::<T>()
    }
}

#[diagnostic::do_not_recommend]
impl<'m, T: Deserialize<'m>> Argument<'m, ViaResult> for Result<T, Rejection> {
    const IS_PAYLOAD: bool = true;

    fn extract(message: &'m Message, context: &Context) -> Result<Self, Rejection> {
        Ok(context.codec().decode(message).map_err(Rejection::from))
    }

    fn check(_: &Context) -> Result<(), Rejection> {
        refuse_bytes::<T>()
    }

    fn needs_content() -> bool {
        codec::needs_value::<T>()
    }
}

#[diagnostic::do_not_recommend]
impl<'m, T: FromPayload<'m>> Argument<'m, ViaFormat> for T {
    const IS_PAYLOAD: bool = true;

    fn extract(message: &'m Message, context: &Context) -> Result<Self, Rejection> {
        Ok(T::from_payload(message, context.codec())?)
    }

    fn needs_content() -> bool {
        T::needs_value()
    }

    fn payload_format() -> PayloadFormat {
        T::format()
    }
}

impl<'m, T: FromPayload<'m>> FromPayload<'m> for Result<T, Rejection> {
    fn from_payload(message: &'m Message, default: &DefaultCodec) -> Result<Self, Undecodable> {
        Ok(T::from_payload(message, default).map_err(Rejection::from))
    }

    fn needs_value() -> bool {
        T::needs_value()
    }

    fn format() -> PayloadFormat {
        T::format()
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

    fn needs_content() -> bool {
        T::needs_content()
    }

    fn is_dead_letter() -> bool {
        T::is_dead_letter()
    }

    fn is_of_one_message() -> bool {
        T::is_of_one_message()
    }
}

/// A bound that no type satisfies; its error message describes a type that is both a payload and extracted.
#[diagnostic::on_unimplemented(
    message = "`{Self}` implements both `serde::Deserialize` and `FromMessage`",
    label = "either a payload or extracted from the message, not both",
    note = "remove one of the two implementations, or take a new type that has only one of them"
)]
pub trait OneWay {}

/// Refuses `Bytes` at the start, for a closure and in a `Result`; for the other parameters of a function, [`NotRaw`]
/// does at compile time.
fn refuse_bytes<T>() -> Result<(), Rejection> {
    // By name, because a payload may borrow from its message, and types that borrow have no id.
    if type_name::<T>() != type_name::<bytes::Bytes>() {
        return Ok(());
    }
    let text =
        "takes `Bytes`, which would be decoded from an array of numbers; take `Raw<Bytes>` for the payload as it is";
    Err(Rejection::new(text))
}

/// A bound that no type satisfies; its error message describes a type whose JSON is an array of numbers.
#[diagnostic::on_unimplemented(
    message = "`{Self}` as a parameter would be decoded from an array of numbers",
    label = "not the payload as it is",
    note = "write `Raw<{Self}>`, with `use jetstream_handlers::Raw;`, for the payload as it is"
)]
pub trait NotRaw {}

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

    use super::{FromMessage, NotRaw, OneWay, Parameter, ViaMessage, ViaPayload};

    pub trait First<'m, T> {
        fn __jetstream_handlers_via(&self) -> PhantomData<ViaMessage>
        where
            T: OneWay,
        {
            PhantomData
        }
    }
    impl<'m, T: Deserialize<'m> + FromMessage> First<'m, T> for &&&Parameter<T> {}

    pub trait FirstOfBytes<T> {
        fn __jetstream_handlers_via(&self) -> PhantomData<ViaPayload>
        where
            T: NotRaw,
        {
            PhantomData
        }
    }
    impl FirstOfBytes<bytes::Bytes> for &&&Parameter<bytes::Bytes> {}

    pub trait Second<'m> {
        fn __jetstream_handlers_via(&self) -> PhantomData<ViaPayload> {
            PhantomData
        }
    }
    impl<'m, T: Deserialize<'m>> Second<'m> for &&Parameter<T> {}

    pub trait Third {
        fn __jetstream_handlers_via<Via>(&self) -> PhantomData<Via> {
            PhantomData
        }
    }
    impl<T> Third for Parameter<T> {}
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

#[diagnostic::do_not_recommend]
impl<State: NotRead> After<State> for ViaResult {
    type State = Read;
}

#[diagnostic::do_not_recommend]
impl<State: NotRead> After<State> for ViaFormat {
    type State = Read;
}

impl<State: NotRead, Via> After<State> for ViaBatch<Via> {
    type State = Read;
}

/// Makes one parameter from a message.
pub fn extract<'m, T: Argument<'m, Via>, Via>(
    message: &'m Message,
    context: &Context,
    _: PhantomData<Via>,
) -> Result<T, Rejection> {
    T::extract(message, context)
}

/// Makes one parameter of a handler of batches.
pub fn extract_from<'m, T: Argument<'m, Via>, Via>(
    delivery: Delivery<'m>,
    context: &Context,
    _: PhantomData<Via>,
) -> Result<T, Rejection> {
    T::extract_from(delivery, context)
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
    /// A message that the handler would receive, to be decoded.
    sample: Option<&'static Message>,
    pub(crate) found: Vec<Problem>,
    /// The reason for which the sample cannot be decoded.
    undecodable: Option<String>,
    /// `true` if a message that only marks a deletion is no value of a parameter.
    pub(crate) needs_content: bool,
    /// `true` if a parameter is a dead letter.
    pub(crate) takes_dead_letters: bool,
    /// The name of the type of the payload.
    pub(crate) payload: Option<&'static str>,
    /// The format of the payload.
    pub(crate) format: PayloadFormat,
    /// The results of a call of a closure; `None` for a function, whose return type the attribute checks.
    pub(crate) results: Option<Results>,
    /// The outputs that are known before a call.
    pub(crate) outputs: DeclaredOutputs,
    /// `true` if a parameter has all messages of a call.
    pub(crate) takes_batch: bool,
    /// The name of the type of a parameter that describes one message.
    pub(crate) of_one_message: Option<&'static str>,
    /// The types of the payloads.
    #[cfg(feature = "asyncapi")]
    pub(crate) signature: Signature,
    /// `true` if the parameter that was checked last is made from the payload.
    #[cfg(feature = "asyncapi")]
    takes_body: bool,
}

/// The results of a call of a closure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Results {
    /// One, without outputs.
    One,
    /// One, which may have outputs.
    OneWithOutputs,
    /// One for each element of a batch.
    OfElements,
}

impl Problems {
    pub(crate) fn of(context: &Context, check: impl FnOnce(&Context, &mut Problems)) -> Self {
        Self::with_sample(None, context, check)
    }

    /// Returns the problem of a handler that cannot decode a message.
    #[cfg(feature = "cli")]
    pub(crate) fn of_message(
        message: &'static Message,
        context: &Context,
        check: impl FnOnce(&Context, &mut Problems),
    ) -> Option<String> {
        Self::with_sample(Some(message), context, check).undecodable
    }

    fn with_sample(
        sample: Option<&'static Message>,
        context: &Context,
        check: impl FnOnce(&Context, &mut Problems),
    ) -> Self {
        let mut problems = Self {
            context: context.clone(),
            sample,
            undecodable: None,
            found: Vec::new(),
            needs_content: false,
            takes_dead_letters: false,
            payload: None,
            format: PayloadFormat::Default,
            results: None,
            outputs: DeclaredOutputs::default(),
            takes_batch: false,
            of_one_message: None,
            #[cfg(feature = "asyncapi")]
            signature: Signature::default(),
            #[cfg(feature = "asyncapi")]
            takes_body: false,
        };
        check(context, &mut problems);
        problems
    }

    /// Checks one parameter.
    pub(crate) fn check<'m, T: Argument<'m, Via>, Via>(&mut self, context: &Context) {
        self.needs_content |= T::needs_content();
        self.takes_dead_letters |= T::is_dead_letter();
        self.takes_batch |= T::IS_BATCH;
        self.payload = T::payload_name().or(self.payload);
        if T::IS_PAYLOAD || T::IS_BATCH {
            self.format = T::payload_format();
        }
        self.of_one_message = self.of_one_message.or(T::is_of_one_message().then(type_name::<T>));
        if let (Some(sample), true) = (self.sample, T::IS_PAYLOAD || T::IS_BATCH) {
            self.undecodable = T::extract_from(sample.into(), context).err().map(|rejection| rejection.to_string());
        }
        #[cfg(feature = "asyncapi")]
        {
            self.takes_body = T::IS_PAYLOAD || T::IS_BATCH || T::needs_content();
            self.received(T::payload_name().map_or_else(Described::of::<T>, Described::named));
        }
        if let Err(rejection) = T::check(context) {
            let handler = self.context.handler().to_owned();
            self.found.push(match rejection.downcast_ref() {
                Some(MissingState { type_name }) => Problem::MissingState { handler, type_name },
                None => Problem::Parameter { handler, problem: rejection.to_string() },
            });
        }
    }

    /// Describes the parameter that was checked last.
    #[cfg(feature = "asyncapi")]
    pub fn received(&mut self, parameter: Described) {
        if self.takes_body {
            self.signature.received = Some(parameter);
        }
    }

    /// Describes the value that a handler with `publish` returns.
    #[cfg(feature = "asyncapi")]
    pub fn published(&mut self, value: Described) {
        self.signature.published = Some(value);
    }

    /// Returns the outputs that are known before a call, to add some.
    pub fn outputs(&mut self) -> &mut DeclaredOutputs {
        &mut self.outputs
    }

    /// Reports a closure with more than one payload; the attribute refuses such a function at compile time.
    pub(crate) fn check_payloads(&mut self, payloads: usize) {
        if payloads > 1 {
            self.found.push(Problem::SeveralPayloads { handler: self.context.handler().to_owned(), payloads });
        }
    }
}
