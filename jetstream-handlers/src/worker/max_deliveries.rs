//! Messages that reached `max_deliver` on the server, until they are dead-lettered.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::Worker;
use crate::backoff::ExponentialBackoff;
use crate::delivery::{Binding, ConsumerState, GivenUpReports, GivenUpState};
use crate::error::Error;
use crate::message::{Decompressed, Info, Message};
use crate::outcome::{Failure, Reason};
use crate::sync::lock;

/// The minimum time between two readings of the consumer's state, whatever number of reports arrives.
const READ_PERIOD: Duration = Duration::from_millis(100);

/// The minimum time between two searches for messages whose reports were dropped.
const SEARCH_PERIOD: Duration = Duration::from_secs(1);

/// The minimum time between two log lines about wrong reports, and about dropped ones.
const LOG_PERIOD: Duration = Duration::from_secs(60);

/// The reports that messages reached `max_deliver` on the server, until they are compared with the consumer's state.
#[derive(Debug, Default)]
pub(super) struct ExhaustedMessages {
    reports: Mutex<GivenUpReports>,
    added: Notify,
    is_used: AtomicBool,
}

impl ExhaustedMessages {
    /// Returns `true` if there was a report, after which it is not forgotten what was dead-lettered.
    pub(super) fn is_used(&self) -> bool {
        self.is_used.load(Ordering::Relaxed)
    }

    pub(super) fn add(&self, reports: GivenUpReports) {
        self.is_used.store(true, Ordering::Relaxed);
        lock(&self.reports).append(reports);
        self.added.notify_one();
    }

    fn is_empty(&self) -> bool {
        lock(&self.reports).is_empty()
    }

    fn take(&self) -> GivenUpReports {
        std::mem::take(&mut *lock(&self.reports))
    }
}

/// The messages that may have been given up, by sequence, each with its number of deliveries.
#[derive(Debug)]
struct Candidates {
    /// The consumer has given them up.
    given_up: BTreeMap<u64, u64>,
    /// The sequence from which they are dead-lettered, in turn: the first ones may be reported again and again.
    next: u64,
    /// The messages that were dead-lettered, whose reports may be repeated.
    ended: BTreeSet<u64>,
    /// They may be in flight, so they are compared with each state of the consumer that is read.
    in_flight: BTreeMap<u64, u64>,
    /// Their dead letters could not be stored.
    failed: VecDeque<(u64, u64)>,
    /// The consumer's state that was read last; `None` in memory.
    consumer: Option<ConsumerState>,
    /// The time from which it may be read again.
    read_at: Instant,
    /// The time at which it is read for those in flight, and for the first one that failed.
    again_at: Option<Instant>,
    backoff: ExponentialBackoff,
    /// `true` if reports were dropped, and the messages that they were about were not searched for.
    are_lost: bool,
    /// The time of the last search.
    searched_at: Option<Instant>,
    wrong: LimitedLog,
    dropped: LimitedLog,
}

impl Candidates {
    fn new() -> Self {
        Self {
            given_up: BTreeMap::new(),
            next: 0,
            ended: BTreeSet::new(),
            in_flight: BTreeMap::new(),
            failed: VecDeque::new(),
            consumer: None,
            read_at: Instant::now(),
            again_at: None,
            backoff: ExponentialBackoff::new(Duration::from_secs(1), Duration::from_secs(60)),
            are_lost: false,
            searched_at: None,
            wrong: LimitedLog::default(),
            dropped: LimitedLog::default(),
        }
    }

    /// Returns the time of the next reading of the consumer's state, if one is due at all.
    fn next_reading(&mut self, has_reports: bool) -> Option<Instant> {
        if self.again_at.is_none() && !(self.in_flight.is_empty() && self.failed.is_empty()) {
            self.again_at = Some(Instant::now() + self.backoff.next());
        }
        let for_reports = (has_reports || self.are_lost).then_some(self.read_at);
        let again = self.again_at.map(|again| again.max(self.read_at));
        for_reports.into_iter().chain(again).min()
    }

    /// Sorts the reports by the state of the consumer; `None` if nobody but the consumer can have reported them.
    fn sort(&mut self, handler: &str, reports: BTreeSet<(u64, u64)>, consumer: Option<ConsumerState>) {
        if let Some(consumer) = &consumer {
            self.compare_consumers(consumer);
        }
        let mut compared = std::mem::take(&mut self.in_flight);
        if self.again_at.is_some_and(|again| again <= Instant::now()) {
            self.again_at = None;
            compared.extend(self.failed.pop_front());
        }
        let failed: BTreeSet<_> = self.failed.iter().map(|(sequence, _)| *sequence).collect();
        for (sequence, delivered) in compared.into_iter().chain(reports) {
            let state = consumer.as_ref().map_or(GivenUpState::GivenUp, |state| state.of_message(sequence, delivered));
            let is_known = failed.contains(&sequence)
                || self.ended.contains(&sequence)
                || self.given_up.contains_key(&sequence)
                || self.in_flight.contains_key(&sequence);
            match state {
                GivenUpState::NotGivenUp(why) => self.log_wrong(handler, sequence, &why),
                _ if is_known => {}
                _ if failed.len() + self.given_up.len() + self.in_flight.len() >= GivenUpReports::MAX => {
                    self.log_dropped(handler, 1);
                }
                GivenUpState::GivenUp => drop(self.given_up.insert(sequence, delivered)),
                GivenUpState::InFlight => drop(self.in_flight.insert(sequence, delivered)),
            }
        }
        self.consumer = consumer;
    }

    /// Removes and returns the next message that the consumer has given up, with its number of deliveries.
    fn next_given_up(&mut self) -> Option<(u64, u64)> {
        let next = self.given_up.range(self.next..).next().or_else(|| self.given_up.first_key_value());
        let (sequence, delivered) = next.map(|(sequence, delivered)| (*sequence, *delivered))?;
        self.given_up.remove(&sequence);
        self.next = sequence.saturating_add(1);
        Some((sequence, delivered))
    }

    /// The stream has no message from this sequence up to another one.
    fn gone(&mut self, from: u64, next: u64) {
        self.given_up.retain(|sequence, _| *sequence < from || *sequence >= next);
    }

    /// Removes what is not true for a consumer that was replaced, or begins again.
    fn compare_consumers(&mut self, present: &ConsumerState) {
        let Some(former) = &self.consumer else { return };
        let is_other = former.created != present.created;
        if is_other || present.delivered < former.delivered {
            self.ended.clear();
        }
        if is_other {
            self.given_up.clear();
            self.in_flight.clear();
            self.failed.clear();
        }
    }

    /// A message has ended, so what was in the way of those that failed may be gone.
    fn ended(&mut self, sequence: u64) {
        // In memory, nobody repeats a report.
        if self.consumer.is_some() {
            self.ended.insert(sequence);
        }
        if self.ended.len() > GivenUpReports::MAX {
            self.ended.pop_first();
        }
        self.backoff.reset();
        if !self.failed.is_empty() {
            self.again_at = Some(Instant::now());
        }
    }

    fn log_wrong(&mut self, handler: &str, sequence: u64, why: &str) {
        if let Some(unlogged) = self.wrong.count(1) {
            tracing::warn!(
                handler,
                sequence,
                unlogged,
                "ignored an advisory that the message reached max_deliver, which it did not: {why}; restrict who may publish to `$JS.EVENT.>`"
            );
        }
    }

    fn log_dropped(&mut self, handler: &str, count: u64) {
        if let Some(unlogged) = self.dropped.count(count) {
            tracing::error!(
                handler,
                dropped = unlogged + count,
                "too many advisories that messages reached max_deliver; such a message may stay in its stream without a dead letter; restrict who may publish to `$JS.EVENT.>`"
            );
        }
    }
}

/// A log of what everyone may cause, at any rate.
#[derive(Debug, Default)]
struct LimitedLog {
    unlogged: u64,
    last: Option<Instant>,
}

impl LimitedLog {
    /// Returns the number of events that were not logged before, if this one must be logged.
    fn count(&mut self, events: u64) -> Option<u64> {
        if self.last.is_some_and(|last| last.elapsed() < LOG_PERIOD) {
            self.unlogged += events;
            return None;
        }
        self.last = Some(Instant::now());
        Some(std::mem::take(&mut self.unlogged))
    }
}

impl Worker {
    /// Stores a dead letter of each message that reached `max_deliver` on the server; never returns.
    pub(super) async fn dead_letter_exhausted(&self) {
        // Boxed, as everything here, because it is rare and large.
        self.exhausted.added.notified().await;
        Box::pin(self.dead_letter_reported()).await;
    }

    async fn dead_letter_reported(&self) {
        let handler = &self.handler.declaration.name;
        let mut candidates = Candidates::new();
        loop {
            let next = candidates.next_reading(!self.exhausted.is_empty());
            if next.is_some_and(|next| next <= Instant::now()) {
                self.compare_reports(&mut candidates).await;
            } else if let Some((sequence, delivered)) = candidates.next_given_up() {
                match self.dead_letter_stored(sequence, delivered, &mut candidates).await {
                    Ok(()) => candidates.ended(sequence),
                    Err(error) => {
                        tracing::error!(handler, sequence, "the message could not be dead-lettered yet: {error:?}");
                        candidates.failed.push_back((sequence, delivered));
                    }
                }
            } else {
                tokio::select! {
                    () = self.exhausted.added.notified() => {}
                    () = async { sleep_until(next.unwrap_or_else(Instant::now)).await }, if next.is_some() => {}
                }
            }
        }
    }

    /// Compares the reports, and the messages that may be in flight, with the state of the consumer.
    async fn compare_reports(&self, candidates: &mut Candidates) {
        let handler = &self.handler.declaration.name;
        // Before the state is read, which must not be older than a report.
        let reports = self.exhausted.take();
        match self.transport.consumer_state(&self.binding).await {
            Ok(consumer) => {
                let (reports, dropped) = reports.into_parts();
                if dropped > 0 {
                    candidates.log_dropped(handler, dropped);
                    candidates.are_lost = true;
                }
                candidates.sort(handler, reports, consumer);
                if candidates.are_lost && candidates.searched_at.is_none_or(|last| last.elapsed() >= SEARCH_PERIOD) {
                    self.search_given_up(candidates).await;
                }
                candidates.read_at = Instant::now() + READ_PERIOD;
            }
            Err(error) => {
                tracing::error!(handler, "messages that reached max_deliver cannot be dead-lettered yet: {error:?}");
                candidates.read_at = Instant::now() + candidates.backoff.next();
                self.exhausted.add(reports);
            }
        }
    }

    /// Finds the messages of a work queue whose reports were dropped: what was delivered, is not in flight and still
    /// exists was given up.
    ///
    /// Any other stream keeps the messages that were acknowledged, so they cannot be told apart.
    async fn search_given_up(&self, candidates: &mut Candidates) {
        let Some(consumer) = candidates.consumer.clone().filter(|_| self.binding.work_queue) else {
            candidates.are_lost = false;
            return;
        };
        candidates.searched_at = Some(Instant::now());
        let everything = [">".to_owned()];
        let filters = if consumer.filters.is_empty() { &everything[..] } else { &consumer.filters };
        let mut found = BTreeSet::new();
        for filter in filters {
            let mut next = 1;
            while next <= consumer.delivered && found.len() < GivenUpReports::MAX {
                match self.transport.next_stored_on(&self.binding.stream, next, filter).await {
                    Ok(Some(stored)) => {
                        next = stored.sequence + 1;
                        found.insert((stored.sequence, consumer.max_deliver));
                    }
                    Ok(None) => break,
                    // The next reading searches again.
                    Err(_) => return,
                }
            }
        }
        candidates.are_lost = found.len() >= GivenUpReports::MAX;
        // Compared with the next state: a message that was just acknowledged may not be removed yet.
        candidates.in_flight.extend(found.into_iter().filter(|(sequence, _)| *sequence <= consumer.delivered));
    }

    /// Stores a dead letter of a message that its consumer has given up, and that is read from its stream.
    ///
    /// It is read after the state of the consumer: a message that was acknowledged before that, and is removed from a
    /// work queue, is gone.
    async fn dead_letter_stored(
        &self,
        sequence: u64,
        delivered: u64,
        candidates: &mut Candidates,
    ) -> Result<(), Error> {
        let Binding { stream, consumer, dead_letter, work_queue, .. } = &*self.binding;
        let handler = &self.handler.declaration.name;
        // The next one tells which others are gone as well.
        let stored = self.transport.next_stored(stream, sequence).await?;
        let next = stored.as_ref().map_or(u64::MAX, |stored| stored.sequence);
        candidates.gone(sequence, next);
        let Some(stored) = stored.filter(|stored| stored.sequence == sequence) else { return Ok(()) };
        if candidates.consumer.as_ref().is_some_and(|state| !state.receives(&stored.subject)) {
            candidates.log_wrong(handler, sequence, &ConsumerState::not_received(&stored.subject));
            return Ok(());
        }
        let error = format!("it reached max_deliver on the server, after {delivered} deliveries without an answer");
        tracing::error!(handler, sequence, "{error}");
        let Some(subject) = dead_letter else { return Ok(()) };
        let mut message = Message {
            info: Info::from_stored(stream, consumer, delivered, &stored),
            subject: stored.subject,
            payload: stored.payload,
            headers: Some(Arc::new(stored.headers)),
            unreadable: None,
            origin: None,
            decompressed: Decompressed::default(),
        };
        if self.binding.is_derived {
            message.restore_origin();
        }
        self.store_dead_letter(subject, &message, &Failure { reason: Reason::Killed, error }).await?;
        if *work_queue {
            self.transport.delete(stream, sequence).await?;
        }
        Ok(())
    }
}
