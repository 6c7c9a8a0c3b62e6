//! The deliveries of one handler, and their acknowledgements.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::Transport;
use crate::delivery::{AckedSequence, Binding, DeliveryEvent};
use crate::error::Error;
use crate::message::{Info, Message};
use crate::{memory, nats};

/// The deliveries of one handler.
#[derive(Debug)]
pub(crate) enum Deliveries {
    Nats(Box<nats::Pull>),
    Memory(Box<memory::Deliveries>),
}

impl Transport {
    /// Opens the deliveries of a handler; no message arrives before [`Deliveries::set_capacity`] is called.
    pub(crate) async fn deliveries(
        &self,
        handler: &str,
        binding: &Arc<Binding>,
        fetch_wait: Option<Duration>,
    ) -> Result<Deliveries, Error> {
        match self {
            Self::Nats(connection) => {
                let pull = nats::Pull::open(connection.clone(), handler, binding.clone(), fetch_wait).await?;
                Ok(Deliveries::Nats(Box::new(pull)))
            }
            Self::Memory(memory) => {
                let deliveries = memory::Deliveries::open(memory.clone(), binding.clone());
                Ok(Deliveries::Memory(Box::new(deliveries)))
            }
        }
    }
}

impl Deliveries {
    /// Limits the number of messages that are requested and have not arrived; `call` is the usual duration of a call.
    pub(crate) fn set_capacity(&mut self, capacity: usize, call: Duration) {
        match self {
            Self::Nats(pull) => pull.set_capacity(capacity, call),
            Self::Memory(deliveries) => deliveries.set_capacity(capacity),
        }
    }

    /// Returns the maximum number of messages that the handler may hold and request, by their size.
    pub(crate) fn max_messages(&self) -> usize {
        match self {
            Self::Nats(pull) => pull.max_messages(),
            Self::Memory(_) => usize::MAX,
        }
    }

    /// Waits until [`fill`](Self::fill) has something to return.
    ///
    /// # Cancel safety
    ///
    /// No message is lost: what has arrived stays until [`fill`](Self::fill) passes it on.
    pub(crate) async fn arrived(&mut self) {
        match self {
            Self::Nats(pull) => pull.arrived().await,
            Self::Memory(deliveries) => deliveries.arrived().await,
        }
    }

    /// Handles what has arrived for the pull requests alone, and returns `true` if [`fill`](Self::fill) has something to
    /// return.
    pub(crate) fn has_deliveries(&mut self) -> bool {
        match self {
            Self::Nats(pull) => pull.has_deliveries(),
            Self::Memory(_) => true,
        }
    }

    /// Passes arrived messages to `push` up to the next state change, and returns that; `None` if all were passed.
    pub(crate) fn fill(&mut self, push: &mut impl FnMut(Message)) -> Option<DeliveryEvent> {
        match self {
            Self::Nats(pull) => pull.fill(push),
            Self::Memory(deliveries) => deliveries.fill(push),
        }
    }

    /// Continues after [`DeliveryEvent::ConsumerMissing`], with the result of restoring the consumer: the time at which
    /// it was created.
    pub(crate) fn restored(&mut self, result: Result<Option<SystemTime>, Error>) {
        match self {
            Self::Nats(pull) => pull.restored(result),
            Self::Memory(deliveries) => deliveries.restored(result),
        }
    }

    /// Stops sending requests, and returns the next message that still arrives; `None` once none can arrive.
    ///
    /// # Cancel safety
    ///
    /// No message is lost: a message that was not returned stays for the next call.
    pub(crate) async fn last(&mut self) -> Option<Message> {
        match self {
            Self::Nats(pull) => pull.last().await,
            Self::Memory(deliveries) => deliveries.last(),
        }
    }
}

/// Deliveries of an ordered handler.
impl Deliveries {
    /// Sets the position up to which the worker has acknowledged the stream, and which it updates.
    pub(crate) fn follow_acks(&mut self, acked: AckedSequence) {
        match self {
            Self::Nats(pull) => pull.follow_acks(acked),
            // No delivery is lost in memory, so none can be missing.
            Self::Memory(_) => {}
        }
    }

    /// Keeps other instances from becoming active after [`last`](Self::last); never returns.
    pub(crate) async fn stay_active(&mut self) {
        match self {
            Self::Nats(pull) => pull.stay_active().await,
            Self::Memory(_) => std::future::pending().await,
        }
    }

    /// Checks after a reconnect whether the consumer is still the same; returns the number of the connection if it is.
    pub(crate) async fn verify(&mut self) -> Option<u64> {
        match self {
            Self::Nats(pull) => pull.verify().await,
            Self::Memory(_) => None,
        }
    }

    /// Returns `true` if the server delivers the messages to this instance alone.
    pub(crate) fn is_active(&self) -> bool {
        match self {
            Self::Nats(pull) => pull.is_active(),
            Self::Memory(deliveries) => deliveries.is_active(),
        }
    }

    /// Sets whether nothing is requested although this instance stays the active one.
    pub(crate) fn hold(&mut self, held: bool) {
        match self {
            Self::Nats(pull) => pull.hold(held),
            // The worker has no capacity meanwhile.
            Self::Memory(_) => {}
        }
    }

    /// Forgets what has arrived, after [`step_down`](Self::step_down): another instance is active.
    pub(crate) fn forget(&mut self) {
        match self {
            Self::Nats(pull) => pull.forget(),
            Self::Memory(deliveries) => deliveries.forget(),
        }
    }

    /// Lets another instance become the active one, and requests nothing until this time.
    pub(crate) async fn step_aside(&mut self, until: Instant) {
        match self {
            Self::Nats(pull) => pull.step_aside(until).await,
            // The worker has no capacity meanwhile.
            Self::Memory(deliveries) => deliveries.step_down(),
        }
    }

    /// Lets another instance become the active one.
    pub(crate) async fn step_down(&mut self) {
        match self {
            Self::Nats(pull) => pull.step_down().await,
            Self::Memory(deliveries) => deliveries.step_down(),
        }
    }
}

/// Acknowledgements: acks, naks, terminations and in-progress signals.
impl Transport {
    /// Acknowledges a delivery if that requires no waiting; otherwise sends nothing and returns `false`.
    pub(crate) fn try_ack(&self, binding: &Binding, delivery: Info) -> bool {
        match self {
            Self::Nats(connection) => connection.try_ack(binding, delivery),
            Self::Memory(memory) => {
                memory.ack(binding, &delivery);
                true
            }
        }
    }

    /// Acknowledges a delivery.
    pub(crate) async fn ack(&self, binding: &Arc<Binding>, delivery: Info) -> Result<(), Error> {
        match self {
            Self::Nats(connection) => connection.ack(binding, delivery).await,
            Self::Memory(memory) => {
                memory.ack(binding, &delivery);
                Ok(())
            }
        }
    }

    /// Acknowledges a delivery, and waits until the server has confirmed it.
    pub(crate) async fn ack_confirmed(
        &self,
        binding: &Arc<Binding>,
        delivery: &Info,
        limit: Duration,
    ) -> Result<(), Error> {
        match self {
            Self::Nats(connection) => connection.ack_confirmed(binding, delivery, limit).await,
            Self::Memory(memory) => {
                memory.ack(binding, delivery);
                Ok(())
            }
        }
    }

    /// Repeats the acks that were sent last, at most `max` of them.
    pub(crate) async fn repeat_acks(&self, binding: &Arc<Binding>, max: usize) {
        match self {
            Self::Nats(connection) => connection.repeat_acks(binding, max).await,
            // In memory, no ack is lost.
            Self::Memory(_) => {}
        }
    }

    /// Requests a redelivery after `delay`, or immediately if it is zero.
    pub(crate) async fn nak(&self, binding: &Arc<Binding>, delivery: &Info, delay: Duration) -> Result<(), Error> {
        match self {
            Self::Nats(connection) => connection.nak(binding, delivery, delay).await,
            Self::Memory(memory) => {
                memory.nak(binding, delivery, delay);
                Ok(())
            }
        }
    }

    /// Terminates a message, which is never redelivered.
    pub(crate) async fn term(&self, binding: &Arc<Binding>, delivery: &Info, reason: &str) -> Result<(), Error> {
        match self {
            Self::Nats(connection) => connection.term(binding, delivery, reason).await,
            Self::Memory(memory) => {
                memory.term(binding, delivery);
                Ok(())
            }
        }
    }

    /// Signals that a message is in progress, which restarts its `ack_wait`.
    pub(crate) async fn progress(&self, binding: &Arc<Binding>, delivery: &Info) -> Result<(), Error> {
        match self {
            Self::Nats(connection) => connection.progress(binding, delivery).await,
            Self::Memory(memory) => {
                memory.progress(binding, delivery);
                Ok(())
            }
        }
    }

    /// Waits until the server has processed all earlier acknowledgements to the consumer of `delivery`, which has
    /// ended.
    pub(crate) async fn flush_acks(&self, binding: &Binding, delivery: &Info, limit: Duration) -> Result<(), Error> {
        match self {
            Self::Nats(connection) => connection.flush_acks(binding, delivery, limit).await,
            // In memory, every call takes effect before it returns.
            Self::Memory(_) => Ok(()),
        }
    }
}
