//! Permission violations: what the server reports that the user may not do.
//!
//! A server does not answer a message that it does not permit. It reports the subject on the connection instead
//! (`client.go`, `pubPermissionViolation` and `subPermissionViolation`), which async-nats passes to the event callback.

use std::collections::HashSet;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use async_nats::{Event, ServerError, Subject};
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::{Notify, broadcast};

use super::Connection;
use crate::error::permission::{publish_line, subscribe_line};
use crate::error::{Error, ErrorKind};
use crate::message::{Info, Outgoing};
use crate::observe::trace_context::TraceParent;
use crate::sync::lock;

/// The number of violations that a receiver may fall behind; it misses older ones.
const CAPACITY: usize = 256;

/// The maximum number of warnings about different subjects for one connection.
const MAX_WARNINGS: usize = 64;

/// The number of leading tokens by which subjects are alike for a warning, except for those of requests: those of an ack
/// differ only behind them.
const WARNED_TOKENS: usize = 4;

/// The prefix of the advisories of the server.
const ADVISORY: &str = "$JS.EVENT.ADVISORY.";

/// An operation on a subject that the user may not do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Denied {
    Publish,
    Subscribe,
}

/// A violation, as the server reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Violation {
    pub(crate) denied: Denied,
    pub(crate) subject: Arc<str>,
    /// The pattern of the inboxes of the connection, if the subject is one of these.
    inboxes: Option<String>,
}

/// The violations of a connection.
///
/// If the application replaces the event callback of the client, none is ever seen, and a message without a permission
/// is unanswered until its deadline.
pub(crate) struct Violations {
    sender: broadcast::Sender<Violation>,
    state: Mutex<State>,
    /// `true` if the state has a refused inbox, which every message asks for.
    inbox_refused: AtomicBool,
    /// The first tokens of the inboxes of the connection.
    inbox_prefix: OnceLock<String>,
    /// Wakes the publishes without an answer after a violation, a reconnect, and the end of the connection.
    pub(super) interrupted: Notify,
}

/// The state of the current connection.
#[derive(Debug, Default)]
struct State {
    /// An inbox that the server refused; the client subscribes to it once for a connection.
    inbox: Option<Arc<str>>,
    warned: HashSet<(Denied, String)>,
}

impl fmt::Debug for Violations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Violations")
    }
}

impl Violations {
    pub(crate) fn new() -> Arc<Self> {
        let (sender, _) = broadcast::channel(CAPACITY);
        Arc::new(Self {
            sender,
            state: Mutex::default(),
            inbox_refused: AtomicBool::new(false),
            inbox_prefix: OnceLock::new(),
            interrupted: Notify::new(),
        })
    }

    /// Returns a receiver of the violations from now on.
    pub(crate) fn subscribe(&self) -> broadcast::Receiver<Violation> {
        self.sender.subscribe()
    }

    /// Sets the first tokens of the inboxes of the connection.
    pub(super) fn set_inbox_prefix(&self, prefix: &str) {
        self.inbox_prefix.get_or_init(|| prefix.to_owned());
    }

    /// Handles an event of the client.
    pub(super) fn on_event(&self, event: &Event) {
        match event {
            Event::Connected => {
                *lock(&self.state) = State::default();
                self.inbox_refused.store(false, Ordering::Release);
            }
            Event::ServerError(ServerError::Other(text)) => match Violation::parse(text) {
                Some(violation) => self.on_violation(violation),
                None => tracing::warn!("the server reported an error: {text}"),
            },
            _ => {}
        }
    }

    fn on_violation(&self, mut violation: Violation) {
        let prefix = self
            .inbox_prefix
            .get()
            .filter(|prefix| violation.subject.strip_prefix(&***prefix).is_some_and(|rest| rest.starts_with('.')));
        violation.inboxes = prefix.map(|prefix| format!("{prefix}.>"));
        let mut state = lock(&self.state);
        if violation.denied == Denied::Subscribe && is_inbox(&violation.subject) {
            state.inbox = Some(violation.subject.clone());
            self.inbox_refused.store(true, Ordering::Release);
        }
        let alike = alike(&violation.subject);
        if state.warned.len() < MAX_WARNINGS && state.warned.insert((violation.denied, alike)) {
            tracing::warn!(subject = &*violation.subject, "{}", violation.problem());
        }
        drop(state);
        // Without a receiver, nobody waits for an answer.
        self.sender.send(violation).ok();
        self.interrupted.notify_waiters();
    }

    /// Returns an error if the server has refused the inbox on which answers arrive.
    pub(super) fn refused_inbox(&self) -> Option<Error> {
        if !self.inbox_refused.load(Ordering::Acquire) {
            return None;
        }
        let subject = lock(&self.state).inbox.clone()?;
        let inboxes = Some(inboxes(&subject));
        Some(Violation { denied: Denied::Subscribe, subject, inboxes }.into_error())
    }
}

impl Violation {
    /// Parses the text of an error that the server sent.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let rest = text.strip_prefix("Permissions Violation for ")?;
        let (denied, rest) = match rest.strip_prefix("Publish to \"") {
            Some(rest) => (Denied::Publish, rest),
            None => (Denied::Subscribe, rest.strip_prefix("Subscription to \"")?),
        };
        Some(Self { denied, subject: unquoted(rest)?.into(), inboxes: None })
    }

    /// Returns the error of what was attempted.
    pub(crate) fn into_error(self) -> Error {
        let error = Error::new(ErrorKind::Authorization, self.problem());
        match self.denied {
            Denied::Publish => error.with_missing_permission(self.subject.to_string()),
            Denied::Subscribe => error,
        }
    }

    pub(super) fn problem(&self) -> String {
        let subject = &self.subject;
        match (self.denied, Info::parse(Subject::from(&**subject))) {
            (Denied::Publish, Some(delivery)) => format!(
                "the user may not publish to `{subject}`; allow `{}` in `permissions.publish` of the user on the server: `{}` (`allow_responses` permits few answers to a delivery, for a limited time, and none after a reconnect)",
                delivery.ack_wildcard(),
                publish_line(&delivery.ack_wildcard())
            ),
            (Denied::Publish, None) => format!(
                "the user may not publish to `{subject}`; allow it in `permissions.publish` of the user on the server: `{}`",
                publish_line(self.inboxes.as_deref().unwrap_or(subject))
            ),
            (Denied::Subscribe, _) if subject.starts_with(ADVISORY) => format!(
                "the user may not subscribe to `{subject}`, so deleted consumers are noticed late, and messages that reach `max_deliver` without an answer become no dead letters; allow it in `permissions.subscribe` of the user on the server, `{}`, and connect again",
                subscribe_line(subject)
            ),
            (Denied::Subscribe, _) => format!(
                "the user may not subscribe to `{subject}`, so no answer arrives there, and what was sent may be stored or not; allow it in `permissions.subscribe` of the user on the server, `{}`, or set an inbox prefix that the user may use, and connect again",
                subscribe_line(self.inboxes.as_deref().unwrap_or(&inboxes(subject)))
            ),
        }
    }
}

impl Connection {
    /// Waits until the server reports that the user may not publish to `subject`, or may not subscribe to the inbox on
    /// which the answer would arrive; returns the error of kind [`Authorization`](ErrorKind::Authorization).
    ///
    /// Violations count from this call on, not from the first poll: call it before the message is sent, and poll it
    /// first, because the error may be known already.
    /// It does not end if neither is reported.
    pub(crate) fn denied<'a>(&self, subject: &'a str) -> impl Future<Output = Error> + use<'a> {
        self.denied_where(move |violation| violation.concerns(subject))
    }

    /// Waits like [`denied`](Self::denied) for a violation that concerns one of several messages.
    pub(super) fn denied_where<F>(&self, concerns: F) -> impl Future<Output = Error> + use<F>
    where
        F: Fn(&Violation) -> bool,
    {
        let mut violations = self.violations.subscribe();
        let refused = self.violations.refused_inbox();
        async move {
            if let Some(error) = refused {
                return error;
            }
            loop {
                match violations.recv().await {
                    Ok(violation) if concerns(&violation) => return violation.into_error(),
                    Ok(_) | Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => std::future::pending().await,
                }
            }
        }
    }
}

/// The violations while messages with a sampled trace have no answer.
///
/// If an account has `msg_trace.dest`, the server sends the trace of such a message there, in the name of the user who
/// publishes it. If that user may not publish there, the server reports that subject and drops the message
/// (`msgtrace.go`, `initMsgTrace`, from 2.12.12 and 2.14.3).
pub(super) struct TracedMessages(Option<broadcast::Receiver<Violation>>);

impl Connection {
    /// Observes the violations from now on, if one of these messages has a sampled trace.
    pub(super) fn observe_traced(&self, messages: &[Outgoing]) -> TracedMessages {
        TracedMessages(messages.iter().any(has_sampled_trace).then(|| self.violations.subscribe()))
    }
}

impl TracedMessages {
    /// Returns the error of messages without an answer, if they may have been dropped because of their trace; it has
    /// the kind [`Authorization`](ErrorKind::Authorization).
    pub(super) fn dropped(&mut self) -> Option<Error> {
        let violations = self.0.as_mut()?;
        let mut seen = std::iter::from_fn(|| match violations.try_recv() {
            Err(TryRecvError::Lagged(_)) => Some(None),
            violation => violation.ok().map(Some),
        });
        seen.by_ref().flatten().find(Violation::may_be_of_trace).map(Violation::into_trace_error)
    }
}

impl Violation {
    /// Returns `true` if the user may not subscribe to an inbox.
    pub(super) fn concerns_inbox(&self) -> bool {
        self.denied == Denied::Subscribe && is_inbox(&self.subject)
    }

    /// Returns `true` if it may be that of the destination of traces.
    ///
    /// It does not name the message, whose own subject would have ended the publish before. What this crate sends beside
    /// its messages goes to subjects of the server.
    pub(super) fn may_be_of_trace(&self) -> bool {
        self.denied == Denied::Publish && !self.subject.starts_with('$')
    }

    /// Returns the error of a message that may have been dropped because of its trace.
    pub(super) fn into_trace_error(self) -> Error {
        let destination = self.subject;
        let text = format!(
            "no stream answers, and the user may not publish to `{destination}`: if that is `msg_trace.dest` of the account, the server drops the user's messages with a sampled `traceparent`; allow `{destination}` in `permissions.publish` of the user on the server"
        );
        Error::new(ErrorKind::Authorization, text).with_missing_permission(destination.to_string())
    }

    /// Returns `true` if a message to `subject` has no answer because of this violation.
    pub(crate) fn concerns(&self, subject: &str) -> bool {
        match self.denied {
            Denied::Publish => *self.subject == *subject,
            Denied::Subscribe => is_inbox(&self.subject),
        }
    }
}

/// Returns `true` if the server may send a trace of this message.
pub(super) fn has_sampled_trace(message: &Outgoing) -> bool {
    TraceParent::of(&message.headers).is_some_and(|parent| parent.is_sampled())
}

/// Returns `true` for the subject on which answers arrive, which has one more token than the name of an inbox.
///
/// The application may choose another prefix than `_INBOX`.
fn is_inbox(subject: &str) -> bool {
    let mut tokens = subject.rsplit('.');
    let is_wildcard = matches!(tokens.next(), Some("*" | ">"));
    is_wildcard && tokens.next().is_some_and(|id| (20..=30).contains(&id.len())) && tokens.next().is_some()
}

/// Returns the beginning by which a subject is known as one of which was warned.
fn alike(subject: &str) -> String {
    let is_request = subject.starts_with("$JS.") && !subject.starts_with("$JS.ACK.");
    let tokens = if is_request { usize::MAX } else { WARNED_TOKENS };
    subject.split_inclusive('.').take(tokens).collect()
}

/// Returns the pattern of all inboxes with the prefix of one; a subject that is no inbox is returned as it is.
fn inboxes(subject: &str) -> String {
    let prefix = subject.rsplit_once('.').and_then(|(inbox, _)| inbox.rsplit_once('.')).map(|(prefix, _)| prefix);
    prefix.filter(|_| is_inbox(subject)).map_or_else(|| subject.to_owned(), |prefix| format!("{prefix}.>"))
}

/// Returns the text up to the closing quote, without the escapes of Go's `%q`.
fn unquoted(text: &str) -> Option<String> {
    let mut subject = String::new();
    let mut rest = text.chars();
    loop {
        match rest.next()? {
            '"' => return Some(subject),
            '\\' => subject.push(rest.next()?),
            character => subject.push(character),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Option<(Denied, String)> {
        Violation::parse(text).map(|violation| (violation.denied, violation.subject.to_string()))
    }

    #[test]
    fn violations_are_parsed() {
        let publish = parsed(r#"Permissions Violation for Publish to "$JS.ACK.A.b.1""#);
        assert_eq!(publish, Some((Denied::Publish, "$JS.ACK.A.b.1".to_owned())));
        let queue = parsed(r#"Permissions Violation for Subscription to "_INBOX.x.*" using queue "q""#);
        assert_eq!(queue, Some((Denied::Subscribe, "_INBOX.x.*".to_owned())));
        let quote = parsed(r#"Permissions Violation for Publish to "a\"b\\c""#);
        assert_eq!(quote, Some((Denied::Publish, r#"a"b\c"#.to_owned())));
        let advisory = Violation::parse(r#"Permissions Violation for Subscription to "$JS.EVENT.ADVISORY.X.*""#);
        assert!(advisory.is_some_and(|violation| violation.problem().contains("no dead letters")));
        assert_eq!(parsed("Maximum Payload Violation"), None);
        assert_eq!(parsed(r#"Permissions Violation for Publish to "a"#), None);
    }

    #[test]
    fn text_of_a_violation_has_the_line_to_add() {
        let line = |text: &str| Violation::parse(text).map(|violation| violation.problem()).unwrap_or_default();
        let id = nuid::next();
        for (text, expected) in [
            (r#"Permissions Violation for Publish to "a\"b""#.to_owned(), r#"`publish: { allow: ["a\"b"] }`"#),
            (
                r#"Permissions Violation for Publish to "$JS.ACK.S.D.1.2.3.4.5""#.to_owned(),
                r#"`publish: { allow: ["$JS.ACK.S.D.>"] }`"#,
            ),
            (
                format!(r#"Permissions Violation for Subscription to "_INBOX_a.{id}.*""#),
                r#"`subscribe: { allow: ["_INBOX_a.>"] }`"#,
            ),
            (
                r#"Permissions Violation for Subscription to "$JS.EVENT.ADVISORY.X.*""#.to_owned(),
                r#"`subscribe: { allow: ["$JS.EVENT.ADVISORY.X.*"] }`"#,
            ),
        ] {
            let found = line(&text);
            assert!(found.contains(expected), "{found}");
        }
    }

    #[tokio::test]
    async fn text_of_a_denied_inbox_has_the_line_for_all_of_them() {
        let violations = Violations::new();
        violations.set_inbox_prefix("_INBOX_a");
        let mut received = violations.subscribe();
        let mut report = async |text: &str| {
            violations.on_event(&Event::ServerError(ServerError::Other(text.to_owned())));
            received.recv().await.map(|violation| violation.problem()).unwrap_or_default()
        };
        for (text, expected) in [
            (r#"Permissions Violation for Publish to "_INBOX_a.b.c""#, r#"`publish: { allow: ["_INBOX_a.>"] }`"#),
            (r#"Permissions Violation for Publish to "_INBOX_ab.c""#, r#"`publish: { allow: ["_INBOX_ab.c"] }`"#),
            (r#"Permissions Violation for Subscription to "_INBOX_a.b""#, r#"`subscribe: { allow: ["_INBOX_a.>"] }`"#),
        ] {
            let found = report(text).await;
            assert!(found.contains(expected), "{found}");
        }
    }

    #[test]
    fn each_denied_request_is_warned_of_but_not_each_ack() {
        let request = |consumer: &str| alike(&format!("$JS.API.CONSUMER.INFO.S.{consumer}"));
        assert_ne!(request("one"), request("other"));
        assert_eq!(alike("$JS.ACK.S.D.1.2.3.4.5"), alike("$JS.ACK.S.D.1.3.4.5.6"));
    }

    #[test]
    fn only_the_subjects_of_answers_are_inboxes() {
        let id = nuid::next();
        assert!(is_inbox(&format!("_INBOX.{id}.*")));
        assert!(is_inbox(&format!("my.own.{id}.>")));
        assert!(!is_inbox(&format!("{id}.*")));
        assert!(!is_inbox("orders.created.*"));
        assert!(!is_inbox(&format!("_INBOX.{id}")));
    }
}
