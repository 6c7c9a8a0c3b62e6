//! Publishing many messages, with the result of each.

use std::fmt;
use std::future::IntoFuture;
use std::pin::Pin;
use std::task::{Context, Poll};

use async_nats::jetstream::publish::PublishAck;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt as _};

use crate::error::Error;
use crate::publish::{PublishMessage, Publisher};

impl Publisher {
    /// Publishes many messages, up to 256 at once, and gives the result of each in order.
    ///
    /// Await it for all results in one `Vec`; or take them one by one, with [`next`](PublishAll::next) or as a
    /// [`Stream`], and even an iterator without an end runs in bounded memory: a message is taken from it only when
    /// fewer than 256 are without a result.
    /// Each message is checked, sent and judged for itself, so one that fails does not stop the others.
    /// One without a [`message_id`](PublishMessage::message_id) gets an id of its own, under which it is repeated
    /// when its answer is missing, until the publish timeout of the builder.
    ///
    /// The streams store the messages in the order of the iterator, as long as none has to be repeated.
    /// Where the order counts more than the rate, publish one after the other,
    /// or all or none with [`publish_atomic`](Self::publish_atomic).
    ///
    /// # Examples
    ///
    /// ```
    /// # async fn send(broker: jetstream_handlers::Broker) -> Result<(), jetstream_handlers::Error> {
    /// let orders = [7, 8, 9];
    /// let results = broker.publish_all(orders.iter().map(|order| broker.publish_message("orders.created", order))).await;
    /// for (order, result) in orders.iter().zip(results) {
    ///     println!("order {order} is number {} of the stream", result?.sequence);
    /// }
    ///
    /// let mut endless = broker.publish_all((0..).map(|tick| broker.publish_message("ticks.second", &tick)));
    /// while let Some(result) = endless.next().await {
    ///     result?;
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// Each result has the errors of [`publish`](Self::publish) for its own message.
    ///
    /// # Cancel safety
    ///
    /// Nothing is sent before it is polled.
    /// When it is dropped, the messages whose result was not taken, 256 at most, may be stored or not, and no more are sent.
    /// Dropping the future of [`PublishAll::next`] loses nothing.
    pub fn publish_all<'a, I>(&self, messages: I) -> PublishAll<'a>
    where
        I: IntoIterator<Item = PublishMessage<'a>, IntoIter: Send + 'a>,
    {
        PublishAll { results: self.transport.publish_all(messages.into_iter().map(PublishMessage::outgoing)) }
    }
}

/// Many publishes under way, from [`Broker::publish_all`](crate::Broker::publish_all): await it, or take the results one by one.
#[must_use = "nothing is published until it is awaited or its results are taken"]
pub struct PublishAll<'a> {
    results: BoxStream<'a, Result<PublishAck, Error>>,
}

impl PublishAll<'_> {
    /// The result of the next message, in order; `None` after the last.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing: the result is given by the next call.
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

impl<'a> IntoFuture for PublishAll<'a> {
    type Output = Vec<Result<PublishAck, Error>>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send + 'a>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.results.collect())
    }
}
