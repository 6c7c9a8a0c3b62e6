//! A batch at the rate at which the stream takes it: one answer for hundreds of messages (ADR-50).

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::publish::PublishAck;
use async_nats::{HeaderMap, StatusCode, Subject, Subscriber, jetstream};
use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _};
use serde::Deserialize;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::super::Connection;
use super::{ATTEMPT, Looked, check, is_transient, look_for_stream, read_ack, unsent};
use crate::backoff::ExponentialBackoff;
use crate::error::{BoxError, Error, ErrorKind};
use crate::message::Outgoing;
use crate::publish::batch::{batch_member, empty, ensure_batch_stream, ingest_refused};
use crate::publish::closed;
use crate::transport::Transport;

/// After how many messages the stream shall answer at the latest; it begins with at most 500 (`jetstream_batching.go`, `fastBatchInit`).
const FLOW: u64 = 500;

/// How many of its answers may be outstanding: while one is on its way, the next messages are.
const OUTSTANDING: u64 = 2;

/// The error of a stream that does not know the batch of a message.
const UNKNOWN_BATCH: u64 = 10208;

/// How long the last word of a batch may follow the one that the stream knows it no more.
const LAST_WORD: Duration = Duration::from_millis(500);

/// Publishes messages in order, or until the connection is closed.
pub(crate) async fn ingest(
    connection: &Arc<Connection>,
    messages: impl Iterator<Item = Result<Outgoing, Error>> + Send,
) -> Result<PublishAck, Error> {
    connection
        .require_version((2, 14, 0), "fast-ingest batches", "`publish_all`, which stores message by message")
        .map_err(|error| error.with_stored(0))?;
    let checked = |(index, message)| {
        let message = batch_member(index + 1, message)?;
        let checked = check(connection, &message).map(|()| message);
        checked.map_err(|error| error.about(&format!("message {} of the batch", index + 1)))
    };
    let mut messages = messages.enumerate().map(checked);
    let first = messages.next().unwrap_or_else(|| Err(empty())).map_err(|error| error.with_stored(0))?;
    let mut batch = Batch::begin(connection, first).await?;
    for message in messages {
        if let Some(ack) = batch.add(message).await? {
            return batch.over(ack).await;
        }
        if batch.trouble.is_some() {
            break;
        }
    }
    batch.end().await
}

/// A batch that the stream has begun.
struct Batch<'a> {
    connection: &'a Connection,
    /// What every reply subject begins with.
    inbox: String,
    answers: Subscriber,
    epoch: watch::Receiver<u64>,
    /// The subject of the first message, which leads to the stream.
    subject: Subject,
    sent: u64,
    /// Up to here the stream has stored all.
    stored: u64,
    /// When it went forward last.
    moved: Instant,
    /// Whether the stream was told to end the batch.
    ending: bool,
    /// After how many messages the stream answers.
    flow: u64,
    /// Why the batch ends before its end.
    trouble: Option<Error>,
    /// The message that did not arrive, while it is not known why.
    gap: Option<u64>,
}

/// What is asked of the stream with a message.
#[derive(Clone, Copy)]
enum Operation {
    Start = 0,
    Append = 1,
    /// The batch ends here, and this message is none.
    End = 3,
    /// What is the state of the batch?
    Ping = 4,
}

/// What the stream says.
enum Answer {
    /// All up to this one are stored, and the next answer comes after so many.
    Flow {
        stored: u64,
        flow: u64,
    },
    /// Messages from this one on did not arrive.
    Gap(u64),
    /// The message of this number is not stored, nor any after it.
    Refused(u64, jetstream::Error),
    /// The batch is over; so many are stored.
    Last(PublishAck),
    /// No stream takes the message of this number.
    NoStream(u64),
    Strange(BoxError),
}

impl<'a> Batch<'a> {
    /// Sends the first message, until a stream begins the batch or refuses it.
    async fn begin(connection: &'a Arc<Connection>, first: Outgoing) -> Result<Self, Error> {
        let subject = first.subject.clone();
        let limit = connection.settings.publish_timeout;
        let deadline = Instant::now() + limit;
        let mut backoff = ExponentialBackoff::new(Duration::from_millis(50), Duration::from_secs(1));
        let transport = Transport::Nats(connection.clone());
        let mut looked_for_stream = false;
        loop {
            let mut batch = Self::new(connection, subject.clone()).await.map_err(|error| error.with_stored(0))?;
            batch.send(first.clone(), Operation::Start).await.map_err(|error| error.with_stored(0))?;
            // Nothing else may be sent before the first answer.
            let failure = match batch.hear_until(deadline).await {
                Some(Answer::Flow { flow, .. }) => {
                    batch.flow = flow.max(1);
                    return Ok(batch);
                }
                Some(Answer::NoStream(_)) => Error::new(ErrorKind::Timeout, "no stream answers"),
                Some(Answer::Refused(_, error)) if is_passing(&error) => ingest_refused(1, error),
                Some(Answer::Refused(_, error)) => {
                    let error = ingest_refused(1, error);
                    return Err(error.about(&format!("nothing of the batch on `{subject}` is stored")).with_stored(0));
                }
                // Its version should know the protocol, and yet it stored the message as any other.
                Some(Answer::Last(ack)) => {
                    let text = format!(
                        "the stream `{}` stored the first message of the batch by itself, and no other: its server does not know fast-ingest batches",
                        ack.stream
                    );
                    return Err(Error::new(ErrorKind::Server, text).with_stored(1));
                }
                Some(answer @ (Answer::Gap(_) | Answer::Strange(_))) => {
                    batch.note(answer);
                    return Err(batch.ended(ErrorKind::Publish, ""));
                }
                // It may be stored, so it is not sent again.
                None => {
                    let text = "the stream did not answer to the first message";
                    batch.trouble = Some(Error::new(ErrorKind::Timeout, text));
                    return batch.end().await.and(Err(batch.ended(ErrorKind::Timeout, text)));
                }
            };
            if !looked_for_stream && failure.kind() == ErrorKind::Timeout && connection.is_connected() {
                let ensuring = ensure_batch_stream(&transport, &subject, "allow_batch_publish");
                match look_for_stream(deadline, ensuring).await.map_err(|error| error.with_stored(0))? {
                    Looked::Made => {
                        looked_for_stream = true;
                        continue;
                    }
                    Looked::There => looked_for_stream = true,
                    Looked::Unanswered(_) => {}
                }
            }
            let pause = backoff.next();
            if Instant::now() + pause >= deadline {
                let text = format!(
                    "no stream began the batch on `{subject}` within {limit:?}, and nothing is stored: {failure}"
                );
                return Err(Error::new(ErrorKind::Timeout, text).with_source(failure).with_stored(0));
            }
            tokio::time::sleep(pause).await;
        }
    }

    async fn new(connection: &'a Connection, subject: Subject) -> Result<Self, Error> {
        // Each attempt has an id of its own.
        let inbox = connection.client().new_inbox();
        let answers = connection.client().subscribe(format!("{inbox}.>")).await;
        let answers = answers.map_err(|error| unsent(connection, &subject, error))?;
        let mut epoch = connection.epoch();
        epoch.mark_unchanged();
        Ok(Self {
            connection,
            inbox,
            answers,
            epoch,
            subject,
            sent: 0,
            stored: 0,
            moved: Instant::now(),
            ending: false,
            flow: 1,
            trouble: None,
            gap: None,
        })
    }

    /// Sends the next message when the stream has room for it; the ack, if the stream has ended the batch.
    async fn add(&mut self, message: Result<Outgoing, Error>) -> Result<Option<PublishAck>, Error> {
        while let Some(Some(answer)) = self.answers.next().now_or_never() {
            if let Some(ack) = self.note(read(&answer)) {
                return Ok(Some(ack));
            }
        }
        while self.trouble.is_none() && self.sent >= self.stored + self.flow * OUTSTANDING {
            if let Some(ack) = self.wait().await? {
                return Ok(Some(ack));
            }
        }
        if self.trouble.is_none() {
            self.trouble = match message {
                Ok(message) => self.send(message, Operation::Append).await.err(),
                Err(error) => Some(error),
            };
        }
        Ok(None)
    }

    /// Ends the batch, also after trouble: the stream then says how many it has stored.
    async fn end(&mut self) -> Result<PublishAck, Error> {
        self.ending = true;
        if let Err(error) = self.control(Operation::End).await {
            self.trouble.get_or_insert(error);
        }
        loop {
            if let Some(ack) = self.wait().await? {
                return self.over(ack).await;
            }
        }
    }

    /// Sends a message under the next number.
    async fn send(&mut self, message: Outgoing, operation: Operation) -> Result<(), Error> {
        // Counted in any case: it may have left.
        self.sent += 1;
        self.moved = Instant::now();
        self.hand_over(message, self.sent, operation).await
    }

    /// Sends what is no message of the batch.
    async fn control(&mut self, operation: Operation) -> Result<(), Error> {
        let number = match operation {
            Operation::End => self.sent + 1,
            _ => self.sent,
        };
        let nothing = Outgoing { subject: self.subject.clone(), payload: Bytes::new(), headers: HeaderMap::new() };
        self.hand_over(nothing, number, operation).await
    }

    /// Hands a message to the connection.
    async fn hand_over(&self, message: Outgoing, number: u64, operation: Operation) -> Result<(), Error> {
        // The last token of the inbox is the id of the batch; `fail` has the stream end it at the first message that is missing.
        let reply = Subject::from(format!("{}.{FLOW}.fail.{number}.{}.$FI", self.inbox, operation as u8));
        let Outgoing { subject, payload, headers } = message;
        let client = self.connection.client();
        let limit = self.connection.settings.publish_timeout;
        let publish = async {
            match headers.is_empty() {
                true => client.publish_with_reply(subject.clone(), reply, payload).await,
                false => client.publish_with_reply_and_headers(subject.clone(), reply, headers, payload).await,
            }
        };
        tokio::select! {
            biased;
            sent = publish => sent.map_err(|error| unsent(self.connection, &subject, error)),
            // While there is no connection, it waits for room in a queue; a timer is made only then.
            () = self.connection.closed() => Err(closed(&subject)),
            () = async { sleep(limit).await } => {
                Err(Error::new(ErrorKind::Timeout, format!("could not publish to `{subject}`: not connected")))
            }
        }
    }

    /// Waits for one answer, and asks for it while none comes; the ack, if it ends the batch.
    async fn wait(&mut self) -> Result<Option<PublishAck>, Error> {
        let deadline = self.moved + self.connection.settings.publish_timeout;
        loop {
            match self.hear_until(deadline).await {
                Some(Answer::Refused(_, error)) if self.ending && error.error_code().0 == UNKNOWN_BATCH => {
                    return self.last_word(error).await.map(Some);
                }
                Some(answer) => return Ok(self.note(answer)),
                None if self.connection.is_closed() => {
                    return Err(self.ended(ErrorKind::Closed, "the broker is disconnected; connect a new one"));
                }
                None if Instant::now() >= deadline => {
                    return Err(self.ended(ErrorKind::Timeout, "the stream does not answer"));
                }
                None => {
                    // An answer was lost, or all that was sent on a former connection or to a former leader;
                    // the next one says how much is stored.
                    let question = if self.ending { Operation::End } else { Operation::Ping };
                    if let Err(error) = self.control(question).await {
                        self.trouble.get_or_insert(error);
                    }
                }
            }
        }
    }

    /// The stream has ended the batch, and said so or is about to; or it has lost it, as at a restart.
    async fn last_word(&mut self, error: jetstream::Error) -> Result<PublishAck, Error> {
        let deadline = Instant::now() + LAST_WORD;
        while let Ok(Some(answer)) = timeout_at(deadline, self.answers.next()).await {
            if let Answer::Last(ack) = read(&answer) {
                return Ok(ack);
            }
        }
        self.note(Answer::Refused(self.sent, error));
        Err(self.ended(ErrorKind::Publish, ""))
    }

    /// An answer; `None` after a while, or when the connection was closed or made anew.
    async fn hear_until(&mut self, deadline: Instant) -> Option<Answer> {
        let lapse = deadline.min(Instant::now() + ATTEMPT);
        tokio::select! {
            biased;
            Some(answer) = self.answers.next() => Some(read(&answer)),
            () = self.connection.closed() => None,
            Ok(()) = self.epoch.changed() => None,
            () = async { sleep_until(lapse).await } => None,
        }
    }

    /// Takes note of an answer; the ack, if it ends the batch.
    fn note(&mut self, answer: Answer) -> Option<PublishAck> {
        let (number, trouble) = match answer {
            Answer::Flow { stored, flow } => {
                if stored > self.stored {
                    self.stored = stored;
                    self.moved = Instant::now();
                }
                self.flow = flow.max(1);
                return None;
            }
            Answer::Last(ack) => return Some(ack),
            Answer::Gap(number) => {
                if self.trouble.is_none() {
                    self.gap = Some(number);
                }
                let text = format!("message {number} did not arrive at the stream");
                (None, Error::new(ErrorKind::Publish, text))
            }
            Answer::Refused(number, error) => (Some(number), ingest_refused(number, error)),
            Answer::NoStream(number) => {
                let text = format!("no stream takes message {number} of the batch");
                (Some(number), Error::new(ErrorKind::Publish, text))
            }
            Answer::Strange(error) => {
                let text = "an answer is not a stream's; another subscriber answered";
                (None, Error::new(ErrorKind::Publish, text).with_source(error))
            }
        };
        if self.gap.is_some() && number == self.gap {
            self.gap = None;
            self.trouble = None;
        }
        self.trouble.get_or_insert(trouble);
        None
    }

    /// The result, when the stream has said its last word.
    async fn over(&mut self, ack: PublishAck) -> Result<PublishAck, Error> {
        // Why a message did not arrive may be said by the stream at which it did.
        let deadline = Instant::now() + LAST_WORD;
        while self.gap.is_some()
            && let Ok(Some(answer)) = timeout_at(deadline, self.answers.next()).await
        {
            self.note(read(&answer));
        }
        let count = ack.batch_size.unwrap_or(0).max(self.stored);
        if self.trouble.is_none() && count == self.sent {
            return Ok(ack);
        }
        let trouble = self.trouble.take();
        let (kind, why) = match &trouble {
            Some(error) => (error.kind(), error.to_string()),
            None => (
                ErrorKind::Publish,
                "the stream ended it early, as it does when a message does not reach it; all of a batch have to belong to one stream".to_owned(),
            ),
        };
        let text = format!(
            "the batch on `{}` ended early, and of its messages the first {count} are stored and no other: {why}",
            self.subject
        );
        let error = Error::new(kind, text).with_stored(count);
        Err(match trouble {
            Some(trouble) => error.with_source(trouble),
            None => error,
        })
    }

    /// The result, when the stream has not said its last word.
    fn ended(&mut self, kind: ErrorKind, why: &str) -> Error {
        let trouble = self.trouble.take();
        let kind = trouble.as_ref().map_or(kind, Error::kind);
        let why = trouble.as_ref().map_or_else(|| why.to_owned(), ToString::to_string);
        let (subject, stored, sent) = (&self.subject, self.stored, self.sent);
        let known = match stored {
            0 => "no message is known to be stored".to_owned(),
            stored => format!("the first {stored} messages are stored"),
        };
        let rest = match sent - stored.min(sent) {
            0 => "and no other".to_owned(),
            1 => format!("message {sent} may be stored or not, and no other is"),
            _ => format!("those up to {sent} may be stored or not, and no other is"),
        };
        let text = format!("the batch on `{subject}` ended early: {known}, {rest}: {why}");
        let error = Error::new(kind, text).with_stored(stored);
        match trouble {
            Some(trouble) => error.with_source(trouble),
            None => error,
        }
    }
}

/// Whether the stream may begin the batch when asked again.
fn is_passing(error: &jetstream::Error) -> bool {
    error.error_code().0 == 10211 || is_transient(error.error_code())
}

fn read(answer: &async_nats::Message) -> Answer {
    #[derive(Deserialize)]
    struct Flow<'a> {
        #[serde(rename = "type", default)]
        kind: &'a str,
        #[serde(default)]
        seq: u64,
        #[serde(default)]
        last_seq: u64,
        #[serde(default)]
        msgs: u64,
        #[serde(default)]
        error: Option<jetstream::Error>,
    }
    // Which message an answer is about is in the subject that it had for the answer.
    let number = || answer.subject.rsplit('.').nth(2).and_then(|token| token.parse().ok()).unwrap_or_default();
    if answer.status == Some(StatusCode::NO_RESPONDERS) {
        return Answer::NoStream(number());
    }
    let flow: Flow<'_> = match serde_json::from_slice(&answer.payload) {
        Ok(flow) => flow,
        Err(error) => return Answer::Strange(error.into()),
    };
    match (flow.kind, flow.error) {
        ("ack", _) => Answer::Flow { stored: flow.seq, flow: flow.msgs },
        ("gap", _) => Answer::Gap(flow.last_seq),
        ("err", Some(error)) => Answer::Refused(flow.seq, error),
        ("", Some(error)) => Answer::Refused(number(), error),
        ("", None) => match read_ack(&answer.payload) {
            Ok(Ok(ack)) => Answer::Last(ack),
            Ok(Err(error)) => Answer::Refused(0, error),
            Err(error) => Answer::Strange(error.into()),
        },
        (kind, _) => Answer::Strange(format!("the answer is of the unknown type `{kind}`").into()),
    }
}
