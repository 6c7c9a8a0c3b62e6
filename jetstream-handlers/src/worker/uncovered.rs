//! Messages whose subject the handler does not declare: a newer version of the program has widened the filter of the
//! consumer.
//!
//! The handler must not be called with them, so they are handed back for an instance of that version.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use super::Worker;
use crate::message::{Info, Message};
use crate::observe::settled::Settlement;
use crate::observe::status_cell::Condition;
use crate::plan::Subjects;
use crate::subject::{covers, has_wildcard};
use crate::sync::lock;
use crate::transport::Deliveries;

/// The delay after which a message that was handed back is delivered again, until it was delivered often.
const DELAY: Duration = Duration::from_secs(5);

/// The number of deliveries up to which the delay stays the same; it doubles with each further one.
///
/// Until then, an instance of the new version has probably received the message, if there is one.
const SHORTLY_DELAYED: u64 = 12;

/// The maximum delay, with which the server's limit of deliveries suffices for a month.
const MAX_DELAY: Duration = Duration::from_secs(300);

/// The time for which messages must not use up their attempts if their hand-backs cannot be recorded.
const ROLLOUT: Duration = Duration::from_secs(3600);

/// The timeout of the record of messages that are handed back while the handler runs.
const RECORD_TIMEOUT: Duration = Duration::from_secs(5);

/// The time for which messages are gathered, because each record of them is a write to the consumer.
const GATHER: Duration = Duration::from_millis(100);

/// The time for which an instance that keeps an order requests nothing, longer than the timeout of its pin.
const TIME_ASIDE: Duration = Duration::from_secs(8);

/// The time for which the health reports messages that were handed back.
const REPORTED: Duration = Duration::from_secs(30);

/// The handler receives messages.
const ACTIVE: u8 = 0;

/// The messages before the one to hand back are handled.
const FINISHING: u8 = 1;

/// Another instance may become active.
const ASIDE: u8 = 2;

/// One subject that a handler declares.
#[derive(Debug)]
enum Filter {
    Literal(String),
    /// The beginning of each subject.
    Prefix(String),
    Pattern(String),
}

impl Filter {
    fn new(filter: &str) -> Self {
        match filter.strip_suffix('>') {
            Some(prefix) if !has_wildcard(prefix) => Self::Prefix(prefix.to_owned()),
            _ if has_wildcard(filter) => Self::Pattern(filter.to_owned()),
            _ => Self::Literal(filter.to_owned()),
        }
    }

    #[inline]
    fn covers(&self, subject: &str) -> bool {
        match self {
            Self::Literal(filter) => filter == subject,
            Self::Prefix(prefix) => subject.starts_with(&**prefix),
            Self::Pattern(pattern) => covers(pattern, subject),
        }
    }
}

/// The messages that the handler does not declare.
#[derive(Debug)]
pub(super) struct Uncovered {
    filters: Box<[Filter]>,
    /// The deliveries to hand back.
    deliveries: Mutex<Vec<Info>>,
    added: Notify,
    is_logged: AtomicBool,
    /// One of the stages in which an instance that keeps an order lets another one become active.
    stage: AtomicU8,
    stepped_aside: Notify,
}

impl Uncovered {
    pub(super) fn new(subjects: &Subjects) -> Self {
        Self {
            filters: subjects.filters().map(|filter| Filter::new(&filter)).collect(),
            deliveries: Mutex::default(),
            added: Notify::new(),
            is_logged: AtomicBool::new(false),
            stage: AtomicU8::new(ACTIVE),
            stepped_aside: Notify::new(),
        }
    }

    /// Returns `true` if the handler may be called with a message of this subject.
    #[inline]
    pub(super) fn is_covered(&self, subject: &str) -> bool {
        self.filters.iter().any(|filter| filter.covers(subject))
    }

    /// Returns `true` while nothing is requested.
    #[inline]
    pub(super) fn is_aside(&self) -> bool {
        self.stage.load(Ordering::Relaxed) != ACTIVE
    }

    /// Returns `true` if nothing is to be handed back, and messages are requested.
    pub(super) fn is_idle(&self) -> bool {
        !self.is_aside() && lock(&self.deliveries).is_empty()
    }

    /// Takes the deliveries that are not handed back yet, in the order of the stream.
    pub(super) fn take(&self) -> Vec<Info> {
        let deliveries = std::mem::take(&mut *lock(&self.deliveries));
        in_order(deliveries)
    }

    /// Returns the deliveries that are not handed back yet, in the order of the stream.
    fn held(&self) -> Vec<Info> {
        let deliveries = lock(&self.deliveries).clone();
        in_order(deliveries)
    }

    /// Removes the deliveries of a message up to one that was handed back.
    fn remove(&self, handed_back: &Info) {
        let is_other = |it: &Info| {
            it.stream_sequence() != handed_back.stream_sequence() || it.delivered() > handed_back.delivered()
        };
        lock(&self.deliveries).retain(is_other);
    }
}

/// Returns one delivery of each message, in the order of the stream.
fn in_order(mut deliveries: Vec<Info>) -> Vec<Info> {
    deliveries.sort_by_key(|delivery| (delivery.stream_sequence(), std::cmp::Reverse(delivery.delivered())));
    deliveries.dedup_by_key(|delivery| delivery.stream_sequence());
    deliveries
}

/// Returns the delay of a message with this number of deliveries whose hand-back is recorded.
fn delay(delivered: u64) -> Duration {
    let doublings = delivered.saturating_sub(SHORTLY_DELAYED).min(10);
    DELAY.saturating_mul(1 << doublings).min(MAX_DELAY)
}

/// Returns the delay of a message whose hand-back counts as an attempt: so long that one attempt is left after a
/// rollout of an hour.
fn unrecorded_delay(delivered: u64, max_deliver: u32) -> Duration {
    delay(delivered).max(ROLLOUT / max_deliver.saturating_sub(1).max(1))
}

impl Worker {
    /// Keeps a message that the handler does not declare, until it is handed back; if an order is kept, those after it as
    /// well.
    #[cold]
    pub(super) fn receive_uncovered(&self, message: Message) {
        let uncovered = &self.uncovered;
        if !uncovered.is_aside() {
            self.report_uncovered(message.subject());
        }
        lock(&uncovered.deliveries).push(message.info);
        if self.binding.keeps_order() {
            uncovered.stage.compare_exchange(ACTIVE, FINISHING, Ordering::Relaxed, Ordering::Relaxed).ok();
        } else {
            uncovered.added.notify_one();
        }
    }

    fn report_uncovered(&self, subject: &str) {
        let declaration = &self.handler.declaration;
        let (stream, consumer) = (&self.binding.stream, &self.binding.consumer);
        let declared = declaration.received();
        let reason = format!(
            "consumer `{consumer}` of stream `{stream}` delivers `{subject}`, which `{declared}` of this version does not cover; such messages are handed back for an instance of the version that has widened it"
        );
        if !self.uncovered.is_logged.swap(true, Ordering::Relaxed) {
            tracing::warn!(handler = declaration.name, "{reason}");
        }
        self.status.report(Condition::Uncovered, reason, Some(REPORTED));
    }

    /// Hands back messages that the handler does not declare, and ends the time in which nothing is requested; never
    /// returns.
    pub(super) async fn hand_back_uncovered(&self) {
        loop {
            tokio::select! {
                () = self.uncovered.added.notified() => {
                    sleep(GATHER).await;
                    // Boxed, because most handlers never need it.
                    Box::pin(self.hand_back_later()).await;
                }
                () = self.uncovered.stepped_aside.notified() => {
                    sleep(TIME_ASIDE).await;
                    // What has arrived meanwhile is delivered again.
                    self.observer.count(Settlement::Lost, self.uncovered.take().len());
                    self.uncovered.stage.store(ACTIVE, Ordering::Relaxed);
                    self.readiness.wake();
                }
            }
        }
    }

    async fn hand_back_later(&self) {
        if !self.transport.is_connected() {
            return self.observer.count(Settlement::Lost, self.uncovered.take().len());
        }
        // They stay held until they are handed back, because a stop may drop this future, and hands back the others.
        let deliveries = self.uncovered.held();
        let sequences: Vec<_> = deliveries.iter().map(Info::stream_sequence).collect();
        let is_recorded = self.record_hand_back(&sequences, RECORD_TIMEOUT).await;
        let max_deliver = self.handler.declaration.plan.max_deliver();
        for delivery in &deliveries {
            let delivered = delivery.delivered();
            let delay = if is_recorded { delay(delivered) } else { unrecorded_delay(delivered, max_deliver) };
            self.request_later(delivery, delay).await;
            self.uncovered.remove(delivery);
            self.observer.count(Settlement::HandedBack, 1);
        }
    }

    /// Returns `true` if an instance that keeps an order has handled everything before the messages to hand back.
    pub(super) fn can_step_aside(&self) -> bool {
        self.uncovered.stage.load(Ordering::Relaxed) == FINISHING && !self.holds_messages()
    }

    /// Lets another instance become active, and hands the messages back to it.
    pub(super) async fn step_aside(&self, deliveries: &mut Deliveries) {
        self.uncovered.stage.store(ASIDE, Ordering::Relaxed);
        if let Some(acks) = &self.ack_all {
            self.ack_all(acks).await;
        }
        deliveries.step_aside(Instant::now() + TIME_ASIDE).await;
        let held = self.uncovered.take();
        self.observer.count(Settlement::HandedBack, held.len());
        self.hand_back(&held).await;
        self.uncovered.stepped_aside.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Plan;

    #[test]
    fn delivery_stays_held_until_it_is_handed_back() {
        let uncovered = Uncovered::new(&"orders.created".into());
        let delivery = |sequence, delivered| {
            Info::for_test("ORDERS", "billing").with_stream_sequence(sequence).with_delivered(delivered)
        };
        let numbers = |deliveries: &[Info]| -> Vec<_> {
            deliveries.iter().map(|it| (it.stream_sequence(), it.delivered())).collect()
        };
        lock(&uncovered.deliveries).extend([delivery(8, 1), delivery(7, 1), delivery(7, 2)]);
        let held = uncovered.held();
        assert_eq!(numbers(&held), [(7, 2), (8, 1)]);
        uncovered.remove(&held[0]);
        assert_eq!(numbers(&uncovered.take()), [(8, 1)], "a stop hands back the others");
    }

    #[test]
    fn deliveries_suffice_for_a_month() {
        assert_eq!(
            [1, SHORTLY_DELAYED, SHORTLY_DELAYED + 1, u64::MAX].map(delay),
            [DELAY, DELAY, DELAY * 2, MAX_DELAY]
        );
        let max_deliver = Plan::new("orders.created", "shop").server_max_deliver() as u64;
        let sum: Duration = (1..max_deliver).map(delay).sum();
        assert!(sum > Duration::from_secs(30 * 24 * 3600), "{sum:?}");
    }

    #[test]
    fn unrecorded_hand_backs_of_a_rollout_leave_an_attempt() {
        for max_deliver in [2, 5, 20, 1000] {
            let before_the_last = (1..u64::from(max_deliver)).map(|it| unrecorded_delay(it, max_deliver));
            let sum: Duration = before_the_last.sum();
            assert!(sum + Duration::from_millis(1) > ROLLOUT, "max_deliver = {max_deliver}: {sum:?}");
        }
        assert_eq!(unrecorded_delay(1, 1), ROLLOUT);
    }

    #[test]
    fn covers_what_the_handler_declares() {
        let uncovered = Uncovered::new(&["orders.created", "bills.>", "items.*.sold"].into());
        for subject in ["orders.created", "bills.a", "bills.a.b", "items.7.sold"] {
            assert!(uncovered.is_covered(subject), "{subject}");
        }
        for subject in ["orders.createdx", "orders.paid", "orders", "bills", "billsx.a", "items.7.8.sold", "items.sold"]
        {
            assert!(!uncovered.is_covered(subject), "{subject}");
        }
        assert!(Uncovered::new(&">".into()).is_covered("orders.created"));
    }
}
