//! Many publishes under way at once, with their results in order.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::iter::Fuse;
use std::sync::Arc;

use async_nats::jetstream::publish::PublishAck;
use async_nats::{HeaderMap, StatusCode, Subject, Subscriber, header};
use futures::stream::{self, BoxStream};
use futures::{FutureExt as _, StreamExt as _};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::super::Connection;
use super::{ATTEMPT, Failure, check, read_answer, store, unsent};
use crate::error::Error;
use crate::message::Outgoing;
use crate::publish::closed;

/// How many messages may be without a result at once.
const WINDOW: usize = 256;

/// How many are left when the next ones are sent: some at once go to the socket in one piece, and with fewer left the stream would idle.
const REFILL: usize = WINDOW - 32;

/// Publishes messages, at most [`WINDOW`] at once, and gives the result of each in order.
pub(crate) fn publish_all<'a>(
    connection: Arc<Connection>,
    messages: impl Iterator<Item = Result<Outgoing, Error>> + Send + 'a,
) -> BoxStream<'a, Result<PublishAck, Error>> {
    let window = Box::new(Window::new(connection, messages));
    stream::unfold(window, |mut window| async move { Some((window.next().await?, window)) }).fuse().boxed()
}

struct Window<I: Iterator> {
    connection: Arc<Connection>,
    messages: Fuse<I>,
    ended: bool,
    /// Where the streams answer, and the answers; made when there is something to send.
    inbox: Option<(String, Subscriber)>,
    epoch: watch::Receiver<u64>,
    /// What the ids of this window begin with.
    ids: String,
    slots: VecDeque<CallFuture>,
    /// The number of the first slot; the last token of a reply subject is the number of its message.
    first: u64,
}

/// A message and what became of it.
#[allow(clippy::large_enum_variant)] // there are never more than a window of them
enum CallFuture {
    Waiting(Attempt),
    /// To be sent again, alone.
    Again(Attempt),
    /// It has a result, which waits for its turn.
    Done(Result<PublishAck, Error>),
}

/// A message that was sent.
#[derive(Clone)]
struct Attempt {
    /// Without the id that it was sent with unless the caller gave it, so that most need no copy of a header map.
    message: Outgoing,
    begun: Instant,
    /// Whether it may have been stored all the same.
    unanswered: bool,
}

impl<I: Iterator<Item = Result<Outgoing, Error>>> Window<I> {
    fn new(connection: Arc<Connection>, messages: I) -> Self {
        let epoch = connection.epoch();
        Self {
            connection,
            messages: messages.fuse(),
            ended: false,
            inbox: None,
            epoch,
            ids: nuid::next().to_string(),
            slots: VecDeque::with_capacity(WINDOW),
            first: 0,
        }
    }

    /// The next result in order; `None` after the last.
    async fn next(&mut self) -> Option<Result<PublishAck, Error>> {
        loop {
            match self.slots.front() {
                None if self.ended => return None,
                None => self.fill().await,
                Some(CallFuture::Done(_)) => {
                    self.first += 1;
                    if let Some(CallFuture::Done(result)) = self.slots.pop_front() {
                        return Some(result);
                    }
                }
                Some(CallFuture::Again(attempt)) => self.repeat(attempt.clone()).await,
                Some(CallFuture::Waiting(attempt)) => {
                    let lapse = attempt.begun + ATTEMPT;
                    self.fill().await;
                    self.hear(lapse).await;
                }
            }
        }
    }

    /// Sends what there is room for, once there is room for many; nothing while something has to be sent again.
    async fn fill(&mut self) {
        if self.ended || self.slots.len() > REFILL {
            return;
        }
        // An answer that is there already may say that something has to be sent again.
        while let Some(Some(answer)) = self.inbox.as_mut().and_then(|(_, answers)| answers.next().now_or_never()) {
            self.answered(&answer);
        }
        if self.slots.iter().any(|slot| matches!(slot, CallFuture::Again(_))) {
            return;
        }
        if self.slots.is_empty() {
            // What was sent before is answered, so nothing is lost with a former connection.
            self.epoch.mark_unchanged();
        }
        let begun = Instant::now();
        while self.slots.len() < WINDOW {
            let Some(message) = self.messages.next() else {
                self.ended = true;
                return;
            };
            let slot = match message.and_then(|message| check(&self.connection, &message).map(|()| message)) {
                Ok(message) => self.send(message, begun).await,
                Err(error) => CallFuture::Done(Err(error)),
            };
            // While there is no room in the connection's queue, the others would wait here one by one.
            let stuck = matches!(slot, CallFuture::Again(_));
            self.slots.push_back(slot);
            if stuck {
                return;
            }
        }
    }

    /// Hands the message after the last one to the connection.
    async fn send(&mut self, message: Outgoing, begun: Instant) -> CallFuture {
        let number = self.first + self.slots.len() as u64;
        let headers = self.headers(&message, number);
        let client = self.connection.client();
        let (inbox, _) = match &mut self.inbox {
            Some(inbox) => inbox,
            none => {
                let inbox = client.new_inbox();
                match client.subscribe(format!("{inbox}.*")).await {
                    Ok(answers) => none.insert((inbox, answers)),
                    Err(error) => return CallFuture::Done(Err(unsent(&self.connection, &message.subject, error))),
                }
            }
        };
        let reply = Subject::from(numbered(inbox, number));
        let (subject, payload) = (message.subject.clone(), message.payload.clone());
        tokio::select! {
            biased;
            sent = client.publish_with_reply_and_headers(subject, reply, headers, payload) => match sent {
                Ok(()) => CallFuture::Waiting(Attempt { message, begun, unanswered: true }),
                Err(error) => CallFuture::Done(Err(unsent(&self.connection, &message.subject, error))),
            },
            // While there is no connection, it waits for room in a queue.
            () = self.connection.closed() => CallFuture::Done(Err(closed(&message.subject))),
            // A timer is made only if it waits.
            () = async { sleep(ATTEMPT).await } => CallFuture::Again(Attempt { message, begun, unanswered: false }),
        }
    }

    fn headers(&self, message: &Outgoing, number: u64) -> HeaderMap {
        let mut headers = message.headers.clone();
        if headers.get(header::NATS_MESSAGE_ID).is_none() {
            headers.insert(header::NATS_MESSAGE_ID, numbered(&self.ids, number));
        }
        headers
    }

    /// Waits for an answer, or for the reason that the first message has none.
    async fn hear(&mut self, lapse: Instant) {
        let Some((_, answers)) = &mut self.inbox else { return };
        tokio::select! {
            biased;
            answer = answers.next() => match answer {
                Some(answer) => self.answered(&answer),
                None => self.lost(WINDOW),
            },
            () = self.connection.closed() => {
                for slot in &mut self.slots {
                    if let CallFuture::Waiting(attempt) = slot {
                        *slot = CallFuture::Done(Err(closed(&attempt.message.subject)));
                    }
                }
            }
            // What was asked on the former connection is not answered on this one.
            Ok(()) = self.epoch.changed() => self.lost(WINDOW),
            () = async { sleep_until(lapse).await } => self.lost(1),
        }
    }

    /// The answers to the first so many do not come.
    fn lost(&mut self, count: usize) {
        for slot in self.slots.iter_mut().take(count) {
            if let CallFuture::Waiting(attempt) = slot {
                *slot = CallFuture::Again(attempt.clone());
            }
        }
    }

    fn answered(&mut self, answer: &async_nats::Message) {
        let number = answer.subject.rsplit('.').next().and_then(|token| token.parse::<u64>().ok());
        // One before the first had its result by another attempt.
        let index = number.and_then(|number| number.checked_sub(self.first));
        let Some(slot) = index.and_then(|index| self.slots.get_mut(usize::try_from(index).ok()?)) else { return };
        let (CallFuture::Waiting(attempt) | CallFuture::Again(attempt)) = slot else { return };
        let refused = || CallFuture::Again(Attempt { unanswered: false, ..attempt.clone() });
        *slot = match read_answer(&attempt.message, &answer.payload) {
            _ if answer.status == Some(StatusCode::NO_RESPONDERS) => refused(),
            Ok(ack) => CallFuture::Done(Ok(ack)),
            Err(Failure::Passing(_)) => refused(),
            Err(Failure::Lasting(error)) => CallFuture::Done(Err(error)),
        };
    }

    /// Sends the first message again, alone and under the same id, until it has a result.
    async fn repeat(&mut self, attempt: Attempt) {
        let Attempt { message, begun, unanswered } = attempt;
        let message = Outgoing { headers: self.headers(&message, self.first), ..message };
        let subject = message.subject.clone();
        let deadline = begun + self.connection.settings.publish_timeout;
        let result = tokio::select! {
            biased;
            () = self.connection.closed() => Err(closed(&subject)),
            result = store(&self.connection, message, deadline, unanswered).boxed() => result,
        };
        if let Some(slot) = self.slots.front_mut() {
            *slot = CallFuture::Done(result);
        }
    }
}

/// The text and the number with a dot between them, and no room to spare: that would be moved again for each message.
fn numbered(text: &str, number: u64) -> String {
    let digits = number.checked_ilog10().unwrap_or_default() as usize + 1;
    let mut numbered = String::with_capacity(text.len() + 1 + digits);
    numbered.push_str(text);
    // A `String` takes everything.
    write!(numbered, ".{number}").ok();
    numbered
}
