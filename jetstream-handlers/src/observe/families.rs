//! The names of the metrics, behind the feature `metrics`.

/// The prefix of the names of all metrics.
pub const PREFIX: &str = "jetstream_handlers_";

/// The bounds of the buckets of all histograms, in seconds.
///
/// Those up to 10 s are those of the semantic conventions of OpenTelemetry for messaging; the longer ones are for
/// messages that wait in their stream.
pub const BUCKETS: [f64; 19] = [
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0,
];

/// The kind of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// A number that only rises.
    Counter,
    /// A number that rises and falls.
    Gauge,
    /// A distribution of durations.
    Histogram,
}

/// A metric, as [`FAMILIES`] lists it.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Family {
    /// The name, with the prefix.
    pub name: &'static str,
    /// The kind.
    pub kind: Kind,
    /// The names of the labels.
    pub labels: &'static [&'static str],
    /// The measured quantity, as human-readable text.
    pub description: &'static str,
}

const OF_HANDLER: &[&str] = &["handler", "stream", "consumer"];
const WITH_OUTCOME: &[&str] = &["handler", "stream", "consumer", "outcome"];
const WITH_REASON: &[&str] = &["handler", "stream", "consumer", "reason"];
const WITH_STATE: &[&str] = &["handler", "stream", "consumer", "state"];
const WITH_TARGET: &[&str] = &["handler", "stream", "consumer", "target"];
const OF_PUBLISH: &[&str] = &["subject", "outcome"];
const OF_BROKER: &[&str] = &["broker"];

const fn family(name: &'static str, kind: Kind, labels: &'static [&'static str], description: &'static str) -> Family {
    Family { name, kind, labels, description }
}

/// Declares the constants of the names, and the list of all families.
macro_rules! families {
    ($($constant:ident = $name:literal, $kind:ident, $labels:ident, $description:literal;)*) => {
        $(pub(crate) const $constant: &str = concat!("jetstream_handlers_", $name);)*

        /// All metrics of the library.
        pub const FAMILIES: &[Family] = &[$(family($constant, Kind::$kind, $labels, $description)),*];
    };
}

families! {
    RECEIVED = "messages_received_total", Counter, OF_HANDLER, "deliveries that arrived in this process";
    SETTLED = "messages_settled_total", Counter, WITH_OUTCOME, "deliveries and attempts that were settled";
    ATTEMPTS_FAILED = "attempts_failed_total", Counter, WITH_REASON, "attempts that failed";
    HANDLER_DURATION = "handler_duration_seconds", Histogram, WITH_OUTCOME, "duration of calls of the handler, with the extraction of their parameters";
    QUEUE = "queue_seconds", Histogram, OF_HANDLER, "time between the storing of a message and its start, by the clocks of server and process";
    BUFFERED = "buffered_seconds", Histogram, OF_HANDLER, "time for which a delivery waited in this process before its start";
    IN_FLIGHT = "in_flight", Gauge, OF_HANDLER, "messages that are being handled";
    BUFFERED_MESSAGES = "buffered", Gauge, OF_HANDLER, "messages that wait in this process";
    CONCURRENCY = "concurrency", Gauge, OF_HANDLER, "messages that can be handled at once";
    REDELIVERED = "redelivered_total", Counter, OF_HANDLER, "deliveries that were not the first one of their message";
    DEAD_LETTERS = "dead_letters_total", Counter, WITH_REASON, "dead letters that this process stored";
    DEAD_LETTERS_STORED = "dead_letters_stored", Gauge, OF_HANDLER, "dead letters of the handler in their stream; the same for all replicas";
    PENDING = "consumer_pending", Gauge, OF_HANDLER, "messages that the consumer has not delivered yet; the same for all replicas";
    ACK_PENDING = "consumer_ack_pending", Gauge, OF_HANDLER, "deliveries that are not acknowledged; the same for all replicas";
    CONSUMER_REDELIVERED = "consumer_redelivered", Gauge, OF_HANDLER, "unacknowledged messages that were delivered more than once; the same for all replicas";
    WAITING = "consumer_waiting", Gauge, OF_HANDLER, "pull requests that wait at the consumer; the same for all replicas";
    MAX_ACK_PENDING = "consumer_max_ack_pending", Gauge, OF_HANDLER, "limit of deliveries that are not acknowledged";
    OLDEST = "oldest_unsettled_seconds", Gauge, OF_HANDLER, "time for which the oldest message in this process is being handled";
    ACTIVE = "partition_active", Gauge, OF_HANDLER, "1 while this process receives the messages of the partition, of a handler with partitions";
    UP = "handler_up", Gauge, WITH_STATE, "1 for the present state of the handler, 0 for the others";
    POLL_ERRORS = "poll_errors_total", Counter, WITH_TARGET, "requests for the gauges of the consumer and of dead letters that failed";
    PUBLISH = "publish_total", Counter, OF_PUBLISH, "messages that were published, by their outcome";
    PUBLISH_DURATION = "publish_duration_seconds", Histogram, OF_PUBLISH, "time until a publish was answered, with its retries";
    CONNECTED = "connected", Gauge, OF_BROKER, "1 while a server is connected";
    RECONNECTS = "reconnects_total", Counter, OF_BROKER, "connections after the first one";
}

/// Describes all metrics to the recorder.
pub(crate) fn describe() {
    for Family { name, kind, description, .. } in FAMILIES {
        let (name, description) = (*name, *description);
        match kind {
            Kind::Counter => ::metrics::describe_counter!(name, description),
            Kind::Gauge => ::metrics::describe_gauge!(name, description),
            Kind::Histogram => ::metrics::describe_histogram!(name, ::metrics::Unit::Seconds, description),
        }
    }
}
