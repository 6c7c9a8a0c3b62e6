//! Many messages published at once, with the result of each.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use async_nats::jetstream::publish::PublishAck;
use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt as _};

use super::store::resend;
use super::{PublishMessage, Publisher};
use crate::error::Error;
use crate::message::{Outgoing, Pipelined};
use crate::observe::publishing::Publishings;
use crate::transport::{Pipeline, Transport};

impl Publisher {
    /// Publishes many messages, up to 256 at once, and returns the result of each in order.
    ///
    /// The results are read with [`next`](PublishAll::next) or as a [`Stream`].
    /// A message is taken from the iterator only while fewer than 256 messages are in flight, so that an infinite
    /// iterator runs in bounded memory.
    /// Each message is checked, sent and acknowledged separately, so that one that fails does not stop the others.
    /// A message without a [`message_id`](PublishMessage::message_id) receives a generated id. It is sent again under
    /// the same id while the stream does not answer, until the [publish timeout](crate::Builder::publish_timeout).
    ///
    /// The streams store the messages in the order of the iterator, unless one has to be sent again.
    /// If the order is more important than the throughput, publish the messages one after another with
    /// [`publish_message`](Self::publish_message), or as a batch with [`publish_atomic`](Self::publish_atomic).
    ///
    /// For bulk loads, such as imports and migrations, use [`ingest`](Self::ingest): the stream acknowledges many messages
    /// at once and compares no ids, which takes a little more than half of the CPU time of the client and of the server.
    /// The messages of `ingest` belong to one stream, which must allow it (`allow_batch_publish`, nats-server 2.14 or
    /// later), and have one ack in place of one for each. After an error, none of them is sent again, and the caller
    /// continues behind those that are stored. With `publish_all`, messages can belong to any stream, and each is stored
    /// once, also if the connection is lost meanwhile.
    ///
    /// # Examples
    ///
    /// ```
    /// # async fn send(broker: jetstream_handlers::Broker) -> Result<(), jetstream_handlers::Error> {
    /// let orders = [7, 8, 9];
    /// let messages = orders.iter().map(|order| broker.publish_message("orders.created", order));
    /// let mut results = broker.publisher().publish_all(messages);
    /// while let Some(result) = results.next().await {
    ///     println!("stored as message {} of the stream", result?.sequence);
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// Each result is an error in the cases of [`publish_message`](Self::publish_message).
    /// A message of another broker is not sent; the kind of its error is [`Config`](crate::ErrorKind::Config).
    ///
    /// # Cancel safety
    ///
    /// Nothing is sent before the first result is polled.
    /// If [`PublishAll`] is dropped, up to 256 messages without a result may be stored or not, and no further messages
    /// are sent.
    pub fn publish_all<'a, I>(&self, messages: I) -> PublishAll<'a>
    where
        I: IntoIterator<Item = PublishMessage, IntoIter: Send + 'a>,
    {
        let publisher = self.clone();
        let publishings = Publishings::default();
        let begun = publishings.clone();
        let messages = messages.into_iter().map(move |message| {
            let message = message.outgoing_of(&publisher);
            let transport = &publisher.transport;
            begun.begin(transport.settings(), transport.max_payload(), message)
        });
        let pipeline = self.transport.pipeline(messages);
        let results = Results { transport: self.transport.clone(), pipeline, publishings };
        let results = stream::unfold(results, |mut results| async move { Some((results.next().await?, results)) });
        PublishAll { results: results.fuse().boxed() }
    }
}

/// The results of [`Publisher::publish_all`], one for each message, in order.
///
/// It implements [`Stream`]; [`next`](Self::next) requires no trait in scope.
///
/// # Examples
///
/// ```
/// # async fn send(broker: jetstream_handlers::Broker) -> Result<(), jetstream_handlers::Error> {
/// let ticks = (0..).map(|tick| broker.publish_message("ticks.second", &tick));
/// let mut results = broker.publisher().publish_all(ticks);
/// while let Some(result) = results.next().await {
///     result?;
/// }
/// # Ok(()) }
/// ```
#[must_use = "nothing is published until the results are polled"]
pub struct PublishAll<'a> {
    results: BoxStream<'a, Result<PublishAck, Error>>,
}

impl PublishAll<'_> {
    /// Returns the result of the next message, in order; `None` after the last.
    ///
    /// # Errors
    ///
    /// Returns the errors of [`Publisher::publish_message`] for this message.
    ///
    /// # Cancel safety
    ///
    /// This method is cancel safe: no result is lost if the future is dropped, and the next call returns it.
    pub async fn next(&mut self) -> Option<Result<PublishAck, Error>> {
        self.results.next().await
    }
}

impl fmt::Debug for PublishAll<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PublishAll")
    }
}

impl Stream for PublishAll<'_> {
    type Item = Result<PublishAck, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.results.poll_next_unpin(context)
    }
}

struct Results<I: Iterator> {
    transport: Arc<Transport>,
    pipeline: Pipeline<I>,
    publishings: Publishings,
}

impl<I: Iterator<Item = Result<Outgoing, Error>>> Results<I> {
    async fn next(&mut self) -> Option<Result<PublishAck, Error>> {
        let result = match self.pipeline.next().await? {
            Pipelined::Done(result) => result,
            // Boxed to keep the future of the other results small.
            Pipelined::Resend(attempt) => Box::pin(resend(&self.transport, attempt)).await,
        };
        self.publishings.ended(result.as_ref());
        Some(result)
    }
}
