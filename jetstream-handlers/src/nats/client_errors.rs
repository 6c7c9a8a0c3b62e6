//! The errors that the client library reports about its connection.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};

use async_nats::{ClientError, Event, Server, ServerError};

use super::violations::Violation;
use crate::error::printable::printable;
use crate::observe::health::LastError;
use crate::sync::lock;

/// The maximum time between an error and the end of the connection that it explains.
const MAX_AGE: Duration = Duration::from_secs(2);

/// The last errors of the client, for the health.
///
/// Its event about an attempt to connect has only the class of the error, as in "IO error". The text of the server, as
/// in "maximum connections exceeded", is in its list of servers, which it shows before the next attempt.
#[derive(Default)]
pub(crate) struct ClientErrors(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    last: Option<LastError>,
    /// The text and the time of the last error that may be the reason for which no server is connected.
    connecting: Option<(Instant, String)>,
    /// The subjects of requests whose denial is no error.
    optional: BTreeSet<String>,
}

impl fmt::Debug for ClientErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientErrors")
    }
}

impl ClientErrors {
    /// Handles an event of the client.
    pub(super) fn on_event(&self, event: &Event) {
        match event {
            Event::Connected => lock(&self.0).connecting = None,
            // The server states its reason before it ends the connection; anything earlier is not about that.
            Event::Disconnected => {
                let connecting = &mut lock(&self.0).connecting;
                *connecting = connecting.take().filter(|(at, _)| at.elapsed() < MAX_AGE);
            }
            Event::ServerError(ServerError::Other(text)) => match Violation::parse(text) {
                Some(violation) if lock(&self.0).optional.contains(&*violation.subject) => {}
                // The connection goes on.
                Some(violation) => self.set(&violation.problem()),
                None => self.failed(text),
            },
            Event::ServerError(ServerError::AuthorizationViolation) => self.failed("authorization violation"),
            Event::ClientError(ClientError::Other(class)) => {
                let is_known = |(_, known): &(Instant, String)| known.starts_with(class.as_str());
                if !lock(&self.0).connecting.as_ref().is_some_and(is_known) {
                    self.failed(class);
                }
            }
            Event::ClientError(error) => self.failed(&error.to_string()),
            _ => {}
        }
    }

    /// Records the errors of the servers before an attempt to connect.
    pub(super) fn on_attempt(&self, servers: &[Server]) {
        if let Some(error) = servers.iter().find_map(|server| server.last_error.as_deref()) {
            self.failed(error);
        }
    }

    /// Records an error because of which no server is connected.
    pub(super) fn failed(&self, text: &str) {
        self.set(&explained(text));
        lock(&self.0).connecting = Some((Instant::now(), text.to_owned()));
    }

    fn set(&self, text: &str) {
        lock(&self.0).last = Some(LastError { at: SystemTime::now(), error: printable(text).into_owned() });
    }

    /// Notes that a request to a subject is optional, so that its denial is no error.
    pub(super) fn allow_denial(&self, subject: String) {
        lock(&self.0).optional.insert(subject);
    }

    /// Returns the last error.
    pub(crate) fn last(&self) -> Option<LastError> {
        lock(&self.0).last.clone()
    }

    /// Returns the error because of which no server is connected, if one is known.
    pub(crate) fn connecting(&self) -> Option<String> {
        let (_, text) = lock(&self.0).connecting.clone()?;
        Some(printable(&explained(&text)).into_owned())
    }
}

/// Returns the text of an error with the way to fix it, if it is one that does not pass by itself.
fn explained(text: &str) -> String {
    const CLASSES: [&str; 3] = ["IO error: ", "authorization violation: ", "nats: "];
    let text = CLASSES.iter().fold(text, |text, class| text.strip_prefix(class).unwrap_or(text));
    let lower = text.to_lowercase();
    // As `server/errors.go` spells them.
    let fix = if lower.contains("authorization violation") {
        "the server refuses the credentials; check user, password, token, nkey or credentials file"
    } else if lower.contains("authentication expired") || lower.contains("authentication revoked") {
        "the server no longer accepts the credentials; renew them"
    } else if lower.contains("connections exceeded") {
        "the server accepts no more connections; raise `max_connections` of the server or the account, or close others"
    } else {
        return text.to_owned();
    };
    format!("{text}: {fix}")
}
