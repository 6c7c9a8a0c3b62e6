//! Probes of the user's rights, which change nothing on the server, and what a diagnosis reads of it.

use std::time::{Duration, SystemTime};

use async_nats::{HeaderMap, Subject, header};
use bytes::Bytes;
use serde_json::Value;
use tokio::sync::broadcast::error::TryRecvError;
use tokio::time::{Instant, sleep, timeout};

use super::Connection;
use super::violations::{Denied, Violation};
use crate::delivery::Binding;
use crate::error::Error;

/// The payload of a request that the server refuses after it has permitted it: it begins like the JSON that some requests
/// look for, is not valid, and is not empty either (`jetstream_api.go`, `isJSONObjectOrArray` and `isEmptyRequest`; for a pull
/// request `consumer.go`, `nextReqFromMsg`).
const UNREADABLE_REQUEST: Bytes = Bytes::from_static(b"{]");

/// The payload of an answer to a delivery that the server ignores (`consumer.go`, `processAck`).
const UNKNOWN_ACK: Bytes = Bytes::from_static(b"+PROBE");

/// The expected stream of a message that no stream stores: no stream has a name with spaces.
const NO_STREAM: &str = "no stream";

/// The time in which the server reports what it denies.
const REPORT: Duration = Duration::from_secs(1);

/// The maximum time in which the server processes what was sent.
const LIMIT: Duration = Duration::from_secs(5);

/// The maximum number of probes whose reports are awaited together.
const MAX_PROBES: usize = 100;

/// A right that is probed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Probe {
    /// A request to the JetStream API.
    Request(String),
    /// An ack of a delivery that does not exist.
    Ack(String),
    /// A message that no stream stores.
    Message(String),
    Subscription(String),
}

impl Probe {
    fn is(&self, violation: &Violation) -> bool {
        let (denied, subject) = match self {
            Self::Request(subject) | Self::Ack(subject) | Self::Message(subject) => (Denied::Publish, subject),
            Self::Subscription(subject) => (Denied::Subscribe, subject),
        };
        violation.denied == denied && *violation.subject == **subject
    }
}

impl Connection {
    /// Returns for each probe whether the server denies it.
    pub(crate) async fn probe(&self, probes: &[Probe]) -> Vec<bool> {
        let mut denied = Vec::new();
        for some in probes.chunks(MAX_PROBES) {
            let violations = self.send_probes(some).await;
            denied.extend(some.iter().map(|probe| violations.iter().any(|violation| probe.is(violation))));
        }
        denied
    }

    async fn send_probes(&self, probes: &[Probe]) -> Vec<Violation> {
        let client = self.client();
        let mut violations = self.violations.subscribe();
        let mut subscribers = Vec::new();
        for probe in probes {
            match probe {
                Probe::Request(subject) => {
                    client.publish(Subject::from(&**subject), UNREADABLE_REQUEST).await.ok();
                }
                Probe::Ack(subject) => {
                    client.publish(Subject::from(&**subject), UNKNOWN_ACK).await.ok();
                }
                Probe::Message(subject) => {
                    let mut headers = HeaderMap::new();
                    headers.insert(header::NATS_EXPECTED_STREAM, NO_STREAM);
                    client.publish_with_headers(Subject::from(&**subject), headers, Bytes::new()).await.ok();
                }
                Probe::Subscription(subject) => {
                    subscribers.extend(client.subscribe(Subject::from(&**subject)).await);
                }
            }
        }
        timeout(LIMIT, self.caught_up()).await.ok();
        // The client passes reports on apart from messages.
        sleep(REPORT).await;
        std::iter::from_fn(|| match violations.try_recv() {
            Err(TryRecvError::Lagged(_)) => Some(None),
            violation => violation.ok().map(Some),
        })
        .flatten()
        .collect()
    }

    /// Returns the time of a message to an inbox of this connection and back.
    pub(crate) async fn latency(&self) -> Result<Duration, Error> {
        let inbox = self.client().new_inbox();
        let sent = Instant::now();
        tokio::select! {
            biased;
            error = self.denied(&inbox) => Err(error),
            result = self.round_trip(LIMIT) => result.map(|()| sent.elapsed()),
        }
    }

    /// Returns the difference between the clock of the server and that of this process, and by how much it may be wrong.
    pub(crate) async fn clock_skew(&self, stream: &str) -> Result<Option<(f64, Duration)>, Error> {
        let (before, sent) = (SystemTime::now(), Instant::now());
        let info: Value = self
            .request_empty(&format!("STREAM.INFO.{stream}"))
            .await
            .map_err(|error| error.into_error(&format!("reading stream `{stream}`")))?;
        let took = sent.elapsed();
        let time = info["ts"].as_str().and_then(|ts| {
            time::OffsetDateTime::parse(ts, &time::format_description::well_known::Rfc3339).ok().map(SystemTime::from)
        });
        let middle = before + took / 2;
        Ok(time.map(|time| {
            let skew = match time.duration_since(middle) {
                Ok(ahead) => ahead.as_secs_f64(),
                Err(behind) => -behind.duration().as_secs_f64(),
            };
            (skew, took / 2)
        }))
    }

    /// Returns the state of a handler's consumer.
    pub(crate) async fn consumer_now(&self, binding: &Binding) -> Result<async_nats::jetstream::consumer::Info, Error> {
        self.consumer_info(binding).await
    }

    /// Returns the version of the connected server, and `true` if the connection is encrypted, as far as is known.
    pub(crate) fn security(&self) -> (String, bool) {
        let info = self.client().server_info();
        let is_tls = info.tls_required || self.addresses().iter().any(|address| address.starts_with("tls://"));
        (info.version, is_tls)
    }
}
