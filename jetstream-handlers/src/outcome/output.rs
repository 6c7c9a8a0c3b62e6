//! The messages that a handler returns, which are published before its own message is acknowledged.

use std::fmt;
use std::str::FromStr as _;

use async_nats::HeaderMap;
use async_nats::header::{self, HeaderValue};
use bytes::Bytes;

use crate::codec::{CONTENT_TYPE, Codec as _, DefaultCodec, EncodeError, Encoded, JsonCodec, Payload};
use crate::error::chain;
use crate::error::printable::printable;
use crate::event::{self, Event, Identity};
use crate::message::{Outgoing, header_block, reserved};
use crate::settings::Settings;
use crate::spelling;

/// A message that a handler returns, to be published before the handler's own message is acknowledged.
///
/// A handler returns one, an `Option` or a `Vec` of them, a tuple, or [`Outputs`], each alone or in a `Result`.
/// [`outputs`](crate::outputs) describes what happens to them.
///
/// A value that cannot be encoded, and an invalid subject or header, turn the handler's message into a dead letter,
/// because another attempt would return it again.
///
/// # Examples
///
/// ```
/// use jetstream_handlers::Output;
/// use jetstream_handlers::prelude::*;
///
/// #[subscriber(subject = "orders.created", queue = "confirmer")]
/// async fn confirm(order: u64, headers: Headers) -> HandlerResult<Option<Output>> {
///     if order == 0 {
///         return Ok(None); // nothing is published
///     }
///     let output = Output::to("orders.confirmed", &order);
///     Ok(Some(output.header("Tenant", headers.get("Tenant").unwrap_or("none"))))
/// }
/// ```
#[derive(Clone)]
#[must_use = "an output is published only if the handler returns it"]
pub struct Output {
    /// The subject; `None` for that of the handler's `publish`.
    subject: Option<String>,
    /// The subject with placeholders that the event declares.
    pattern: Option<&'static str>,
    payload: Bytes,
    /// `true` if the payload has no format.
    is_raw: bool,
    headers: HeaderMap,
    /// The first reason for which the message cannot be published.
    problem: Option<String>,
}

impl Output {
    /// Returns a message with this value, for the subject of the handler's key `publish`.
    ///
    /// The value is encoded as JSON, whatever the format of the broker is, or in that of its own type, such as
    /// `MessagePack<T>`.
    ///
    /// # Examples
    ///
    /// ```
    /// use jetstream_handlers::Output;
    /// use jetstream_handlers::prelude::*;
    ///
    /// # async fn start(broker: Broker) -> Result<(), jetstream_handlers::Error> {
    /// let confirming = broker
    ///     .subscribe("orders.created", "confirmer", |order: u64| async move { Ok(Output::new(&order)) })
    ///     .publish("orders.confirmed")
    ///     .await?;
    /// # drop(confirming);
    /// # Ok(()) }
    /// ```
    pub fn new<T: Payload + ?Sized>(value: &T) -> Self {
        Self::of_payload(None, value)
    }

    /// Returns a message with this value, encoded as by [`new`](Self::new), for a subject without wildcards.
    pub fn to<T: Payload + ?Sized>(subject: impl Into<String>, value: &T) -> Self {
        let subject = subject.into();
        let problem = spelling::publish_subject_problem(&subject);
        let mut output = Self::of_payload(Some(subject), value);
        output.refuse(problem.map(|problem| format!("cannot be published: {problem}")));
        output
    }

    /// Returns a message with an event.
    pub(super) fn event<E: Event + ?Sized>(event: &E) -> Self {
        // The format of the broker is not known here.
        let encoded = event::encode(event, &DefaultCodec::default());
        let subject = match event.subject() {
            Ok(subject) => subject,
            Err(error) => {
                let mut output = Self::encoded::<E>(Some(E::PATTERN.to_owned()), encoded);
                output.refuse(Some(format!("cannot be published: {}", chain(&error))));
                return output;
            }
        };
        let Identity { id, headers } = Identity::of(event, &subject);
        let problem = spelling::publish_subject_problem(&subject);
        let pattern = event::pattern_of::<E>(&subject);
        let mut output = Self { pattern, ..Self::encoded::<E>(Some(subject), encoded) };
        output.refuse(problem.map(|problem| format!("cannot be published: {problem}")));
        if let Some(id) = id {
            output = output.message_id(&id);
        }
        headers.iter().fold(output, |output, (name, value)| output.header(name, value))
    }

    fn of_payload<T: Payload + ?Sized>(subject: Option<String>, value: &T) -> Self {
        // The format of the broker is not known here.
        let output = Self::encoded::<T>(subject, value.encode_payload(&DefaultCodec::default()));
        Self { is_raw: value.is_raw(), ..output }
    }

    /// Returns a message with a value of this type.
    fn encoded<T: ?Sized>(subject: Option<String>, encoded: Result<Encoded, EncodeError>) -> Self {
        let mut output = Self {
            subject,
            pattern: None,
            payload: Bytes::new(),
            is_raw: false,
            headers: HeaderMap::new(),
            problem: None,
        };
        match encoded {
            Ok(Encoded { payload, content_type }) => {
                output.payload = payload;
                if let Some(content_type) = content_type {
                    output.headers.insert(CONTENT_TYPE, content_type);
                }
            }
            Err(EncodeError { format, source }) => {
                let name = std::any::type_name::<T>();
                output.refuse(Some(format!("cannot be published: `{name}` does not encode as {format}: {source}")));
            }
        }
        output
    }

    /// Adds a header; a second header of the same name keeps both values.
    ///
    /// A name must not be empty or contain a space or a colon, and a value must not contain a line break.
    /// Names that begin with `Nats-` belong to the server and are refused.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        if reserved::is_for_server(name) {
            let instead = if name.eq_ignore_ascii_case(header::NATS_MESSAGE_ID.as_ref()) {
                "use `message_id`"
            } else {
                "leave it out, or choose another name"
            };
            self.refuse(Some(format!("has the header `{}`, which belongs to the server; {instead}", printable(name))));
            return self;
        }
        match header_block::header(name, value) {
            Some((name, value)) if name == CONTENT_TYPE => self.headers.insert(name, value),
            Some((name, value)) => self.headers.append(name, value),
            None => self.refuse(Some(format!(
                "has the invalid header `{}: {value:?}`: a name has no space or colon, a value no line break",
                printable(name)
            ))),
        }
        self
    }

    /// Sets the id by which its stream drops duplicates within its `duplicate_window`.
    ///
    /// Defaults to an id that is the same at every delivery of the handler's message, so that a redelivery publishes
    /// nothing twice. An id of your own must be the same at every delivery, too.
    pub fn message_id(mut self, id: &str) -> Self {
        match HeaderValue::from_str(id) {
            Ok(id) => self.headers.insert(header::NATS_MESSAGE_ID, id),
            Err(_) => self.refuse(Some(format!("has the invalid message id {id:?}: it has a line break"))),
        }
        self
    }

    /// Returns the subject; `None` for that of the handler's key `publish`.
    pub fn subject(&self) -> Option<&str> {
        self.subject.as_deref()
    }

    /// Returns the payload.
    pub fn payload(&self) -> &Bytes {
        &self.payload
    }

    /// Returns the reason for which the message cannot be published.
    pub(crate) fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    /// Keeps the first problem.
    fn refuse(&mut self, problem: Option<String>) {
        if let (None, Some(problem)) = (&self.problem, problem) {
            let what = match &self.subject {
                Some(subject) => format!("the output for `{}`", printable(subject)),
                None => "the output".to_owned(),
            };
            self.problem = Some(format!("{what} {problem}"));
        }
    }

    /// Returns the message to be published; `default` is the subject of the handler's `publish`, and `id` the id of an
    /// output that has none.
    ///
    /// Returns `None` if there is no subject.
    pub(crate) fn into_outgoing(
        self,
        settings: &Settings,
        default: Option<&str>,
        id: impl FnOnce() -> String,
    ) -> Option<Outgoing> {
        let Self { subject, pattern, payload, is_raw, mut headers, .. } = self;
        let subject = settings.subject(subject.as_deref().or(default)?).into_owned().into();
        if !is_raw && !settings.codec.is_json() && headers.get(CONTENT_TYPE).is_none() {
            headers.insert(CONTENT_TYPE, JsonCodec::CONTENT_TYPE);
        }
        if headers.get(header::NATS_MESSAGE_ID).is_none() {
            headers.insert(header::NATS_MESSAGE_ID, HeaderValue::from(id()));
        }
        Some(Outgoing { subject, pattern, payload, headers })
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Output").field("subject", &self.subject).field("headers", &self.headers).finish_non_exhaustive()
    }
}

/// A list of messages that a handler returns, to be published before its own message is acknowledged.
///
/// It needs no key `publish`, because each message has a subject.
/// See [`Output`] for messages with headers, and [`outputs`](crate::outputs) for what happens to them.
///
/// # Examples
///
/// ```
/// use jetstream_handlers::prelude::*;
/// use jetstream_handlers::{Output, Outputs};
///
/// #[subscriber(subject = "orders.created", queue = "fulfilment")]
/// async fn fulfil(order: u64) -> HandlerResult<Outputs> {
///     let mut outputs = Outputs::new().publish("orders.confirmed", &order);
///     for parcel in 0..order % 3 {
///         outputs.push(Output::to("parcels.packed", &(order, parcel)).header("Carrier", "post"));
///     }
///     Ok(outputs)
/// }
/// ```
#[derive(Debug, Clone, Default)]
#[must_use = "outputs are published only if the handler returns them"]
pub struct Outputs(Vec<Output>);

impl Outputs {
    /// Returns an empty list.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a message with this value, for a subject without wildcards; see [`Output::to`].
    pub fn publish<T: Payload + ?Sized>(mut self, subject: impl Into<String>, value: &T) -> Self {
        self.push(Output::to(subject, value));
        self
    }

    /// Adds a message.
    pub fn push(&mut self, output: Output) {
        self.0.push(output);
    }

    /// Returns the messages in the order in which they are published, for a unit test.
    pub fn as_slice(&self) -> &[Output] {
        &self.0
    }

    pub(super) fn into_vec(self) -> Vec<Output> {
        self.0
    }
}

impl FromIterator<Output> for Outputs {
    fn from_iter<I: IntoIterator<Item = Output>>(outputs: I) -> Self {
        Self(outputs.into_iter().collect())
    }
}

impl Extend<Output> for Outputs {
    fn extend<I: IntoIterator<Item = Output>>(&mut self, outputs: I) {
        self.0.extend(outputs);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_problem_of_an_output_is_kept_with_its_subject() {
        for (output, expected) in [
            (
                Output::to("orders.*", &f64::NAN),
                "the output for `orders.*` cannot be published: `f64` does not encode as JSON: the value is NaN",
            ),
            (
                Output::to("orders.*", &1),
                "the output for `orders.*` cannot be published: subject `orders.*` has the wildcard",
            ),
            (Output::new(&1).header("a b", "c"), "the output has the invalid header `a b: \"c\"`"),
            (Output::new(&1).header("", "c"), "the output has the invalid header `: \"c\"`"),
            (
                Output::new(&1).header("nats-msg-id", "c"),
                "the output has the header `nats-msg-id`, which belongs to the server; use `message_id`",
            ),
            (
                Output::new(&1).header("Nats-Rollup", "all"),
                "the output has the header `Nats-Rollup`, which belongs to the server; leave it out",
            ),
            (Output::new(&1).message_id("a\nb"), "the output has the invalid message id \"a\\nb\""),
        ] {
            let problem = output.problem().unwrap_or_default();
            assert!(problem.starts_with(expected), "{problem}");
        }
        assert_eq!(Output::to("orders.confirmed", &1).header("Tenant", "eu").message_id("7").problem(), None);
    }

    #[test]
    fn id_of_the_handler_wins() {
        let id = |output: Output| {
            let message = output
                .into_outgoing(&Settings::default(), Some("a"), || "generated".to_owned())
                .expect("it has a subject");
            message.header(header::NATS_MESSAGE_ID).map(str::to_owned)
        };
        assert_eq!(id(Output::new(&1)).as_deref(), Some("generated"));
        assert_eq!(id(Output::new(&1).message_id("own")).as_deref(), Some("own"));
        assert!(Output::new(&1).into_outgoing(&Settings::default(), None, String::new).is_none());
    }
}
