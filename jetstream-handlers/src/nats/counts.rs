//! The counts of a consumer and of a stream.

use std::collections::BTreeMap;

use async_nats::jetstream::{ErrorCode, consumer};
use serde::Deserialize;
use serde_json::json;

use super::Connection;
use crate::delivery::{Binding, ConsumerCounts, StreamSubjects};
use crate::error::Error;

impl Connection {
    /// Returns the number of connections that were made so far.
    #[cfg(feature = "metrics")]
    pub(crate) fn count_connections(&self) -> u64 {
        self.connects()
    }

    /// Returns what a handler's consumer counts.
    pub(crate) async fn consumer_counts(&self, binding: &Binding) -> Result<ConsumerCounts, Error> {
        let Binding { stream, consumer, .. } = binding;
        self.allow_denial(&format!("CONSUMER.INFO.{stream}.{consumer}"));
        let info: consumer::Info = self.consumer_info(binding).await?;
        Ok(ConsumerCounts {
            pending: info.num_pending,
            ack_pending: info.num_ack_pending as u64,
            redelivered: info.num_redelivered as u64,
            waiting: info.num_waiting as u64,
        })
    }

    fn allow_denial(&self, api: &str) {
        self.errors.allow_denial(format!("{}.{api}", self.api_prefix));
    }

    /// Returns the subjects that a stream declares, and the number of those that its messages have, if it exists.
    pub(crate) async fn stream_subjects(&self, name: &str) -> Result<Option<StreamSubjects>, Error> {
        self.allow_denial(&format!("STREAM.INFO.{name}"));
        match self.request_stream_info(name).await {
            Ok(info) => Ok(Some(StreamSubjects { declared: info.config.subjects, count: info.state.subjects_count })),
            Err(error) if error.is(ErrorCode::STREAM_NOT_FOUND) => Ok(None),
            Err(error) => Err(error.into_error(&format!("counting the subjects of stream `{name}`"))),
        }
    }

    /// Returns the number of subjects of a stream that match a filter; `None` if the stream does not exist.
    ///
    /// The server answers with the number and one page of the subjects (`stream.go`, `jsStreamInfoRequest`), which is
    /// empty behind the last one.
    pub(crate) async fn count_subjects(&self, stream: &str, filter: &str) -> Result<Option<u64>, Error> {
        #[derive(Deserialize)]
        struct Page {
            #[serde(default)]
            total: u64,
        }
        let api = format!("STREAM.INFO.{stream}");
        self.allow_denial(&api);
        match self.request::<Page>(&api, &json!({ "subjects_filter": filter, "offset": i32::MAX })).await {
            Ok(page) => Ok(Some(page.total)),
            Err(error) if error.is(ErrorCode::STREAM_NOT_FOUND) => Ok(None),
            Err(error) => Err(error.into_error(&format!("counting the subjects of stream `{stream}`"))),
        }
    }

    /// Returns the number of messages of a stream on a subject; `None` if the stream does not exist.
    ///
    /// The server answers a request with a filter of subjects with the number for each of them (`stream.go`,
    /// `jsStreamInfoRequest`).
    pub(crate) async fn count_messages(&self, stream: &str, subject: &str) -> Result<Option<u64>, Error> {
        #[derive(Deserialize)]
        struct Info {
            state: State,
        }
        #[derive(Deserialize)]
        struct State {
            #[serde(default)]
            subjects: Option<BTreeMap<String, u64>>,
        }
        let (api, request) = (format!("STREAM.INFO.{stream}"), json!({ "subjects_filter": subject }));
        self.allow_denial(&api);
        match self.request::<Info>(&api, &request).await {
            Ok(info) => Ok(Some(info.state.subjects.unwrap_or_default().values().sum())),
            Err(error) if error.is(ErrorCode::STREAM_NOT_FOUND) => Ok(None),
            Err(error) => Err(error.into_error(&format!("counting the messages on `{subject}` of stream `{stream}`"))),
        }
    }
}
