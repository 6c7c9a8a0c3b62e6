//! Requests to the JetStream API.

use async_nats::jetstream::response::Response;
use async_nats::jetstream::{ErrorCode, consumer, stream};
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::Connection;
use crate::error::api::ApiError;

impl Connection {
    /// Asks for something that needs no words but the subject; some requests are refused with any (error 10038).
    pub(super) async fn ask<T: DeserializeOwned>(&self, subject: &str) -> Result<T, ApiError> {
        self.send(subject, Bytes::new()).await
    }

    /// Sends `payload` to `subject` below the API prefix, and reads the answer.
    pub(super) async fn api<T: DeserializeOwned>(
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
        let answer = self.client.send_request(subject.clone(), request).await;
        let answer = answer.map_err(|error| ApiError::Unanswered { subject, error })?;
        match serde_json::from_slice(&answer.payload) {
            Ok(Response::Ok(answer)) => Ok(answer),
            Ok(Response::Err { error }) => Err(ApiError::Refused(error)),
            Err(error) => Err(ApiError::Unreadable(error)),
        }
    }

    pub(crate) async fn stream(&self, name: &str) -> Result<Option<stream::Config>, ApiError> {
        match self.ask::<stream::Info>(&format!("STREAM.INFO.{name}")).await {
            Ok(info) => Ok(Some(info.config)),
            Err(error) if error.is(ErrorCode::STREAM_NOT_FOUND) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The names of the streams that have a part of `subject`.
    pub(crate) async fn stream_names(&self, subject: &str) -> Result<Vec<String>, ApiError> {
        #[derive(Deserialize)]
        struct Page {
            streams: Option<Vec<String>>,
        }
        let page: Page = self.api("STREAM.NAMES", &json!({ "subject": subject })).await?;
        Ok(page.streams.unwrap_or_default())
    }

    pub(crate) async fn create_stream(&self, config: &stream::Config) -> Result<(), ApiError> {
        self.api::<stream::Info>(&format!("STREAM.CREATE.{}", config.name), config).await.map(drop)
    }

    pub(crate) async fn consumer(&self, stream: &str, name: &str) -> Result<Option<consumer::Config>, ApiError> {
        match self.ask::<consumer::Info>(&format!("CONSUMER.INFO.{stream}.{name}")).await {
            Ok(info) => Ok(Some(info.config)),
            Err(error) if error.is(ErrorCode::CONSUMER_NOT_FOUND) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The consumers of a stream with each of their filters.
    pub(crate) async fn consumers(&self, stream: &str) -> Result<Vec<(String, String)>, ApiError> {
        #[derive(Deserialize)]
        struct Page {
            total: usize,
            consumers: Option<Vec<consumer::Info>>,
        }
        let mut found = Vec::new();
        let mut offset = 0;
        loop {
            let page: Page = self.api(&format!("CONSUMER.LIST.{stream}"), &json!({ "offset": offset })).await?;
            let consumers = page.consumers.unwrap_or_default();
            offset += consumers.len();
            let done = consumers.is_empty() || offset >= page.total;
            for info in consumers {
                let mut filters = info.config.filter_subjects;
                filters.push(info.config.filter_subject);
                filters.retain(|filter| !filter.is_empty());
                if filters.is_empty() {
                    filters.push(">".to_owned());
                }
                found.extend(filters.into_iter().map(|filter| (info.name.clone(), filter)));
            }
            if done {
                return Ok(found);
            }
        }
    }

    pub(crate) async fn create_consumer(
        &self,
        stream: &str,
        config: &consumer::Config,
    ) -> Result<consumer::Config, ApiError> {
        // The filter at the end of the subject is what account permissions are checked against.
        let name = config.durable_name.as_deref().unwrap_or_default();
        let subject = format!("CONSUMER.CREATE.{stream}.{name}.{}", config.filter_subject);
        let request = json!({ "stream_name": stream, "config": config, "action": "create" });
        self.api::<consumer::Info>(&subject, &request).await.map(|info| info.config)
    }
}
