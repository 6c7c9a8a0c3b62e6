//! The deliveries of one worker, and its answers.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep_until;

use super::Memory;
use super::consumer::Taken;
use crate::delivery::{Binding, DeliveryEvent};
use crate::handler::Handler;
use crate::message::{Info, Message};
use crate::provision::consumer_config;

/// The deliveries of one handler.
pub(crate) struct Deliveries {
    memory: Arc<Memory>,
    handler: Arc<Handler>,
    source: Arc<Binding>,
    /// By which the consumer knows this worker from others.
    reader: u64,
    room: usize,
    recovering: bool,
}

impl std::fmt::Debug for Deliveries {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Deliveries").field("source", &self.source).finish_non_exhaustive()
    }
}

impl Deliveries {
    pub(crate) fn open(memory: Arc<Memory>, handler: Arc<Handler>, source: Arc<Binding>) -> Self {
        memory.begin(&source);
        Self { memory, handler, source, reader: fastrand::u64(..), room: 0, recovering: false }
    }

    pub(crate) fn room(&mut self, room: usize) {
        if room == 0 && self.room > 0 {
            self.memory.leave(&self.source, self.reader);
        }
        self.room = room;
    }

    /// Cancel safe: a message is taken only to be returned.
    pub(crate) async fn next(&mut self) -> DeliveryEvent {
        loop {
            if self.room == 0 {
                // Whoever makes room asks again.
                std::future::pending::<()>().await;
            }
            let memory = self.memory.clone();
            let changed = memory.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let due = match self.memory.take(&self.source, self.reader) {
                Taken::Message(message, reply) => return self.delivery(*message, reply),
                Taken::GivenUp { sequence, delivered } => return DeliveryEvent::GivenUp { sequence, delivered },
                Taken::NoConsumer if self.recovering => {
                    let made =
                        self.memory.create_consumer(&self.source.stream, &consumer_config(&self.handler.declaration));
                    // Another worker may have been faster; that is as good.
                    if made.is_ok()
                        || self.memory.consumer(&self.source.stream, &self.source.consumer).is_ok_and(|it| it.is_some())
                    {
                        continue;
                    }
                    None
                }
                Taken::NoConsumer => return self.recover("the consumer was deleted"),
                Taken::NoStream if !self.recovering => return self.recover("there is no such stream"),
                Taken::NoStream => None,
                Taken::Nothing(_) if self.recovering => {
                    self.recovering = false;
                    return DeliveryEvent::Running;
                }
                Taken::Nothing(due) => due,
            };
            match due {
                Some(due) => tokio::select! {
                    () = changed => {}
                    () = sleep_until(due) => {}
                },
                None => changed.await,
            }
        }
    }

    /// Nothing is on its way in memory.
    pub(crate) async fn last(&mut self) -> Option<Message> {
        self.room(0);
        None
    }

    /// Of an ordered handler: lets another worker become the active one.
    pub(crate) fn step_down(&mut self) {
        self.memory.step_down(&self.source, self.reader);
    }

    fn recover(&mut self, reason: &str) -> DeliveryEvent {
        self.recovering = true;
        DeliveryEvent::Recovering(reason.to_owned())
    }

    fn delivery(&self, message: super::stream::Message, reply: async_nats::Subject) -> DeliveryEvent {
        let info = Info::parse(reply).expect("the subject is made as the server makes it");
        let headers = (!message.headers.is_empty()).then(|| Arc::new(message.headers));
        DeliveryEvent::Delivery(Message { subject: message.subject, payload: message.payload, headers, info })
    }
}

impl Drop for Deliveries {
    fn drop(&mut self) {
        self.memory.leave(&self.source, self.reader);
        self.memory.step_down(&self.source, self.reader);
        self.memory.end(&self.source);
    }
}

/// How a delivery is answered.
impl Memory {
    pub(crate) fn ack(&self, source: &Binding, delivery: &Info) {
        self.answer(source, |stream, faults| {
            stream.ack(&source.consumer, delivery.stream_sequence(), delivery.delivered(), faults);
        });
    }

    pub(crate) fn nak(&self, source: &Binding, delivery: &Info, delay: Duration) {
        self.answer(source, |stream, _| {
            if let Some(consumer) = stream.consumers.get_mut(&source.consumer) {
                consumer.nak(delivery.stream_sequence(), delay);
            }
        });
    }

    pub(crate) fn term(&self, source: &Binding, delivery: &Info) {
        self.answer(source, |stream, _| stream.term(&source.consumer, delivery.stream_sequence()));
    }

    pub(crate) fn progress(&self, source: &Binding, delivery: &Info) {
        self.answer(source, |stream, _| {
            if let Some(consumer) = stream.consumers.get_mut(&source.consumer) {
                consumer.progress(delivery.stream_sequence());
            }
        });
    }
}
