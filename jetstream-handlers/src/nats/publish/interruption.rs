//! The events after which a message that was sent has no answer.

use tokio::sync::broadcast;
use tokio::sync::broadcast::error::TryRecvError;

use super::super::Connection;
use super::super::violations::{Violation, has_sampled_trace};
use super::{RECONNECTED, denied, unanswered};
use crate::error::Error;
use crate::message::refusal::closed;
use crate::message::{Outgoing, PublishFailure};

/// The events of a connection that end the wait for an answer: its end, a reconnect, and a refusal by the server.
///
/// All of them wake one notification, because a wait for each would cost every publish more than the rest of it.
pub(super) struct Interruption<'a> {
    connection: &'a Connection,
    /// The number of connections made before the message is sent.
    connects: u64,
    violations: broadcast::Receiver<Violation>,
    /// The first violation that may be of the destination of traces.
    of_trace: Option<Violation>,
}

impl<'a> Interruption<'a> {
    /// Observes the connection from now on; the message is sent afterwards.
    pub(super) fn new(connection: &'a Connection) -> Self {
        let violations = connection.violations.subscribe();
        Self { connection, connects: connection.connects(), violations, of_trace: None }
    }

    /// Waits until no answer to a message on `subject` can arrive any more; does not end otherwise.
    ///
    /// Poll it before the message is sent, because that may be known already.
    ///
    /// # Cancel safety
    ///
    /// This method is cancel safe.
    pub(super) async fn of(&mut self, subject: &str) -> PublishFailure {
        loop {
            // An event from here on is not missed.
            let notified = self.connection.violations.interrupted.notified();
            if let Some(failure) = self.failure(subject) {
                return failure;
            }
            notified.await;
        }
    }

    fn failure(&mut self, subject: &str) -> Option<PublishFailure> {
        if self.connection.is_closed() {
            return Some(PublishFailure::Permanent(closed(subject)));
        }
        if let Some(error) = self.connection.violations.refused_inbox() {
            return Some(PublishFailure::Permanent(denied(subject, error)));
        }
        loop {
            match self.violations.try_recv() {
                Ok(violation) if violation.concerns(subject) => {
                    return Some(PublishFailure::Permanent(denied(subject, violation.into_error())));
                }
                Ok(violation) if self.of_trace.is_none() && violation.may_be_of_trace() => {
                    self.of_trace = Some(violation);
                }
                Ok(_) | Err(TryRecvError::Lagged(_)) => {}
                Err(TryRecvError::Empty | TryRecvError::Closed) => break,
            }
        }
        // No answer to a request of the former connection arrives on this one.
        (self.connection.connects() != self.connects).then(|| unanswered(RECONNECTED))
    }

    /// Returns the error of this message, which has no answer, if the server may have dropped it because of its trace.
    pub(super) fn dropped_with_trace(self, message: &Outgoing) -> Option<Error> {
        self.of_trace.filter(|_| has_sampled_trace(message)).map(Violation::into_trace_error)
    }
}
