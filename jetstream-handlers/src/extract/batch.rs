//! Batches: the messages of a call that takes several.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use super::argument::ViaBatch;
use super::{Argument, Context, Delivery, Rejection};
use crate::codec::PayloadFormat;
use crate::message::Message;
use crate::outcome::{Elements, HandlerError};

/// Several messages, which a handler with the key `batch` takes in one call.
///
/// It derefs to a slice of the elements, in the order of their delivery.
/// An element is what a handler of one message takes: a payload, or a type that implements
/// [`FromMessage`](crate::FromMessage), such as [`Message`].
/// A message from which no element can be made is not in the batch; it becomes a dead letter alone.
///
/// The call has one result for all elements, or one for each: [`fail`](Self::fail) fails single ones, and a `Vec` of
/// [`Settle`](crate::Settle) or of results has one for each.
/// [`subscriber`](macro@crate::subscriber#batches) describes how a batch is filled and settled.
///
/// # Examples
///
/// ```
/// use jetstream_handlers::prelude::*;
/// # struct Db;
/// # impl Db { async fn insert(&self, readings: &[u64]) -> HandlerResult { Ok(()) } }
/// # type Pool = std::sync::Arc<Db>;
///
/// #[subscriber(subject = "meters.read", queue = "meters", batch = 100, batch_wait = "500ms")]
/// async fn store(readings: Batch<u64>, State(db): State<Pool>) -> HandlerResult {
///     for (index, reading) in readings.iter().enumerate() {
///         if *reading == 0 {
///             let meter = readings.messages()[index].subject();
///             readings.fail(index, HandlerError::terminate(format!("{meter} has no power")));
///         }
///     }
///     db.insert(&readings).await
/// }
/// # let _ = store;
/// ```
pub struct Batch<T> {
    elements: Vec<T>,
    messages: Vec<Message>,
    outcomes: Arc<Elements>,
}

impl<T> Batch<T> {
    /// Returns the messages of the elements, each with the index of its element.
    ///
    /// # Examples
    ///
    /// ```
    /// use jetstream_handlers::prelude::*;
    ///
    /// fn tenants(orders: &Batch<u64>) -> Vec<(&str, u64)> {
    ///     let tenants = orders.messages().iter().map(|message| message.header("Tenant").unwrap_or("none"));
    ///     tenants.zip(orders.iter().copied()).collect()
    /// }
    /// # assert_eq!(tenants(&Batch::from_iter([7])), [("none", 7)]);
    /// ```
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// Fails one element: its message is settled as the error says, and the others by what the handler returns.
    ///
    /// An element that failed stays failed, also if the handler returns another result for it. The last failure counts.
    ///
    /// # Panics
    ///
    /// Panics if there is no element of this index.
    ///
    /// # Examples
    ///
    /// ```
    /// use jetstream_handlers::prelude::*;
    ///
    /// #[subscriber(subject = "orders.created", queue = "billing", batch = 50)]
    /// async fn bill(orders: Batch<u64>) {
    ///     for (index, order) in orders.iter().enumerate() {
    ///         if let Err(error) = order.checked_sub(1).ok_or("order 0 does not exist") {
    ///             orders.fail(index, HandlerError::terminate(error));
    ///         }
    ///     }
    /// }
    /// # let _ = bill;
    /// ```
    #[track_caller]
    pub fn fail(&self, index: usize, error: impl Into<HandlerError>) {
        self.outcomes.fail(index, &error.into());
    }
}

impl<T> Deref for Batch<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.elements
    }
}

impl<T> IntoIterator for Batch<T> {
    type Item = T;
    type IntoIter = std::vec::IntoIter<T>;

    /// Returns the elements by value; those that are to fail must be failed before, or by the returned results.
    fn into_iter(self) -> Self::IntoIter {
        self.elements.into_iter()
    }
}

impl<'a, T> IntoIterator for &'a Batch<T> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.elements.iter()
    }
}

/// Creates a batch for a unit test, whose messages are empty.
///
/// # Examples
///
/// ```
/// use jetstream_handlers::prelude::*;
///
/// fn total(orders: &Batch<u64>) -> u64 {
///     orders.iter().sum()
/// }
///
/// assert_eq!(total(&Batch::from_iter([1, 2, 3])), 6);
/// ```
impl<T> FromIterator<T> for Batch<T> {
    fn from_iter<I: IntoIterator<Item = T>>(elements: I) -> Self {
        let elements: Vec<T> = elements.into_iter().collect();
        let messages = elements.iter().map(|_| Message::new("", "")).collect();
        let outcomes = Arc::<Elements>::default();
        outcomes.set((0..elements.len()).collect(), Vec::new());
        Self { elements, messages, outcomes }
    }
}

impl<T: fmt::Debug> fmt::Debug for Batch<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Batch").field(&self.elements).finish()
    }
}

#[diagnostic::do_not_recommend]
impl<'m, T, Via> Argument<'m, ViaBatch<Via>> for Batch<T>
where
    T: for<'a> Argument<'a, Via>,
{
    const IS_PAYLOAD: bool = true;
    const IS_BATCH: bool = true;

    fn extract(message: &'m Message, context: &Context) -> Result<Self, Rejection> {
        Self::extract_from(Delivery::from(message), context)
    }

    /// # Errors
    ///
    /// Returns an error if there is no element, so that the handler is not called.
    fn extract_from(delivery: Delivery<'m>, context: &Context) -> Result<Self, Rejection> {
        let count = delivery.messages().len();
        let (mut elements, mut messages) = (Vec::with_capacity(count), Vec::with_capacity(count));
        let (mut positions, mut rejected) = (Vec::with_capacity(count), Vec::new());
        for (position, message) in delivery.messages().iter().enumerate() {
            match T::extract(message, context) {
                Ok(element) => {
                    elements.push(element);
                    messages.push(message.clone());
                    positions.push(position);
                }
                Err(rejection) => rejected.push((position, rejection.into_outcome())),
            }
        }
        let outcomes = delivery.elements();
        outcomes.set(positions, rejected);
        if elements.is_empty() {
            return Err(Rejection::new("no message of the batch can be handled"));
        }
        Ok(Self { elements, messages, outcomes })
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

    fn payload_format() -> PayloadFormat {
        T::payload_format()
    }

    fn payload_name() -> Option<&'static str> {
        T::payload_name()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::Settle;

    #[test]
    fn undecodable_message_is_not_in_the_batch() {
        let messages = ["1", "x", "3", ""].map(|payload| Message::new("a", payload));
        let outcomes = Arc::<Elements>::default();
        let delivery = Delivery::batch(&messages, &outcomes);
        let batch: Batch<u64> = Argument::extract_from(delivery, &Context::for_test()).unwrap();
        assert_eq!(*batch, [1, 3]);
        assert_eq!(batch.messages()[1].payload(), "3");
        batch.fail(1, HandlerError::retry("down"));
        let outcomes = outcomes.take();
        let settles: Vec<_> = outcomes.iter().map(|(position, outcome)| (*position, outcome.settle)).collect();
        assert_eq!(settles, [(1, Settle::Terminate), (3, Settle::Terminate), (2, Settle::Retry)]);
    }

    #[test]
    fn batch_without_an_element_is_a_rejection() {
        let messages = ["x", "y"].map(|payload| Message::new("a", payload));
        let outcomes = Arc::<Elements>::default();
        let extracted = Batch::<u64>::extract_from(Delivery::batch(&messages, &outcomes), &Context::for_test());
        assert!(extracted.is_err());
        assert_eq!(outcomes.take().len(), 2);
    }
}
