//! An attribute-macro handler framework for NATS JetStream.
//!
//! Annotate async functions, start them with one call, and publish typed structs.
//!
//! ```no_run
//! use jetstream_handlers::prelude::*;
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Debug, Serialize, Deserialize)]
//! struct OrderCreated {
//!     id: u64,
//!     customer: String,
//! }
//!
//! #[subscriber(subject = "orders.created", queue = "order-processor")]
//! async fn process_order(order: OrderCreated) -> HandlerResult {
//!     println!("processing order {} for {}", order.id, order.customer);
//!     Ok(()) // Ok acks; Err is retried with backoff, then dead-lettered
//! }
//!
//! #[tokio::main]
//! async fn main() -> Result<(), jetstream_handlers::Error> {
//!     let broker = Broker::connect("nats://localhost:4222").await?;
//!     broker.publish("orders.created", &OrderCreated { id: 123, customer: "Ada".into() }).await?; // returns after the stream stored it
//!     broker.run_all().await // until SIGINT or SIGTERM, then a graceful stop
//! }
//! ```
//!
//! # Handlers
//!
//! [`subscriber`](macro@subscriber) turns an `async fn` into a handler; its documentation lists every key with its default.
//! [`Broker::subscribe`] takes a closure instead.
//! A handler in another crate is found if the program names that crate; [`Broker::expect`] names a handler, and makes a start without it an error.
//! Every handler has a durable consumer, named by `queue`: instances with the same queue share the messages, and every queue on a subject receives every message.
//!
//! # Parameters
//!
//! A handler takes the decoded payload, of any type that implements `serde::Deserialize`, and types that implement [`FromMessage`]:
//! [`State`], [`Subject`], [`Headers`], [`Info`], [`Message`], [`Publisher`], [`Shutdown`], and your own.
//! Payloads are JSON by default; [`codecs`] describes other formats.
//!
//! # Results
//!
//! A message is acknowledged after its handler returned `Ok`.
//! After an error, a panic or a timeout, the message is retried with the handler's `backoff`; after `max_deliver` attempts it becomes a dead letter.
//! [`HandlerError`] and [`Settle`] set another delay, or end the attempts immediately.
//! What a handler returns can be published before its message is acknowledged: [`outputs`] describes the key `publish`, [`Output`] and [`Outputs`].
//! Delivery is at least once: a handler may receive a message twice.
//!
//! # Dead letters
//!
//! A message that cannot be handled is copied to the stream `DLQ` before it is terminated; [`DeadLetters`] lists, reads, replays and purges these copies.
//!
//! # Publishing
//!
//! [`Broker::publish`] and [`Publisher::publish`] return after the stream has stored the message.
//! [`PublishMessage`] adds headers, a message id and conditions.
//! For many messages, [`Publisher::publish_all`] returns the result of each, [`Publisher::publish_atomic`] stores all or none, and [`Publisher::ingest`] has the highest throughput.
//!
//! # Lifecycle
//!
//! [`Builder`] configures a broker, and [`Builder::connect`] connects it.
//! [`Broker::start_all`] validates the configuration and starts the handlers, [`Running::shutdown`] stops them gracefully, and [`Broker::disconnect`] closes the connection; [`Broker::run_all`] does all of this.
//! [`Broker::handlers`] lists the handlers, and [`Broker::health`] returns the state of the connection and of every handler; [`health`] describes it, and the probes of Kubernetes.
//!
//! # Errors
//!
//! Every fallible function returns an [`Error`]: [`kind`](Error::kind) classifies it, and [`problems`](Error::problems) returns the details of a failed start as values.
//! Events of running handlers are logged through `tracing`; the module [`traces`] describes the span of each attempt.
//!
//! # Features
//!
//! | feature | effect |
//! |---|---|
//! | `asyncapi` | the module `asyncapi`: a document in the format AsyncAPI of what handlers receive and publish, and its comparison with an earlier one; off by default |
//! | `cbor`, `messagepack`, `protobuf` | the payload formats `Cbor<T>`, `MessagePack<T>` and `Protobuf<T>`; off by default |
//! | `cli` | the command line of a service, `Builder::run_cli`: the module `cli`; off by default |
//! | `compression` | payloads that are compressed with gzip or zstd; off by default |
//! | `metrics` | the module `metrics`: counters, gauges and histograms through the facade crate [`metrics`](https://docs.rs/metrics); off by default |
//! | `otel` | spans and metrics for OpenTelemetry, and the trace of a message in everything that its handler publishes: the module [`traces`]; off by default |
//! | `tower` | the module `layer`, which puts layers of [`tower`](https://docs.rs/tower) around handlers; off by default |
//! | `test-server` | `testing::NatsServer`, which starts a nats-server for a test; on Unix, off by default |

#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "asyncapi")]
pub mod asyncapi;
mod backoff;
mod broker;
#[cfg(feature = "cli")]
pub mod cli;
mod codec;
mod dead_letter;
mod declaration;
mod delivery;
mod doctor;
mod duration;

mod error;
mod event;
mod extract;
mod future;
mod handler;
mod key;
#[cfg(feature = "tower")]
pub mod layer;
mod memory;
mod message;
#[cfg(feature = "metrics")]
pub mod metrics {
    #![doc = include_str!("docs/metrics.md")]

    pub use crate::observe::families::{BUCKETS, FAMILIES, Family, Kind, PREFIX};
}
mod nats;
mod observe;
mod outcome;
mod partition;
mod pattern;
mod plan;
mod prefix;
mod provision;
mod publish;
mod rights;
mod rules;
#[cfg(feature = "asyncapi")]
mod schema;
mod settings;
mod shares;
mod spelling;
mod subject;
mod sync;
pub mod testing;
mod text;
mod transport;
mod variable;
mod worker;

pub use async_nats;
pub use async_nats::jetstream::publish::PublishAck;

pub use broker::{Broker, Builder, HandlerConsumer, Position, Running, Subscribe, Subscription};
#[cfg(feature = "protobuf")]
pub use codec::Protobuf;
#[cfg(feature = "cbor")]
pub use codec::{Cbor, CborCodec};
pub use codec::{Codec, Coded, Json, JsonCodec, Payload, Raw};
#[cfg(feature = "messagepack")]
pub use codec::{MessagePack, MessagePackCodec};
pub use dead_letter::{DeadLetter, DeadLetterGroup, DeadLetterGroups, DeadLetters, ImportReport, ReplayReport};
pub use doctor::{Diagnosis, Finding, FindingStatus};
pub use error::difference::Difference;
pub use error::ingest::IngestError;
pub use error::problem::{Problem, Purpose};
pub use error::{Error, ErrorKind};
pub use event::Event;
#[doc(hidden)]
pub use extract::Argument;
#[cfg(feature = "tower")]
pub use extract::Extension;
pub use extract::{Batch, Context, FromMessage, Headers, Path, Rejection, Shutdown, State, Subject};
#[doc(hidden)]
pub use handler::{Closure, Subscriber};
#[doc(hidden)] // documented at the trait
pub use jetstream_handlers_macros::Event;
/// Turns an `async fn` into a handler of dead letters: it is called for each message that another handler could not handle.
///
/// It is [`subscriber`](macro@subscriber) with these values of its keys, and accepts all others:
///
/// | key | value |
/// |---|---|
/// | `subject` | `"dlq.>"` by default: the dead letters of all handlers that do not set `dead_letter`; `"dlq.ORDERS.>"` are those of one stream |
/// | `deliver` | `"new"` by default: the dead letters that are stored after the first start |
/// | `dead_letter` | always `false`, because the dead letter is stored already; if all attempts fail, the log says so |
///
/// The stream `DLQ` is created if it does not exist.
/// A dead letter that is too large for one message is not [complete](DeadLetter::is_complete);
/// [`DeadLetters::get`] reads it with its parts, for which the handler is not called.
///
/// A dead letter stays in its stream after the call, to be replayed or purged.
///
/// # Examples
///
/// ```
/// use jetstream_handlers::prelude::*;
/// use jetstream_handlers::{DeadLetter, dead_letter_handler};
///
/// #[dead_letter_handler(queue = "alerts")]
/// async fn alert(letter: DeadLetter) -> HandlerResult {
///     println!("{letter}");
///     Ok(())
/// }
/// ```
#[doc(inline)]
pub use jetstream_handlers_macros::dead_letter_handler;
#[doc = include_str!("docs/subscriber.md")]
#[doc(inline)]
pub use jetstream_handlers_macros::subscriber;
/// Turns an `async fn` into a test with a paused clock, and starts the handlers on an in-memory broker.
///
/// The function has one parameter, a [`TestBroker`](testing::TestBroker).
/// The crate of the test needs `tokio` with the features `macros` and `test-util`.
///
/// | argument | effect |
/// |---|---|
/// | `include(handler, ..)` | starts these handlers; without `include` and `group`, every handler that is linked into the test is started |
/// | `group = "name"` | starts the handlers of this group |
/// | `state = value` | adds a value that handlers take as [`State`]; may be repeated |
/// | `clock = paused`, `clock = running` | whether time stands still while nothing runs; defaults to `paused` |
/// | `live` | runs the test on the server of the environment, as [`Broker::from_env`] finds it, with a running clock |
///
/// On the paused clock, a sleep or a timeout ends as soon as nothing else can run, so that retries take no time.
/// It cannot see that a database or an HTTP server is still busy, whose clients then time out at once: a test with I/O
/// needs `clock = running`. [`testing`] describes both.
///
/// # Examples
///
/// ```
/// use jetstream_handlers::prelude::*;
/// use jetstream_handlers::testing::TestBroker;
///
/// #[subscriber(subject = "orders.created", queue = "greeter")]
/// async fn greet(order: u64, State(greeting): State<String>) -> HandlerResult {
///     println!("{greeting}, {order}");
///     Err("the mail server is down".into())
/// }
///
/// #[jetstream_handlers::test(include(greet), state = String::from("hello"))]
/// async fn tries_a_greeting_five_times(broker: TestBroker) {
///     broker.publish("orders.created", &7).await;
///     broker.advance(secs(600)).await;
///     broker.handled::<greet>().once().retried(4);
///     assert_eq!(broker.dead_letters().await.len(), 1);
/// }
/// ```
#[doc(inline)]
pub use jetstream_handlers_macros::test;
pub use key::Key;
pub use message::{Info, Message};
pub use observe::handler_info::HandlerInfo;
pub use observe::handler_state::HandlerState;
pub use observe::handler_status::{HandlerStatus, StatusCounts};
pub use observe::health::{HandlerHealth, Health, LastError, Status};
pub use observe::settled::{SettledEvent, Settlement};
pub use outcome::{HandlerError, HandlerResult, Output, Outputs, Reason, Settle};
#[doc(hidden)]
pub use outcome::{IntoOutputs, IntoSettle, Outcome};
pub use partition::partition;
pub use plan::{Deliver, Manage, Subjects};
pub use provision::{Change, ChangeAction, ChangeField, ChangeObject, ExportFormat, ProvisionPlan, Risk};
pub use publish::{PublishAll, PublishMessage, Publisher};
pub use rights::{Permission, PermissionFormat, PermissionLevel, Permissions};

/// The declaration of a stream, for [`Builder::stream`]: [`Config`](stream::Config) and its enums, from the client library.
pub mod stream {
    pub use async_nats::jetstream::stream::{
        Compression, Config, ConsumerLimits, DiscardPolicy, External, PersistenceMode, Placement, Republish,
        RetentionPolicy, Source, StorageType, SubjectTransform,
    };
}

/// The items that a service usually imports: `use jetstream_handlers::prelude::*;`.
pub mod prelude {
    pub use crate::{
        Batch, Broker, Event, FromMessage, HandlerError, HandlerResult, Headers, Info, Message, Path, Publisher,
        Rejection, Settle, Shutdown, State, Subject, subscriber,
    };

    /// Returns a duration of this many seconds, as in `fetch_wait(secs(5))`.
    pub const fn secs(seconds: u64) -> std::time::Duration {
        std::time::Duration::from_secs(seconds)
    }
}

/// Names used by the expansion of the attribute. They are not public API and may change at any time.
#[doc(hidden)]
pub mod __private {
    pub use std::borrow::Cow;
    use std::marker::PhantomData;

    pub use std::string::ToString;

    pub use inventory;
    pub use serde::{Serialize, Serializer};

    pub use crate::codec::DefaultCodec;
    #[cfg(feature = "asyncapi")]
    pub use crate::event::EventMessage;
    pub use crate::event::{DeclaredEvent, event_codec, event_partition, event_subject};
    #[cfg(feature = "asyncapi")]
    pub use crate::extract::element;
    pub use crate::extract::{
        Argument, Body, Context, Delivery, Parameter, Problems, Rejection, Results, check, decoded, extract,
        extract_from, has_pattern, unknown_header, unknown_subject, via,
    };
    pub use crate::handler::{CallFuture, Entry, Registration, Subscriber};
    pub use crate::key::Key;
    pub use crate::message::Message;
    pub use crate::outcome::{
        DeclaredOutputs, Elements, IntoElements, IntoPublished, IntoSettle, IntoSettles, Outcome, Returned, published,
        published_elements, via as returned,
    };
    pub use crate::plan::{Ack, Backoff, DeadLetter, Deliver, Manage, OnBatchError, Plan};
    #[cfg(feature = "asyncapi")]
    pub use crate::schema::{PayloadType, described, returned as returned_type, wrapped};
    #[cfg(feature = "tower")]
    pub use crate::{handler::Wrapper, layer::LayerOfHandlers};

    /// Returns the outcome of a call whose parameters could not be extracted.
    pub fn rejected(rejection: Rejection) -> Outcome {
        rejection.into_outcome()
    }

    /// Returns the outcome of a call that has returned.
    pub fn outcome<T: IntoSettle>(returned: T) -> Outcome {
        returned.into_outcome()
    }

    /// Adds the outputs of a return type that are known before a call.
    pub fn declare<T: IntoSettle>(problems: &mut Problems) {
        T::declare(problems.outputs());
    }

    /// Adds the outputs of a return type of a handler of batches that are known before a call.
    pub fn declare_of_batch<T: IntoSettles>(problems: &mut Problems) {
        T::declare_elements(problems.outputs());
    }

    /// Adds the outputs of a return type of a handler with `publish` that are known before a call.
    pub fn declare_published<T: IntoPublished<Via>, Via>(problems: &mut Problems, _: PhantomData<Via>) {
        T::declare_published(problems.outputs());
    }

    /// Returns the outcome of a call of a handler of batches that has returned.
    pub fn outcome_of_batch<T: IntoSettles>(returned: T, elements: &Elements) -> Outcome {
        returned.into_settles(elements)
    }
}

/// Returns the layer of a handler from the function that the key `layer` names.
#[cfg(feature = "tower")]
#[doc(hidden)]
#[macro_export]
macro_rules! __layer {
    ($layer:path) => {
        || $crate::__private::LayerOfHandlers::into_wrapper($layer())
    };
}

/// Refuses the key `layer` without the feature.
#[cfg(not(feature = "tower"))]
#[doc(hidden)]
#[macro_export]
macro_rules! __layer {
    ($layer:path) => {
        ::core::compile_error!("`layer` requires the feature `tower` of the crate `jetstream-handlers`")
    };
}

/// Describes a parameter of a handler for a document of AsyncAPI.
#[cfg(feature = "asyncapi")]
#[doc(hidden)]
#[macro_export]
macro_rules! __received {
    ($problems:ident, $parameter:ty) => {{
        #[allow(unused_imports)] // which trait is used depends on the parameter
        use $crate::__private::element::{Element as _, Whole as _};
        $problems.received($crate::__described!(
            (&&$crate::__private::PayloadType::<$parameter>::NEW).__jetstream_handlers_element()
        ));
    }};
}

/// Describes nothing without the feature.
#[cfg(not(feature = "asyncapi"))]
#[doc(hidden)]
#[macro_export]
macro_rules! __received {
    ($problems:ident, $parameter:ty) => {};
}

/// Describes what a handler with `publish` returns for a document of AsyncAPI.
#[cfg(feature = "asyncapi")]
#[doc(hidden)]
#[macro_export]
macro_rules! __published {
    ($problems:ident, $returned:ty) => {{
        #[allow(unused_imports)] // which trait is used depends on the return type
        use $crate::__private::returned_type::{ReturnedResult as _, ReturnedValue as _, ReturnedValues as _};
        $problems.published($crate::__described!(
            (&&&$crate::__private::PayloadType::<$returned>::NEW).__jetstream_handlers_returned()
        ));
    }};
    // A handler of batches returns a list, whose elements are what a handler of one message returns.
    ($problems:ident; $returned:ty) => {{
        #[allow(unused_imports)] // which trait is used depends on the return type
        use $crate::__private::returned_type::{ReturnedResult as _, ReturnedValue as _, ReturnedValues as _};
        let elements = (&&&$crate::__private::PayloadType::<$returned>::NEW).__jetstream_handlers_returned();
        $problems.published($crate::__described!((&&&elements).__jetstream_handlers_returned()));
    }};
}

/// Describes nothing without the feature.
#[cfg(not(feature = "asyncapi"))]
#[doc(hidden)]
#[macro_export]
macro_rules! __published {
    ($problems:ident $separator:tt $returned:ty) => {};
}

/// Describes a payload, with its schema if its type has one.
#[cfg(feature = "asyncapi")]
#[doc(hidden)]
#[macro_export]
macro_rules! __described {
    ($payload:expr) => {{
        #[allow(unused_imports)] // which traits are used depends on the type
        use $crate::__private::{
            described::{WithSchema as _, WithoutSchema as _},
            wrapped::{Plain as _, Wrapped as _},
        };
        (&&(&&$payload).__jetstream_handlers_wrapped()).__jetstream_handlers_described()
    }};
}

/// Registers an event, with its messages for a document of AsyncAPI.
#[cfg(feature = "asyncapi")]
#[doc(hidden)]
#[macro_export]
macro_rules! __declared_event {
    ($event:ty; $([$pattern:expr, $payload:ty, $codec:expr, $version:expr, $header:expr]),*) => {
        $crate::__private::inventory::submit! {
            $crate::__private::DeclaredEvent {
                patterns: <$event as $crate::Event>::PATTERNS,
                type_name: || ::core::any::type_name::<$event>(),
                partitions: <$event as $crate::Event>::PARTITIONS,
                messages: || ::std::vec::Vec::from([$(
                    $crate::__private::EventMessage {
                        pattern: $pattern,
                        payload: $crate::__described!($crate::__private::PayloadType::<$payload>::NEW),
                        codec: $codec,
                        version: $version,
                        header: $header,
                    }
                ),*]),
            }
        }
    };
}

/// Registers an event.
#[cfg(not(feature = "asyncapi"))]
#[doc(hidden)]
#[macro_export]
macro_rules! __declared_event {
    ($event:ty; $($message:tt),*) => {
        $crate::__private::inventory::submit! {
            $crate::__private::DeclaredEvent {
                patterns: <$event as $crate::Event>::PATTERNS,
                type_name: || ::core::any::type_name::<$event>(),
                partitions: <$event as $crate::Event>::PARTITIONS,
            }
        }
    };
}

#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;

#[cfg(doctest)]
#[doc = include_str!("../../README.zh-TW.md")]
struct ReadmeZhTw;

#[doc = include_str!("docs/codecs.md")]
pub mod codecs {}

#[doc = include_str!("docs/contract.md")]
pub mod contract {}

#[doc = include_str!("docs/dead_letters.md")]
pub mod dead_letters {}

#[doc = include_str!("docs/plan.md")]
pub mod deployment {}

#[doc = include_str!("docs/health.md")]
pub mod health {}

#[doc = include_str!("docs/outputs.md")]
pub mod outputs {}

#[cfg(feature = "pcgroups")]
pub mod pcgroups;

#[doc = include_str!("docs/permissions.md")]
pub mod permissions {}

#[doc = include_str!("docs/scale.md")]
pub mod scale {}

#[doc = include_str!("docs/security.md")]
pub mod security {}

#[doc = include_str!("docs/speed.md")]
pub mod speed {}

#[doc = include_str!("docs/tracing.md")]
pub mod traces {}
