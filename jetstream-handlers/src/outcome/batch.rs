//! The return types of handlers of batches, and their conversion into outcomes.

use std::marker::PhantomData;

use super::returned::settled;
use super::{DeclaredOutputs, Elements, HandlerError, IntoPublished, IntoSettle, Outcome, Returned, Settle};

/// A return type of a handler of batches: one result for all elements, or one for each of them.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a return type of a handler of batches",
    label = "a handler of batches returns `()`, `Result<(), E>`, `Settle`, or a `Vec` with one result for each element",
    note = "for one result for each element, return `Vec<Settle>`, `Vec<HandlerResult>`, or either in a `Result`",
    note = "for outputs, return one for each element: `Vec<Output>`, `Vec<Option<Output>>` or `Vec<HandlerResult<Output>>`; a batch has other messages after a redelivery, so that outputs of the whole batch would be published twice"
)]
pub trait IntoSettles: SealedSettles {
    /// Converts the result of a call; the results of single elements become part of `elements`.
    fn into_settles(self, elements: &Elements) -> Outcome;

    /// Adds the outputs that are known before a call.
    fn declare_elements(_: &mut DeclaredOutputs) {}
}

/// The supertrait that seals [`IntoSettles`].
pub trait SealedSettles {}

impl SealedSettles for () {}
impl SealedSettles for Settle {}
impl<E: Into<HandlerError>> SealedSettles for Result<(), E> {}
impl<T: IntoSettle> SealedSettles for Vec<T> {}
#[diagnostic::do_not_recommend]
impl<T: IntoSettle, E: Into<HandlerError>> SealedSettles for Result<Vec<T>, E> {}

impl IntoSettles for () {
    fn into_settles(self, _: &Elements) -> Outcome {
        Outcome::ack()
    }
}

impl IntoSettles for Settle {
    fn into_settles(self, _: &Elements) -> Outcome {
        self.into_outcome()
    }
}

impl<E: Into<HandlerError>> IntoSettles for Result<(), E> {
    fn into_settles(self, _: &Elements) -> Outcome {
        self.into_outcome()
    }
}

impl<T: IntoSettle> IntoSettles for Vec<T> {
    fn into_settles(self, elements: &Elements) -> Outcome {
        elements.settle(self.into_iter().map(IntoSettle::into_outcome).collect())
    }

    fn declare_elements(outputs: &mut DeclaredOutputs) {
        T::declare(outputs);
    }
}

#[diagnostic::do_not_recommend]
impl<T: IntoSettle, E: Into<HandlerError>> IntoSettles for Result<Vec<T>, E> {
    fn into_settles(self, elements: &Elements) -> Outcome {
        settled(self, |results| results.into_settles(elements))
    }

    fn declare_elements(outputs: &mut DeclaredOutputs) {
        T::declare(outputs);
    }
}

/// A return type of a handler of batches with the key `publish`: one value for each element.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a return type of a handler of batches with `publish`",
    label = "a handler of batches with `publish` returns one value for each element",
    note = "it returns `Vec<T>` or `Result<Vec<T>, E>`, where `T` implements `serde::Serialize`, or is an `Option` or a `Result` of such a type",
    note = "a batch has other messages after a redelivery, so that a value of the whole batch would be published twice"
)]
pub trait IntoElements {
    /// The value of one element.
    type Element;

    /// Returns the value of each element, or the outcome of a call that has failed.
    fn into_elements(self) -> Result<Vec<Self::Element>, Outcome>;
}

impl<T> IntoElements for Vec<T> {
    type Element = T;

    fn into_elements(self) -> Result<Vec<T>, Outcome> {
        Ok(self)
    }
}

impl<T, E: Into<HandlerError>> IntoElements for Result<Vec<T>, E> {
    type Element = T;

    fn into_elements(self) -> Result<Vec<T>, Outcome> {
        self.map_err(|error| settled(Err::<(), E>(error), IntoSettle::into_outcome))
    }
}

impl<T> Returned<T> {
    /// Returns the name of the type of one element of a value.
    pub fn of_element(_: &impl IntoElements<Element = T>) -> Self {
        Self::NEW
    }
}

/// Returns the outcome of a call of a handler of batches with the key `publish`.
pub fn published_elements<T, Via>(returned: T, _: PhantomData<Via>, elements: &Elements) -> Outcome
where
    T: IntoElements<Element: IntoPublished<Via>>,
{
    match returned.into_elements() {
        Ok(values) => elements.settle(values.into_iter().map(IntoPublished::into_published).collect()),
        Err(failed) => failed,
    }
}

#[cfg(test)]
mod tests {
    use super::super::via::*;
    use super::*;

    fn elements(count: usize) -> Elements {
        let elements = Elements::default();
        elements.set((0..count).collect(), Vec::new());
        elements
    }

    fn settles(elements: &Elements) -> Vec<Settle> {
        elements.take().into_iter().map(|(_, outcome)| outcome.settle).collect()
    }

    #[test]
    fn one_result_is_that_of_all() {
        let of = elements(2);
        assert_eq!(().into_settles(&of).settle, Settle::Ack);
        assert_eq!(Settle::Terminate.into_settles(&of).settle, Settle::Terminate);
        assert_eq!(Err::<(), _>(HandlerError::retry("down")).into_settles(&of).settle, Settle::Retry);
        assert_eq!(Err::<Vec<Settle>, _>(HandlerError::retry("down")).into_settles(&of).settle, Settle::Retry);
        assert_eq!(settles(&of), []);
    }

    #[test]
    fn results_of_elements_are_theirs() {
        let of = elements(2);
        assert_eq!(vec![Settle::Retry, Settle::Ack].into_settles(&of).settle, Settle::Ack);
        assert_eq!(settles(&of), [Settle::Retry, Settle::Ack]);
        let results = vec![Ok(()), Err(HandlerError::terminate("wrong"))];
        assert_eq!(Ok::<_, HandlerError>(results).into_settles(&of).settle, Settle::Ack);
        assert_eq!(settles(&of), [Settle::Ack, Settle::Terminate]);
    }

    #[test]
    fn each_element_publishes_its_value() {
        let of = elements(3);
        let returned = Ok::<_, HandlerError>(vec![Some(7), None, Some(9)]);
        let via = (&&&Returned::of_element(&returned)).__jetstream_handlers_published();
        assert_eq!(published_elements(returned, via, &of).settle, Settle::Ack);
        let outputs: Vec<_> =
            of.take().into_iter().map(|(position, outcome)| (position, outcome.outputs.len())).collect();
        assert_eq!(outputs, [(0, 1), (1, 0), (2, 1)]);
    }
}
