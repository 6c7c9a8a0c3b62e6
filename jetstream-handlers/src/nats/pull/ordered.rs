//! The pulls of an ordered handler, or of one with a key: a sequencer for what arrives, and a pin if there are several
//! instances.
//!
//! Sources: ADR-42, and `consumer.go` of the server (`nextWaiting`, `setPinnedTimer`).

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_nats::jetstream::consumer;
use futures::future::BoxFuture;
use serde_json::json;
use tokio::time::{Instant, sleep, timeout};

use super::action::{Action, Active, LONG_PERIOD};
use super::gate::Gate;
use super::missing::Missing;
use super::reading::{Found, Reading, unread};
use super::resequencer::{Resequencer, is_damaged};
use super::sequencer::Sequencer;
use super::{Connection, Pull};
use crate::delivery::{AckedSequence, Binding, DeliveryEvent, Partition};
use crate::error::{Error, ErrorKind, chain};
use crate::future::optional;
use crate::message::Message;

/// The number of the requests that refresh the pin; their only relevant status is a refusal.
pub(super) const PIN_KEEPALIVE: u64 = u64::MAX;

/// The number of times that a message which the user may not read is requested alone.
const MAX_REQUESTED_ALONE: u32 = 2;

/// The number of messages after which no more are examined at once, unless more may be unacknowledged.
const MAX_READ: usize = 5000;

/// The maximum time during which nothing is requested because missing messages are examined.
pub(super) const MAX_EXAMINATION: Duration = Duration::from_secs(3);

/// The time by which the consumer's info of a partition that another instance claims is requested later.
const WATCHED_PERIOD: Duration = Duration::from_secs(3);

/// The timeout of releasing the pin.
const UNPIN_TIMEOUT: Duration = Duration::from_secs(2);

/// The state of the pulls of an ordered handler, or of one with a key.
pub(super) struct Ordered {
    handler: Arc<str>,
    pub(super) sequencer: Sequencer,
    /// The request for the consumer's info in progress.
    info: Option<BoxFuture<'static, Result<Box<consumer::Info>, Error>>>,
    /// The examination of missing messages in progress.
    examining: Option<BoxFuture<'static, Result<Found, Error>>>,
    /// The missing messages that are examined.
    missing: Option<Missing>,
    /// The time at which the connection ended at what may be a message that the client library cannot read, until the
    /// missing messages are examined.
    may_be_unreadable: bool,
    /// The time up to which nothing is requested until then.
    held_until: Instant,
    /// The number of times that a message was requested alone, because the user may not read it.
    requested_alone: BTreeMap<u64, u32>,
    /// The position up to which the worker has acknowledged the stream.
    pub(super) acked: AckedSequence,
    /// The priority group of the instances, of which the server pins one; `None` if there is a single instance.
    group: Option<String>,
    /// The number of the connection on which the consumer's info was last requested.
    requested_on: Option<u64>,
    /// The number of the connection on which the server has identified the consumer.
    verified_on: Option<u64>,
    /// The pin of this instance, while it is the active one.
    pin: Option<String>,
    /// The pin that this instance had before: what the server has delivered with it belongs to another instance by now.
    former_pin: Option<String>,
    /// `true` if it was logged that another instance is active.
    is_standby: bool,
    /// The time at which this instance last sent a request, which refreshes its pin.
    pin_refreshed: Instant,
    /// The time up to which nothing is requested, so that another instance becomes active.
    aside_until: Option<Instant>,
    /// `true` while nothing is requested although this instance is active, because its partition is handed over.
    is_held: bool,
    /// The partition that the handler reads, if it has several.
    partition: Option<Arc<Partition>>,
    /// The interval at which the pin is refreshed: a third of the consumer's `priority_timeout`.
    pin_period: Duration,
}

/// The meaning of the pin of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pinned {
    /// The pin is that of the previous delivery, or the delivery has no pin.
    AsBefore,
    /// This instance is active from now on.
    Anew,
    /// It is one that this instance has lost.
    Former,
}

/// An answer of the server about an ordered handler's consumer or its messages.
pub(super) enum Answer {
    /// The consumer's info, for [`Pull::on_consumer_info`].
    Info(Result<Box<consumer::Info>, Error>),
    /// The missing messages as they were read, for [`Pull::on_examined`].
    Examined(Result<Found, Error>),
}

/// Waits for the next answer; never returns for a handler that is not ordered.
///
/// # Cancel safety
///
/// The requests are only borrowed, so they continue at the next call.
pub(super) async fn answer(order: &mut Option<Box<Ordered>>) -> Answer {
    let (info, examining) = match order {
        Some(order) => (order.info.as_mut(), order.examining.as_mut()),
        None => (None, None),
    };
    tokio::select! {
        info = optional(info) => Answer::Info(info),
        found = optional(examining) => Answer::Examined(found),
    }
}

impl Ordered {
    pub(super) fn new(handler: Arc<str>, binding: &Binding) -> Box<Self> {
        let sequencer = match &binding.unfinished {
            Some(unfinished) => Sequencer::Keyed(Gate::new(unfinished.clone(), binding.max_ack_pending)),
            None => Sequencer::Ordered(Resequencer::new(binding.max_ack_pending)),
        };
        Box::new(Self {
            handler,
            sequencer,
            info: None,
            examining: None,
            missing: None,
            may_be_unreadable: false,
            held_until: Instant::now(),
            requested_alone: BTreeMap::new(),
            acked: AckedSequence::default(),
            group: binding.group().map(str::to_owned),
            requested_on: None,
            verified_on: None,
            pin: None,
            former_pin: None,
            is_standby: false,
            pin_refreshed: Instant::now(),
            aside_until: None,
            is_held: false,
            partition: binding.partition.clone(),
            pin_period: binding.config.priority_timeout / 3,
        })
    }

    /// Records the pin of a delivery.
    pub(super) fn pinned(&mut self, message: &Message) -> Pinned {
        let Some(pin) = message.pin_id().filter(|pin| self.pin.as_deref() != Some(*pin)) else {
            return Pinned::AsBefore;
        };
        if self.former_pin.as_deref() == Some(pin) {
            return Pinned::Former;
        }
        self.pin = Some(pin.to_owned());
        self.pin_refreshed();
        self.is_standby = false;
        self.sequencer.request_now();
        match &self.partition {
            // The share of the instance is logged as a whole.
            Some(partition) => {
                tracing::debug!(handler = &*self.handler, partition = partition.number, "this instance is active");
            }
            None => tracing::info!(handler = &*self.handler, "this instance is active"),
        }
        Pinned::Anew
    }

    /// Records that the connection may have ended at a message that the client library cannot read; holds requests until
    /// the missing messages are examined, at most for `hold`.
    pub(super) fn may_be_unreadable(&mut self, hold: Duration) {
        self.may_be_unreadable = true;
        self.held_until = Instant::now() + hold;
    }

    /// Returns `true` while nothing is requested, because the next messages may end the connection as well before the
    /// missing ones are examined.
    pub(super) fn awaits_examination(&self) -> bool {
        self.may_be_unreadable && Instant::now() < self.held_until
    }

    /// Returns `true` while nothing is requested, so that another instance is or becomes active.
    pub(super) fn is_aside(&self) -> bool {
        self.is_held || self.is_left_to_others() || self.aside_until.is_some_and(|until| Instant::now() < until)
    }

    /// Returns `true` if the messages of the partition are requested by other instances.
    fn is_left_to_others(&self) -> bool {
        self.partition.as_ref().is_some_and(|partition| !partition.is_wanted())
    }

    /// Returns `true` if a message was requested alone so often that it must be the one at which the connection ends.
    fn ends_connection(&mut self, sequence: u64) -> bool {
        let requested = self.requested_alone.entry(sequence).or_default();
        *requested += 1;
        *requested > MAX_REQUESTED_ALONE
    }

    /// Returns the instance that receives the messages.
    fn active(&self, info: &consumer::Info) -> Active {
        if self.group.is_none() {
            return Active::This;
        }
        let pin = info.priority_groups.iter().find_map(|group| group.pinned_client_id.as_ref());
        match pin {
            None => Active::NoInstance,
            Some(_) if pin == self.pin.as_ref() => Active::This,
            Some(_) => Active::Other,
        }
    }

    /// Forgets the pin and all deliveries: another instance is active, or none is.
    pub(super) fn unpinned(&mut self) {
        if let Some(pin) = self.pin.take() {
            self.former_pin = Some(pin);
        }
        self.info = None;
        self.examining = None;
        self.sequencer.reset();
    }

    /// Logs once that another instance is active.
    fn stand_by(&mut self) {
        if self.partition.is_none() && !std::mem::replace(&mut self.is_standby, true) {
            tracing::info!(handler = &*self.handler, "another instance is active; this one is on standby");
        }
    }

    /// Records that a request was sent, which refreshes the pin.
    pub(super) fn pin_refreshed(&mut self) {
        self.pin_refreshed = Instant::now();
    }

    /// Returns the time at which [`Pull::tick`] is due.
    pub(super) fn wake(&self) -> Option<Instant> {
        let request = self.request_at();
        let refresh = self.refresh_at();
        let held = self.awaits_examination().then_some(self.held_until);
        let aside = self.aside_until.filter(|until| Instant::now() < *until);
        request.into_iter().chain(refresh).chain(held).chain(aside).min()
    }

    /// Returns the time at which the pin must be refreshed; `None` without a pin.
    fn refresh_at(&self) -> Option<Instant> {
        self.pin.as_ref().map(|_| self.pin_refreshed + self.pin_period)
    }

    /// Returns the time at which to request the consumer's info, while a message may be missing, or while it is unknown
    /// whether any instance is active; otherwise `None`.
    fn request_at(&self) -> Option<Instant> {
        let needed = !self.sequencer.is_open() || self.group.is_some() && self.pin.is_none();
        let request_at = (needed && self.info.is_none() && !self.is_held).then(|| self.sequencer.request_at())?;
        let later = match &self.partition {
            Some(partition) if partition.is_wanted() => Duration::ZERO,
            // Another instance watches its partitions closely.
            Some(partition) if partition.is_claimed() => WATCHED_PERIOD,
            Some(_) => LONG_PERIOD,
            None => Duration::ZERO,
        };
        Some(request_at + later)
    }
}

impl Pull {
    /// Sets the position up to which the worker of an ordered handler has acknowledged the stream, and which it
    /// updates.
    pub(crate) fn follow_acks(&mut self, acked: AckedSequence) {
        if let Some(order) = &mut self.order {
            order.acked = acked;
        }
    }

    /// Keeps this instance active while a message is still being handled; never returns.
    pub(crate) async fn stay_active(&mut self) {
        loop {
            let period = self.order.as_ref().filter(|order| order.pin.is_some()).map(|order| order.pin_period);
            match period {
                Some(period) => sleep(period).await,
                None => std::future::pending().await,
            }
            self.refresh_pin().await;
        }
    }

    /// Checks whether the consumer is still the same; returns the number of the connection if it is.
    pub(crate) async fn verify(&mut self) -> Option<u64> {
        let epoch = self.connection.epoch_now()?;
        let order = self.order.as_mut()?;
        order.sequencer.on_request();
        let info = self.connection.consumer_info(&self.binding).await.ok()?;
        (order.sequencer.is_same_consumer(&info) && self.connection.epoch_now() == Some(epoch)).then_some(epoch)
    }

    /// Returns `true` if the server delivers the messages to this instance alone.
    pub(crate) fn is_active(&self) -> bool {
        self.order.as_ref().is_some_and(|order| order.pin.is_some())
    }

    /// Sets whether nothing is requested although this instance stays the active one.
    pub(crate) fn hold(&mut self, held: bool) {
        if let Some(order) = &mut self.order {
            order.is_held = held;
        }
    }

    /// Forgets what has arrived, after [`step_down`](Self::step_down): another instance is active.
    pub(crate) fn forget(&mut self) {
        self.requests.forget();
        self.released.clear();
        if let Some(order) = &mut self.order {
            order.unpinned();
        }
    }

    /// Lets another instance become active, and requests nothing until this time.
    pub(crate) async fn step_aside(&mut self, until: Instant) {
        self.step_down().await;
        self.forget();
        if let Some(order) = &mut self.order {
            order.aside_until = Some(until);
        }
        self.events.push_back(DeliveryEvent::Resync);
    }

    /// Lets another instance become active.
    pub(crate) async fn step_down(&mut self) {
        let Some(Ordered { group: Some(group), pin: Some(_), .. }) = self.order.as_deref() else { return };
        let Binding { stream, consumer, .. } = &*self.binding;
        let subject = format!("CONSUMER.UNPIN.{stream}.{consumer}");
        let request = json!({ "group": group });
        let unpinned = self.connection.request::<serde_json::Value>(&subject, &request);
        if !matches!(timeout(UNPIN_TIMEOUT, unpinned).await, Ok(Ok(_))) {
            tracing::debug!(handler = &*self.handler, "the next instance becomes active when the pin times out");
        }
    }

    /// Appends the priority group and the pin to a request.
    pub(super) fn add_pin(&self, request: &mut String) {
        if let Some(Ordered { group: Some(group), pin, .. }) = self.order.as_deref() {
            request.push_str(&format!(r#","group":"{group}""#));
            if let Some(pin) = pin {
                request.push_str(&format!(r#","id":"{pin}""#));
            }
        }
    }

    /// Restarts the server's timeout of the pin with a request into which no message fits.
    async fn refresh_pin(&mut self) {
        let mut request = format!(r#"{{"batch":1,"max_bytes":1,"expires":{}"#, Duration::from_secs(1).as_nanos());
        self.add_pin(&mut request);
        request.push('}');
        if let Some(order) = &mut self.order {
            // Also without an inbox, as during a recovery on a new connection: it must not be due again at once.
            order.pin_refreshed();
        }
        let Some(lease) = &self.lease else { return };
        let reply = lease.reply(&self.route, PIN_KEEPALIVE);
        if self.connection.is_connected() {
            let client = self.connection.client();
            client.publish_with_reply(self.next_subject.clone(), reply, request.into()).await.ok();
        }
    }

    /// Requests the consumer's info and refreshes the pin, if that is due.
    pub(super) async fn tick(&mut self, now: Instant) {
        let Some(order) = &mut self.order else { return };
        if order.request_at().is_some_and(|request_at| request_at <= now) {
            let (connection, binding) = (self.connection.clone(), self.binding.clone());
            order.requested_on = connection.epoch_now();
            order.sequencer.on_request();
            order.info = Some(Box::pin(async move { connection.consumer_info(&binding).await.map(Box::new) }));
        }
        if order.refresh_at().is_some_and(|refresh_at| refresh_at <= now) {
            Box::pin(self.refresh_pin()).await;
        }
    }

    /// Forgets all deliveries of an ordered handler, whose consumer was replaced.
    pub(super) fn consumer_replaced(&mut self) {
        if let Some(order) = &mut self.order {
            order.sequencer.reset();
            (order.examining, order.missing) = (None, None);
            self.released.clear();
            self.events.extend([DeliveryEvent::ConsumerReplaced, DeliveryEvent::Resync]);
        }
    }

    /// Handles the consumer's info, or the failure to read it.
    pub(super) async fn on_consumer_info(&mut self, result: Result<Box<consumer::Info>, Error>) {
        let Some(order) = &mut self.order else { return };
        order.info = None;
        let info = match result {
            Ok(info) => info,
            Err(error) => {
                order.sequencer.on_info_failed();
                order.may_be_unreadable = false;
                return self.back_off(&format!("cannot read what is unacknowledged: {}", chain(&error)));
            }
        };
        let Some(epoch) = order.requested_on.filter(|epoch| self.connection.epoch_now() == Some(*epoch)) else {
            // The info was requested on a former connection, and may be older than the loss of that connection.
            return order.sequencer.close();
        };
        let same = order.sequencer.is_same_consumer(&info);
        let incarnations = &self.binding.incarnations;
        incarnations.identify(incarnations.current(), Some(SystemTime::from(info.created)));
        let verified = order.verified_on.replace(epoch) == Some(epoch);
        if !same {
            self.consumer_replaced();
        }
        if !verified {
            self.events.push_back(DeliveryEvent::ConsumerVerified(epoch));
        }
        if same {
            self.resequence(&info).await;
        }
        if self.order.as_ref().is_some_and(|order| order.is_left_to_others()) {
            // No request has an answer that would show it.
            self.mark_healthy();
        }
    }

    /// Releases messages if everything unacknowledged has arrived; otherwise naks the missing ones.
    async fn resequence(&mut self, info: &consumer::Info) {
        self.floor.rise(info.ack_floor.stream_sequence);
        // An instance on standby receives no deliveries, at which the floor is read otherwise.
        self.floor.read_if_due(self.last_heard);
        let Some(order) = &mut self.order else { return };
        let active = order.active(info);
        if let Some(partition) = &order.partition {
            let waits_for = match (info.num_pending, info.num_ack_pending) {
                _ if info.paused || active != Active::NoInstance => None,
                (1.., _) => Some(Duration::ZERO),
                // They are delivered again after their `ack_wait`.
                (0, 1..) => Some(self.binding.ack_wait.get()),
                (0, 0) => None,
            };
            partition.seen(waits_for);
        }
        if active == Active::Other {
            order.stand_by();
            // A pin arrives with a delivery. Without one, the pin may be that of this instance, whose first delivery
            // ended the connection; then it times out, and the missing messages are examined.
            if order.pin.is_some() {
                order.may_be_unreadable = false;
            }
        }
        let action = order.sequencer.on_info(info, active, order.acked.get());
        match action {
            Action::Release(deliveries) => {
                order.may_be_unreadable = false;
                if is_damaged(info) {
                    tracing::error!(
                        handler = &*self.handler,
                        "the ack floor of consumer `{}` is at consumer sequence {}, above its last delivery {}: it was reset while a handler was running, and its server no longer stores deliveries; delete the consumer while the handler runs, which then recreates it after the last acknowledged message",
                        info.name,
                        info.ack_floor.consumer_sequence,
                        info.delivered.consumer_sequence,
                    );
                }
                self.released.extend(deliveries);
            }
            Action::Open => {
                order.may_be_unreadable = false;
                self.events.push_back(DeliveryEvent::Complete);
            }
            Action::Nak(_) if order.examining.is_some() => {}
            Action::Nak(missing) if order.may_be_unreadable || missing.is_long() => {
                let (connection, binding) = (self.connection.clone(), self.binding.clone());
                let (range, consumer_sequence) = (missing.range(), missing.consumer_sequence);
                order.missing = Some(missing);
                order.examining = Some(Box::pin(examine(connection, binding, range, consumer_sequence)));
            }
            Action::Nak(missing) => {
                self.connection.nak_lost(missing.sequences().map(|sequence| missing.ack_subject(sequence))).await;
            }
            Action::AckAgain => {
                if let Some(epoch) = order.verified_on {
                    self.events.push_back(DeliveryEvent::ConsumerVerified(epoch));
                }
            }
            Action::Wait => {}
        }
    }

    /// Takes unreadable messages for delivered, and naks the other missing ones.
    ///
    /// If the user may not read messages from the stream, they are requested one by one.
    pub(super) async fn on_examined(&mut self, result: Result<Found, Error>) {
        let Some(order) = &mut self.order else { return };
        order.examining = None;
        order.may_be_unreadable = false;
        let Some(missing) = order.missing.take() else { return };
        let (mut unreadable, mut lost) = match result {
            Ok(found) if missing.is_long() => (found.unreadable, found.readable),
            Ok(found) => (found.unreadable, missing.sequences().collect()),
            Err(error) => {
                tracing::warn!(
                    handler = &*self.handler,
                    "cannot read the missing messages; the user needs the permission to publish to `{}.STREAM.MSG.GET.{}`: {}",
                    self.connection.api_prefix,
                    self.binding.stream,
                    chain(&error)
                );
                // A message that can be read another time must not count as unreadable, however often the connection
                // ends, which can have other reasons.
                if error.kind() != ErrorKind::Authorization || missing.is_long() {
                    return;
                }
                let first = missing.sequences().next();
                match first.filter(|sequence| order.ends_connection(*sequence)) {
                    Some(sequence) => (vec![unread(&self.binding, sequence, order.sequencer.received())], Vec::new()),
                    None => (Vec::new(), first.into_iter().collect()),
                }
            }
        };
        unreadable.retain(|message| missing.contains(message.info.stream_sequence()));
        let is_unreadable = |sequence| unreadable.iter().any(|message| message.info.stream_sequence() == sequence);
        lost.retain(|sequence| missing.contains(*sequence) && !is_unreadable(*sequence));
        self.report_unreadable(&unreadable);
        let Some(order) = &mut self.order else { return };
        self.released.extend(unreadable.into_iter().filter_map(|message| order.sequencer.pass(message)));
        self.connection.nak_lost(lost.into_iter().map(|sequence| missing.ack_subject(sequence))).await;
    }
}

/// Reads the messages of the consumer in this range.
async fn examine(
    connection: Arc<Connection>,
    binding: Arc<Binding>,
    range: Range<u64>,
    consumer_sequence: u64,
) -> Result<Found, Error> {
    // The consumer can have no more of them than may be unacknowledged, and than this instance has acked meanwhile.
    let count = MAX_READ.max(binding.max_ack_pending.saturating_mul(2));
    Reading { connection: &connection, binding: &binding, consumer_sequence }.range(range, count).await
}
