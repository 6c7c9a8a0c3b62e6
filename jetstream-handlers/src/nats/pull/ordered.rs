//! What the pulls of an ordered handler need besides: a gate for what arrives, and a pin where there are replicas.
//!
//! Sources: ADR-42, and `consumer.go` of the server (`nextWaiting`, `setPinnedTimer`).

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use async_nats::jetstream::consumer;
use bytes::Bytes;
use futures::future::BoxFuture;
use serde_json::json;
use tokio::time::{Instant, sleep, timeout};

use super::resequencer::{Active, Resequencer, Verdict, is_damaged};
use super::{LOOK, Pull};
use crate::delivery::{Binding, DeliveryEvent};
use crate::error::{Error, chain};
use crate::handler::Handler;
use crate::message::Message;

/// The number of the requests that keep the pin, of which only the refusal matters.
pub(super) const KEEP: u64 = u64::MAX;

/// The header in which the server says that this is the active one of the replicas (ADR-42).
const PIN_ID: &str = "Nats-Pin-Id";

/// The state of an ordered handler's pulls.
pub(super) struct Ordered {
    handler: Arc<Handler>,
    pub(super) gate: Resequencer,
    pub(super) asking: Option<BoxFuture<'static, Result<Box<consumer::Info>, Error>>>,
    /// The group of replicas of which the server lets one be active; `None` where there is one process only.
    group: Option<String>,
    /// The connection on which the server was asked last.
    asked_on: Option<u64>,
    /// The one on which it has said which consumer it is.
    verified_on: Option<u64>,
    /// How the server knows the active one, while this is it.
    pin: Option<String>,
    /// It was said that another replica is the active one.
    stands_by: bool,
    /// When the server heard of the pin last.
    pin_kept: Instant,
    /// How often it has to hear of it.
    pin_period: Duration,
}

impl Ordered {
    pub(super) fn new(handler: Arc<Handler>, source: &Binding) -> Box<Self> {
        Box::new(Self {
            handler,
            gate: Resequencer::new(source.max_ack_pending),
            asking: None,
            group: source.group().map(str::to_owned),
            asked_on: None,
            verified_on: None,
            pin: None,
            stands_by: false,
            pin_kept: Instant::now(),
            pin_period: source.config.priority_timeout / 3,
        })
    }

    /// Gives a delivery back if it is the next one in order.
    pub(super) fn pass(&mut self, message: Message) -> Option<Message> {
        if let Some(pin) = message.header(PIN_ID)
            && self.pin.as_deref() != Some(pin)
        {
            self.pin = Some(pin.to_owned());
            self.kept();
            self.stands_by = false;
            tracing::info!(handler = self.handler.declaration.name, "this process is the active one");
        }
        self.gate.pass(message)
    }

    /// Who gets the messages, as the server says it.
    fn active(&self, info: &consumer::Info) -> Active {
        if self.group.is_none() {
            return Active::This;
        }
        let pin = info.priority_groups.iter().find_map(|group| group.pinned_client_id.as_ref());
        match pin {
            None => Active::Nobody,
            Some(_) if pin == self.pin.as_ref() => Active::This,
            Some(_) => Active::Other,
        }
    }

    /// Another replica is the active one, or nobody.
    pub(super) fn unpinned(&mut self) {
        self.pin = None;
        self.asking = None;
        self.gate.reset();
    }

    /// Says once that another replica is the active one.
    fn stand_by(&mut self) {
        if !std::mem::replace(&mut self.stands_by, true) {
            tracing::info!(
                handler = self.handler.declaration.name,
                "another process is the active one; this one stands by"
            );
        }
    }

    /// The server has heard of the pin.
    pub(super) fn kept(&mut self) {
        self.pin_kept = Instant::now();
    }

    /// When something is to be done.
    pub(super) fn wake(&self) -> Option<Instant> {
        let ask = self.ask_at();
        let keep = self.keep_at();
        ask.into_iter().chain(keep).min()
    }

    /// When the server should hear of the pin again.
    fn keep_at(&self) -> Option<Instant> {
        self.pin.as_ref().map(|_| self.pin_kept + self.pin_period)
    }

    /// When the server should be asked what is unanswered: while something may be missing,
    /// and while it is not known whether any replica is active.
    fn ask_at(&self) -> Option<Instant> {
        let needed = !self.gate.is_open() || self.group.is_some() && self.pin.is_none();
        (needed && self.asking.is_none()).then(|| self.gate.ask_at())
    }
}

impl Pull {
    /// Stays the active one of an ordered handler's replicas while a message is still being handled; never returns.
    pub(crate) async fn stay_active(&mut self) {
        loop {
            let period = self.order.as_ref().filter(|order| order.pin.is_some()).map(|order| order.pin_period);
            match period {
                Some(period) => sleep(period).await,
                None => std::future::pending().await,
            }
            self.keep_pin().await;
        }
    }

    /// Asks once more which consumer it is; gives the number of the connection on which it is the same.
    pub(crate) async fn verify(&mut self) -> Option<u64> {
        let epoch = self.connection.epoch_now()?;
        let order = self.order.as_mut()?;
        order.gate.asks();
        let info = self.connection.consumer_info(&self.source).await.ok()?;
        (order.gate.recognises(&info) && self.connection.epoch_now() == Some(epoch)).then_some(epoch)
    }

    /// Lets another replica become the active one.
    pub(crate) async fn step_down(&mut self) {
        let Some(Ordered { group: Some(group), pin: Some(_), .. }) = self.order.as_deref() else { return };
        let Binding { stream, consumer, .. } = &*self.source;
        let subject = format!("CONSUMER.UNPIN.{stream}.{consumer}");
        let request = json!({ "group": group });
        let unpinned = self.connection.request::<serde_json::Value>(&subject, &request);
        if !matches!(timeout(LOOK, unpinned).await, Ok(Ok(_))) {
            tracing::debug!(
                handler = self.handler.declaration.name,
                "the next replica takes over when the pin runs out"
            );
        }
    }

    /// Adds to a request what tells the server whose it is.
    pub(super) fn add_pin(&self, request: &mut String) {
        if let Some(Ordered { group: Some(group), pin, .. }) = self.order.as_deref() {
            request.push_str(&format!(r#","group":"{group}""#));
            if let Some(pin) = pin {
                request.push_str(&format!(r#","id":"{pin}""#));
            }
        }
    }

    /// Tells the server that the active one is alive, with a request that no message fits into.
    async fn keep_pin(&mut self) {
        let mut request = format!(r#"{{"batch":1,"max_bytes":1,"expires":{}"#, Duration::from_secs(1).as_nanos());
        self.add_pin(&mut request);
        request.push('}');
        let Some(seat) = &self.seat else { return };
        let reply = seat.reply(&self.route, KEEP);
        if self.connection.is_connected() {
            let kept = self.connection.client().publish_with_reply(self.next_subject.clone(), reply, request.into());
            kept.await.ok();
        }
        if let Some(order) = &mut self.order {
            order.kept();
        }
    }

    /// Does what is due.
    pub(super) async fn keep_order(&mut self, now: Instant) {
        let Some(order) = &mut self.order else { return };
        if order.ask_at().is_some_and(|ask_at| ask_at <= now) {
            let (connection, source) = (self.connection.clone(), self.source.clone());
            order.asked_on = connection.epoch_now();
            order.gate.asks();
            order.asking = Some(Box::pin(async move { connection.consumer_info(&source).await.map(Box::new) }));
        }
        if order.keep_at().is_some_and(|keep_at| keep_at <= now) {
            Box::pin(self.keep_pin()).await;
        }
    }

    /// The consumer of an ordered handler is not the one that it was.
    pub(super) fn replaced(&mut self) {
        if let Some(order) = &mut self.order {
            order.gate.reset();
            self.source.acked.store(0, Relaxed);
            self.events.extend([DeliveryEvent::Replaced, DeliveryEvent::Regathering]);
        }
    }

    /// What the consumer's server says when it is asked ([`Ordered::ask_at`]).
    pub(super) async fn heard_of_order(&mut self, result: Result<Box<consumer::Info>, Error>) {
        let Some(order) = &mut self.order else { return };
        order.asking = None;
        let info = match result {
            Ok(info) => info,
            Err(error) => {
                order.gate.unheard();
                return self.fail(&format!("what is unanswered is not known: {}", chain(&error)), false);
            }
        };
        let Some(epoch) = order.asked_on.filter(|epoch| self.connection.epoch_now() == Some(*epoch)) else {
            // It was said on a former connection, and may have been said before that was lost.
            return order.gate.close();
        };
        let same = order.gate.recognises(&info);
        let verified = order.verified_on.replace(epoch) == Some(epoch);
        if !same {
            self.replaced();
        }
        if !verified {
            self.events.push_back(DeliveryEvent::Verified(epoch));
        }
        if same {
            self.gather(&info).await;
        }
    }

    /// Lets messages through when all that is unanswered is in hand, and asks for what is missing.
    async fn gather(&mut self, info: &consumer::Info) {
        if let Some(floor) = &mut self.floor {
            floor.rise(info.ack_floor.stream_sequence);
        }
        // A replica that stands by has no deliveries at which to read it.
        self.want_floor();
        let Some(order) = &mut self.order else { return };
        let active = order.active(info);
        if active == Active::Other {
            order.stand_by();
        }
        match order.gate.heard(info, active, self.source.acked.load(Relaxed)) {
            Verdict::Open(deliveries) => {
                if is_damaged(info) {
                    tracing::error!(
                        handler = self.handler.declaration.name,
                        "the ack floor of the consumer `{}` has the number {}, above its last delivery {}: it was reset while a handler was at work, and its server records no delivery any more; delete the consumer while the handler runs, and the handler makes it anew where it had come to",
                        info.name,
                        info.ack_floor.consumer_sequence,
                        info.delivered.consumer_sequence,
                    );
                }
                self.events.extend(deliveries.into_iter().map(DeliveryEvent::Delivery));
            }
            Verdict::AskBack(subjects) => {
                for subject in subjects {
                    let nak = self.connection.client().publish(subject, Bytes::from_static(b"-NAK"));
                    if nak.await.is_err() {
                        return;
                    }
                }
            }
            Verdict::Wait => {}
        }
    }
}
