//! The rights that a service needs on the server, derived from its handlers and events.

mod derive;
mod format;
mod level;

use std::fmt;

use serde::ser::SerializeStruct as _;
use serde::{Serialize, Serializer};

pub(crate) use derive::Sources;
pub use format::PermissionFormat;
pub use level::PermissionLevel;

use crate::error::printable::printable;
use crate::error::{Error, ErrorKind};
use crate::pattern::filter;
use crate::spelling;

/// The rights that a user of the server needs for one level of use, from
/// [`Broker::permissions`](crate::Broker::permissions).
///
/// `Display` writes one line for each right, for people; [`format`](Self::format) writes the text for the server or a tool.
/// `Serialize` writes an object with the field `version`, which is 1.
///
/// # Examples
///
/// ```
/// use jetstream_handlers::prelude::*;
/// use jetstream_handlers::{PermissionFormat, PermissionLevel};
///
/// #[subscriber(subject = "orders.created", queue = "billing", dead_letter = false)]
/// async fn bill(order: u64) {}
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), jetstream_handlers::Error> {
/// let broker = Broker::builder().inbox_prefix("_INBOX_orders").include::<bill>().connect_in_memory();
/// let permissions = broker.permissions(PermissionLevel::Run).await?;
/// let subjects: Vec<_> = permissions.subscribe().map(|right| right.subject()).collect();
/// assert_eq!(subjects, ["_INBOX_orders.>"]);
/// println!("{}", permissions.format(PermissionFormat::Server, "orders"));
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permissions {
    level: PermissionLevel,
    inbox_prefix: String,
    rights: Vec<Permission>,
    /// The rights that are left out, with the reasons.
    notes: Vec<String>,
}

/// One right of a user: to publish or to subscribe to a subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permission {
    operation: Operation,
    subject: String,
    needed_by: Vec<String>,
    purposes: Vec<String>,
    is_optional: bool,
}

/// The consequence of a missing right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Necessity {
    Required,
    /// Handlers run as well.
    Optional,
}

/// The operation that a right permits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    /// Publishing a request to the JetStream API.
    Request,
    /// Publishing an answer to a delivery.
    Ack,
    /// Publishing a message.
    Message,
    Subscribe,
}

impl Permission {
    /// Returns the subject, which may have wildcards.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// Returns the handlers and the types of events for which the right is needed; empty if it is for the whole service.
    pub fn needed_by(&self) -> &[String] {
        &self.needed_by
    }

    /// Returns what the right is for, in one line.
    pub fn purpose(&self) -> String {
        self.purposes.join("; ")
    }

    /// Returns `true` if the handlers also run without the right, with less: a warning names it.
    pub fn is_optional(&self) -> bool {
        self.is_optional
    }

    pub(crate) fn operation(&self) -> Operation {
        self.operation
    }

    /// Returns a line for people: for whom, and what for.
    fn comment(&self) -> String {
        let text = match &*self.needed_by {
            [] => self.purpose(),
            needed_by => format!("{}: {}", Shown(needed_by), self.purpose()),
        };
        printable(&text).into_owned()
    }
}

/// The first of several names, with the number of the others.
struct Shown<'a>(&'a [String]);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 3;
        let (shown, others) = self.0.split_at(self.0.len().min(SHOWN));
        f.write_str(&shown.join(", "))?;
        if others.is_empty() { Ok(()) } else { write!(f, " and {} more", others.len()) }
    }
}

impl Permissions {
    fn new(level: PermissionLevel, inbox_prefix: String) -> Self {
        Self { level, inbox_prefix, rights: Vec::new(), notes: Vec::new() }
    }

    /// Returns the level.
    pub fn level(&self) -> PermissionLevel {
        self.level
    }

    /// Returns the first tokens of the subjects on which answers arrive.
    pub fn inbox_prefix(&self) -> &str {
        &self.inbox_prefix
    }

    /// Returns the rights to publish.
    pub fn publish(&self) -> impl Iterator<Item = &Permission> {
        self.rights.iter().filter(|right| right.operation != Operation::Subscribe)
    }

    /// Returns the rights to subscribe.
    pub fn subscribe(&self) -> impl Iterator<Item = &Permission> {
        self.rights.iter().filter(|right| right.operation == Operation::Subscribe)
    }

    /// Adds the right to publish to a subject that no handler and no event declares; it may have wildcards and placeholders.
    ///
    /// It is the subject on the server: a [`subject_prefix`](crate::Builder::subject_prefix) is not added.
    ///
    /// # Errors
    ///
    /// Returns a [`Config`](ErrorKind::Config) error if it is not a subject.
    pub fn with_publish(mut self, subject: &str) -> Result<Self, Error> {
        if let Some(problem) = spelling::subject_problem(subject) {
            return Err(Error::new(ErrorKind::Config, problem));
        }
        self.add(Operation::Message, filter(subject).into_owned(), &[], "published by the application");
        Ok(self)
    }

    /// Adds the right to publish to the destination of message traces: `msg_trace.dest` of the account (ADR-41).
    ///
    /// From nats-server 2.12.12 and 2.14.3, the server sends the trace of a message with a sampled `traceparent` in the name
    /// of its publisher, and drops the message of one who may not publish there.
    ///
    /// # Errors
    ///
    /// Returns a [`Config`](ErrorKind::Config) error if it is not a subject to publish to.
    pub fn with_trace_destination(mut self, subject: &str) -> Result<Self, Error> {
        if let Some(problem) = spelling::publish_subject_problem(subject) {
            return Err(Error::new(ErrorKind::Config, problem));
        }
        self.add(
            Operation::Message,
            subject.to_owned(),
            &[],
            "traces of messages (`msg_trace.dest` of the account), without which the server drops messages with a sampled `traceparent`",
        );
        Ok(self)
    }

    /// Writes the rights in a format of the server or of a tool, for a user of this name.
    pub fn format(&self, format: PermissionFormat, user: &str) -> String {
        format::write(self, format, user)
    }

    /// Adds a right, or what it is needed for to one that exists.
    fn add(&mut self, operation: Operation, subject: String, needed_by: &[&str], purpose: &str) {
        self.push(operation, subject, needed_by, purpose, Necessity::Required);
    }

    /// Adds a right without which a handler runs as well.
    fn add_optional(&mut self, operation: Operation, subject: String, needed_by: &[&str], purpose: &str) {
        self.push(operation, subject, needed_by, purpose, Necessity::Optional);
    }

    fn push(&mut self, operation: Operation, subject: String, needed_by: &[&str], purpose: &str, necessity: Necessity) {
        let is_optional = necessity == Necessity::Optional;
        let is_subscribe = operation == Operation::Subscribe;
        let is_same = |right: &Permission| (right.operation == Operation::Subscribe) == is_subscribe;
        let known = self.rights.iter().position(|right| is_same(right) && right.subject == subject);
        let index = known.unwrap_or_else(|| {
            let (needed_by, purposes) = (Vec::new(), Vec::new());
            self.rights.push(Permission { operation, subject, needed_by, purposes, is_optional });
            self.rights.len() - 1
        });
        let right = &mut self.rights[index];
        right.is_optional &= is_optional;
        for name in needed_by {
            if !right.needed_by.iter().any(|known| known == name) {
                right.needed_by.push((*name).to_owned());
            }
        }
        if !right.purposes.iter().any(|known| known == purpose) {
            right.purposes.push(purpose.to_owned());
        }
    }

    /// Returns `true` if other users of the account are likely to have the same inboxes.
    fn has_shared_inboxes(&self) -> bool {
        self.inbox_prefix == "_INBOX"
    }

    fn notes(&self) -> Vec<String> {
        let shared = "`_INBOX.>` has the answers to all users of the account: set `Builder::inbox_prefix` to a prefix of this service, and generate the rights again";
        let shared = self.has_shared_inboxes().then(|| shared.to_owned());
        shared.into_iter().chain(self.notes.iter().cloned()).collect()
    }

    fn add_note(&mut self, note: String) {
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }
}

impl fmt::Display for Permissions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "level {}", self.level)?;
        for (operation, rights) in
            [("publish", self.publish().collect::<Vec<_>>()), ("subscribe", self.subscribe().collect())]
        {
            for right in rights {
                let optional = if right.is_optional { " (optional)" } else { "" };
                write!(f, "\n  {operation} `{}`{optional}: {}", printable(&right.subject), right.comment())?;
            }
        }
        self.notes().iter().try_for_each(|note| write!(f, "\nnote: {}", printable(note)))
    }
}

impl Serialize for Permissions {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_struct("Permissions", 5)?;
        object.serialize_field("version", &1)?;
        object.serialize_field("level", &self.level)?;
        object.serialize_field("inbox_prefix", &self.inbox_prefix)?;
        object.serialize_field("publish", &self.publish().collect::<Vec<_>>())?;
        object.serialize_field("subscribe", &self.subscribe().collect::<Vec<_>>())?;
        object.end()
    }
}

impl Serialize for Permission {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_struct("Permission", 4)?;
        object.serialize_field("subject", &self.subject)?;
        object.serialize_field("needed_by", &self.needed_by)?;
        object.serialize_field("purpose", &self.purpose())?;
        object.serialize_field("optional", &self.is_optional)?;
        object.end()
    }
}
