//! The comparison of operations, their messages and their settings.

use std::collections::BTreeSet;

use serde_json::Value;

use super::super::components::Direction;
use super::schemas::Comparison;
use super::{Change, Document, NOTHING, Severity};

/// An operation of a document.
struct Operation<'a> {
    document: Document<'a>,
    id: &'a str,
    action: &'a str,
    /// The address of the channel, or its id if it has none.
    address: &'a str,
    messages: Vec<Message<'a>>,
    value: &'a Value,
}

struct Message<'a> {
    name: &'a str,
    value: &'a Value,
}

/// Returns the changes of all operations and channels.
pub(super) fn changes(theirs: Document<'_>, ours: Document<'_>) -> Vec<Change> {
    let (mut earlier, mut present) = (operations(theirs), operations(ours));
    let mut changes = removed_channels(theirs, ours, &earlier);
    type Matches = fn(&Operation<'_>, &Operation<'_>) -> bool;
    let has_same_place: Matches = |one, other| one.action == other.action && one.pattern() == other.pattern();
    // The best match first, so that a function can be renamed, and an operation keeps its id while its subject changes.
    let passes: [Matches; 4] = [
        |one, other| one.id == other.id && one.action == other.action && one.pattern() == other.pattern(),
        |one, other| one.action == other.action && one.pattern() == other.pattern() && one.queue() == other.queue(),
        has_same_place,
        |one, other| one.id == other.id,
    ];
    for matches in passes {
        earlier.retain(|one| match present.iter().position(|other| matches(one, other)) {
            Some(index) => {
                compare(one, &present.remove(index), &mut changes);
                false
            }
            None => true,
        });
    }
    let removed = "the operation was removed";
    changes.extend(earlier.iter().map(|it| it.change(Severity::Breaking, removed.to_owned())));
    changes.extend(present.iter().map(|it| it.change(Severity::Info, "the operation was added".to_owned())));
    changes
}

/// Returns the operations of a document, without those of dead letters, which are a setting of their handler.
fn operations(document: Document<'_>) -> Vec<Operation<'_>> {
    let all = document.0.get("operations").and_then(Value::as_object).into_iter().flatten();
    let is_of_dead_letters = |value: &Value| value.pointer("/x-jetstream/deadLetters") == Some(&Value::Bool(true));
    let all = all.map(|(id, value)| (id, document.resolve(value))).filter(|(_, value)| !is_of_dead_letters(value));
    all.map(|(id, value)| operation(document, id, value)).collect()
}

fn operation<'a>(document: Document<'a>, id: &'a str, value: &'a Value) -> Operation<'a> {
    let reference = value.get("channel").unwrap_or(NOTHING);
    let channel = document.resolve(reference);
    let channel_id = reference.get("$ref").and_then(Value::as_str).and_then(last).unwrap_or_default();
    let messages = match value.get("messages").and_then(Value::as_array) {
        Some(messages) => messages.iter().map(|it| message(document, None, it)).collect(),
        None => {
            let all = channel.get("messages").and_then(Value::as_object).into_iter().flatten();
            all.map(|(id, it)| message(document, Some(id), it)).collect()
        }
    };
    let address = channel.get("address").and_then(Value::as_str).unwrap_or(channel_id);
    let action = value.get("action").and_then(Value::as_str).unwrap_or_default();
    Operation { document, id, action, address, messages, value }
}

fn message<'a>(document: Document<'a>, id: Option<&'a str>, reference: &'a Value) -> Message<'a> {
    let value = document.resolve(reference);
    let of_reference = || reference.get("$ref").and_then(Value::as_str).and_then(last);
    let name = value.get("name").and_then(Value::as_str).or(id).or_else(of_reference);
    Message { name: name.unwrap_or_default(), value }
}

/// Returns the last part of a reference.
fn last(reference: &str) -> Option<&str> {
    reference.rsplit('/').next()
}

/// Returns the address without the names of its parameters.
fn pattern(address: &str) -> String {
    let parts = address.split('{').enumerate();
    let parts = parts.map(|(index, part)| match part.split_once('}') {
        Some((_, rest)) if index > 0 => format!("{{}}{rest}"),
        _ => part.to_owned(),
    });
    parts.collect()
}

/// Returns a change for each channel that no operation names, and that has no counterpart.
fn removed_channels(theirs: Document<'_>, ours: Document<'_>, earlier: &[Operation<'_>]) -> Vec<Change> {
    let channels = |document: Document<'_>| -> Vec<String> {
        let all = document.0.get("channels").and_then(Value::as_object).into_iter().flatten();
        let address =
            |(id, value)| document.resolve(value).get("address").and_then(Value::as_str).unwrap_or(id).to_owned();
        all.map(|(id, value): (&String, &Value)| address((id.as_str(), value))).collect()
    };
    let present: BTreeSet<_> = channels(ours).iter().map(|address| pattern(address)).collect();
    let named: BTreeSet<_> = earlier.iter().map(Operation::pattern).collect();
    let is_removed = |address: &String| !present.contains(&pattern(address)) && !named.contains(&pattern(address));
    let is_of_dead_letters = |address: &String| dead_letters(theirs).contains(address);
    let removed = channels(theirs).into_iter().filter(|it| is_removed(it) && !is_of_dead_letters(it));
    let change = |address| Change {
        severity: Severity::Breaking,
        place: format!("channel `{address}`"),
        text: "the channel was removed".to_owned(),
    };
    removed.map(change).collect()
}

/// Returns the subjects of dead letters, which are a setting of their handlers.
fn dead_letters(document: Document<'_>) -> BTreeSet<String> {
    let all = document.0.get("operations").and_then(Value::as_object).into_iter().flatten();
    let subjects = all.filter_map(|(_, value)| value.pointer("/x-jetstream/deadLetter")?.as_str());
    subjects.map(str::to_owned).collect()
}

impl Operation<'_> {
    fn pattern(&self) -> String {
        pattern(self.address)
    }

    fn direction(&self) -> Direction {
        if self.action == "send" { Direction::Send } else { Direction::Receive }
    }

    /// Returns the name of the consumer, if it is known.
    fn queue(&self) -> Option<&str> {
        let of_binding = self.value.pointer("/bindings/nats/queue");
        self.setting("consumer").or(of_binding).and_then(Value::as_str)
    }

    fn setting(&self, name: &str) -> Option<&Value> {
        self.value.get("x-jetstream")?.get(name)
    }

    fn change(&self, severity: Severity, text: String) -> Change {
        let does = if self.action == "send" { "sends" } else { "receives" };
        Change { severity, place: format!("`{}` {does} `{}`", self.id, self.address), text }
    }

    fn content_type(&self, message: &Message<'_>) -> Option<String> {
        let content_type = message.value.get("contentType").or_else(|| self.document.0.get("defaultContentType"))?;
        content_type.as_str().map(str::to_ascii_lowercase)
    }
}

fn compare(theirs: &Operation<'_>, ours: &Operation<'_>, changes: &mut Vec<Change>) {
    let mut add = |severity, text| changes.push(ours.change(severity, text));
    if theirs.action != ours.action {
        add(Severity::Breaking, format!("the action is `{}`, it was `{}`", ours.action, theirs.action));
        return;
    }
    if theirs.pattern() != ours.pattern() {
        add(Severity::Breaking, format!("the address is `{}`, it was `{}`", ours.address, theirs.address));
    }
    compare_settings(theirs, ours, &mut add);
    compare_messages(theirs, ours, changes);
}

/// Compares the settings of `x-jetstream`; what only one document has is not known of the other.
fn compare_settings(theirs: &Operation<'_>, ours: &Operation<'_>, add: &mut impl FnMut(Severity, String)) {
    if let (Some(earlier), Some(present)) = (theirs.queue(), ours.queue())
        && earlier != present
    {
        let text = format!(
            "the queue is `{present}`, it was `{earlier}`: the new consumer does not continue at the position of the earlier one, which keeps what it has not delivered; move it with its position, or delete it when it is finished"
        );
        add(Severity::Breaking, text);
    }
    let settings = [
        ("stream", Severity::Dangerous),
        ("deadLetter", Severity::Dangerous),
        ("maxDeliver", Severity::Info),
        ("ackWaitSeconds", Severity::Info),
        ("backoffSeconds", Severity::Info),
        ("concurrency", Severity::Info),
    ];
    for (name, severity) in settings {
        if let (Some(earlier), Some(present)) = (theirs.setting(name), ours.setting(name))
            && earlier != present
        {
            add(severity, format!("`{name}` is {present}, it was {earlier}"));
        }
    }
    // Those that are not set are left out of a document.
    for name in ["ordered", "key"] {
        let known = |operation: &Operation<'_>| operation.setting("consumer").is_some();
        let (earlier, present) = (theirs.setting(name), ours.setting(name));
        if known(theirs) && known(ours) && earlier != present {
            let shown = |value: Option<&Value>| value.map_or("not set".to_owned(), Value::to_string);
            add(Severity::Dangerous, format!("`{name}` is {}, it was {}", shown(present), shown(earlier)));
        }
    }
}

fn compare_messages(theirs: &Operation<'_>, ours: &Operation<'_>, changes: &mut Vec<Change>) {
    let mut earlier: Vec<_> = theirs.messages.iter().collect();
    let mut present: Vec<_> = ours.messages.iter().collect();
    let mut pairs = Vec::new();
    earlier.retain(|one| match present.iter().position(|other| other.name == one.name) {
        Some(index) => {
            pairs.push((*one, present.remove(index)));
            false
        }
        None => true,
    });
    // A type was renamed, which no other service sees.
    if let ([one], [other]) = (&*earlier, &*present) {
        pairs.push((one, other));
        (earlier, present) = (Vec::new(), Vec::new());
    }
    // An operation without messages takes any.
    if !ours.messages.is_empty() {
        let removed = earlier.iter().map(|it| format!("the message `{}` was removed", it.name));
        changes.extend(removed.map(|text| ours.change(Severity::Breaking, text)));
    }
    if !theirs.messages.is_empty() {
        let severity = if ours.direction() == Direction::Send { Severity::Dangerous } else { Severity::Info };
        let added = present.iter().map(|it| format!("the message `{}` was added", it.name));
        changes.extend(added.map(|text| ours.change(severity, text)));
    }
    for (one, other) in pairs {
        compare_message((theirs, one), (ours, other), changes);
    }
}

/// Compares a message of an earlier operation with that of the present one.
fn compare_message<'a>(
    (theirs, one): (&Operation<'a>, &Message<'a>),
    (ours, other): (&Operation<'a>, &Message<'a>),
    changes: &mut Vec<Change>,
) {
    if let (Some(earlier), Some(present)) = (theirs.content_type(one), ours.content_type(other))
        && earlier != present
    {
        let text = format!("the content type of `{}` is `{present}`, it was `{earlier}`", other.name);
        changes.push(ours.change(Severity::Breaking, text));
    }
    for part in ["payload", "headers"] {
        let path = format!("{}.{part}", other.name);
        match (one.value.get(part), other.value.get(part)) {
            (Some(earlier), Some(present)) => {
                let mut comparison = Comparison::new(theirs.document, ours.document, ours.direction());
                comparison.compare(schema(earlier), schema(present), &path);
                changes.extend(comparison.found.into_iter().map(|(severity, text)| ours.change(severity, text)));
            }
            (Some(_), None) => {
                let text = format!("`{path}` has no schema any more, so that changes are not found");
                changes.push(ours.change(Severity::Dangerous, text));
            }
            _ => {}
        }
    }
}

/// Returns the schema in a multi-format schema object, or the value itself.
fn schema(value: &Value) -> &Value {
    value.get("schema").filter(|_| value.get("schemaFormat").is_some()).unwrap_or(value)
}
