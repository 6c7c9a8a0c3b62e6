//! The key of a message, by which a handler keeps the order.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::LazyLock;

use super::Handler;
use crate::error::printable::printable;
use crate::extract::{Context, Rejection};
use crate::key::Place;
use crate::message::Message;
use crate::outcome::Outcome;
use crate::subject::parse;

/// The hashes of keys: the same for all handlers of the process, and different in each process, so that a publisher
/// cannot choose keys with the same hash.
static HASHES: LazyLock<RandomState> = LazyLock::new(RandomState::new);

impl Handler {
    /// Returns the hash of a message's key, or the outcome of a message that has none; `None` for a handler without
    /// `key`.
    ///
    /// The key is compared as text: the number 7, the text `7` and the token `7` are the same.
    pub(crate) fn key(&self, context: &Context, message: &Message) -> Option<Result<u64, Outcome>> {
        let place = &self.declaration.plan.key.as_ref()?.0;
        // It is not handled, and has no payload that could have the key.
        if self.skips(message) {
            return Some(Ok(hash(message.subject())));
        }
        let key = match place {
            Place::Field(path) => self.field(context, message, path),
            Place::Placeholder(name) => token(context, message, name),
            Place::Header(name) => header(message, name),
        };
        Some(key.map_err(Rejection::into_outcome))
    }

    fn field(&self, context: &Context, message: &Message, path: &str) -> Result<u64, Rejection> {
        let field = self.payload.field(message, context.codec(), path, hash);
        field.map_err(|found| Rejection::new(format!("`key` is the field `{path}`, but {found}")))
    }
}

fn hash(key: &str) -> u64 {
    HASHES.hash_one(key)
}

fn token(context: &Context, message: &Message, name: &str) -> Result<u64, Rejection> {
    let subject = message.subject();
    let values = context.subjects().iter().find_map(|declared| parse(declared, subject));
    let token = values.into_iter().flatten().find(|(placeholder, _)| *placeholder == name);
    token.map(|(_, token)| hash(token)).ok_or_else(|| {
        let (subject, subjects) = (printable(subject), context.subjects());
        Rejection::new(format!(
            "`key` is the placeholder `{name}`, but the subject `{subject}` matches no subject of the handler ({subjects})"
        ))
    })
}

fn header(message: &Message, name: &str) -> Result<u64, Rejection> {
    message.header(name).map(hash).ok_or_else(|| {
        Rejection::new(format!("`key` is the header `{name}`, but the message has no header with this name"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Key;
    use crate::outcome::{Reason, Settle};
    use crate::plan::{Plan, Subjects};

    fn key_of(subjects: impl Into<Subjects>, key: Key, message: &Message) -> Result<u64, String> {
        let plan = Plan { key: Some(key), ..Plan::new(subjects, "billing") };
        let context = Context::for_test().with_subject(plan.subject.clone());
        let handler = Handler::closure(plan, "here".to_owned(), || async {});
        handler.key(&context, message).expect("the handler has a key").map_err(|outcome| {
            assert_eq!(outcome.settle, Settle::Terminate);
            let failure = outcome.failure.expect("a rejection is a failure");
            assert_eq!(failure.reason, Reason::Undecodable);
            failure.error
        })
    }

    #[test]
    fn handler_without_a_key_has_none() {
        let handler = Handler::closure(Plan::new("orders", "billing"), "here".to_owned(), || async {});
        assert!(handler.key(&Context::for_test(), &Message::new("orders", "7")).is_none());
    }

    #[test]
    fn key_is_the_same_text_wherever_it_is() {
        let message = Message::new("orders.7.created.a.b", r#"{"order":{"id":7}}"#).with_header("Tenant", "7");
        let subjects = ["orders.{id}.created.{rest..}", "orders.{id}.paid"];
        let keys = [
            Key::field("order.id"),
            Key::from("order.id"),
            Key::placeholder("id"),
            Key::from("{id}".to_owned()),
            Key::header("Tenant"),
        ];
        for key in keys {
            assert_eq!(key_of(subjects, key.clone(), &message), Ok(hash("7")), "{key:?}");
        }
        assert_eq!(key_of(subjects, "{rest..}".into(), &message), Ok(hash("a.b")));
        assert_eq!(key_of(subjects, "{id}".into(), &Message::new("orders.8.paid", "")), Ok(hash("8")));
    }

    #[test]
    fn message_without_the_key_is_rejected_with_its_place() {
        let message = Message::new("orders.created", r#"{"order":{}}"#).with_header("tenant", "acme");
        for (key, expected) in [
            (Key::field("order.id"), "`key` is the field `order.id`, but `order` in the payload has no `id`"),
            (Key::header("Tenant"), "`key` is the header `Tenant`, but the message has no header with this name"),
            (
                Key::placeholder("id"),
                "`key` is the placeholder `id`, but the subject `orders.created` matches no subject of the handler (orders.{id}.paid)",
            ),
        ] {
            assert_eq!(key_of("orders.{id}.paid", key, &message), Err(expected.to_owned()));
        }
        let error = key_of("orders", Key::field("id"), &Message::new("orders", "{")).unwrap_err();
        let expected = "`key` is the field `id`, but the payload `{` is not valid JSON: EOF while parsing an object at line 1 column 1";
        assert_eq!(error, expected);
    }

    #[test]
    fn marker_that_is_skipped_needs_no_key() {
        let marker = Message::new("orders", "").with_header("Nats-Marker-Reason", "MaxAge");
        assert!(key_of("orders", Key::field("id"), &marker).is_err());
        let plan = Plan { key: Some(Key::field("id")), ..Plan::new("orders", "billing") };
        let mut handler = Handler::closure(plan, "here".to_owned(), || async {});
        handler.needs_content = true;
        assert!(matches!(handler.key(&Context::for_test(), &marker), Some(Ok(_))));
    }

    #[cfg(feature = "protobuf")]
    #[tokio::test]
    async fn field_of_a_payload_without_names_is_refused_at_the_start() {
        use crate::Broker;
        use crate::codec::Protobuf;

        let broker = Broker::in_memory();
        let subscribe = || broker.subscribe("orders.created", "billing", async |_: Option<Protobuf<u64>>| {});
        let error = subscribe().key("customer").await.unwrap_err();
        let text = "`closure on orders.created`: key: is the field `customer`, but the handler takes Protobuf, which has no names of fields; take the key from a header or the subject, as in `key = header(\"Tenant\")`";
        assert_eq!(error.to_string(), text);
        assert!(subscribe().key(Key::header("Tenant")).await.is_ok());
    }
}
