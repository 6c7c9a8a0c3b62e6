//! The operations of a document.

use serde_json::{Map, Value, json};

use super::channels::id_of;
use super::messages::Message;
use crate::declaration::Declaration;
use crate::delivery::Binding;
use crate::plan::{DeadLetter, Plan};

/// An operation on one subject.
pub(super) struct Operation {
    pub(super) id: String,
    /// The subject, with the prefix of the environment.
    pub(super) subject: String,
    /// `None` if any message of the channel is one.
    pub(super) messages: Option<Vec<Message>>,
    pub(super) value: Map<String, Value>,
}

impl Operation {
    /// Returns the operation of a handler that receives messages.
    pub(super) fn receive(declaration: &Declaration, binding: &Binding, subject: &str) -> Self {
        let Declaration { name, plan, .. } = declaration;
        let id = match plan.subject.iter().count() {
            1 => id_of(name),
            _ => format!("{}.{}", id_of(name), id_of(subject)),
        };
        let mut operation = Self::of("receive", id, subject, declaration);
        let queue = json!({ "queue": binding.consumer, "bindingVersion": "0.1.0" });
        operation.value.insert("bindings".to_owned(), json!({ "nats": queue }));
        operation.extend(settings(declaration, binding));
        operation
    }

    /// Returns the operation of a handler that publishes what it returns.
    pub(super) fn publish(declaration: &Declaration, subject: &str) -> Self {
        let mut operation = Self::of("send", format!("{}.publish", id_of(&declaration.name)), subject, declaration);
        operation.extend(json!({ "handler": declaration.name }));
        operation
    }

    /// Returns the operation of the dead letters of a handler.
    pub(super) fn dead_letters(declaration: &Declaration, subject: &str) -> Self {
        let id = format!("{}.dead_letters", id_of(&declaration.name));
        let mut operation = Self::of("send", id, subject, declaration);
        operation.value.insert("description".to_owned(), "Messages that the handler could not handle.".into());
        operation.extend(json!({ "handler": declaration.name, "deadLetters": true }));
        operation
    }

    /// Returns the operation of an event that the service publishes.
    pub(super) fn event(id: String, subject: &str) -> Self {
        let value = Map::from_iter([("action".to_owned(), "send".into())]);
        Self { id, subject: subject.to_owned(), messages: None, value }
    }

    fn of(action: &str, id: String, subject: &str, Declaration { description, plan, .. }: &Declaration) -> Self {
        let mut value = Map::from_iter([("action".to_owned(), action.into())]);
        if !description.is_empty() {
            value.insert("description".to_owned(), (*description).into());
        }
        if let Some(group) = &plan.group {
            value.insert("tags".to_owned(), json!([{ "name": group }]));
        }
        Self { id, subject: subject.to_owned(), messages: None, value }
    }

    /// Adds entries to `x-jetstream`.
    pub(super) fn extend(&mut self, entries: Value) {
        let extension = self.value.entry("x-jetstream").or_insert_with(|| json!({}));
        if let (Value::Object(extension), Value::Object(entries)) = (extension, entries) {
            extension.extend(entries);
        }
    }
}

/// Returns the settings of a handler, as `x-jetstream` has them; those that are not set are left out.
fn settings(Declaration { location, plan, .. }: &Declaration, binding: &Binding) -> Value {
    let filters: Vec<_> = plan.subject.filters().collect();
    let dead_letter = match (&binding.dead_letter, &plan.dead_letter) {
        (None, _) | (_, Some(DeadLetter::Off)) => Value::Bool(false),
        (Some(subject), _) => subject.clone().into(),
    };
    let mut settings = json!({
        "stream": binding.stream,
        "consumer": binding.consumer,
        "filterSubjects": filters,
        "ackWaitSeconds": binding.ack_wait.get().as_secs_f64(),
        "maxDeliver": plan.max_deliver(),
        "backoffSeconds": backoff(plan),
        "deadLetter": dead_letter,
        "concurrency": plan.concurrency(),
        "location": location,
    });
    let optional = [
        ("ordered", plan.ordered.then_some(true.into())),
        ("key", plan.key.as_ref().map(|key| key.to_string().into())),
        ("batch", plan.batch.map(Into::into)),
        ("group", plan.group.as_deref().map(Into::into)),
    ];
    for (name, value) in optional {
        if let Some(value) = value {
            settings[name] = value;
        }
    }
    settings
}

/// Returns the delays between the attempts in seconds; the last one repeats.
fn backoff(plan: &Plan) -> Vec<f64> {
    // Beyond that, the delays of an exponential backoff are at their maximum.
    const MAX_DELAYS: u64 = 32;
    let attempts = u64::from(plan.max_deliver()).min(MAX_DELAYS + 1);
    let mut delays: Vec<_> = (1..attempts).map(|attempt| plan.delay_after(attempt).as_secs_f64()).collect();
    while let [.., one, last] = &*delays
        && one == last
    {
        delays.pop();
    }
    delays
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_delay_is_listed_once() {
        let mut plan = Plan::new("a", "b");
        assert_eq!(backoff(&plan), [1.0, 5.0, 30.0, 120.0]);
        plan.max_deliver = Some(100);
        assert_eq!(backoff(&plan), [1.0, 5.0, 30.0, 120.0]);
        plan.max_deliver = Some(2);
        assert_eq!(backoff(&plan), [1.0]);
        plan.max_deliver = Some(1);
        assert!(backoff(&plan).is_empty());
    }
}
