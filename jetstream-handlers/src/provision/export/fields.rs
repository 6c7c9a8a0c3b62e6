//! The fields of the JetStream API under the names of other tools.

use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::provision::commands::go_duration;

/// A field, and its value as another tool takes it.
pub(super) type Field = (&'static str, Value);

/// The form in which a tool takes the value of a field.
#[derive(Debug, Clone, Copy)]
pub(super) enum Form {
    Same,
    /// A duration as Go writes it.
    GoDuration,
    /// A duration in seconds.
    Seconds,
}

/// The name of a field in the API, its name in a tool, and the form of its value there.
pub(super) type Name = (&'static str, &'static str, Form);

/// Returns the fields that are set, under the names of a tool.
pub(super) fn renamed(config: &Value, names: &[Name]) -> Vec<Field> {
    let field = |(api, name, form): &Name| {
        let value = config.get(*api).filter(|value| is_set(value))?;
        Some((*name, formed(value, *form)))
    };
    names.iter().filter_map(field).collect()
}

/// Returns an object with the fields that are set; `None` if there are none.
pub(super) fn object(config: Option<&Value>, names: &[Name]) -> Option<Value> {
    let fields = renamed(config?, names);
    let fields: Map<_, _> = fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    (!fields.is_empty()).then_some(Value::Object(fields))
}

/// Returns `false` for a value that stands for the default of the server.
fn is_set(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(is_on) => *is_on,
        Value::Number(number) => number.as_i64().is_none_or(|number| number > 0),
        Value::String(text) => !text.is_empty(),
        Value::Array(values) => !values.is_empty(),
        Value::Object(fields) => fields.values().any(is_set),
    }
}

fn formed(value: &Value, form: Form) -> Value {
    if let Value::Array(values) = value {
        return values.iter().map(|value| formed(value, form)).collect();
    }
    let duration = Duration::from_nanos(value.as_u64().unwrap_or_default());
    match form {
        Form::Same => value.clone(),
        Form::GoDuration => json!(go_duration(duration)),
        // A part of a second is rounded up, because zero stands for the default.
        Form::Seconds => json!(duration.as_nanos().div_ceil(1_000_000_000) as u64),
    }
}

/// Returns a name in which each character that a tool does not accept is replaced, and that is not in `used` yet.
pub(super) fn unique(name: &str, used: &mut Vec<String>, replaced: impl Fn(char) -> char) -> String {
    let base: String = name.chars().map(replaced).collect();
    let mut unique = base.clone();
    for number in 2.. {
        if !used.contains(&unique) {
            break;
        }
        unique = format!("{base}-{number}");
    }
    used.push(unique.clone());
    unique
}
