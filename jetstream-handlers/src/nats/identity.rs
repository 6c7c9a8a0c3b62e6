//! The identity of a consumer and its messages: whether they are still those of a delivery.

use std::sync::Arc;
use std::time::Duration;

use async_nats::client::RequestErrorKind;
use async_nats::jetstream::ErrorCode;
use futures::FutureExt as _;
use tokio::time::sleep;

use super::Connection;
use super::connection::CurrentClient;
use crate::delivery::{Binding, Learned, Standing};
use crate::error::api::ApiError;
use crate::message::{DeliveryId, Info};

/// The interval at which the connection, or a consumer without a leader, is asked again.
const RETRY_INTERVAL: Duration = Duration::from_millis(50);

impl Connection {
    /// Returns the relation of a delivery to the consumer on the present connection.
    pub(super) fn standing(&self, binding: &Binding, delivery: DeliveryId) -> Standing {
        self.standing_by(&self.present(), binding, delivery)
    }

    /// Returns the relation of a delivery to the consumer on the present connection, which is that of the client in use.
    pub(super) fn standing_by(&self, client: &CurrentClient, binding: &Binding, delivery: DeliveryId) -> Standing {
        match self.epoch_of(client) {
            Some(epoch) => binding.incarnations.standing(epoch, delivery),
            None => Standing::Unknown,
        }
    }

    /// Returns `true` if a delivery may be answered, and waits until that is known.
    ///
    /// Nothing is sent without a connection, because the client would send it on the next one.
    /// The caller limits the wait.
    pub(super) async fn may_answer(self: &Arc<Self>, binding: &Arc<Binding>, delivery: &Info) -> bool {
        let id = delivery.id();
        loop {
            match self.standing(binding, id) {
                Standing::Current => return true,
                Standing::Former => {
                    let sequence = delivery.stream_sequence();
                    tracing::debug!(
                        sequence,
                        "the consumer was replaced, so a delivery of the former one is not answered"
                    );
                    return false;
                }
                Standing::Unknown | Standing::Unverified => {}
            }
            let inquiry = binding.incarnations.inquiry(|| {
                let (connection, binding) = (self.clone(), binding.clone());
                async move { connection.inquire(&binding, id).await }.boxed()
            });
            if let Some(Learned { delivery, is_stored }) = inquiry.await
                && delivery == id
            {
                return is_stored;
            }
        }
    }

    /// Asks the server once for what is to be known before this delivery may be answered; returns what says nothing about
    /// other deliveries.
    async fn inquire(&self, binding: &Binding, delivery: DeliveryId) -> Option<Learned> {
        match self.standing(binding, delivery) {
            _ if !self.is_connected() => sleep(RETRY_INTERVAL).await,
            Standing::Unknown => self.identify(binding).await,
            Standing::Unverified => {
                let is_stored = self.verify(binding, delivery).await?;
                return Some(Learned { delivery, is_stored });
            }
            Standing::Current | Standing::Former => {}
        }
        None
    }

    /// Reads a message from the stream to see whether it still has that of a delivery; returns the result if it says
    /// nothing about other deliveries.
    async fn verify(&self, binding: &Binding, delivery: DeliveryId) -> Option<bool> {
        let Binding { stream, incarnations, .. } = binding;
        let asked = incarnations.current();
        let witness = incarnations.witness(delivery);
        let is_replaced = match self.find(stream, witness).await {
            Ok(Found::Same) => {
                incarnations.verified(asked, witness);
                return None;
            }
            Ok(Found::Deleted) if witness != delivery => {
                incarnations.message_gone(witness);
                return None;
            }
            Ok(Found::Deleted) => false,
            Ok(Found::Other) => true,
            Err(error) if self.is_denied(&error, stream, witness).await => {
                tracing::warn!(
                    stream,
                    consumer = binding.consumer,
                    "cannot find out whether the stream still has the messages in flight, so they are acknowledged without: {error}; the user needs the permission to publish to `{}.STREAM.MSG.GET.{stream}`",
                    self.api_prefix
                );
                incarnations.unreadable();
                return None;
            }
            // The stream has no leader at the moment.
            Err(_) => {
                sleep(RETRY_INTERVAL).await;
                return None;
            }
        };
        if is_replaced {
            tracing::warn!(
                stream,
                consumer = binding.consumer,
                sequence = delivery.stream_sequence,
                "the stream has lost messages and assigned their sequences again, so deliveries of the former ones are not answered"
            );
            self.routes.replaced(&binding.stream, &binding.consumer, asked);
        }
        Some(!is_replaced)
    }

    /// Looks for the message of a delivery in its stream.
    async fn find(&self, stream: &str, delivery: DeliveryId) -> Result<Found, ApiError> {
        let DeliveryId { stream_sequence, stored_at, .. } = delivery;
        let found = |found: u64| if found == stored_at { Found::Same } else { Found::Other };
        if let Some(time) = self.stored_at(stream, stream_sequence).await? {
            return Ok(found(time));
        }
        // It was deleted, unless the stream has not reached its sequence again, or reaches it now.
        if self.request_stream_info(stream).await?.state.last_sequence < stream_sequence {
            return Ok(Found::Other);
        }
        Ok(self.stored_at(stream, stream_sequence).await?.map_or(Found::Deleted, found))
    }

    /// Returns `true` if a request about a message failed because the user may not send it.
    async fn is_denied(&self, error: &ApiError, stream: &str, delivery: DeliveryId) -> bool {
        match error {
            ApiError::Denied(_) => true,
            // A stream without a leader does not answer either.
            error if is_unanswered(error) && self.request_stream_info(stream).await.is_ok() => {
                let again = self.stored_at(stream, delivery.stream_sequence).await;
                again.is_err_and(|error| is_unanswered(&error))
            }
            _ => false,
        }
    }

    /// Asks the server for the consumer, and records the answer.
    async fn identify(&self, binding: &Binding) {
        let Binding { stream, consumer, incarnations, .. } = binding;
        let asked = incarnations.current();
        let created = match self.consumer(stream, consumer).await {
            Ok(found) => found.and_then(|found| found.created),
            Err(error) if error.is(ErrorCode::STREAM_NOT_FOUND) => None,
            Err(error) if is_unanswered(&error) => {
                tracing::warn!(
                    stream,
                    consumer,
                    "cannot find out whether the consumer was replaced, so messages in flight are redelivered: {error}; the user needs the permission to publish to `{}.CONSUMER.INFO.{stream}.{consumer}`",
                    self.api_prefix
                );
                None
            }
            // The consumer has no leader at the moment.
            Err(_) => return sleep(RETRY_INTERVAL).await,
        };
        incarnations.identify(asked, created);
    }
}

/// The message that a stream has at the sequence of a delivery.
enum Found {
    Same,
    Other,
    /// It was deleted, or all that must acknowledge it have done so.
    Deleted,
}

/// Returns `true` if the server did not answer a request, as it does if the user may not send it.
fn is_unanswered(error: &ApiError) -> bool {
    matches!(error, ApiError::Unanswered { error, .. } if error.kind() == RequestErrorKind::TimedOut)
}
