//! State that the application shares with its handlers.

use std::any::{Any, TypeId, type_name};
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use super::{Context, FromMessage, Rejection};
use crate::error::problem::MissingState;
use crate::message::Message;

/// Values by type, such as those passed to `Builder::state`.
// A linear search is faster than hashing, because there are few values.
#[derive(Default, Clone)]
pub(crate) struct States(Vec<(TypeId, Arc<dyn Any + Send + Sync>)>);

impl States {
    pub(crate) fn insert<T: Send + Sync + 'static>(&mut self, value: T) {
        self.0.retain(|(known, _)| *known != TypeId::of::<T>());
        self.0.push((TypeId::of::<T>(), Arc::new(value)));
    }

    pub(crate) fn get<T: Send + Sync + 'static>(&self) -> Option<&T> {
        self.0.iter().find(|(known, _)| *known == TypeId::of::<T>())?.1.downcast_ref()
    }
}

impl fmt::Debug for States {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "States({})", self.0.len())
    }
}

/// A value that the application passed to [`Builder::state`](crate::Builder::state), cloned for each call.
///
/// It should be cheap to clone, such as a connection pool or an `Arc`.
/// If a handler's state is missing, the start fails with an error that names the handler and the type;
/// `Option<State<T>>` is then `None` instead.
///
/// # Examples
///
/// ```
/// use jetstream_handlers::prelude::*;
/// use std::sync::{Arc, atomic::{AtomicU64, Ordering}};
///
/// #[subscriber(subject = "orders.created", queue = "counter")]
/// async fn count(State(seen): State<Arc<AtomicU64>>) {
///     seen.fetch_add(1, Ordering::Relaxed);
/// }
///
/// # async fn start() -> Result<(), jetstream_handlers::Error> {
/// let broker = Broker::builder().state(Arc::new(AtomicU64::new(0))).connect().await?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Copy)]
pub struct State<T>(pub T);

impl<T> Deref for State<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: Clone + Send + Sync + 'static> FromMessage for State<T> {
    fn from_message(_: &Message, context: &Context) -> Result<Self, Rejection> {
        context.state::<T>().cloned().map(State).ok_or_else(missing_state::<T>)
    }

    fn check(context: &Context) -> Result<(), Rejection> {
        context.state::<T>().map(|_| ()).ok_or_else(missing_state::<T>)
    }
}

fn missing_state<T>() -> Rejection {
    Rejection::missing(MissingState { type_name: type_name::<T>() })
}
