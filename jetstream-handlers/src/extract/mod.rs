//! The parameters of a handler, made from a delivery.

use std::any::{Any, TypeId, type_name};
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use async_nats::HeaderMap;
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use crate::codec;
use crate::error::problem::{MissingState, Problem};
use crate::error::{BoxError, chain};
use crate::message::{Info, Message};
use crate::publish::Publisher;

/// A type that a handler can take as a parameter besides its payload.
///
/// Implement it for a type of your own, and it stands in a signature next to [`State`] and [`Subject`].
/// Extraction does no I/O; a type that needs some keeps a handle from the state and does it in the handler.
///
/// # Examples
///
/// ```
/// use jetstream_handlers::prelude::*;
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
/// ```
pub trait FromMessage: Sized {
    /// Makes the parameter, or says why this message cannot be handled.
    ///
    /// # Errors
    ///
    /// A [`Rejection`] means that the message will never be one that the handler can take:
    /// it becomes a dead letter at once, without a retry.
    fn from_message(message: &Message, context: &Context) -> Result<Self, Rejection>;

    /// Says at start-up, before the first message, what the parameter would miss.
    ///
    /// # Errors
    ///
    /// The rejection stops the start, together with every other problem of the handlers.
    fn check(context: &Context) -> Result<(), Rejection> {
        let _ = context;
        Ok(())
    }
}

/// Why a message cannot be handled at all: it does not decode, or lacks something that the handler needs.
#[derive(Debug)]
pub struct Rejection(BoxError);

impl Rejection {
    /// Refuses a message for this reason.
    pub fn new(reason: impl Into<BoxError>) -> Self {
        Self(reason.into())
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&chain(&*self.0))
    }
}

/// The values given to `Builder::state`, by type.
// A few at most, which a walk finds sooner than a hash does.
#[derive(Default, Clone)]
pub(crate) struct States(Vec<(TypeId, Arc<dyn Any + Send + Sync>)>);

impl States {
    pub(crate) fn insert<T: Send + Sync + 'static>(&mut self, value: T) {
        self.0.retain(|(known, _)| *known != TypeId::of::<T>());
        self.0.push((TypeId::of::<T>(), Arc::new(value)));
    }
}

impl fmt::Debug for States {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "States({})", self.0.len())
    }
}

/// What surrounds a message: the application's state, a publisher, the sign that the process stops.
#[derive(Debug, Clone)]
pub struct Context(Arc<ContextInner>);

#[derive(Debug)]
struct ContextInner {
    handler: String,
    states: Arc<States>,
    publisher: Publisher,
    shutdown: CancellationToken,
}

impl Context {
    pub(crate) fn new(handler: String, states: Arc<States>, publisher: Publisher, shutdown: CancellationToken) -> Self {
        Self(Arc::new(ContextInner { handler, states, publisher, shutdown }))
    }

    /// The full name of the handler: its module path and its function.
    pub fn handler(&self) -> &str {
        &self.0.handler
    }

    /// The state of this type, if one was given to the builder.
    pub fn state<T: Send + Sync + 'static>(&self) -> Option<&T> {
        self.0.states.0.iter().find(|(known, _)| *known == TypeId::of::<T>())?.1.downcast_ref()
    }

    pub(crate) fn shutdown(&self) -> &CancellationToken {
        &self.0.shutdown
    }

    /// Publishes on the connection that the message came from.
    pub fn publisher(&self) -> &Publisher {
        &self.0.publisher
    }
}

/// A value that the application gave to `Builder::state`, cloned for each call.
///
/// Give something that is cheap to clone: a connection pool, an `Arc`.
/// A handler whose state nobody gave stops the start with an error that names both.
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
    Rejection::new(MissingState { type_name: type_name::<T>() })
}

/// The subject on which the message was published: what a wildcard matched.
///
/// # Examples
///
/// ```
/// use jetstream_handlers::prelude::*;
///
/// #[subscriber(subject = "orders.*.created", queue = "regions")]
/// async fn by_region(subject: Subject) {
///     println!("an order from {}", subject.token(1).unwrap_or("nowhere"));
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject(async_nats::Subject);

impl Subject {
    /// The subject as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The token at `index`, counted from 0.
    pub fn token(&self, index: usize) -> Option<&str> {
        self.0.split('.').nth(index)
    }
}

impl Deref for Subject {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromMessage for Subject {
    fn from_message(message: &Message, _: &Context) -> Result<Self, Rejection> {
        Ok(Self(message.subject.clone()))
    }
}

/// The headers of the message; empty if it has none.
#[derive(Debug, Clone, Default)]
pub struct Headers(Option<Arc<HeaderMap>>);

impl Headers {
    /// The first value of a header.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.as_ref()?.get(name).map(|value| value.as_str())
    }

    /// Every header with each of its values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().flat_map(|headers| headers.iter()).flat_map(|(name, values)| {
            let name: &str = name.as_ref();
            values.iter().map(move |value| (name, value.as_str()))
        })
    }
}

impl FromMessage for Headers {
    fn from_message(message: &Message, _: &Context) -> Result<Self, Rejection> {
        Ok(Self(message.headers.clone()))
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
        Ok(context.0.publisher.clone())
    }
}

/// The sign that the process stops, for a handler that works long and can end early.
///
/// # Examples
///
/// ```
/// use jetstream_handlers::prelude::*;
///
/// #[subscriber(subject = "reports.requested", queue = "reports")]
/// async fn report(pages: u32, shutdown: Shutdown) -> HandlerResult {
///     for _page in 0..pages {
///         if shutdown.is_requested() {
///             return Err("stopping; another replica starts over".into());
///         }
///         // write the page
///     }
///     Ok(())
/// }
/// ```
#[derive(Debug, Clone)]
pub struct Shutdown(CancellationToken);

impl Shutdown {
    /// Whether a graceful stop has begun.
    pub fn is_requested(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Waits until a graceful stop begins.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when the future is dropped.
    pub async fn requested(&self) {
        self.0.cancelled().await;
    }

    /// The cancellation token, to hand to other code.
    pub fn token(&self) -> CancellationToken {
        self.0.clone()
    }
}

impl FromMessage for Shutdown {
    fn from_message(_: &Message, context: &Context) -> Result<Self, Rejection> {
        Ok(Self(context.0.shutdown.clone()))
    }
}

/// How an [`Argument`] comes about: decoded from the payload.
#[derive(Debug)]
pub struct ViaPayload(());

/// How an [`Argument`] comes about: [`FromMessage`].
#[derive(Debug)]
pub struct ViaMessage(());

/// A parameter of a handler: a payload, or something made from the message.
///
/// Nobody implements it by hand; the two blanket implementations below are all there is.
/// `Via` tells them apart, and the compiler finds it.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is neither a payload nor something to extract from a message",
    label = "not a parameter of a handler",
    note = "derive `serde::Deserialize` for it to receive it as the decoded payload",
    note = "`State<T>` needs a `T: Clone + Send + Sync + 'static`; wrap it in an `Arc` if it is none",
    note = "or implement `jetstream_handlers::FromMessage` for it; ready ones are `State<T>`, `Subject`, `Headers`, `Info`, `Message`, `Publisher` and `Shutdown`"
)]
pub trait Argument<'m, Via>: Sized {
    /// Makes the parameter from a message.
    fn extract(message: &'m Message, context: &Context) -> Result<Self, Rejection>;

    /// Says at start-up what the parameter would miss.
    fn check(context: &Context) -> Result<(), Rejection>;
}

impl<'m, T: Deserialize<'m>> Argument<'m, ViaPayload> for T {
    fn extract(message: &'m Message, _: &Context) -> Result<Self, Rejection> {
        if message.payload.is_empty() {
            return Err(Rejection::new(format!("the payload is empty, and no `{}` in JSON", type_name::<T>())));
        }
        codec::decode(&message.payload)
            .map_err(|error| Rejection::new(format!("the payload is no `{}` in JSON: {error}", type_name::<T>())))
    }

    fn check(_: &Context) -> Result<(), Rejection> {
        Ok(())
    }
}

impl<T: FromMessage> Argument<'_, ViaMessage> for T {
    fn extract(message: &Message, context: &Context) -> Result<Self, Rejection> {
        T::from_message(message, context)
    }

    fn check(context: &Context) -> Result<(), Rejection> {
        T::check(context)
    }
}

/// What is wrong with the parameters of one handler.
#[derive(Debug)]
pub struct Problems {
    context: Context,
    found: Vec<Problem>,
}

impl Problems {
    pub(crate) fn of(context: &Context, check: impl FnOnce(&Context, &mut Problems)) -> Vec<Problem> {
        let mut problems = Self { context: context.clone(), found: Vec::new() };
        check(context, &mut problems);
        problems.found
    }

    pub(crate) fn add(&mut self, rejection: &Rejection) {
        let handler = self.context.handler().to_owned();
        self.found.push(match rejection.0.downcast_ref() {
            Some(MissingState { type_name }) => Problem::MissingState { handler, type_name },
            None => Problem::Parameter { handler, problem: rejection.to_string() },
        });
    }
}
