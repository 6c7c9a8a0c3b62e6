//! The identity of a consumer: whether it is still the one that has made a delivery.

use std::time::Duration;

use async_nats::client::RequestErrorKind;
use async_nats::jetstream::ErrorCode;
use tokio::time::sleep;

use super::Connection;
use super::connection::CurrentClient;
use crate::delivery::{Binding, Standing};
use crate::error::api::ApiError;
use crate::message::Info;

/// The interval at which the connection, or a consumer without a leader, is asked again.
const RETRY_INTERVAL: Duration = Duration::from_millis(50);

impl Connection {
    /// Returns the relation of a delivery to the consumer on the present connection.
    pub(super) fn standing(&self, binding: &Binding, delivery: &Info) -> Standing {
        self.standing_by(&self.present(), binding, delivery)
    }

    /// Returns the relation of a delivery to the consumer on the present connection, which is that of the client in use.
    pub(super) fn standing_by(&self, client: &CurrentClient, binding: &Binding, delivery: &Info) -> Standing {
        match self.epoch_of(client) {
            Some(epoch) => binding.incarnations.standing(epoch, delivery.id().incarnation),
            None => Standing::Unknown,
        }
    }

    /// Returns `true` if a delivery may be answered, and waits until that is known.
    ///
    /// Nothing is sent without a connection, because the client would send it on the next one.
    /// The caller limits the wait.
    pub(super) async fn may_answer(&self, binding: &Binding, delivery: &Info) -> bool {
        loop {
            match self.standing(binding, delivery) {
                Standing::Current => return true,
                Standing::Former => {
                    let sequence = delivery.stream_sequence();
                    tracing::debug!(
                        sequence,
                        "the consumer was replaced, so a delivery of the former one is not answered"
                    );
                    return false;
                }
                Standing::Unknown => {}
            }
            let _identifying = binding.incarnations.identifying.lock().await;
            if self.standing(binding, delivery) == Standing::Unknown {
                self.identify(binding).await;
            }
        }
    }

    /// Asks the server for the consumer, and records the answer.
    async fn identify(&self, binding: &Binding) {
        let Binding { stream, consumer, incarnations, .. } = binding;
        let asked = incarnations.current();
        if !self.is_connected() {
            return sleep(RETRY_INTERVAL).await;
        }
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

/// Returns `true` if the server did not answer a request, as it does if the user may not send it.
fn is_unanswered(error: &ApiError) -> bool {
    matches!(error, ApiError::Unanswered { error, .. } if error.kind() == RequestErrorKind::TimedOut)
}
