//! Requests to the JetStream API.

use async_nats::jetstream::response::Response;
use async_nats::jetstream::{ErrorCode, consumer, stream};
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Connection;
use crate::delivery::Binding;
use crate::error::Error;
use crate::error::api::ApiError;

impl Connection {
    /// Sends an empty payload to `subject` below the API prefix, and decodes the response.
    ///
    /// The server refuses some requests if they have a payload ([`ErrorCode::NOT_EMPTY_REQUEST`]).
    pub(super) async fn request_empty<T: DeserializeOwned>(&self, subject: &str) -> Result<T, ApiError> {
        self.send(subject, Bytes::new()).await
    }

    /// Sends `payload` as JSON to `subject` below the API prefix, and decodes the response.
    pub(super) async fn request<T: DeserializeOwned>(
        &self,
        subject: &str,
        payload: &impl Serialize,
    ) -> Result<T, ApiError> {
        let payload = serde_json::to_vec(payload).expect("a request has no map with keys other than strings");
        self.send(subject, payload.into()).await
    }

    async fn send<T: DeserializeOwned>(&self, subject: &str, payload: Bytes) -> Result<T, ApiError> {
        let request = async_nats::Request::new().payload(payload).timeout(Some(self.settings.request_timeout));
        let subject = format!("{}.{subject}", self.api_prefix);
        let response = self.client().send_request(subject.clone(), request).await;
        let response = response.map_err(|error| ApiError::Unanswered { subject, error })?;
        match serde_json::from_slice(&response.payload) {
            Ok(Response::Ok(response)) => Ok(response),
            Ok(Response::Err { error }) => Err(ApiError::Refused(error)),
            Err(error) => Err(ApiError::Unreadable(error)),
        }
    }

    /// Returns the configuration of a stream, if it exists.
    pub(crate) async fn stream(&self, name: &str) -> Result<Option<stream::Config>, ApiError> {
        match self.request_stream_info(name).await {
            Ok(info) => Ok(Some(info.config)),
            Err(error) if error.is(ErrorCode::STREAM_NOT_FOUND) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Returns the configuration and the state of a stream.
    pub(super) async fn stream_info(&self, name: &str) -> Result<stream::Info, Error> {
        let info = self.request_stream_info(name).await;
        info.map_err(|error| error.into_error(&format!("reading stream `{name}`")))
    }

    async fn request_stream_info(&self, name: &str) -> Result<stream::Info, ApiError> {
        self.request_empty(&format!("STREAM.INFO.{name}")).await
    }

    /// Returns the names of the streams whose subjects overlap with `subject`.
    pub(crate) async fn stream_names(&self, subject: &str) -> Result<Vec<String>, ApiError> {
        #[derive(Deserialize)]
        struct Page {
            streams: Option<Vec<String>>,
        }
        let page: Page = self.request("STREAM.NAMES", &json!({ "subject": subject })).await?;
        Ok(page.streams.unwrap_or_default())
    }

    pub(crate) async fn create_stream(&self, config: &stream::Config) -> Result<(), ApiError> {
        self.request::<stream::Info>(&format!("STREAM.CREATE.{}", config.name), config).await.map(drop)
    }

    /// Returns the configuration of a consumer, if it exists.
    pub(crate) async fn consumer(&self, stream: &str, name: &str) -> Result<Option<consumer::Config>, ApiError> {
        match self.request_empty::<consumer::Info>(&format!("CONSUMER.INFO.{stream}.{name}")).await {
            Ok(info) => Ok(Some(info.config)),
            Err(error) if error.is(ErrorCode::CONSUMER_NOT_FOUND) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Returns the info of a handler's consumer, decoded as `T`.
    pub(super) async fn consumer_info<T: DeserializeOwned>(&self, binding: &Binding) -> Result<T, Error> {
        let Binding { stream, consumer, .. } = binding;
        let info = self.request_empty(&format!("CONSUMER.INFO.{stream}.{consumer}")).await;
        info.map_err(|error| error.into_error(&format!("reading consumer `{consumer}` of stream `{stream}`")))
    }

    /// Returns each consumer of a stream with each of its filters.
    pub(crate) async fn consumers(&self, stream: &str) -> Result<Vec<(String, String)>, ApiError> {
        #[derive(Deserialize)]
        struct Page {
            total: usize,
            consumers: Option<Vec<consumer::Info>>,
        }
        let mut found = Vec::new();
        let mut offset = 0;
        loop {
            let page: Page = self.request(&format!("CONSUMER.LIST.{stream}"), &json!({ "offset": offset })).await?;
            let consumers = page.consumers.unwrap_or_default();
            offset += consumers.len();
            let is_last = consumers.is_empty() || offset >= page.total;
            for info in consumers {
                let mut filters = info.config.filter_subjects;
                filters.push(info.config.filter_subject);
                filters.retain(|filter| !filter.is_empty());
                if filters.is_empty() {
                    filters.push(">".to_owned());
                }
                found.extend(filters.into_iter().map(|filter| (info.name.clone(), filter)));
            }
            if is_last {
                return Ok(found);
            }
        }
    }

    /// Creates a consumer; fails if one of this name exists.
    pub(crate) async fn create_consumer(
        &self,
        stream: &str,
        config: &consumer::Config,
    ) -> Result<consumer::Config, ApiError> {
        // Permissions of the account are checked against the filter at the end of the subject.
        let name = config.durable_name.as_deref().unwrap_or_default();
        let subject = format!("CONSUMER.CREATE.{stream}.{name}.{}", config.filter_subject);
        let request = json!({ "stream_name": stream, "config": config, "action": "create" });
        self.request::<consumer::Info>(&subject, &request).await.map(|info| info.config)
    }

    /// Deletes a handler's consumer; returns `false` if it or its stream did not exist.
    pub(crate) async fn delete_consumer(&self, binding: &Binding) -> Result<bool, Error> {
        let Binding { stream, consumer, .. } = binding;
        match self.request_empty::<Value>(&format!("CONSUMER.DELETE.{stream}.{consumer}")).await {
            Ok(_) => Ok(true),
            Err(error) if error.is(ErrorCode::CONSUMER_NOT_FOUND) || error.is(ErrorCode::STREAM_NOT_FOUND) => Ok(false),
            Err(error) => Err(error.into_error(&format!("deleting consumer `{consumer}` of stream `{stream}`"))),
        }
    }

    /// Returns the number of messages that a handler's consumer has not delivered, or whose ack is pending.
    pub(crate) async fn count_outstanding(&self, binding: &Binding) -> Result<u64, Error> {
        let info: consumer::Info = self.consumer_info(binding).await?;
        // Immediately after a message was stored, the consumer's `num_pending` may not include it yet.
        let last = self.last_sequence(&binding.stream, &info.config.filter_subject).await?;
        let not_counted_yet = u64::from(info.delivered.stream_sequence < last && info.num_pending == 0);
        Ok(info.num_pending + info.num_ack_pending as u64 + not_counted_yet)
    }
}
