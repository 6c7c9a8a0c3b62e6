//! The return types of handlers, and their conversion into an outcome.

use std::fmt;
use std::marker::PhantomData;

use super::{HandlerError, Outcome, Output, Outputs, Reason, Settle};
use crate::codec::Payload;
use crate::error::chain;
use crate::event::Event;

/// A return type of a handler: `()`, [`Settle`], outputs that have a subject each, and a `Result` of such a type with any
/// error.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a return type of a handler",
    label = "a handler without `publish` returns `()`, `Result<(), E>`, `Settle` or `Outputs`",
    note = "to publish the value that the handler returns, add its subject to the attribute, as in `publish = \"orders.confirmed\"`; otherwise return `Ok(())`",
    note = "the error of a `Result<(), E>` must implement `std::error::Error`, or convert into `HandlerError` or a `Box<dyn Error + Send + Sync>`"
)]
pub trait IntoSettle: Sealed {
    /// `true` if no value of the type publishes a message.
    #[doc(hidden)]
    const IS_EMPTY: bool;

    /// Converts the result of a call.
    #[doc(hidden)]
    fn into_outcome(self) -> Outcome;

    /// Adds the outputs that are known before a call.
    #[doc(hidden)]
    fn declare(_: &mut DeclaredOutputs) {}
}

/// The supertrait that seals [`IntoSettle`].
pub trait Sealed {}

impl Sealed for () {}
impl Sealed for Settle {}
#[diagnostic::do_not_recommend]
impl<E: Into<HandlerError>> Sealed for Result<(), E> {}
#[diagnostic::do_not_recommend]
impl<T: IntoOutputs> Sealed for T {}
#[diagnostic::do_not_recommend]
impl<T: IntoOutputs, E: Into<HandlerError>> Sealed for Result<T, E> {}

impl IntoSettle for () {
    const IS_EMPTY: bool = true;

    fn into_outcome(self) -> Outcome {
        Outcome::ack()
    }
}

impl IntoSettle for Settle {
    const IS_EMPTY: bool = true;

    fn into_outcome(self) -> Outcome {
        match self {
            Settle::Ack => Outcome::ack(),
            other => Outcome::failed(other, Reason::Error, format!("the handler returned {other:?}")),
        }
    }
}

// Without this attribute, the compiler reports a wrong error type as a chain of missing conversions.
#[diagnostic::do_not_recommend]
impl<E: Into<HandlerError>> IntoSettle for Result<(), E> {
    const IS_EMPTY: bool = true;

    fn into_outcome(self) -> Outcome {
        settled(self, IntoSettle::into_outcome)
    }
}

#[diagnostic::do_not_recommend]
impl<T: IntoOutputs> IntoSettle for T {
    const IS_EMPTY: bool = false;

    fn into_outcome(self) -> Outcome {
        let mut outputs = Vec::new();
        self.add_to(&mut outputs);
        Outcome::publishing(outputs)
    }

    fn declare(outputs: &mut DeclaredOutputs) {
        T::declare_outputs(outputs);
    }
}

#[diagnostic::do_not_recommend]
impl<T: IntoOutputs, E: Into<HandlerError>> IntoSettle for Result<T, E> {
    const IS_EMPTY: bool = false;

    fn into_outcome(self) -> Outcome {
        settled(self, IntoSettle::into_outcome)
    }

    fn declare(outputs: &mut DeclaredOutputs) {
        T::declare_outputs(outputs);
    }
}

/// Returns the outcome of a call that has returned a `Result`.
pub(super) fn settled<T, E: Into<HandlerError>>(
    returned: Result<T, E>,
    publishing: impl FnOnce(T) -> Outcome,
) -> Outcome {
    match returned {
        Ok(value) => publishing(value),
        Err(error) => {
            let error = error.into();
            Outcome::failed(error.settle, Reason::Error, chain(&*error.source))
        }
    }
}

/// Values from which outputs are made: [`Output`], [`Outputs`], events, and an `Option`, a `Vec` or a tuple of them.
///
/// `()` is not one of them: an `Option<()>` would acknowledge a message that a `None` was meant to fail.
pub trait IntoOutputs: SealedOutputs {
    /// Adds the outputs to those of the call.
    #[doc(hidden)]
    fn add_to(self, outputs: &mut Vec<Output>);

    /// Adds the outputs that are known before a call.
    #[doc(hidden)]
    fn declare_outputs(outputs: &mut DeclaredOutputs);
}

/// The outputs of a return type that are known before a call.
#[derive(Debug, Default)]
pub struct DeclaredOutputs {
    /// The subjects of the events, with placeholders.
    pub(crate) events: Vec<&'static str>,
    /// `true` if there are outputs besides events, whose subjects are known only after a call.
    pub(crate) has_others: bool,
}

/// The supertrait that seals [`IntoOutputs`].
pub trait SealedOutputs {}

impl SealedOutputs for Output {}
impl SealedOutputs for Outputs {}
impl<T: IntoOutputs> SealedOutputs for Option<T> {}
impl<T: IntoOutputs> SealedOutputs for Vec<T> {}

impl<E: Event> SealedOutputs for E {}

impl<E: Event> IntoOutputs for E {
    fn add_to(self, outputs: &mut Vec<Output>) {
        outputs.push(Output::event(&self));
    }

    fn declare_outputs(outputs: &mut DeclaredOutputs) {
        outputs.events.extend(E::PATTERNS);
    }
}

impl IntoOutputs for Output {
    fn add_to(self, outputs: &mut Vec<Output>) {
        outputs.push(self);
    }

    fn declare_outputs(outputs: &mut DeclaredOutputs) {
        outputs.has_others = true;
    }
}

impl IntoOutputs for Outputs {
    fn add_to(self, outputs: &mut Vec<Output>) {
        outputs.extend(self.into_vec());
    }

    fn declare_outputs(outputs: &mut DeclaredOutputs) {
        outputs.has_others = true;
    }
}

impl<T: IntoOutputs> IntoOutputs for Option<T> {
    fn add_to(self, outputs: &mut Vec<Output>) {
        if let Some(value) = self {
            value.add_to(outputs);
        }
    }

    fn declare_outputs(outputs: &mut DeclaredOutputs) {
        T::declare_outputs(outputs);
    }
}

impl<T: IntoOutputs> IntoOutputs for Vec<T> {
    fn add_to(self, outputs: &mut Vec<Output>) {
        self.into_iter().for_each(|value| value.add_to(outputs));
    }

    fn declare_outputs(outputs: &mut DeclaredOutputs) {
        T::declare_outputs(outputs);
    }
}

macro_rules! tuple {
    ($($value:ident),*) => {
        impl<$($value: IntoOutputs),*> SealedOutputs for ($($value,)*) {}

        #[allow(non_snake_case)]
        impl<$($value: IntoOutputs),*> IntoOutputs for ($($value,)*) {
            fn add_to(self, outputs: &mut Vec<Output>) {
                let ($($value,)*) = self;
                $($value.add_to(outputs);)*
            }

            fn declare_outputs(outputs: &mut DeclaredOutputs) {
                $($value::declare_outputs(outputs);)*
            }
        }
    };
}

tuple!(A, B);
tuple!(A, B, C);
tuple!(A, B, C, D);
tuple!(A, B, C, D, E);
tuple!(A, B, C, D, E, F);
tuple!(A, B, C, D, E, F, G);
tuple!(A, B, C, D, E, F, G, H);

/// A return type of a handler with the key `publish`: outputs, or values that are published to the subject of the key.
///
/// `Via` is the marker that distinguishes the blanket implementations; [`via`] chooses it.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a return type of a handler with `publish`",
    label = "a handler with `publish` returns the value to publish",
    note = "it returns `T`, `Result<T, E>`, `Result<Option<T>, E>` or `Result<Vec<T>, E>`, where `T` implements `serde::Serialize`",
    note = "the error of a `Result<T, E>` must implement `std::error::Error`, or convert into `HandlerError` or a `Box<dyn Error + Send + Sync>`"
)]
pub trait IntoPublished<Via> {
    /// Converts the result of a call.
    fn into_published(self) -> Outcome;

    /// Adds the outputs that are known before a call.
    fn declare_published(_: &mut DeclaredOutputs) {}
}

/// A bound that no type satisfies; its error message describes a return type without a value.
#[diagnostic::on_unimplemented(
    message = "a handler with `publish` must return a value to publish, and `{Self}` has none",
    label = "nothing to publish",
    note = "return the value: `T`, `Result<T, E>`, `Result<Option<T>, E>` or `Result<Vec<T>, E>`, where `T` implements `serde::Serialize`; or remove `publish`"
)]
pub trait HasValue {}

/// The marker of a return type with outputs, which may have subjects of their own.
#[derive(Debug)]
pub struct ViaOutputs(());

/// The marker of an `Option` or a `Vec` of values.
#[derive(Debug)]
pub struct ViaValues(());

/// The marker of one value in a `Result`.
#[derive(Debug)]
pub struct ViaResult(());

/// The marker of one value.
#[derive(Debug)]
pub struct ViaValue(());

#[diagnostic::do_not_recommend]
impl<T: IntoSettle> IntoPublished<ViaOutputs> for T {
    fn into_published(self) -> Outcome {
        self.into_outcome()
    }

    fn declare_published(outputs: &mut DeclaredOutputs) {
        T::declare(outputs);
    }
}

/// Returns the outcome of a call that has returned these values for the subject of the key `publish`.
fn publishing<T: Payload>(values: impl IntoIterator<Item = T>) -> Outcome {
    Outcome::publishing(values.into_iter().map(|value| Output::new(&value)).collect())
}

impl<T: Payload> IntoPublished<ViaValues> for Option<T> {
    fn into_published(self) -> Outcome {
        publishing(self)
    }
}

impl<T: Payload> IntoPublished<ViaValues> for Vec<T> {
    fn into_published(self) -> Outcome {
        publishing(self)
    }
}

#[diagnostic::do_not_recommend]
impl<T: Payload, E: Into<HandlerError>> IntoPublished<ViaValues> for Result<Option<T>, E> {
    fn into_published(self) -> Outcome {
        settled(self, publishing)
    }
}

#[diagnostic::do_not_recommend]
impl<T: Payload, E: Into<HandlerError>> IntoPublished<ViaValues> for Result<Vec<T>, E> {
    fn into_published(self) -> Outcome {
        settled(self, publishing)
    }
}

#[diagnostic::do_not_recommend]
impl<T: Payload, E: Into<HandlerError>> IntoPublished<ViaResult> for Result<T, E> {
    fn into_published(self) -> Outcome {
        settled(self, |value| publishing([value]))
    }
}

impl<T: Payload> IntoPublished<ViaValue> for T {
    fn into_published(self) -> Outcome {
        publishing([self])
    }
}

/// Returns the outcome of a call of a handler with the key `publish`.
pub fn published<T: IntoPublished<Via>, Via>(returned: T, _: PhantomData<Via>) -> Outcome {
    returned.into_published()
}

/// The return type of a handler with the key `publish`, as the expansion of the attribute names it.
pub struct Returned<T>(PhantomData<fn() -> T>);

impl<T> Returned<T> {
    /// The name of the type.
    pub const NEW: Self = Self(PhantomData);

    /// Returns the name of the type of a value.
    pub fn of(_: &T) -> Self {
        Self::NEW
    }
}

impl<T> fmt::Debug for Returned<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Returned<{}>", std::any::type_name::<T>())
    }
}

/// The resolution of the marker of a return type by method lookup: of the traits that apply, the one with the most
/// references is used.
pub mod via {
    #![allow(missing_docs, missing_debug_implementations)] // used only by the expansion

    use std::marker::PhantomData;

    use super::{HasValue, IntoOutputs, Returned, Settle, ViaOutputs, ViaResult, ViaValue, ViaValues};

    pub trait PublishesNothing<T> {
        fn __jetstream_handlers_published(&self) -> PhantomData<ViaOutputs>
        where
            T: HasValue,
        {
            PhantomData
        }
    }
    impl PublishesNothing<()> for &&&&Returned<()> {}
    impl PublishesNothing<Settle> for &&&&Returned<Settle> {}
    impl<E> PublishesNothing<Result<(), E>> for &&&&Returned<Result<(), E>> {}

    pub trait PublishesOutputs {
        fn __jetstream_handlers_published(&self) -> PhantomData<ViaOutputs> {
            PhantomData
        }
    }
    impl<T: IntoOutputs> PublishesOutputs for &&&Returned<T> {}
    impl<T: IntoOutputs, E> PublishesOutputs for &&&Returned<Result<T, E>> {}

    pub trait PublishesValues {
        fn __jetstream_handlers_published(&self) -> PhantomData<ViaValues> {
            PhantomData
        }
    }
    impl<T> PublishesValues for &&Returned<Option<T>> {}
    impl<T> PublishesValues for &&Returned<Vec<T>> {}
    impl<T, E> PublishesValues for &&Returned<Result<Option<T>, E>> {}
    impl<T, E> PublishesValues for &&Returned<Result<Vec<T>, E>> {}

    pub trait PublishesResult {
        fn __jetstream_handlers_published(&self) -> PhantomData<ViaResult> {
            PhantomData
        }
    }
    impl<T, E> PublishesResult for &Returned<Result<T, E>> {}

    pub trait PublishesValue {
        fn __jetstream_handlers_published(&self) -> PhantomData<ViaValue> {
            PhantomData
        }
    }
    impl<T> PublishesValue for Returned<T> {}
}

#[cfg(test)]
mod tests {
    use serde::Serialize;

    use super::*;

    macro_rules! published {
        ($value:expr) => {{
            use super::via::*;
            let value = $value;
            let via = (&&&&&Returned::of(&value)).__jetstream_handlers_published();
            let outcome = published(value, via);
            let payloads = outcome.outputs.iter().map(|output| String::from_utf8_lossy(output.payload()).into_owned());
            (outcome.settle, payloads.collect::<Vec<_>>())
        }};
    }

    #[derive(Serialize)]
    struct Order {
        id: u64,
    }

    type Returns<T> = Result<T, std::io::Error>;

    #[test]
    #[allow(unused_imports, reason = "each value uses one of the traits")]
    fn value_is_published_to_the_subject_of_the_key() {
        let order = || Order { id: 7 };
        let json = |count: usize| vec![r#"{"id":7}"#.to_owned(); count];
        assert_eq!(published!(order()), (Settle::Ack, json(1)));
        assert_eq!(published!(Some(order())), (Settle::Ack, json(1)));
        assert_eq!(published!(None::<Order>), (Settle::Ack, json(0)));
        assert_eq!(published!(vec![order(), order()]), (Settle::Ack, json(2)));
        assert_eq!(published!(Returns::Ok(order())), (Settle::Ack, json(1)));
        assert_eq!(published!(Returns::Ok(Some(order()))), (Settle::Ack, json(1)));
        assert_eq!(published!(Returns::<Option<Order>>::Ok(None)), (Settle::Ack, json(0)));
        assert_eq!(published!(Returns::Ok(vec![order(), order()])), (Settle::Ack, json(2)));
        assert_eq!(published!(Returns::Ok((order(), 8))), (Settle::Ack, vec![r#"[{"id":7},8]"#.to_owned()]));
        assert_eq!(published!(Returns::Ok(Output::new(&order()))), (Settle::Ack, json(1)));
        assert_eq!(published!(Outputs::new().publish("a", &order())), (Settle::Ack, json(1)));
        assert_eq!(published!(Returns::<Order>::Err(std::io::Error::other("no"))), (Settle::Retry, json(0)));
        assert_eq!(published!(vec![1.0, f64::NAN]), (Settle::Terminate, json(0)));
    }

    #[test]
    fn outputs_are_in_the_order_of_the_returned_values() {
        let to = |subject: &str| Output::to(subject, &1);
        let returned =
            (to("a"), Some(to("b")), vec![to("c"), to("d")], None::<Output>, Outputs::new().publish("e", &1));
        let outcome = Returns::Ok(returned).into_outcome();
        let subjects: Vec<_> = outcome.outputs.iter().filter_map(Output::subject).collect();
        assert_eq!(subjects, ["a", "b", "c", "d", "e"]);
        const { assert!(<Returns<()> as IntoSettle>::IS_EMPTY && !<Returns<Outputs> as IntoSettle>::IS_EMPTY) };
    }
}
