//! Deliveries that were lost with a connection: found, told from those that the client library cannot read, and
//! requested again.
//!
//! The client library ends the connection when it reads a message that it cannot parse, and everything that the server
//! had sent behind that message is lost. The server would redeliver all of it only after `ack_wait`, and the next
//! connection would end at the same message.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_nats::Subject;
use async_nats::jetstream::consumer;
use futures::future::BoxFuture;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::Connection;
use super::patience::{LostMessage, Patience};
use super::reading::{Found, Reading, unread};
use super::received::{Consumer, Position, Received};
use crate::delivery::Binding;
use crate::error::{Error, ErrorKind, chain};
use crate::future::optional;
use crate::message::{AckPrefix, DeliveryId, Info, Message};

/// The number of messages after which no more are read after one loss; those that were lost are redelivered after
/// `ack_wait`.
const MAX_READ: usize = 5000;

/// The time during which the requests of a lost connection may still be served.
const AT_RISK: Duration = Duration::from_secs(5);

/// The number of times and the interval at which the server is asked whether another instance waits for messages: it
/// may still count the requests on the lost connection.
const QUESTIONS: (usize, Duration) = (5, Duration::from_millis(40));

/// The time in which deliveries arrive that were made before the last answer of the server.
const IN_FLIGHT: Duration = Duration::from_millis(50);

/// The maximum time to wait until nothing more can arrive at the former inbox, which other handlers share.
const MAX_ARRIVING: Duration = Duration::from_secs(1);

/// The maximum time for which nothing is requested because of a search, if a server may be down: the consumer may have no
/// leader that answers.
pub(super) const MAX_HOLD: Duration = Duration::from_millis(250);

/// The number of messages that are requested one by one after a loss whose cause was not found.
const CAREFUL: usize = 100;

/// The number of times that the connection must end at one message, which the user may not read, until that message
/// counts as unreadable.
const MAX_STRIKES: u32 = 2;

/// The maximum number of messages whose lost deliveries are remembered.
const MAX_REMEMBERED: usize = 10_000;

/// The losses of one handler.
#[derive(Default)]
pub(super) struct Losses {
    received: Received,
    messages: BTreeMap<u64, Lost>,
    /// The number of messages that are still requested one by one.
    careful: usize,
    search: Option<BoxFuture<'static, Result<Findings, Error>>>,
    /// The time up to which the search holds requests; `None` until it ends.
    held_until: Option<Instant>,
    /// The number of messages that could have been lost lately, with the time of the last loss.
    at_risk: Option<(u64, Instant)>,
    /// The sequence at which the last search stopped reading, because there was too much; 0 otherwise.
    continue_at: u64,
    patience: Patience,
}

/// A message of which deliveries were lost.
#[derive(Debug, Default)]
struct Lost {
    /// The number of deliveries that were lost, which are no attempts.
    count: u64,
    /// `true` if the message was requested again and has not arrived since.
    awaited: bool,
    /// `true` if another instance can have the message, and it has not arrived here.
    is_uncertain: bool,
    /// The number of times that the connection has ended when only this message could have arrived.
    strikes: u32,
    /// `true` if the message was found to be unreadable.
    is_unreadable: bool,
}

/// A result of [`Losses::progress`].
pub(super) enum Progress {
    /// The result of a search, for [`Losses::found`].
    Found(Box<Result<Findings, Error>>),
    /// Messages that were waited with, for [`Losses::waited`].
    Waited(Vec<LostMessage>),
}

/// The result of a search.
#[derive(Default)]
pub(super) struct Findings {
    consumer: Option<Consumer>,
    /// `true` if the consumer has restarted its numbering.
    is_restarted: bool,
    /// The messages that the client library cannot read.
    unreadable: Vec<Message>,
    /// The stream sequences of the other messages that were lost.
    lost: Vec<u64>,
    /// The stream sequences of the messages that were lost, or that another instance has.
    uncertain: Vec<u64>,
    /// The only message that can have ended the connection, if a single one was requested, and the user may not read it.
    suspect: Option<Message>,
    /// `true` if messages could not be read from the stream.
    is_blind: bool,
    /// The sequence at which reading stopped, because there was too much.
    next: Option<u64>,
}

impl Losses {
    /// Records a delivery that has arrived at `now`, and does not count the lost ones of its message; `skipped` is `true` if
    /// there are others between this one and the last one at the same inbox.
    pub(super) fn arrived(&mut self, info: &mut Info, now: Instant, skipped: bool) {
        let stream_sequence = info.stream_sequence();
        self.received.add(info.id(), now, skipped);
        self.careful = self.careful.saturating_sub(1);
        if let Some(lost) = self.messages.get_mut(&stream_sequence) {
            (lost.awaited, lost.is_uncertain) = (false, false);
            info.discount(lost.count);
        }
    }

    /// Sets the usual duration of a call.
    pub(super) fn set_call(&mut self, call: Duration) {
        self.patience.set_call(call);
    }

    /// Waits for the result of a search, or until messages that another instance could have are to be requested again;
    /// never returns without either.
    ///
    /// # Cancel safety
    ///
    /// Both continue at the next call.
    pub(super) async fn progress(&mut self) -> Progress {
        tokio::select! {
            found = optional(self.search.as_mut()) => Progress::Found(Box::new(found)),
            waited = self.patience.ended(), if !self.patience.is_empty() => Progress::Waited(waited),
        }
    }

    /// Returns the ack subjects of the messages that have not arrived while they were waited with.
    pub(super) fn waited(&mut self, messages: Vec<LostMessage>) -> Vec<Subject> {
        let mut is_lost =
            |sequence| self.messages.get_mut(&sequence).is_some_and(|lost| std::mem::take(&mut lost.is_uncertain));
        messages.into_iter().filter(|(sequence, _)| is_lost(*sequence)).map(|(_, subject)| subject).collect()
    }

    /// Forgets what is too old; called from time to time.
    pub(super) fn tick(&mut self, now: Instant) {
        self.received.tick(now);
    }

    /// Sets the number of deliveries that the consumer had made before the first one to this instance.
    pub(super) fn begin_after(&mut self, consumer_sequence: u64) {
        self.received.begin_after(consumer_sequence);
    }

    /// Sets the time at which the consumer was created; nothing that another one has delivered is accounted for.
    pub(super) fn set_created(&mut self, created: SystemTime) {
        if self.received.set_created(created) {
            self.messages.clear();
        }
    }

    /// Records the ack floor of the consumer.
    pub(super) fn set_floor(&mut self, floor: u64) {
        self.received.set_floor(floor);
    }

    /// Forgets everything, because the consumer was replaced.
    pub(super) fn reset(&mut self) {
        *self = Self::default();
        self.begin_after(0);
    }

    /// Returns `true` if messages must be requested one by one.
    pub(super) fn is_careful(&self) -> bool {
        self.careful > 0
    }

    /// Searches for what was lost with an inbox at which `outstanding` messages could have arrived, once nothing more can
    /// arrive there.
    pub(super) fn search(
        &mut self,
        connection: Arc<Connection>,
        binding: Arc<Binding>,
        outstanding: usize,
        lost: LostInbox,
    ) {
        let awaited = self.messages.iter().filter(|(_, lost)| lost.awaited).map(|(sequence, _)| *sequence);
        let known = self.messages.iter().filter(|(_, lost)| lost.is_unreadable).map(|(sequence, _)| *sequence);
        let now = Instant::now();
        self.received.hold();
        // The server may have served the requests of the last connection on this one, until their inbox was closed.
        let before = self.at_risk.filter(|(_, at)| now - *at < AT_RISK).map_or(0, |(count, _)| count);
        let at_risk = before + outstanding as u64;
        self.at_risk = Some((at_risk, now));
        let may_be_down = matches!(lost, LostInbox::Disconnected { other_server: true, .. });
        self.held_until = may_be_down.then(|| now + MAX_HOLD);
        let search = Search {
            connection,
            binding,
            received: self.received.clone(),
            outstanding: at_risk,
            awaited: awaited.collect(),
            known: known.collect(),
            continue_at: self.continue_at,
            is_restarted: false,
            lost,
        };
        self.search = Some(Box::pin(search.run()));
    }

    /// Returns `true` while nothing is requested, because the next messages may end the connection as well.
    pub(super) fn holds_requests(&self) -> bool {
        self.search.is_some() && self.held_until.is_none_or(|until| Instant::now() < until)
    }

    /// Returns the time at which requests are no longer held, if that is before the end of the search.
    pub(super) fn wake(&self) -> Option<Instant> {
        self.held_until.filter(|_| self.holds_requests())
    }

    /// Handles the result of a search: returns the unreadable messages, and the ack subjects of those to request again.
    ///
    /// What another instance can have is returned later, by [`waited`](Self::waited).
    pub(super) fn found(
        &mut self,
        connection: &Arc<Connection>,
        binding: &Binding,
        result: Result<Findings, Error>,
    ) -> (Vec<Message>, Vec<Subject>) {
        self.search = None;
        let Ok(Findings {
            consumer: Some(consumer),
            is_restarted,
            mut unreadable,
            mut lost,
            mut uncertain,
            suspect,
            is_blind,
            next,
        }) = result
        else {
            self.careful = CAREFUL;
            return Default::default();
        };
        if is_restarted {
            self.received.restart(consumer);
            self.messages.clear();
        }
        self.continue_at = next.unwrap_or_default();
        // Some have arrived during the search.
        let arrived = self.received.stream_sequences();
        lost.retain(|sequence| !arrived.contains(sequence));
        uncertain.retain(|sequence| !arrived.contains(sequence));
        if is_blind || unreadable.is_empty() && !lost.is_empty() {
            self.careful = CAREFUL;
        }
        if unreadable.is_empty()
            && let Some(suspect) = suspect
            && self.strike(suspect.info.stream_sequence())
        {
            lost.retain(|sequence| *sequence != suspect.info.stream_sequence());
            unreadable.push(suspect);
        }
        self.remember_unreadable(&mut unreadable);
        self.received.account(consumer.delivered);
        self.remember_lost(&lost, &uncertain);
        let prefix = AckPrefix::new(&binding.stream, &binding.consumer);
        let subject = |sequence| ack_subject(&prefix, sequence, consumer.delivered.consumer_sequence);
        if !uncertain.is_empty() {
            let messages = uncertain.into_iter().map(|sequence| (sequence, subject(sequence))).collect();
            self.patience.add(connection.clone(), binding, messages);
        }
        (unreadable, lost.into_iter().map(subject).collect())
    }

    /// Remembers messages that cannot be read, and removes those that were found before if there are others.
    fn remember_unreadable(&mut self, unreadable: &mut Vec<Message>) {
        // Those that were found before have ended since.
        if unreadable.iter().any(|message| !self.is_known(message)) {
            unreadable.retain(|message| !self.is_known(message));
        }
        for message in unreadable {
            self.messages.entry(message.info.stream_sequence()).or_default().is_unreadable = true;
        }
    }

    /// Remembers messages whose deliveries were lost, and those of which another instance can have them.
    fn remember_lost(&mut self, lost: &[u64], uncertain: &[u64]) {
        for sequence in lost {
            let lost = self.messages.entry(*sequence).or_default();
            (lost.count, lost.awaited) = (lost.count + 1, true);
        }
        for sequence in uncertain {
            let lost = self.messages.entry(*sequence).or_default();
            (lost.count, lost.is_uncertain) = (lost.count + 1, true);
        }
        while self.messages.len() > MAX_REMEMBERED {
            self.messages.pop_first();
        }
    }

    /// Returns `true` if a message was found to be unreadable before.
    fn is_known(&self, message: &Message) -> bool {
        self.messages.get(&message.info.stream_sequence()).is_some_and(|lost| lost.is_unreadable)
    }

    /// Records that the connection has ended at a message; returns `true` if it did so too often.
    fn strike(&mut self, sequence: u64) -> bool {
        let lost = self.messages.entry(sequence).or_default();
        lost.strikes += 1;
        lost.strikes >= MAX_STRIKES
    }
}

/// Returns an ack subject at which the server accepts a nak for a lost message.
fn ack_subject(prefix: &AckPrefix, stream_sequence: u64, consumer_sequence: u64) -> Subject {
    let id = DeliveryId { delivered: 1, stream_sequence, consumer_sequence, ..DeliveryId::default() };
    prefix.delivery(id).into_subject()
}

/// A search for the messages that were delivered and have not arrived.
struct Search {
    connection: Arc<Connection>,
    binding: Arc<Binding>,
    received: Received,
    /// The number of messages that could have arrived.
    outstanding: u64,
    /// The messages that were requested again, and have not arrived since.
    awaited: BTreeSet<u64>,
    /// The messages that were found to be unreadable before.
    known: HashSet<u64>,
    /// The sequence at which the last search stopped reading.
    continue_at: u64,
    /// `true` if the consumer has restarted its numbering.
    is_restarted: bool,
    lost: LostInbox,
}

/// An inbox that is closed.
#[derive(Debug, Clone)]
pub(super) enum LostInbox {
    /// Its connection has ended.
    Disconnected {
        /// Cancelled when nothing more can arrive.
        ended: Option<CancellationToken>,
        /// `true` if the present connection is to another server, or to one that was restarted.
        other_server: bool,
    },
    /// The server has closed it on the present connection.
    Closed {
        /// Cancelled when nothing more can arrive.
        ended: CancellationToken,
    },
}

impl LostInbox {
    /// Waits until nothing more can arrive.
    async fn ended(&self) {
        let (Self::Disconnected { ended: Some(ended), .. } | Self::Closed { ended }) = self else { return };
        timeout(MAX_ARRIVING, ended.cancelled()).await.ok();
    }
}

impl Search {
    async fn run(mut self) -> Result<Findings, Error> {
        self.lost.ended().await;
        let info = self.info().await?;
        let consumer = Consumer::from(&info);
        let delivered = consumer.delivered;
        let base = self.received.base();
        let is_known = base.is_some();
        let base = base.unwrap_or_default();
        let count = self.missing(&info);
        let is_shared = self.received.is_shared();
        tracing::debug!(
            stream = self.binding.stream,
            consumer = self.binding.consumer,
            base = base.consumer_sequence,
            delivered = delivered.consumer_sequence,
            arrived = self.received.count(),
            outstanding = self.outstanding,
            is_shared,
            awaited = self.awaited.len(),
            "messages may be lost with a connection"
        );
        // What was requested again and has not arrived may have been requested on a connection that ended as well.
        if count == 0 && self.awaited.is_empty() {
            return Ok(Findings { consumer: Some(consumer), is_restarted: self.is_restarted, ..Findings::default() });
        }
        // If more was delivered than this instance had requested, another one has some of it.
        let is_shared = is_shared || !is_known || info.num_waiting > 0 || count > self.outstanding;
        let mut findings =
            Findings { consumer: Some(consumer), is_restarted: self.is_restarted, ..Findings::default() };
        let mut lost = Vec::new();
        let mut may_read = true;
        match self.read(&info, base).await {
            Ok(found) => {
                (findings.unreadable, findings.next) = (found.unreadable, found.next);
                let arrived = self.received.stream_sequences();
                let is_new = |sequence| sequence > base.stream_sequence && !arrived.contains(&sequence);
                let may_be_lost = |sequence: &u64| self.awaited.contains(sequence) || is_new(*sequence);
                lost.extend(found.readable.into_iter().filter(may_be_lost));
            }
            Err(error) => {
                findings.is_blind = true;
                may_read = error.kind() != ErrorKind::Authorization;
                self.warn_unread(&error);
            }
        }
        // Another instance has some of what was not lost here, if there is more of it than was delivered.
        let other = lost.iter().filter(|sequence| !self.awaited.contains(sequence)).count() as u64;
        if !is_shared && other <= count {
            // A connection can end for other reasons, so that a message which can be read from the stream is no suspect.
            if count == 1 && !may_read {
                // The server redelivers before it delivers new messages.
                let suspect = self.awaited.first().copied().unwrap_or(delivered.stream_sequence);
                findings.suspect = Some(unread(&self.binding, suspect, delivered.consumer_sequence));
            }
            if findings.is_blind {
                // The server ignores a nak for a message that the consumer does not wait for.
                let end = delivered.stream_sequence.min(base.stream_sequence + MAX_READ as u64);
                let arrived = self.received.stream_sequences();
                let range = (base.stream_sequence + 1..=end).filter(|sequence| !arrived.contains(sequence));
                lost = self.awaited.iter().copied().chain(range).collect();
            }
            findings.lost = lost;
        } else if is_known {
            findings.uncertain = lost;
        }
        Ok(findings)
    }

    /// Reads what was requested again and what was delivered after the base; if that does not explain why the connection
    /// ended, also what was delivered before, which may have been redelivered.
    async fn read(&self, info: &consumer::Info, base: Position) -> Result<Found, Error> {
        let consumer_sequence = info.delivered.consumer_sequence;
        let reading = Reading { connection: &self.connection, binding: &self.binding, consumer_sequence };
        let (floor, end) = (info.ack_floor.stream_sequence, info.delivered.stream_sequence + 1);
        let latest = base.stream_sequence.max(floor) + 1..end;
        let awaited: Vec<_> = self.awaited.iter().copied().filter(|sequence| !latest.contains(sequence)).collect();
        let mut found = reading.each(&awaited).await?;
        found.extend(reading.range(latest.clone(), MAX_READ).await?);
        let is_explained = found.unreadable.iter().any(|message| !self.known.contains(&message.info.stream_sequence()));
        if matches!(self.lost, LostInbox::Disconnected { .. }) && !is_explained && found.next.is_none() {
            let first = self.continue_at.max(floor + 1);
            let mut earlier = reading.range(first..latest.start.min(end), MAX_READ).await?;
            // What can be read arrived before, or was requested again and is among the others.
            earlier.readable.clear();
            earlier.unreadable.retain(|message| !self.awaited.contains(&message.info.stream_sequence()));
            found.extend(earlier);
        }
        Ok(found)
    }

    fn warn_unread(&self, error: &Error) {
        tracing::warn!(
            stream = self.binding.stream,
            consumer = self.binding.consumer,
            "cannot read what was lost with the connection, so messages are requested one by one; the user needs the permission to publish to `{}.STREAM.MSG.GET.{}`: {}",
            self.connection.api_prefix,
            self.binding.stream,
            chain(error)
        );
    }

    /// Returns the number of deliveries that have not arrived.
    fn missing(&self, info: &consumer::Info) -> u64 {
        let base = self.received.base().unwrap_or_default();
        info.delivered.consumer_sequence.saturating_sub(base.consumer_sequence).saturating_sub(self.received.count())
    }

    /// Reads the consumer, and waits until it no longer counts requests on a lost connection.
    async fn info(&mut self) -> Result<consumer::Info, Error> {
        let (questions, interval) = QUESTIONS;
        let mut info = self.read_info().await?;
        // The server delivers nothing to an inbox that it has closed, and counts what it has delivered before.
        if matches!(self.lost, LostInbox::Closed { .. }) && self.missing(&info) == 0 {
            return Ok(info);
        }
        for _ in 1..questions {
            if info.num_waiting == 0 || self.received.is_shared() {
                break;
            }
            sleep(interval).await;
            info = self.read_info().await?;
        }
        // The info can overtake deliveries, which would be made twice if they were requested again.
        sleep(IN_FLIGHT).await;
        Ok(info)
    }

    /// Reads the consumer, and begins another incarnation if it has restarted its numbering.
    async fn read_info(&mut self) -> Result<consumer::Info, Error> {
        let info: consumer::Info = self.connection.consumer_info(&self.binding).await?;
        let consumer = Consumer::from(&info);
        if self.received.is_restarted(consumer) {
            self.received.restart(consumer);
            self.is_restarted = true;
            tracing::debug!(
                stream = self.binding.stream,
                consumer = self.binding.consumer,
                delivered = info.delivered.consumer_sequence,
                "the consumer has restarted its numbering"
            );
            self.binding.incarnations.replace();
            (self.awaited, self.known, self.continue_at) = Default::default();
        }
        Ok(info)
    }
}
