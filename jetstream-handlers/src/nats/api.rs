//! Requests to the JetStream API.

use std::time::{Duration, SystemTime};

use async_nats::Message;
use async_nats::client::{RequestError, RequestErrorKind};
use async_nats::jetstream::response::Response;
use async_nats::jetstream::{ErrorCode, consumer, stream};
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::time::{Instant, sleep};

use super::Connection;
use crate::delivery::{Binding, FoundConsumer, StreamCopies, filters};
use crate::error::Error;
use crate::error::api::ApiError;
use crate::settings::DEFAULT_API_PREFIX;

/// The interval at which a lost connection is checked.
const RETRY_INTERVAL: Duration = Duration::from_millis(20);

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
        let subject = format!("{}.{subject}", self.api_prefix);
        let response = tokio::select! {
            biased;
            error = self.denied(&subject) => return Err(ApiError::Denied(error)),
            response = self.answer(&subject, payload) => response,
        };
        let response = response.map_err(|error| ApiError::Unanswered { subject, error })?;
        match serde_json::from_slice(&response.payload) {
            Ok(Response::Ok(response)) => Ok(response),
            Ok(Response::Err { error }) => Err(ApiError::Refused(error)),
            Err(error) => Err(ApiError::Unreadable(error)),
        }
    }

    /// Waits for the answer to a request, which is sent again after a reconnect: no answer to a request of the former
    /// connection arrives on the next one.
    async fn answer(&self, subject: &str, payload: Bytes) -> Result<Message, RequestError> {
        let deadline = Instant::now() + self.settings.request_timeout;
        let mut epoch = self.epoch();
        loop {
            self.connected_before(deadline).await;
            let (client, sent_on) = (self.client(), self.connects());
            let limit = deadline.saturating_duration_since(Instant::now());
            let request = async_nats::Request::new().payload(payload.clone()).timeout(Some(limit));
            let reconnected = async {
                while self.connects() == sent_on {
                    epoch.changed().await.ok();
                }
            };
            tokio::select! {
                answer = client.send_request(subject.to_owned(), request) => match answer {
                    // The task of the client has ended.
                    Err(error) if error.kind() == RequestErrorKind::Other && !self.is_closed() && Instant::now() < deadline =>
                    {
                        sleep(RETRY_INTERVAL).await;
                    }
                    answer => return answer,
                },
                () = reconnected => {}
            }
        }
    }

    /// Waits until a server is connected, but not beyond the deadline.
    ///
    /// Without a connection, the client would queue what is sent, and send it on the next one.
    async fn connected_before(&self, deadline: Instant) {
        while !self.is_connected() && !self.is_closed() && Instant::now() < deadline {
            sleep(RETRY_INTERVAL).await;
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

    /// Returns a stream with the position of its first source, which the client library does not read.
    pub(crate) async fn copies(&self, name: &str) -> Result<Option<StreamCopies>, ApiError> {
        #[derive(Deserialize)]
        struct Info {
            config: stream::Config,
            state: State,
            #[serde(default)]
            sources: Vec<Source>,
        }
        #[derive(Deserialize)]
        struct State {
            messages: u64,
            last_seq: u64,
        }
        #[derive(Deserialize)]
        struct Source {
            seq: Option<u64>,
        }
        match self.request_empty::<Info>(&format!("STREAM.INFO.{name}")).await {
            Ok(Info { config, state, sources }) => Ok(Some(StreamCopies {
                config,
                copied: sources.first().and_then(|source| source.seq),
                messages: state.messages,
                last_sequence: state.last_seq,
            })),
            Err(error) if error.is(ErrorCode::STREAM_NOT_FOUND) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Returns the configuration and the state of a stream.
    pub(super) async fn stream_info(&self, name: &str) -> Result<stream::Info, Error> {
        let info = self.request_stream_info(name).await;
        info.map_err(|error| error.into_error(&format!("reading stream `{name}`")))
    }

    pub(super) async fn request_stream_info(&self, name: &str) -> Result<stream::Info, ApiError> {
        self.request_empty(&format!("STREAM.INFO.{name}")).await
    }

    /// Returns the names of the streams whose subjects overlap with `subject`.
    pub(crate) async fn stream_names(&self, subject: &str) -> Result<Vec<String>, ApiError> {
        #[derive(Deserialize)]
        struct Page {
            total: usize,
            streams: Option<Vec<String>>,
        }
        let mut names = Vec::new();
        loop {
            let request = json!({ "subject": subject, "offset": names.len() });
            let page: Page = self.request("STREAM.NAMES", &request).await?;
            let streams = page.streams.unwrap_or_default();
            let is_last = streams.is_empty() || names.len() + streams.len() >= page.total;
            names.extend(streams);
            if is_last {
                return Ok(names);
            }
        }
    }

    /// Returns the configurations of all streams of the account.
    pub(crate) async fn streams(&self) -> Result<Vec<stream::Config>, ApiError> {
        #[derive(Deserialize)]
        struct Page {
            total: usize,
            streams: Option<Vec<Value>>,
        }
        let mut configs = Vec::new();
        let mut offset = 0;
        loop {
            let page: Page = self.request("STREAM.LIST", &json!({ "offset": offset })).await?;
            let streams = page.streams.unwrap_or_default();
            offset += streams.len();
            let is_last = streams.is_empty() || offset >= page.total;
            // A stream with settings of a later server is left out.
            configs
                .extend(streams.into_iter().filter_map(|mut info| serde_json::from_value(info["config"].take()).ok()));
            if is_last {
                return Ok(configs);
            }
        }
    }

    pub(crate) async fn create_stream(&self, config: &stream::Config) -> Result<(), ApiError> {
        self.request::<stream::Info>(&format!("STREAM.CREATE.{}", config.name), config).await.map(drop)
    }

    /// Returns a consumer, if it exists.
    pub(crate) async fn consumer(&self, stream: &str, name: &str) -> Result<Option<FoundConsumer>, ApiError> {
        match self.request_empty::<consumer::Info>(&format!("CONSUMER.INFO.{stream}.{name}")).await {
            Ok(info) => Ok(Some(found(info))),
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

    /// Returns the consumers of a stream.
    pub(crate) async fn consumers(&self, stream: &str) -> Result<Vec<FoundConsumer>, ApiError> {
        #[derive(Deserialize)]
        struct Page {
            total: usize,
            consumers: Option<Vec<consumer::Info>>,
        }
        let mut all = Vec::new();
        let mut offset = 0;
        loop {
            let page: Page = self.request(&format!("CONSUMER.LIST.{stream}"), &json!({ "offset": offset })).await?;
            let consumers = page.consumers.unwrap_or_default();
            offset += consumers.len();
            let is_last = consumers.is_empty() || offset >= page.total;
            all.extend(consumers.into_iter().map(found));
            if is_last {
                return Ok(all);
            }
        }
    }

    /// Creates a consumer; fails if one of this name exists.
    pub(crate) async fn create_consumer(
        &self,
        stream: &str,
        config: &consumer::Config,
    ) -> Result<FoundConsumer, ApiError> {
        // A consumer that an operator made may have a name without being durable.
        let name = config.durable_name.as_deref().or(config.name.as_deref()).unwrap_or_default();
        let mut subject = format!("CONSUMER.CREATE.{stream}.{name}");
        // Permissions of the account are checked against the filter at the end of the subject, which the server expects
        // there only if it is in this field.
        if !config.filter_subject.is_empty() {
            subject.push('.');
            subject.push_str(&config.filter_subject);
        }
        let request = json!({ "stream_name": stream, "config": config, "action": "create" });
        self.request::<consumer::Info>(&subject, &request).await.map(found)
    }

    /// Changes a stream in the fields in which `wanted` differs from `found`.
    pub(crate) async fn update_stream(&self, found: &stream::Config, wanted: &stream::Config) -> Result<(), ApiError> {
        let mut info: Value = self.request_empty(&format!("STREAM.INFO.{}", wanted.name)).await?;
        change(&mut info["config"], found, wanted);
        self.request::<Value>(&format!("STREAM.UPDATE.{}", wanted.name), &info["config"]).await.map(drop)
    }

    /// Changes a consumer in the fields in which `wanted` differs from `found`.
    pub(crate) async fn update_consumer(
        &self,
        stream: &str,
        found: &consumer::Config,
        wanted: &consumer::Config,
    ) -> Result<FoundConsumer, ApiError> {
        let name = wanted.durable_name.as_deref().or(wanted.name.as_deref()).unwrap_or_default();
        let mut info: Value = self.request_empty(&format!("CONSUMER.INFO.{stream}.{name}")).await?;
        change(&mut info["config"], found, wanted);
        let mut subject = format!("CONSUMER.CREATE.{stream}.{name}");
        // The subject ends with the filter only if there is exactly one.
        if let Some(filter) = info["config"]["filter_subject"].as_str().filter(|filter| !filter.is_empty()) {
            subject.push('.');
            subject.push_str(filter);
        }
        let request = json!({ "stream_name": stream, "config": info["config"], "action": "update" });
        self.request::<consumer::Info>(&subject, &request).await.map(self::found)
    }

    /// Deletes a consumer; returns `false` if it did not exist.
    pub(crate) async fn remove_consumer(&self, stream: &str, consumer: &str) -> Result<bool, ApiError> {
        match self.request_empty::<Value>(&format!("CONSUMER.DELETE.{stream}.{consumer}")).await {
            Ok(_) => Ok(true),
            Err(error) if error.is(ErrorCode::CONSUMER_NOT_FOUND) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Returns the limits and the usage of the account.
    pub(crate) async fn account(&self) -> Result<Value, ApiError> {
        self.request_empty("INFO").await
    }

    /// Returns the name of the account of the user; `None` if the server does not say it, or not to this user.
    ///
    /// Every account can ask from 2.10 on (`server/accounts.go`, `addSystemAccountImports`).
    pub(crate) async fn account_name(&self) -> Option<String> {
        const SUBJECT: &str = "$SYS.REQ.USER.INFO";
        const TIMEOUT: Duration = Duration::from_secs(2);
        let client = self.client();
        let request = async_nats::Request::new().timeout(Some(TIMEOUT));
        let answer = tokio::select! {
            biased;
            _ = self.denied(SUBJECT) => return None,
            answer = client.send_request(SUBJECT, request) => answer.ok()?,
        };
        let info: Value = serde_json::from_slice(&answer.payload).ok()?;
        info["data"]["account"].as_str().map(str::to_owned)
    }

    /// Returns the names by which a client can tell one JetStream system from another.
    ///
    /// The name of a server without a cluster is its id unless it is configured, and changes with each of its starts.
    pub(crate) fn identity(&self) -> String {
        let info = self.client().server_info();
        let name = match info.cluster.filter(|name| !name.is_empty()) {
            Some(cluster) => format!("cluster {cluster}"),
            None => format!("server {}", info.server_name),
        };
        let prefix = &self.api_prefix;
        if prefix == DEFAULT_API_PREFIX { name } else { format!("{name}, {prefix}") }
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
        let mut last = 0;
        for filter in filters(&info.config) {
            last = self.last_sequence(&binding.stream, filter).await?.max(last);
        }
        let not_counted_yet = u64::from(info.delivered.stream_sequence < last && info.num_pending == 0);
        Ok(info.num_pending + info.num_ack_pending as u64 + not_counted_yet)
    }
}

fn found(info: consumer::Info) -> FoundConsumer {
    FoundConsumer {
        created: Some(SystemTime::from(info.created)),
        ack_floor: info.ack_floor.stream_sequence,
        delivered: info.delivered.stream_sequence,
        left: info.num_pending + info.num_ack_pending as u64,
        config: info.config,
    }
}

/// Changes the configuration on the server in the fields in which `wanted` differs from `found`, so that fields of a later
/// server and the metadata that others write meanwhile stay.
fn change(config: &mut Value, found: &impl Serialize, wanted: &impl Serialize) {
    let (Ok(Value::Object(found)), Ok(Value::Object(wanted))) =
        (serde_json::to_value(found), serde_json::to_value(wanted))
    else {
        return;
    };
    let Some(config) = config.as_object_mut() else { return };
    change_map(config, &found, &wanted);
    if let Some(Value::Object(metadata)) = config.get_mut("metadata") {
        // The server sets these keys itself.
        metadata.retain(|key, _| !key.starts_with("_nats."));
    }
}

fn change_map(config: &mut Map<String, Value>, found: &Map<String, Value>, wanted: &Map<String, Value>) {
    let empty = Map::new();
    let entries = |map: &Value| map.as_object().cloned().unwrap_or_default();
    for key in found.keys().chain(wanted.keys()) {
        match (found.get(key), wanted.get(key)) {
            (one, other) if one == other => {}
            (one, Some(other)) if key == "metadata" => {
                let (one, other) = (one.map_or(empty.clone(), entries), entries(other));
                if let Some(metadata) = config.entry("metadata").or_insert_with(|| json!({})).as_object_mut() {
                    change_map(metadata, &one, &other);
                }
            }
            (_, Some(value)) => drop(config.insert(key.clone(), value.clone())),
            (_, None) => drop(config.remove(key)),
        }
    }
}
