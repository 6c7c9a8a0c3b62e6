//! Many publishes in flight at once, with their results in order.

use std::collections::VecDeque;
use std::iter::Fuse;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::publish::PublishAck;
use async_nats::{StatusCode, Subject, Subscriber};
use futures::{FutureExt as _, StreamExt as _};
use tokio::sync::{broadcast, watch};
use tokio::time::{Instant, sleep, sleep_until};

use super::super::Connection;
use super::super::violations::Violation;
use super::answer::read_answer;
use super::{attempt_time, check, denied, is_ready_to_send, ready_to_send, unsent};
use crate::error::Error;
use crate::message::refusal::closed;
use crate::message::{Attempt, Outgoing, Pipelined, PublishFailure};

/// The maximum number of messages without a result.
const MAX_IN_FLIGHT: usize = 256;

/// The number of messages without a result at which the next ones are sent: several at once reach the socket in one
/// write, and with a lower number the stream would run out of messages.
const REFILL_AT: usize = MAX_IN_FLIGHT - 32;

/// The maximum number of bytes without a result, except for a single message that is larger.
const MAX_BYTES: usize = 32 * 1024 * 1024;

/// The size from which a message counts.
const LARGE: usize = MAX_BYTES / MAX_IN_FLIGHT;

/// The maximum number of decimal digits of a number.
const MAX_DIGITS: usize = 20;

/// Messages that are published at once, at most [`MAX_IN_FLIGHT`], and the results of the oldest ones.
pub(crate) struct Pipeline<I: Iterator> {
    connection: Arc<Connection>,
    messages: Fuse<I>,
    ended: bool,
    /// The prefix of the reply subjects and its subscription, created for the first message.
    inbox: Option<(String, Subscriber)>,
    epoch: watch::Receiver<u64>,
    violations: broadcast::Receiver<Violation>,
    /// The prefix of the message ids of this pipeline.
    ids: String,
    entries: VecDeque<Entry>,
    /// The time of the last answer to a large message; the next one is carried after it.
    carried_at: Instant,
    /// The number of the first entry; the last token of a reply subject is the number of its message.
    first: u64,
}

/// A message and its result.
#[allow(clippy::large_enum_variant)] // there are at most `MAX_IN_FLIGHT` of them
enum Entry {
    /// The message has no id unless the caller set one, so that most header maps are not copied.
    Sent(Attempt),
    Resend(Attempt),
    /// The message has a result, although those before it may have none.
    Done(Result<PublishAck, Error>),
}

impl<I: Iterator<Item = Result<Outgoing, Error>>> Pipeline<I> {
    pub(crate) fn new(connection: Arc<Connection>, messages: I) -> Self {
        let epoch = connection.epoch();
        let violations = connection.violations.subscribe();
        Self {
            connection,
            messages: messages.fuse(),
            ended: false,
            inbox: None,
            epoch,
            violations,
            ids: nuid::next().to_string(),
            entries: VecDeque::with_capacity(MAX_IN_FLIGHT),
            carried_at: Instant::now(),
            first: 0,
        }
    }

    /// Returns the next result in order; `None` after the last.
    pub(crate) async fn next(&mut self) -> Option<Pipelined> {
        loop {
            match self.entries.front() {
                None if self.ended => return None,
                None => self.fill().await,
                Some(Entry::Sent(attempt)) => {
                    let begun = attempt.begun.max(self.carried_at);
                    self.fill().await;
                    self.receive(begun).await;
                }
                Some(Entry::Resend(_) | Entry::Done(_)) => return self.pop(),
            }
        }
    }

    /// Removes the first message with its result.
    fn pop(&mut self) -> Option<Pipelined> {
        let number = self.first;
        self.first += 1;
        match self.entries.pop_front()? {
            Entry::Done(result) => Some(Pipelined::Done(result)),
            Entry::Sent(attempt) | Entry::Resend(attempt) => {
                let headers = attempt.message.headers_with_id(numbered(&self.ids, number));
                let message = Outgoing { headers, ..attempt.message };
                Some(Pipelined::Resend(Attempt { message, ..attempt }))
            }
        }
    }

    /// Sends messages up to [`MAX_IN_FLIGHT`] if at most [`REFILL_AT`] have no result; none while a message must be
    /// sent again.
    async fn fill(&mut self) {
        if self.ended || self.entries.len() > REFILL_AT || !self.can_send() {
            return;
        }
        // An answer that has arrived may require a message to be sent again.
        while let Some(Some(answer)) = self.inbox.as_mut().and_then(|(_, answers)| answers.next().now_or_never()) {
            self.on_answer(&answer);
        }
        if self.entries.iter().any(|entry| matches!(entry, Entry::Resend(_))) {
            return;
        }
        if self.entries.is_empty() {
            // Everything sent so far is answered, so a former connection lost nothing.
            self.epoch.mark_unchanged();
            self.violations = self.violations.resubscribe();
        }
        let begun = Instant::now();
        while self.entries.len() < MAX_IN_FLIGHT && self.has_room() {
            let Some(message) = self.messages.next() else {
                self.ended = true;
                return;
            };
            let entry = match message {
                Ok(message) => self.send(message, begun).await,
                Err(error) => Entry::failed(error),
            };
            // While nothing can be sent, the next messages would wait here one by one.
            let waits = matches!(entry, Entry::Resend(_));
            self.entries.push_back(entry);
            if waits {
                return;
            }
        }
    }

    /// Returns `false` while it is better to wait for the results of the messages that were sent on a lost connection.
    fn can_send(&self) -> bool {
        self.entries.is_empty() || self.connection.is_connected()
    }

    /// Returns `true` if another message like the last one has room within [`MAX_BYTES`].
    fn has_room(&self) -> bool {
        let last = self.entries.back().map_or(0, Entry::size);
        // Only large messages are counted, because this runs for each message.
        last < LARGE || self.size() + last <= MAX_BYTES
    }

    /// Returns the size of all messages without a result.
    fn size(&self) -> usize {
        self.entries.iter().map(Entry::size).sum()
    }

    /// Returns the maximum wait for an answer to the first message, which is sent together with the others.
    fn attempt_time(&self) -> Duration {
        attempt_time(self.bytes_sent()).min(self.connection.settings.publish_timeout)
    }

    /// Returns the size of what a slow connection carries before the next answer.
    fn bytes_sent(&self) -> usize {
        let last = self.entries.back().map_or(0, Entry::size);
        // Small messages are not counted, because this runs for each message.
        if last < LARGE { last } else { self.size() }
    }

    /// Returns the size of a message with its id, or the reason that it cannot be sent.
    fn check(&self, message: &Outgoing, id: &str) -> Result<usize, Error> {
        let bytes = message.size_with_id(id);
        check(&self.connection, message, bytes)?;
        match self.connection.violations.refused_inbox() {
            None => Ok(bytes),
            Some(error) => Err(denied(&message.subject, error)),
        }
    }

    /// Sends the message that follows the last entry.
    async fn send(&mut self, message: Outgoing, begun: Instant) -> Entry {
        let number = self.first + self.entries.len() as u64;
        let id = numbered(&self.ids, number);
        let bytes = match self.check(&message, &id) {
            Ok(bytes) => bytes,
            Err(error) => return Entry::failed(error),
        };
        let not_sent = |message| Entry::Resend(Attempt { message, begun, unanswered: false });
        if !is_ready_to_send(&self.connection, bytes) {
            let limit = self.attempt_time();
            tokio::select! {
                biased;
                () = self.connection.closed() => return Entry::failed(closed(&message.subject)),
                ready = ready_to_send(&self.connection, bytes, Instant::now() + limit) => if ready.is_err() {
                    return not_sent(message);
                },
            }
        }
        let (bytes_sent, publish_timeout) = (self.bytes_sent(), self.connection.settings.publish_timeout);
        let client = self.connection.client();
        let (inbox, _) = match &mut self.inbox {
            Some(inbox) => inbox,
            none => {
                let inbox = client.new_inbox();
                match client.subscribe(format!("{inbox}.*")).await {
                    Ok(answers) => none.insert((inbox, answers)),
                    Err(error) => return Entry::failed(unsent(&self.connection, &message.subject, error)),
                }
            }
        };
        let reply = Subject::from(numbered(inbox, number));
        let (subject, payload) = (message.subject.clone(), message.payload.clone());
        let headers = message.headers_with_id(id);
        tokio::select! {
            biased;
            sent = client.publish_with_reply_and_headers(subject, reply, headers, payload) => match sent {
                Ok(()) => Entry::Sent(Attempt { message, begun, unanswered: true }),
                Err(error) => Entry::failed(unsent(&self.connection, &message.subject, error)),
            },
            // Sending waits for capacity in a queue.
            () = self.connection.closed() => Entry::failed(closed(&message.subject)),
            // The timer is created only if sending waits.
            () = async { sleep(attempt_time(bytes_sent).min(publish_timeout)).await } => not_sent(message),
        }
    }

    /// Waits for an answer to the messages sent at this time; without one, marks messages to be sent again, or as failed
    /// if the connection is closed.
    async fn receive(&mut self, begun: Instant) {
        // Most answers have arrived by now, and need nothing of what a wait needs.
        let arrived = self.inbox.as_mut().and_then(|(_, answers)| answers.next().now_or_never());
        match arrived {
            Some(Some(answer)) => self.on_answer(&answer),
            Some(None) => self.resend(MAX_IN_FLIGHT),
            None => self.wait(begun + self.attempt_time()).await,
        }
    }

    async fn wait(&mut self, due: Instant) {
        let Some((_, answers)) = &mut self.inbox else { return };
        tokio::select! {
            biased;
            answer = answers.next() => match answer {
                Some(answer) => self.on_answer(&answer),
                None => self.resend(MAX_IN_FLIGHT),
            },
            () = self.connection.closed() => {
                for entry in &mut self.entries {
                    if let Entry::Sent(attempt) = entry {
                        *entry = Entry::failed(closed(&attempt.message.subject));
                    }
                }
            }
            Ok(violation) = self.violations.recv() => self.on_violation(&violation),
            // No answer to a message of the former connection arrives on this one.
            Ok(()) = self.epoch.changed() => self.resend(MAX_IN_FLIGHT),
            () = async { sleep_until(due).await } => self.resend(1),
        }
    }

    /// Marks the first `count` messages to be sent again where they have no answer.
    fn resend(&mut self, count: usize) {
        for entry in self.entries.iter_mut().take(count) {
            if let Entry::Sent(attempt) = entry {
                *entry = Entry::Resend(attempt.clone());
            }
        }
    }

    fn on_violation(&mut self, violation: &Violation) {
        for entry in &mut self.entries {
            if let Entry::Sent(Attempt { message, .. }) = entry
                && violation.concerns(&message.subject)
            {
                *entry = Entry::failed(denied(&message.subject, violation.clone().into_error()));
            }
        }
    }

    fn on_answer(&mut self, answer: &async_nats::Message) {
        let number = answer.subject.rsplit('.').next().and_then(|token| token.parse::<u64>().ok());
        // A message before the first entry was sent again, and has the result of that attempt.
        let index = number.and_then(|number| number.checked_sub(self.first));
        let Some(entry) = index.and_then(|index| self.entries.get_mut(usize::try_from(index).ok()?)) else { return };
        let (Entry::Sent(attempt) | Entry::Resend(attempt)) = entry else { return };
        if attempt.message.payload.len() >= LARGE {
            self.carried_at = Instant::now();
        }
        let not_stored = || Entry::Resend(Attempt { unanswered: false, ..attempt.clone() });
        *entry = if answer.status == Some(StatusCode::NO_RESPONDERS) {
            not_stored()
        } else {
            match read_answer(&attempt.message, &answer.payload) {
                // Another answer follows, or the message is sent again alone.
                Ok(ack) if !self.connection.is_of_domain(&ack.domain) => return,
                Ok(ack) => Entry::Done(Ok(ack)),
                // A refusal does not name its domain.
                Err(PublishFailure::Permanent(_)) if self.connection.domain().is_some() => return,
                Err(PublishFailure::Permanent(error)) => Entry::failed(error),
                Err(_) => not_stored(),
            }
        };
    }
}

impl Entry {
    fn failed(error: Error) -> Self {
        Self::Done(Err(error))
    }

    fn size(&self) -> usize {
        match self {
            Self::Sent(attempt) | Self::Resend(attempt) => attempt.message.payload.len(),
            Self::Done(_) => 0,
        }
    }
}

/// Returns the text, a dot and the number, in one allocation of the exact size.
///
/// This runs twice for each message, and `format!` takes several times as long.
fn numbered(text: &str, mut number: u64) -> String {
    let mut digits = [0; MAX_DIGITS];
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    let digits = std::str::from_utf8(&digits[start..]).expect("digits are ASCII");
    let mut numbered = String::with_capacity(text.len() + 1 + digits.len());
    numbered.push_str(text);
    numbered.push('.');
    numbered.push_str(digits);
    numbered
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_decimal() {
        for number in [0, 9, 10, 4096, u64::MAX] {
            assert_eq!(numbered("a.b", number), format!("a.b.{number}"));
        }
    }
}
