//! The health of a broker and its handlers.

use std::fmt;
use std::time::{Duration, Instant, SystemTime};

use serde::{Serialize, Serializer};

use super::handler_state::HandlerState;
use super::times::{optional_rfc3339, rfc3339};

/// The time after which a handler without a free slot is described as busy.
const MIN_BUSY: Duration = Duration::from_secs(10);

/// The time after which calls that keep a handler from all others are not expected to end.
const MAX_STUCK: Duration = Duration::from_secs(60);

/// The status of a handler.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Status {
    /// The handler receives messages.
    Running,
    /// The handler runs, but something in it does not work that a person must fix: its dead letters cannot be stored,
    /// all its slots are taken by calls that do not end, its acks are denied, or its consumer is paused.
    Degraded {
        /// The problems, as human-readable text.
        reason: String,
        /// The time of the first problem.
        since: Instant,
    },
    /// The handler receives no messages, and retries until it does.
    Recovering {
        /// The problem, as human-readable text.
        reason: String,
        /// The time at which the handler stopped receiving messages.
        since: Instant,
    },
    /// The handler accepts no more messages, and finishes those in flight.
    Stopping,
    /// The handler has stopped.
    Stopped,
    /// The handler has ended although nobody stopped it.
    Failed {
        /// The cause, as human-readable text.
        reason: String,
    },
}

impl From<&Status> for HandlerState {
    fn from(status: &Status) -> Self {
        match status {
            Status::Running => Self::Running,
            Status::Degraded { .. } => Self::Degraded,
            Status::Recovering { .. } => Self::Recovering,
            Status::Stopping => Self::Stopping,
            Status::Stopped => Self::Stopped,
            Status::Failed { .. } => Self::Failed,
        }
    }
}

/// An error, and its time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct LastError {
    /// The time of the error.
    #[serde(serialize_with = "rfc3339")]
    pub at: SystemTime,
    /// The error, as human-readable text.
    pub error: String,
}

/// The health of one handler.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct HandlerHealth {
    /// The full name of the handler.
    pub handler: String,
    /// The stream that the handler reads.
    pub stream: String,
    /// The name of the durable consumer.
    pub queue: String,
    /// The number of the partition, of a handler with [`partitions`](mod@crate::scale), each of which has a health of its
    /// own.
    pub partition: Option<u32>,
    /// `true` if this instance receives the messages of the partition; `None` for a handler without partitions.
    pub active: Option<bool>,
    /// The status of the handler.
    pub status: Status,
    /// `true` if an operator has paused the consumer, which is one of the reasons of [`Status::Degraded`].
    pub paused: bool,
    /// The number of messages that the consumer had not delivered to any instance when it delivered the last message to
    /// this one; `None` before the first.
    ///
    /// It is in every delivery, so that no request and no permission is needed, and it stays as it was while nothing is
    /// delivered.
    pub lag: Option<u64>,
    /// The maximum number of calls at the same time.
    pub concurrency: usize,
    /// The number of messages that are being handled.
    pub in_flight: usize,
    /// The time at which the handler took the oldest of them.
    pub oldest_in_flight: Option<Instant>,
    /// The number of messages that this process holds and that wait: for a slot, for others with the same key, to be
    /// tried in isolation, or, of a handler with a key, for their next attempt.
    pub buffered: usize,
    /// The number of messages that failed in this process and wait on the server for their next attempt.
    pub delayed: usize,
    /// The time since which all slots of the handler have been busy with the calls that run now; `None` if one is free.
    ///
    /// A handler whose calls take minutes is busy for minutes, so this alone is no problem until the calls exceed the
    /// handler's `timeout`, which [`Status::Degraded`] reports.
    pub busy_since: Option<Instant>,
    /// The number of messages that could not be given to the handler since it started, because they cannot be read.
    pub quarantined: u64,
    /// The time at which a call last succeeded, since the handler started.
    pub last_success: Option<SystemTime>,
    /// The error of the last call that failed, since the handler started: an error, a panic, a timeout or a payload that
    /// cannot be decoded.
    ///
    /// It may contain values of a payload unless [`Builder::redact_errors`](crate::Builder::redact_errors) is set, so do
    /// not serve it to everyone.
    pub last_failure: Option<LastError>,
    /// The time since which calls have kept all slots that cannot be cancelled, or have blocked the runtime thread for
    /// longer than any heartbeat may take.
    pub(crate) stuck_since: Option<Instant>,
}

impl HandlerHealth {
    /// Returns `false` if a restart of the process would help the handler.
    fn is_alive(&self) -> bool {
        let is_stuck = self.stuck_since.is_some_and(|since| since.elapsed() >= MAX_STUCK);
        !is_stuck && !matches!(self.status, Status::Failed { .. })
    }

    /// Returns `true` if the handler is not starting, stopping or cut off from its messages.
    fn is_ready(&self) -> bool {
        matches!(self.status, Status::Running | Status::Degraded { .. })
    }
}

/// The health of a broker and its handlers, for people and for probes.
///
/// It is the state last reported by the server, and reflects a failure within a few seconds.
/// A consumer that has no leader although the server answers is noticed within the
/// [`fetch_wait`](crate::Builder::fetch_wait), or 30 s if that is less.
/// No request is made to find it out.
///
/// `Display` writes a line for the connection and one for each handler. `Serialize` writes an object, whose form
/// [`health`](mod@crate::health) describes together with the probes of Kubernetes.
///
/// # Examples
///
/// ```no_run
/// # async fn probe(broker: jetstream_handlers::Broker) -> u16 {
/// let health = broker.health();
/// if health.is_ready() { 200 } else { 503 }
/// # }
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Health {
    /// `true` if a server is connected.
    pub connected: bool,
    /// The last error that the client library or the server has reported about the connection, such as refused
    /// credentials, a connection limit or a missing permission; it may be over.
    pub last_error: Option<LastError>,
    /// The started handlers that [`Running::shutdown`](crate::Running::shutdown) has not stopped.
    pub handlers: Vec<HandlerHealth>,
    /// The reason for which no server is connected, if it is known.
    pub(crate) disconnected: Option<String>,
    /// `true` if no server will be connected again.
    pub(crate) abandoned: bool,
}

impl Health {
    /// Returns `true` if a server is connected, handlers were started, and all of them are
    /// [`Running`](Status::Running): no person needs to look at it.
    ///
    /// It is `false` before the start and after the stop, because then nothing is handled. A broker that only publishes
    /// is judged by [`connected`](Self::connected).
    pub fn is_healthy(&self) -> bool {
        self.is_ready() && self.handlers.iter().all(|handler| handler.status == Status::Running)
    }

    /// Returns `false` if a restart of the process would help, for a liveness probe.
    ///
    /// That is so if a handler has [`Failed`](Status::Failed), if calls have blocked its runtime thread for a minute and
    /// for twice its `ack_wait`, if calls have taken all its threads for a minute beyond their timeout, or if the runtime
    /// on which the broker has connected was shut down.
    /// It is `true` while no server is connected, because the broker connects again by itself, and while handlers start
    /// or stop.
    pub fn is_alive(&self) -> bool {
        !self.abandoned && self.handlers.iter().all(HandlerHealth::is_alive)
    }

    /// Returns `true` if a server is connected, handlers were started, and all of them are [`Running`](Status::Running)
    /// or [`Degraded`](Status::Degraded), for a readiness probe.
    ///
    /// A degraded handler is ready, because another instance would have its problem as well, and a consumer that an
    /// operator has paused must not block a deployment.
    /// It is `false` before the start, and from the beginning of a stop. For a broker that only publishes it is always
    /// `false`; use [`connected`](Self::connected).
    pub fn is_ready(&self) -> bool {
        self.connected && !self.handlers.is_empty() && self.handlers.iter().all(HandlerHealth::is_ready)
    }
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.connected, &self.disconnected, &self.last_error) {
            (true, _, None) => f.write_str("connected")?,
            (true, _, Some(last)) => write!(f, "connected, {}", Ago("error", last))?,
            (false, None, _) => f.write_str("not connected")?,
            (false, Some(reason), _) => write!(f, "not connected: {reason}")?,
        }
        if self.handlers.is_empty() {
            f.write_str("\nno handler is started")?;
        }
        self.handlers.iter().try_for_each(|handler| write!(f, "\n{handler}"))
    }
}

impl fmt::Display for HandlerHealth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.handler)?;
        if let Some(number) = self.partition {
            write!(f, ", partition {number}")?;
        }
        write!(f, ": {}", HandlerState::from(&self.status))?;
        match &self.status {
            Status::Degraded { reason, since } | Status::Recovering { reason, since } => {
                write!(f, " for {:.0?}: {reason}", since.elapsed())?;
            }
            Status::Failed { reason } => write!(f, ": {reason}")?,
            Status::Running | Status::Stopping | Status::Stopped => {}
        }
        match self.active {
            Some(true) => f.write_str(", active")?,
            Some(false) => f.write_str(", active elsewhere or idle")?,
            None => {}
        }
        if let Some(since) = self.busy_since.filter(|since| since.elapsed() >= MIN_BUSY) {
            write!(f, ", no free slot for {:.0?}", since.elapsed())?;
        }
        if let Some(since) = self.oldest_in_flight {
            write!(f, ", {} in flight for up to {:.1?}", self.in_flight, since.elapsed())?;
        }
        for (count, what) in [(self.buffered, "buffered"), (self.delayed, "delayed")] {
            if count > 0 {
                write!(f, ", {count} {what}")?;
            }
        }
        if let Some(lag) = self.lag {
            write!(f, ", lag {lag}")?;
        }
        if self.quarantined > 0 {
            write!(f, ", {} unreadable messages set aside", self.quarantined)?;
        }
        if let Some(at) = self.last_success {
            write!(f, ", last success {:.0?} ago", at.elapsed().unwrap_or_default())?;
        }
        self.last_failure.as_ref().map_or(Ok(()), |last| write!(f, ", {}", Ago("failure", last)))
    }
}

/// An error with its age; the first part is what it is called.
struct Ago<'a>(&'static str, &'a LastError);

impl fmt::Display for Ago<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(what, LastError { at, error }) = self;
        write!(f, "last {what} {:.0?} ago: {error}", at.elapsed().unwrap_or_default())
    }
}

/// The form in which [`Health`] is serialized.
#[derive(Serialize)]
struct HealthForm<'a> {
    connected: bool,
    healthy: bool,
    ready: bool,
    alive: bool,
    disconnected: &'a Option<String>,
    last_error: &'a Option<LastError>,
    handlers: &'a [HandlerHealth],
}

/// The form in which [`HandlerHealth`] is serialized; the ages of times are in seconds.
#[derive(Serialize)]
struct HandlerForm<'a> {
    handler: &'a str,
    stream: &'a str,
    queue: &'a str,
    partition: Option<u32>,
    active: Option<bool>,
    status: HandlerState,
    reason: Option<&'a str>,
    status_seconds: Option<f64>,
    paused: bool,
    lag: Option<u64>,
    concurrency: usize,
    in_flight: usize,
    oldest_in_flight_seconds: Option<f64>,
    buffered: usize,
    delayed: usize,
    busy_seconds: Option<f64>,
    quarantined: u64,
    #[serde(serialize_with = "optional_rfc3339")]
    last_success: Option<SystemTime>,
    last_failure: &'a Option<LastError>,
}

impl Serialize for Health {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { connected, last_error, handlers, disconnected, .. } = self;
        let (healthy, ready, alive) = (self.is_healthy(), self.is_ready(), self.is_alive());
        HealthForm { connected: *connected, healthy, ready, alive, disconnected, last_error, handlers }
            .serialize(serializer)
    }
}

impl Serialize for HandlerHealth {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let age = |since: &Instant| since.elapsed().as_secs_f64();
        let (reason, since) = match &self.status {
            Status::Degraded { reason, since } | Status::Recovering { reason, since } => (Some(reason), Some(since)),
            Status::Failed { reason } => (Some(reason), None),
            Status::Running | Status::Stopping | Status::Stopped => (None, None),
        };
        let form = HandlerForm {
            handler: &self.handler,
            stream: &self.stream,
            queue: &self.queue,
            partition: self.partition,
            active: self.active,
            status: HandlerState::from(&self.status),
            reason: reason.map(String::as_str),
            status_seconds: since.map(age),
            paused: self.paused,
            lag: self.lag,
            concurrency: self.concurrency,
            in_flight: self.in_flight,
            oldest_in_flight_seconds: self.oldest_in_flight.as_ref().map(age),
            buffered: self.buffered,
            delayed: self.delayed,
            busy_seconds: self.busy_since.as_ref().map(age),
            quarantined: self.quarantined,
            last_success: self.last_success,
            last_failure: &self.last_failure,
        };
        form.serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handler(status: Status) -> HandlerHealth {
        HandlerHealth {
            handler: "app::bill".to_owned(),
            stream: "ORDERS".to_owned(),
            queue: "billing".to_owned(),
            partition: None,
            active: None,
            status,
            paused: false,
            lag: None,
            concurrency: 4,
            in_flight: 0,
            oldest_in_flight: None,
            buffered: 0,
            delayed: 0,
            busy_since: None,
            quarantined: 0,
            last_success: None,
            last_failure: None,
            stuck_since: None,
        }
    }

    fn health(handlers: Vec<HandlerHealth>) -> Health {
        Health { connected: true, last_error: None, handlers, disconnected: None, abandoned: false }
    }

    fn ago(seconds: u64) -> Instant {
        Instant::now().checked_sub(Duration::from_secs(seconds)).unwrap_or_else(Instant::now)
    }

    #[test]
    fn every_status_is_healthy_ready_and_alive_or_not() {
        let (reason, since) = (String::new(), Instant::now());
        let cases = [
            (Status::Running, [true, true, true]),
            (Status::Degraded { reason: reason.clone(), since }, [false, true, true]),
            (Status::Recovering { reason: reason.clone(), since }, [false, false, true]),
            (Status::Stopping, [false, false, true]),
            (Status::Stopped, [false, false, true]),
            (Status::Failed { reason }, [false, false, false]),
        ];
        for (status, expected) in cases {
            let health = health(vec![handler(Status::Running), handler(status)]);
            assert_eq!([health.is_healthy(), health.is_ready(), health.is_alive()], expected, "{health}");
        }
    }

    #[test]
    fn lost_server_is_alive_and_an_abandoned_connection_is_not() {
        let mut health = health(vec![handler(Status::Running)]);
        health.connected = false;
        assert_eq!([health.is_healthy(), health.is_ready(), health.is_alive()], [false, false, true]);
        health.abandoned = true;
        assert!(!health.is_alive());
    }

    #[test]
    fn broker_without_handlers_is_neither_healthy_nor_ready() {
        let health = health(Vec::new());
        assert_eq!([health.is_healthy(), health.is_ready(), health.is_alive()], [false, false, true]);
        assert_eq!(health.to_string(), "connected\nno handler is started");
    }

    #[test]
    fn calls_that_never_end_are_not_alive_after_a_minute() {
        let stuck = |seconds| HandlerHealth { stuck_since: Some(ago(seconds)), ..handler(Status::Running) };
        assert!(health(vec![stuck(30)]).is_alive());
        assert!(!health(vec![handler(Status::Running), stuck(61)]).is_alive());
    }

    #[test]
    fn forms_for_people_and_for_probes_are_stable() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_793_743_445_067);
        let bill = HandlerHealth {
            lag: Some(12),
            in_flight: 2,
            buffered: 3,
            quarantined: 1,
            last_success: Some(at),
            last_failure: Some(LastError { at, error: "no stock".to_owned() }),
            ..handler(Status::Failed { reason: "its runtime has ended".to_owned() })
        };
        let ship = HandlerHealth {
            handler: "app::ship".to_owned(),
            partition: Some(3),
            active: Some(true),
            paused: true,
            status: Status::Degraded { reason: "paused".to_owned(), since: ago(3) },
            in_flight: 2,
            oldest_in_flight: Some(ago(2)),
            busy_since: Some(ago(20)),
            delayed: 4,
            ..handler(Status::Running)
        };
        let health = Health {
            connected: false,
            last_error: Some(LastError { at, error: "authorization violation".to_owned() }),
            disconnected: Some("authorization violation".to_owned()),
            ..health(vec![bill, ship])
        };
        let text = health.to_string();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "not connected: authorization violation");
        let bill = "app::bill: failed: its runtime has ended, 3 buffered, lag 12, 1 unreadable messages set aside, last success ";
        assert!(lines[1].starts_with(bill) && lines[1].ends_with(" ago: no stock"), "{text}");
        let ship = "app::ship, partition 3: degraded for 3s: paused, active, no free slot for 20s, 2 in flight for up to 2.0s, 4 delayed";
        assert_eq!(lines[2], ship);

        let json = serde_json::to_string(&health).unwrap_or_default();
        let bill = r#"{"handler":"app::bill","stream":"ORDERS","queue":"billing","partition":null,"active":null,"status":"failed","reason":"its runtime has ended","status_seconds":null,"paused":false,"lag":12,"concurrency":4,"in_flight":2,"oldest_in_flight_seconds":null,"buffered":3,"delayed":0,"busy_seconds":null,"quarantined":1,"last_success":"2026-11-03T22:04:05.067Z","last_failure":{"at":"2026-11-03T22:04:05.067Z","error":"no stock"}}"#;
        let broker = r#"{"connected":false,"healthy":false,"ready":false,"alive":false,"disconnected":"authorization violation","last_error":{"at":"2026-11-03T22:04:05.067Z","error":"authorization violation"},"handlers":["#;
        assert!(json.starts_with(&format!("{broker}{bill},")), "{json}");
        let ship: serde_json::Value = serde_json::to_value(&health.handlers[1]).unwrap_or_default();
        let seconds = |field: &str| ship[field].as_f64().unwrap_or_default().round();
        assert_eq!(
            (seconds("status_seconds"), seconds("oldest_in_flight_seconds"), seconds("busy_seconds")),
            (3.0, 2.0, 20.0)
        );
        assert_eq!((&ship["status"], &ship["lag"]), (&"degraded".into(), &serde_json::Value::Null));
    }
}
