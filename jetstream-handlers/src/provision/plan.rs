//! The plan of the changes on the server, as data.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Error, ErrorKind};

/// The version of the JSON form of a plan.
const VERSION: u32 = 1;

/// The changes on the server that the handlers and the declared streams of a broker need.
///
/// [`Broker::plan`](crate::Broker::plan) makes it, and [`Broker::apply`](crate::Broker::apply) carries it out.
/// `Display` writes it for people. `Serialize` and [`to_json`](Self::to_json) write it for programs, and
/// [`from_json`](Self::from_json) reads it again; [`contract`](mod@crate::contract) lists the names in it.
///
/// # Examples
///
/// ```
/// use jetstream_handlers::prelude::*;
///
/// #[subscriber(subject = "orders.created", queue = "billing")]
/// async fn bill(order: u64) {}
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), jetstream_handlers::Error> {
/// let broker = Broker::in_memory();
/// broker.include::<bill>();
/// let plan = broker.plan().await?;
/// println!("{plan}");
/// broker.apply(&plan).await?;
/// assert!(broker.plan().await?.is_empty());
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ProvisionPlan {
    /// The version of the form: 1.
    pub version: u32,
    /// The server that the plan was made for, as far as a client can know it.
    pub server: String,
    /// The changes, in the order in which they are made, and the objects that stay as they are.
    pub changes: Vec<Change>,
    /// Warnings of changes that are likely to fail or to surprise, as human-readable text.
    pub warnings: Vec<String>,
}

/// One stream or consumer of a plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Change {
    /// The kind of the object.
    pub object: ChangeObject,
    /// The action on it.
    pub action: ChangeAction,
    /// The name of the stream; `None` for a problem that is not that of one stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<String>,
    /// The name of the consumer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consumer: Option<String>,
    /// The full name of the handler for which the object is needed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handler: Option<String>,
    /// The highest risk of the fields and of the change as a whole; `None` if nothing is changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub risk: Option<Risk>,
    /// The fields that differ.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<ChangeField>,
    /// The consequence of the change as a whole, as human-readable text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consequence: Option<String>,
    /// The problem that blocks the change, as human-readable text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// A fingerprint of the object on the server when the plan was made; `None` if it did not exist.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found: Option<String>,
    /// The configuration that is sent to the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<Value>,
}

/// A field that differs between the server and the code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ChangeField {
    /// The name of the field, as the server spells it.
    pub field: String,
    /// The value on the server.
    pub found: String,
    /// The value that the code requires, or the range of values that it accepts.
    pub wanted: String,
    /// The risk of the change.
    pub risk: Risk,
    /// The consequence of the change, as human-readable text.
    pub consequence: String,
}

/// The kind of an object in a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ChangeObject {
    /// A stream.
    Stream,
    /// A durable consumer.
    Consumer,
    /// The declaration of a handler, for a problem of something else than one stream or consumer.
    Handler,
}

/// The action on an object of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ChangeAction {
    /// Creates it.
    Create,
    /// Changes some of its fields.
    Update,
    /// Deletes it and creates it again, because a field differs that the server does not change.
    Recreate,
    /// Leaves it as it is: it belongs to this program, and no handler needs it any more.
    /// [`ProvisionPlan::prune`] has it deleted.
    Orphan,
    /// Deletes it.
    Delete,
    /// Leaves it as it is, because of a problem that the plan cannot solve.
    Blocked,
    /// Leaves it as it is, which is as the code requires.
    Unchanged,
}

/// The risk of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Risk {
    /// No message is handled twice or not at all because of it.
    Safe,
    /// Some messages may be handled twice or not at all; the consequence says which.
    Careful,
    /// Messages or a position in a stream are lost.
    Destructive,
}

impl ProvisionPlan {
    pub(super) fn new(server: String, changes: Vec<Change>) -> Self {
        Self { version: VERSION, server, changes, warnings: Vec::new() }
    }

    /// Returns `true` if [`Broker::apply`](crate::Broker::apply) would change nothing, and nothing is blocked.
    ///
    /// Orphans do not count.
    pub fn is_empty(&self) -> bool {
        self.pending().next().is_none()
    }

    /// Returns the objects that are changed, and those that are blocked.
    pub fn pending(&self) -> impl Iterator<Item = &Change> {
        let is_idle = |action| matches!(action, ChangeAction::Unchanged | ChangeAction::Orphan);
        self.changes.iter().filter(move |change| !is_idle(change.action))
    }

    /// Returns the highest risk of the changes; `None` if nothing is changed.
    ///
    /// A deletion is destructive, and an update without a risk is careful, also in a plan that was edited.
    pub fn risk(&self) -> Option<Risk> {
        self.pending().filter_map(Change::risk_at_least).max()
    }

    /// Returns an error with the problems that block changes, if there are some.
    pub(crate) fn require_unblocked(&self) -> Result<(), Error> {
        let blocked = self.changes.iter().filter(|change| change.action == ChangeAction::Blocked);
        let texts: String =
            blocked.map(|change| format!("\n  - {}", change.problem.as_deref().unwrap_or("?"))).collect();
        if texts.is_empty() {
            return Ok(());
        }
        let text = format!("the plan has problems that have to be solved first, and nothing was changed:{texts}");
        Err(Error::new(ErrorKind::Plan, text))
    }

    /// Deletes the orphans as well, with their positions in their streams.
    #[must_use]
    pub fn prune(mut self) -> Self {
        for change in self.changes.iter_mut().filter(|change| change.action == ChangeAction::Orphan) {
            change.action = ChangeAction::Delete;
        }
        self
    }

    /// Returns the plan as JSON, for a file that [`from_json`](Self::from_json) reads.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    /// Reads a plan from JSON.
    ///
    /// # Errors
    ///
    /// Returns [`Plan`](ErrorKind::Plan) if it is no plan, with the place of the mistake, or one of another version.
    pub fn from_json(json: &str) -> Result<Self, Error> {
        let unreadable = |error: serde_json::Error| {
            Error::new(ErrorKind::Plan, format!("the plan cannot be read: {error}; make it again with `plan --out`"))
        };
        let version = version_of(json).map_err(unreadable)?;
        if version != u64::from(VERSION) {
            let text = format!(
                "the plan has version {version}, and this program reads version {VERSION}; make it again with this program"
            );
            return Err(Error::new(ErrorKind::Plan, text));
        }
        serde_json::from_str(json).map_err(unreadable)
    }
}

/// Returns the version of the form of a document.
pub(super) fn version_of(json: &str) -> Result<u64, serde_json::Error> {
    #[derive(Deserialize)]
    struct Versioned {
        version: u64,
    }
    serde_json::from_str(json).map(|Versioned { version }| version)
}

impl Change {
    pub(super) fn new(object: ChangeObject, action: ChangeAction) -> Self {
        Self {
            object,
            action,
            stream: None,
            consumer: None,
            handler: None,
            risk: None,
            fields: Vec::new(),
            consequence: None,
            problem: None,
            found: None,
            config: None,
        }
    }

    fn risk_at_least(&self) -> Option<Risk> {
        match self.action {
            ChangeAction::Delete | ChangeAction::Recreate => Some(Risk::Destructive),
            ChangeAction::Update => Some(self.risk.unwrap_or(Risk::Careful)),
            _ => self.risk,
        }
    }

    /// Returns `true` if both are about the same stream or consumer.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let key = |it: &Self| (it.object, it.stream.clone(), it.consumer.clone());
        key(self) == key(other)
    }
}

impl fmt::Display for ChangeObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stream => "stream",
            Self::Consumer => "consumer",
            Self::Handler => "handler",
        })
    }
}

impl fmt::Display for ChangeAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Create => "create",
            Self::Update => "update",
            Self::Recreate => "recreate",
            Self::Orphan => "orphan",
            Self::Delete => "delete",
            Self::Blocked => "blocked",
            Self::Unchanged => "unchanged",
        })
    }
}

impl fmt::Display for Risk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Safe => "safe",
            Self::Careful => "careful",
            Self::Destructive => "destructive",
        })
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { object, action, stream, consumer, handler, risk, fields, consequence, problem, .. } = self;
        let sign = match action {
            ChangeAction::Create => "+",
            ChangeAction::Update => "~",
            ChangeAction::Recreate => "±",
            ChangeAction::Delete => "-",
            ChangeAction::Orphan => "?",
            ChangeAction::Blocked => "!",
            ChangeAction::Unchanged => "=",
        };
        write!(f, "{sign} {action} {object}")?;
        match (consumer, stream, handler) {
            (Some(consumer), Some(stream), _) => write!(f, " {consumer} of stream {stream}")?,
            (_, Some(stream), _) => write!(f, " {stream}")?,
            _ => {}
        }
        if let Some(handler) = handler {
            write!(f, " ({handler})")?;
        }
        if let Some(risk) = risk.filter(|risk| *risk != Risk::Safe) {
            write!(f, " [{risk}]")?;
        }
        for ChangeField { field, found, wanted, risk, consequence } in fields {
            write!(f, "\n    {field}: {found} -> {wanted} ({risk}: {consequence})")?;
        }
        for text in consequence.iter().chain(problem) {
            write!(f, "\n    {text}")?;
        }
        Ok(())
    }
}

impl fmt::Display for ProvisionPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |action| self.changes.iter().filter(|change| change.action == action).count();
        for change in self.changes.iter().filter(|change| change.action != ChangeAction::Unchanged) {
            writeln!(f, "{change}")?;
        }
        for warning in &self.warnings {
            writeln!(f, "warning: {warning}")?;
        }
        let actions = [
            ChangeAction::Create,
            ChangeAction::Update,
            ChangeAction::Recreate,
            ChangeAction::Delete,
            ChangeAction::Blocked,
            ChangeAction::Orphan,
            ChangeAction::Unchanged,
        ];
        let counts: Vec<_> =
            actions.iter().map(|action| (action, count(*action))).filter(|(_, count)| *count > 0).collect();
        if counts.iter().all(|(action, _)| **action == ChangeAction::Unchanged) {
            return write!(
                f,
                "no changes: everything is as the code requires ({} unchanged)",
                count(ChangeAction::Unchanged)
            );
        }
        let counts: Vec<_> = counts.iter().map(|(action, count)| format!("{count} {action}")).collect();
        write!(f, "plan: {}", counts.join(", "))
    }
}
