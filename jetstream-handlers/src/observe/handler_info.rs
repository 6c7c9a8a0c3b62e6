//! The description of a handler, for people and programs.

use std::fmt;
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::handler_state::HandlerState;
use crate::declaration::Declaration;
use crate::delivery::Binding;
use crate::plan::DeadLetter;
use crate::settings::Settings;

/// The number of delays that are described.
const MAX_DELAYS: usize = 20;

/// The description of a handler, from [`Broker::handlers`](crate::Broker::handlers).
///
/// `Display` writes one line for people. `Serialize` writes an object with the fields in this order; durations are
/// numbers of seconds, and their names end with `_seconds`.
///
/// # Examples
///
/// ```
/// use jetstream_handlers::HandlerState;
/// use jetstream_handlers::prelude::*;
///
/// #[subscriber(subject = "orders.created", queue = "billing", concurrency = 4)]
/// async fn bill(order: u64) {}
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), jetstream_handlers::Error> {
/// let broker = Broker::in_memory();
/// let running = broker.include::<bill>().start_all().await?;
/// let handlers = broker.handlers();
/// let billing = handlers.iter().find(|it| it.state == HandlerState::Running).expect("`bill` runs");
/// assert_eq!((billing.stream.as_deref(), &*billing.queue), (Some("ORDERS"), "billing"));
/// println!("{billing}");
/// # running.shutdown().await?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct HandlerInfo {
    /// The full path of the function, or the name of the closure.
    pub name: String,
    /// The subjects as they were declared, with the prefix of the broker's environment; they may have wildcards and
    /// placeholders.
    pub subjects: Vec<String>,
    /// The stream that the handler reads; of a handler that has not started, the one that it names, if any.
    pub stream: Option<String>,
    /// The name of the durable consumer.
    pub queue: String,
    /// The group by which [`Broker::start_groups`](crate::Broker::start_groups) chooses the handler.
    pub group: Option<String>,
    /// The name of the broker to which the handler belongs.
    pub broker: Option<String>,
    /// The maximum number of calls at the same time.
    pub concurrency: usize,
    /// `true` if the handler keeps the order of the stream.
    pub ordered: bool,
    /// The place of the key by which the handler keeps the order, as in `customer.id`, `{tenant}` or `header(Tenant)`.
    pub key: Option<String>,
    /// The number of partitions, each of which has a consumer: the name of the queue, a hyphen and the number.
    pub partitions: Option<u32>,
    /// The maximum number of messages in one call, of a handler of batches.
    pub batch: Option<usize>,
    /// The time without an ack or in-progress signal after which the server redelivers a message.
    #[serde(rename = "ack_wait_seconds", serialize_with = "seconds")]
    pub ack_wait: Duration,
    /// The time limit of one call.
    #[serde(rename = "timeout_seconds", serialize_with = "seconds")]
    pub timeout: Duration,
    /// The number of attempts before a message is dead-lettered.
    pub max_deliver: u32,
    /// The delays between the attempts, without their jitter; at most the first 20.
    #[serde(rename = "retry_delays_seconds", serialize_with = "all_seconds")]
    pub retry_delays: Vec<Duration>,
    /// The message with which a new consumer begins, as in `all`, `new` or `from sequence 5`.
    pub deliver: String,
    /// The value of the key `manage`, or that of the broker: `create`, `bind` or `update`.
    pub manage: &'static str,
    /// The subject of the dead letters.
    ///
    /// It is `None` if the handler has none. Of a handler that has not started, a name of the stream that is found only
    /// at the start is `*`.
    pub dead_letter: Option<String>,
    /// The subject to which the handler publishes what it returns, if it is declared.
    pub publish: Option<String>,
    /// The documentation of the function: the text of its doc comment.
    pub description: Option<String>,
    /// The file and the line of the declaration.
    pub location: String,
    /// The present state; of a handler with partitions, that of one which does not run, if there is one.
    pub state: HandlerState,
}

impl HandlerInfo {
    /// Describes a handler; `binding` is that of one that was started.
    pub(crate) fn new(
        declaration: &Declaration,
        binding: Option<&Binding>,
        state: HandlerState,
        settings: &Settings,
    ) -> Self {
        let Declaration { name, location, description, plan, .. } = declaration;
        let declared_dead_letter = || match &plan.dead_letter {
            Some(DeadLetter::Subject(subject)) => Some(subject.to_string()),
            Some(DeadLetter::Off) => None,
            None => {
                let stream = plan.stream.as_deref().unwrap_or("*");
                Some(settings.subject(&format!("dlq.{stream}.{}", plan.queue)).into_owned())
            }
        };
        Self {
            name: name.clone(),
            subjects: plan.subject.iter().map(str::to_owned).collect(),
            stream: binding.map(|it| it.stream.clone()).or_else(|| plan.stream.as_deref().map(str::to_owned)),
            queue: plan.queue.to_string(),
            group: plan.group.as_deref().map(str::to_owned),
            broker: plan.broker.as_deref().map(str::to_owned),
            concurrency: plan.concurrency(),
            ordered: plan.ordered,
            key: plan.key.as_ref().map(ToString::to_string),
            partitions: plan.partitions,
            batch: plan.batch,
            ack_wait: binding.map_or(plan.ack_wait(), |it| it.ack_wait.get()),
            timeout: plan.timeout(),
            max_deliver: plan.max_deliver(),
            retry_delays: (1..u64::from(plan.max_deliver())).take(MAX_DELAYS).map(|it| plan.delay_after(it)).collect(),
            deliver: plan.deliver.to_string(),
            manage: plan.manage.unwrap_or(settings.manage).as_str(),
            dead_letter: binding.map_or_else(declared_dead_letter, |it| it.dead_letter.clone()),
            publish: plan.publish.as_deref().map(str::to_owned),
            description: Some((*description).to_owned()).filter(|text| !text.is_empty()),
            location: location.clone(),
            state,
        }
    }
}

impl fmt::Display for HandlerInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, subjects, queue, concurrency, location, state, .. } = self;
        write!(f, "{name}: {state}, {}", subjects.join(", "))?;
        if let Some(stream) = &self.stream {
            write!(f, ", stream {stream}")?;
        }
        write!(f, ", queue {queue}, concurrency {concurrency}")?;
        for (what, value) in [("group", &self.group), ("broker", &self.broker)] {
            if let Some(value) = value {
                write!(f, ", {what} {value}")?;
            }
        }
        write!(f, " ({location})")
    }
}

fn all_seconds<S: Serializer>(durations: &[Duration], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(durations.iter().map(Duration::as_secs_f64))
}

fn seconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Key;
    use crate::plan::Plan;

    #[test]
    fn description_has_a_stable_form() {
        let plan = Plan {
            key: Some(Key::header("Tenant")),
            concurrency: Some(4),
            ack_wait: Some(Duration::from_millis(1500)),
            group: Some("shop".into()),
            ..Plan::new(["orders.created", "orders.{id}.paid"], "billing")
        };
        let declaration = Declaration {
            name: "app::bill".to_owned(),
            is_closure: false,
            location: "src/main.rs:7:1".to_owned(),
            description: "Bills an order.",
            plan,
            partition: None,
            member: None,
            events: Vec::new(),
        };
        let info = HandlerInfo::new(&declaration, None, HandlerState::NotStarted, &Settings::default());
        assert_eq!(
            info.to_string(),
            "app::bill: not_started, orders.created, orders.{id}.paid, queue billing, concurrency 4, group shop (src/main.rs:7:1)"
        );
        let json = r#"{"name":"app::bill","subjects":["orders.created","orders.{id}.paid"],"stream":null,"queue":"billing","group":"shop","broker":null,"concurrency":4,"ordered":false,"key":"header(Tenant)","partitions":null,"batch":null,"ack_wait_seconds":1.5,"timeout_seconds":1800.0,"max_deliver":5,"retry_delays_seconds":[1.0,5.0,30.0,120.0],"deliver":"all","manage":"create","dead_letter":"dlq.*.billing","publish":null,"description":"Bills an order.","location":"src/main.rs:7:1","state":"not_started"}"#;
        assert_eq!(serde_json::to_string(&info).unwrap_or_default(), json);
    }
}
