//! Operations on the consumer of a handler: pause, resume and reset, for all its instances.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, SystemTime};

use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::choose::choose;
use super::{Broker, Inner};
use crate::declaration::Declaration;
use crate::error::{Error, ErrorKind};
use crate::handler::Handler;
use crate::observe::times::optional_rfc3339;
use crate::provision::stream_of;
use crate::rules::MAX_DURATION;
use crate::sync::lock;

/// The place in the stream to which [`Broker::reset`] moves a handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Position {
    /// The first message with this sequence or a later one, from 1 to the one after the last of the stream.
    Sequence(u64),
    /// The first message that was stored at this time or later.
    Time(SystemTime),
    /// The first message of the stream.
    Start,
    /// The first message behind those that have all been acknowledged.
    AckFloor,
}

/// The consumer of a handler after [`Broker::pause`], [`Broker::resume`] or [`Broker::reset`].
///
/// `Display` writes one line for people. `Serialize` writes an object with the fields in this order; the time is text as in
/// RFC 3339.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct HandlerConsumer {
    /// The full name of the handler.
    pub handler: String,
    /// The stream that the handler reads.
    pub stream: String,
    /// The name of the durable consumer.
    pub queue: String,
    /// The time at which a pause ends.
    #[serde(serialize_with = "optional_rfc3339")]
    pub paused_until: Option<SystemTime>,
    /// The sequence from which on a reset handler receives the messages of the stream.
    pub next_sequence: Option<u64>,
    /// `false` if the handler was resumed and had not been paused.
    pub changed: bool,
}

/// The effect of a reset; the numbers are those of sequences, of which the handler receives all, or only some.
#[cfg(feature = "cli")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ResetEffect {
    /// The sequence of the place.
    pub(crate) place: u64,
    /// The maximum number of messages that were delivered and are received again.
    pub(crate) again: u64,
    /// The maximum number of messages that have not been acknowledged, and are not received any more.
    pub(crate) skipped: u64,
}

impl fmt::Display for HandlerConsumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { handler, stream, queue, paused_until, next_sequence, changed } = self;
        write!(f, "{handler} (consumer `{queue}` of stream `{stream}`): ")?;
        match (paused_until, next_sequence) {
            (Some(until), _) => {
                let until = OffsetDateTime::from(*until);
                let until = until.replace_nanosecond(0).unwrap_or(until);
                write!(f, "paused until {}", until.format(&Rfc3339).unwrap_or_default())
            }
            (None, Some(sequence)) => write!(f, "continues at message {sequence}"),
            (None, None) if *changed => f.write_str("resumed"),
            (None, None) => f.write_str("not paused, so nothing was changed"),
        }
    }
}

impl Broker {
    /// Pauses a handler on the server for a time: none of its instances receives messages until then.
    ///
    /// The handler is chosen by the name of its function, the end of its full path, the name of a closure, or its queue;
    /// it need not run in this process. Calls that run are finished, and their messages acknowledged.
    /// The pause outlives restarts of the server and of all instances, which report it in their
    /// [`health`](Self::health), and ends by itself.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # use jetstream_handlers::prelude::*;
    /// # async fn pause(broker: Broker) -> Result<(), jetstream_handlers::Error> {
    /// let paused = broker.pause("process_order", secs(600)).await?;
    /// println!("{paused}");
    /// broker.resume("process_order").await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// | kind | reason |
    /// |---|---|
    /// | [`NoHandlers`](ErrorKind::NoHandlers) | the text names no handler, or several, which the error lists |
    /// | [`Config`](ErrorKind::Config) | the time is over, or more than a year away; or the server is older than 2.11, which introduced the pause |
    /// | [`StreamNotFound`](ErrorKind::StreamNotFound), [`ConsumerMismatch`](ErrorKind::ConsumerMismatch) | the handler has never been started on this server |
    /// | [`Authorization`](ErrorKind::Authorization) | the user may not publish to `$JS.API.CONSUMER.PAUSE.<stream>.<queue>` |
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the handler is paused, or not, or some of its partitions are.
    pub async fn pause(&self, handler: &str, duration: Duration) -> Result<HandlerConsumer, Error> {
        let until = SystemTime::now().checked_add(duration.min(MAX_DURATION + Duration::from_secs(1)));
        self.pause_until(handler, until.unwrap_or_else(SystemTime::now)).await
    }

    /// Pauses a handler on the server up to a time, as [`pause`](Self::pause) does.
    ///
    /// # Errors
    ///
    /// Returns the errors of [`pause`](Self::pause).
    ///
    /// # Cancel safety
    ///
    /// The same as for [`pause`](Self::pause).
    pub async fn pause_until(&self, handler: &str, until: SystemTime) -> Result<HandlerConsumer, Error> {
        let refused = |why: &str| {
            let until = OffsetDateTime::from(until).format(&Rfc3339).unwrap_or_default();
            Err(Error::new(ErrorKind::Config, format!("cannot pause `{handler}` until {until}: {why}")))
        };
        match until.duration_since(SystemTime::now()) {
            Ok(rest) if rest > MAX_DURATION => return refused("it is more than a year away"),
            Ok(rest) if !rest.is_zero() => {}
            Ok(_) | Err(_) => return refused("it is in the past"),
        }
        let (mut consumer, queues) = self.consumer_of(handler).await?;
        for queue in &queues {
            self.inner.transport.pause_consumer(&consumer.stream, queue, Some(until)).await?;
        }
        consumer.paused_until = Some(until);
        Ok(consumer)
    }

    /// Ends the pause of a handler, which need not be paused.
    ///
    /// # Errors
    ///
    /// Returns the errors of [`pause`](Self::pause).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the handler is resumed, or not, or some of its partitions are.
    pub async fn resume(&self, handler: &str) -> Result<HandlerConsumer, Error> {
        let (mut consumer, queues) = self.consumer_of(handler).await?;
        let (transport, stream) = (&self.inner.transport, &consumer.stream);
        consumer.changed = false;
        for queue in &queues {
            let found = transport.consumer(stream, queue).await.map_err(|error| {
                error.into_consumer_error(&format!("reading consumer `{queue}` of stream `{stream}`"))
            })?;
            transport.pause_consumer(stream, queue, None).await?;
            let until = found.and_then(|found| found.config.pause_until);
            consumer.changed |= until.is_some_and(|until| SystemTime::from(until) > SystemTime::now());
        }
        Ok(consumer)
    }

    /// Moves a handler to a place in its stream, from which on it receives all messages: again, if they were handled before,
    /// or never, if the place is behind them.
    ///
    /// The handler is chosen as for [`pause`](Self::pause), and its instances may run: what they handle at the moment is
    /// finished, and if it is behind the place, handled again. Attempts count from 1 again.
    /// An interest stream or a work queue has removed what was handled, which cannot be delivered again.
    ///
    /// A handler that does not begin at the first message, by its `deliver` or because its deleted consumer was
    /// recreated, cannot be moved to before that place; one with `deliver = "new"`, `"last"` or `"last_per_subject"` only to
    /// the [`AckFloor`](Position::AckFloor).
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use std::time::{Duration, SystemTime};
    ///
    /// use jetstream_handlers::{Broker, Position};
    ///
    /// # async fn reset(broker: Broker) -> Result<(), jetstream_handlers::Error> {
    /// let an_hour_ago = SystemTime::now() - Duration::from_secs(3600);
    /// let reset = broker.reset("process_order", Position::Time(an_hour_ago)).await?;
    /// println!("{reset}");
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns the errors of [`pause`](Self::pause), for a server older than 2.14, which introduced the reset, and for the
    /// subject `$JS.API.CONSUMER.RESET.<stream>.<queue>`; [`Config`](ErrorKind::Config) for a sequence that the stream has not
    /// reached, because it would skip messages that are stored later; and [`ConsumerMismatch`](ErrorKind::ConsumerMismatch) if the
    /// consumer cannot be moved to the place. An older server has no way to move a consumer under running instances:
    /// stop them, delete the consumer, and start them with another `deliver`.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the handler is reset, or not, or some of its partitions are.
    pub async fn reset(&self, handler: &str, position: Position) -> Result<HandlerConsumer, Error> {
        let (mut consumer, queues, sequence) = self.place(handler, position).await?;
        for queue in &queues {
            let next = self.inner.transport.reset_consumer(&consumer.stream, queue, sequence).await?;
            consumer.next_sequence = Some(consumer.next_sequence.map_or(next, |first| first.min(next)));
        }
        Ok(consumer)
    }

    /// Returns what a [`reset`](Self::reset) would do, and changes nothing.
    #[cfg(feature = "cli")]
    pub(crate) async fn reset_effect(&self, handler: &str, position: Position) -> Result<ResetEffect, Error> {
        let transport = &self.inner.transport;
        let (consumer, queues, sequence) = self.place(handler, position).await?;
        let stream = &consumer.stream;
        let (mut delivered, mut floor) = (0, u64::MAX);
        for queue in &queues {
            let doing = || format!("reading consumer `{queue}` of stream `{stream}`");
            let found = transport.consumer(stream, queue).await.map_err(|error| error.into_consumer_error(&doing()))?;
            let Some(found) = found else {
                let text = format!("{}: there is no such consumer; start its handler first", doing());
                return Err(Error::new(ErrorKind::ConsumerMismatch, text));
            };
            (delivered, floor) = (found.delivered.max(delivered), found.ack_floor.min(floor));
        }
        let place = sequence.unwrap_or(floor + 1);
        // What is no longer stored is not received.
        let first = transport.next_stored(stream, place).await?.map(|stored| stored.sequence);
        let again = first.map_or(0, |first| (delivered + 1).saturating_sub(first));
        Ok(ResetEffect { place, again, skipped: place.saturating_sub(floor + 1) })
    }

    /// Returns the consumer of a handler, the names of all its consumers, and the sequence of a position; `None` for their
    /// ack floors.
    async fn place(
        &self,
        handler: &str,
        position: Position,
    ) -> Result<(HandlerConsumer, Vec<String>, Option<u64>), Error> {
        let transport = &self.inner.transport;
        if position == Position::Sequence(0) {
            let text = format!("cannot reset `{handler}` to sequence 0; expected at least 1, the first of a stream");
            return Err(Error::new(ErrorKind::Config, text));
        }
        let (consumer, queues) = self.consumer_of(handler).await?;
        let stream = &consumer.stream;
        let sequence = match position {
            Position::Sequence(sequence) => {
                let last = transport.last_assigned_sequence(stream).await?;
                if sequence > last + 1 {
                    // Messages that are stored later would never be delivered.
                    let text = format!(
                        "cannot reset `{handler}` to sequence {sequence}: the last of stream `{stream}` is {last}; expected at most {}",
                        last + 1
                    );
                    return Err(Error::new(ErrorKind::Config, text));
                }
                Some(sequence)
            }
            Position::Start => Some(1),
            Position::AckFloor => None,
            Position::Time(time) => Some(match transport.first_stored_since(stream, time).await? {
                Some(sequence) => sequence,
                None => transport.last_assigned_sequence(stream).await? + 1,
            }),
        };
        Ok((consumer, queues, sequence))
    }

    /// Returns the names of all handlers of this program, also of those of other brokers.
    #[cfg(feature = "cli")]
    pub(crate) fn handler_names(&self) -> Vec<String> {
        let included = lock(&self.inner.included).clone();
        Handler::all().into_iter().chain(included).map(|handler| handler.declaration.name).collect()
    }

    /// Returns the consumer of the only handler that the text names, and the names of its consumers, of which it has one for
    /// each partition.
    async fn consumer_of(&self, text: &str) -> Result<(HandlerConsumer, Vec<String>), Error> {
        let known: Vec<_> = self.known_consumers().into_values().collect();
        let names = known.iter().map(|(declaration, _)| (&*declaration.name, declaration.queue()));
        let (declaration, stream) = &known[choose(names, text)?];
        let stream = match stream {
            Some(stream) => stream.clone(),
            None => stream_of(&self.inner.transport, declaration).await?,
        };
        let (handler, queue) = (declaration.name.clone(), declaration.queue().to_owned());
        let queues = declaration.consumers().into_iter().map(|it| it.plan.queue.into_owned()).collect();
        let consumer =
            HandlerConsumer { handler, stream, queue, paused_until: None, next_sequence: None, changed: true };
        Ok((consumer, queues))
    }

    /// Returns the handlers that run, with their streams, and all others of this broker, by name and place.
    fn known_consumers(&self) -> BTreeMap<(String, String), (Declaration, Option<String>)> {
        let Inner { transport, name, included, .. } = &*self.inner;
        let own = Handler::all().into_iter().chain(lock(included).clone());
        let idle = own.filter(|handler| handler.broker() == name.as_deref()).map(|mut handler| {
            if let Some(prefix) = &transport.settings().prefix {
                handler.declaration.plan.add_prefix(prefix);
            }
            (handler.declaration, None)
        });
        let workers = self.workers().clone();
        // The first partition stands for all of its handler.
        let running = workers.iter().filter(|worker| worker.is_first());
        let running = running.map(|worker| (worker.handler.declaration.whole(), Some(worker.binding.stream.clone())));
        let all = idle.chain(running).map(|(declaration, stream)| {
            let key =
                if declaration.is_closure { declaration.queue().to_owned() } else { declaration.location.clone() };
            ((declaration.name.clone(), key), (declaration, stream))
        });
        all.collect()
    }
}
