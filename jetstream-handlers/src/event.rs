//! Events: types that know their subject and their message id.

use std::fmt;

use serde::Serialize;

use crate::codec::{Codec, DefaultCodec, EncodeError, Encoded, Payload as _};
use crate::error::printable::printable;
use crate::error::{Error, ErrorKind};
use crate::partition::partition;
use crate::pattern::{Placeholder, filter, tokens};
use crate::subject::covers;

/// A type that knows the subject to which it is published, and its message id; `#[derive(Event)]` implements it.
///
/// [`Publisher::send`](crate::Publisher::send) publishes an event, and `#[subscriber(event = OrderCreated, queue = "..")]`
/// handles it.
///
/// | key of `#[event(..)]` | meaning |
/// |---|---|
/// | `subject` | the subject, in which the field `region` fills the placeholder `{region}`; required |
/// | `id` | the field whose text is the message id, within the subject; without it, each publish has a generated id |
/// | `version` | a number that is sent in the header `Event-Version`; a handler finds it in its [`Headers`](crate::Headers) |
/// | `codec` | the format of the payload, a type that implements [`Codec`](crate::Codec) and `Default`, such as `MessagePackCodec`; that of the broker by default |
/// | `header` | for an enum with one subject: the header that names the variant |
/// | `name` | for a variant of such an enum: its name in the header, by default that in the code |
/// | `partitions` | the number of partitions, one of which fills the placeholder `{partition}` of the subject; see [`partition`](crate::partition()) |
/// | `key` | the field whose text chooses the partition |
///
/// # Examples
///
/// ```
/// use jetstream_handlers::prelude::*;
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Event, Serialize, Deserialize)]
/// #[event(subject = "orders.{region}.created", id = "id")]
/// struct OrderCreated {
///     id: u64,
///     region: String,
/// }
///
/// #[subscriber(event = OrderCreated, queue = "order-processor")]
/// async fn process_order(order: OrderCreated) {
///     println!("order {} in {}", order.id, order.region);
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), jetstream_handlers::Error> {
/// let broker = Broker::in_memory();
/// let order = OrderCreated { id: 7, region: "eu".to_owned() };
/// assert_eq!(order.subject()?, "orders.eu.created");
/// assert!(!broker.send(&order).await?.duplicate);
/// // The stream drops what has the same subject and the same id.
/// assert!(broker.send(&order).await?.duplicate);
/// # Ok(()) }
/// ```
///
/// An enum of events is one handler of several subjects. The subject tells the variants apart, which contain an event
/// each, or have a `subject` of their own:
///
/// ```
/// use jetstream_handlers::prelude::*;
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Event, Serialize, Deserialize)]
/// # #[event(subject = "orders.{region}.created", id = "id")]
/// # struct OrderCreated { id: u64, region: String }
/// #[derive(Serialize, Deserialize)]
/// struct Payment {
///     order: u64,
/// }
///
/// #[derive(Event)]
/// enum OrderEvent {
///     Created(OrderCreated),
///     #[event(subject = "orders.{order}.paid", id = "order")]
///     Paid(Payment),
/// }
///
/// #[subscriber(event = OrderEvent, queue = "audit")]
/// async fn audit(event: OrderEvent) {
///     match event {
///         OrderEvent::Created(order) => println!("order {} in {}", order.id, order.region),
///         OrderEvent::Paid(payment) => println!("order {} is paid", payment.order),
///     }
/// }
/// ```
///
/// With `#[event(subject = "orders.events", header = "Event-Type")]` on the enum, all variants have one subject, and a
/// header tells them apart.
/// With a `subject` alone, the enum implements `Serialize` and `Deserialize` itself, for example with
/// `#[serde(tag = "type")]`.
/// A message that matches no variant is dead-lettered, with an error that names the known ones.
///
/// With a `codec`, [`send`](crate::Publisher::send) and a handler that returns the event encode it in that format, with
/// the header `Content-Type`, and a handler with `event = OrderCreated` decodes messages without that header in it.
/// [`codecs`](crate::codecs) has an example.
///
/// With `partitions`, all events with the same `key` have the same subject:
///
/// ```
/// use jetstream_handlers::prelude::*;
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Event, Serialize, Deserialize)]
/// #[event(subject = "orders.{partition}.shipped", key = "customer", partitions = 12)]
/// struct OrderShipped {
///     customer: String,
/// }
///
/// # fn main() -> Result<(), jetstream_handlers::Error> {
/// let shipped = OrderShipped { customer: "acme".to_owned() };
/// assert_eq!(shipped.subject()?, "orders.7.shipped");
/// # Ok(()) }
/// ```
///
/// A start logs a warning for a handler that takes another type than the event that declares its subject.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an event",
    label = "does not implement `Event`",
    note = "annotate it with `#[derive(Event)]` and `#[event(subject = \"orders.created\")]`"
)]
pub trait Event: Serialize {
    /// The subjects of the event with placeholders; a struct has one.
    const PATTERNS: &'static [&'static str];

    /// The subject of the event with placeholders; the first one of an enum that has several.
    const PATTERN: &'static str = Self::PATTERNS[0];

    /// The version, which is sent in the header `Event-Version`; `None` sends none.
    const VERSION: Option<u32> = None;

    /// The number of partitions, one of which fills the placeholder `{partition}` of the subject; `None` for an event
    /// without, and for an enum whose variants have subjects of their own.
    const PARTITIONS: Option<u32> = None;

    /// Returns the subject to which this event is published.
    ///
    /// # Errors
    ///
    /// Returns an [`Encode`](ErrorKind::Encode) error if a field cannot be a token of a subject: it is empty, or contains a
    /// dot, white space or a wildcard.
    fn subject(&self) -> Result<String, Error>;

    /// Returns the id of this event among those with the same subject; `None` if each publish generates one.
    fn message_id(&self) -> Option<String> {
        None
    }

    /// Returns the format of all values of the type; `None` for that of the broker, and for an enum whose variants have
    /// formats of their own.
    #[doc(hidden)]
    fn type_codec() -> Option<DefaultCodec> {
        None
    }

    /// Returns the format of this event; `None` for that of the broker.
    #[doc(hidden)]
    fn event_codec(&self) -> Option<DefaultCodec> {
        Self::type_codec()
    }

    /// Returns the version of this event, which is that of its variant in an enum.
    #[doc(hidden)]
    fn version(&self) -> Option<u32> {
        Self::VERSION
    }

    /// Returns the header that names the variant, and the name.
    #[doc(hidden)]
    fn type_header(&self) -> Option<(&'static str, &'static str)> {
        None
    }
}

/// Returns the format that the key `codec` names.
pub fn event_codec<C: Codec + Default>() -> Option<DefaultCodec> {
    Some(DefaultCodec::new(C::default()))
}

/// Encodes an event in its own format, or in `default`.
pub(crate) fn encode<E: Event + ?Sized>(event: &E, default: &DefaultCodec) -> Result<Encoded, EncodeError> {
    match event.event_codec() {
        Some(codec) => codec.encode_beside(event, default),
        None => event.encode_payload(default),
    }
}

/// Returns the subject with placeholders that an event declares for this subject.
pub(crate) fn pattern_of<E: Event + ?Sized>(subject: &str) -> Option<&'static str> {
    match E::PATTERNS {
        [pattern] => Some(pattern),
        patterns => patterns.iter().copied().find(|pattern| covers(&filter(pattern), subject)),
    }
}

/// The message id and the headers of an event.
pub(crate) struct Identity {
    /// The id, within the subject.
    pub(crate) id: Option<String>,
    pub(crate) headers: Vec<(&'static str, String)>,
}

impl Identity {
    /// Returns those of an event that is published to this subject.
    pub(crate) fn of<E: Event + ?Sized>(event: &E, subject: &str) -> Self {
        let version = event.version().map(|version| ("Event-Version", version.to_string()));
        let name = event.type_header().map(|(header, name)| (header, name.to_owned()));
        let id = event.message_id().map(|id| format!("{subject}:{id}"));
        Self { id, headers: version.into_iter().chain(name).collect() }
    }
}

/// Returns the subject of an event, whose placeholders have these values.
pub fn event_subject(pattern: &str, values: &[&dyn fmt::Display]) -> Result<String, Error> {
    let mut values = values.iter();
    let mut subject = String::new();
    for token in tokens(pattern) {
        if !subject.is_empty() {
            subject.push('.');
        }
        let Some(placeholder) = Placeholder::parse(token) else {
            subject.push_str(token);
            continue;
        };
        let value = values.next().map(ToString::to_string).unwrap_or_default();
        if let Some(problem) = token_problem(placeholder, &value) {
            let text = format!(
                "`{}` of the event's subject `{pattern}` is `{}`, {problem}",
                placeholder.name,
                printable(&value)
            );
            return Err(Error::new(ErrorKind::Encode, text));
        }
        subject.push_str(&value);
    }
    Ok(subject)
}

/// Returns the partition of an event whose key has this value.
pub fn event_partition(key: &dyn fmt::Display, partitions: u32) -> u32 {
    partition(key.to_string(), partitions)
}

/// Returns the problem of a value that cannot stand in a subject.
fn token_problem(placeholder: Placeholder<'_>, value: &str) -> Option<&'static str> {
    if value.is_empty() {
        return Some("which is empty; a token has at least one character");
    }
    if value.contains(|character: char| {
        character.is_whitespace() || character.is_control() || matches!(character, '*' | '>')
    }) {
        return Some("which has a character that a token cannot have: white space, `*` or `>`");
    }
    let is_rest = placeholder.is_rest;
    if is_rest && value.split('.').any(str::is_empty) {
        return Some("which has an empty token");
    }
    (!is_rest && value.contains('.'))
        .then_some("which is several tokens; only `{name..}` at the end of a subject may have a `.`")
}

/// An event as `#[derive(Event)]` registers it at link time.
#[derive(Debug)]
pub struct DeclaredEvent {
    /// The subjects with placeholders.
    pub patterns: &'static [&'static str],
    /// The name of the type.
    pub type_name: fn() -> &'static str,
    /// The number of its partitions.
    pub partitions: Option<u32>,
    /// The messages, which are those of the variants of an enum that are told apart by the subject or a header.
    #[cfg(feature = "asyncapi")]
    pub messages: fn() -> Vec<EventMessage>,
}

/// A message of an event, as `#[derive(Event)]` describes it.
#[cfg(feature = "asyncapi")]
#[derive(Debug)]
#[allow(missing_docs)] // used only by the expansion
pub struct EventMessage {
    pub pattern: &'static str,
    pub payload: crate::schema::Described,
    pub codec: Option<DefaultCodec>,
    pub version: Option<u32>,
    /// The header that names the variant, and the name.
    pub header: Option<(&'static str, &'static str)>,
}

inventory::collect!(DeclaredEvent);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_fill_the_placeholders() {
        let subject = |values: &[&dyn fmt::Display]| event_subject("logs.{level}.{module..}", values);
        assert_eq!(subject(&[&"warn", &"a.b"]).unwrap(), "logs.warn.a.b");
        assert_eq!(subject(&[&7, &'x']).unwrap(), "logs.7.x");
        for (level, module, problem) in [
            ("", "a", "`level` of the event's subject `logs.{level}.{module..}` is ``, which is empty;"),
            ("a.b", "a", "`level` of the event's subject `logs.{level}.{module..}` is `a.b`, which is several tokens;"),
            ("a b", "a", "which has a character that a token cannot have"),
            ("*", "a", "which has a character that a token cannot have"),
            ("a", ">", "which has a character that a token cannot have"),
            ("a", "a..b", "which has an empty token"),
        ] {
            let error = subject(&[&level, &module]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Encode);
            assert!(error.to_string().contains(problem), "{error}");
        }
    }
}
