//! The comparison of two documents.

mod alternatives;
mod change;
mod operations;
mod schemas;
#[cfg(test)]
mod tests;

use serde_json::Value;

pub use change::{Change, Severity};

use super::read::unescaped;

/// Returns what has changed from `theirs`, an earlier document, to `ours`, the most severe changes first.
///
/// A change is judged by the direction of the message: what the service receives may come from earlier producers, so
/// `ours` must accept everything that `theirs` accepts (`BACKWARD` compatibility); what it sends goes to earlier consumers,
/// so `ours` must send nothing that `theirs` does not describe (`FORWARD` compatibility).
///
/// | change | in what is received | in what is sent |
/// |---|---|---|
/// | operation, message or channel removed; address, action or content type changed | breaking | breaking |
/// | operation added | info | info |
/// | message added | info | dangerous |
/// | required field added, field became required | breaking | info |
/// | optional field added | info | info; breaking if there were to be no other fields |
/// | field became optional | info | breaking |
/// | field removed | info; breaking if there may be no other fields | breaking |
/// | type, format or range narrowed; value of an enum or variant removed | breaking | info |
/// | type, format or range widened; value of an enum or variant added | info | breaking |
/// | queue renamed: its position is lost, and the earlier consumer stays | breaking | |
/// | stream, dead letters, key or order changed | dangerous | |
/// | attempts, backoff, `ack_wait` or concurrency changed | info | |
///
/// Documents of other tools can be compared as well. Extensions other than `x-jetstream`, and fields that only describe, are
/// ignored. Handlers are matched by their subject, so that a function can be renamed.
///
/// # Examples
///
/// ```
/// use jetstream_handlers::asyncapi::{Severity, diff};
/// use serde_json::json;
///
/// let document = |required: &[&str]| {
///     json!({
///         "asyncapi": "3.1.0",
///         "channels": { "orders": { "address": "orders.created", "messages": { "Order": {
///             "payload": { "type": "object", "properties": { "id": {}, "customer": {} }, "required": required },
///         } } } },
///         "operations": { "bill": { "action": "receive", "channel": { "$ref": "#/channels/orders" } } },
///     })
/// };
/// let changes = diff(&document(&["id"]), &document(&["id", "customer"]));
/// assert_eq!(changes[0].severity, Severity::Breaking);
/// assert_eq!(
///     changes[0].to_string(),
///     "breaking: `bill` receives `orders.created`: `Order.payload.customer` is required, and earlier messages may lack it"
/// );
/// ```
pub fn diff(theirs: &Value, ours: &Value) -> Vec<Change> {
    let mut changes = operations::changes(Document(theirs), Document(ours));
    changes.sort_by_key(|change| std::cmp::Reverse(change.severity));
    changes
}

/// A document, which may come from another tool.
#[derive(Debug, Clone, Copy)]
struct Document<'a>(&'a Value);

/// The value of what is missing.
const NOTHING: &Value = &Value::Null;

impl<'a> Document<'a> {
    /// Returns the value to which references lead; `Null` if they lead out of the document, to nothing, or in a circle.
    fn resolve(self, value: &'a Value) -> &'a Value {
        const MAX_REFERENCES: usize = 64;
        let mut value = value;
        for _ in 0..MAX_REFERENCES {
            match value.get("$ref").and_then(Value::as_str) {
                Some(reference) => value = self.at(reference).unwrap_or(NOTHING),
                None => return value,
            }
        }
        NOTHING
    }

    fn at(self, reference: &str) -> Option<&'a Value> {
        let pointer = reference.strip_prefix('#')?;
        let parts = pointer.split('/').skip(1).map(unescaped);
        parts.into_iter().try_fold(self.0, |value, part| match value {
            Value::Array(values) => values.get(part.parse::<usize>().ok()?),
            value => value.get(&part),
        })
    }
}
