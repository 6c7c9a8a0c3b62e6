//! JSON and YAML of a document, with the keys in a stable order.

use std::fmt::Write as _;

use serde::ser::{SerializeMap as _, SerializeSeq as _};
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

/// The keys that come first, in this order; all others are sorted.
const FIRST: &[&str] = &[
    "asyncapi",
    "info",
    "name",
    "title",
    "version",
    "summary",
    "description",
    "defaultContentType",
    "servers",
    "channels",
    "operations",
    "components",
    "x-jetstream-streams",
    "action",
    "address",
    "channel",
    "contentType",
    "type",
];

/// A value whose objects are written in a stable order, whether or not the feature `preserve_order` of `serde_json` is on.
pub(super) struct Ordered<'a>(pub(super) &'a Value);

impl Serialize for Ordered<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Object(object) => {
                let mut map = serializer.serialize_map(Some(object.len()))?;
                for (key, value) in ordered(object) {
                    map.serialize_entry(key, &Ordered(value))?;
                }
                map.end()
            }
            Value::Array(values) => {
                let mut sequence = serializer.serialize_seq(Some(values.len()))?;
                for value in values {
                    sequence.serialize_element(&Ordered(value))?;
                }
                sequence.end()
            }
            scalar => scalar.serialize(serializer),
        }
    }
}

fn ordered(object: &Map<String, Value>) -> Vec<(&String, &Value)> {
    let rank = |key: &str| FIRST.iter().position(|first| *first == key).unwrap_or(FIRST.len());
    let mut entries: Vec<_> = object.iter().collect();
    entries.sort_by(|(one, _), (other, _)| rank(one).cmp(&rank(other)).then_with(|| one.cmp(other)));
    entries
}

/// Returns the document as JSON.
pub(super) fn json(document: &Value) -> String {
    let mut text = serde_json::to_string_pretty(&Ordered(document)).unwrap_or_default();
    text.push('\n');
    text
}

/// Returns the document as YAML 1.2, in which every text is double-quoted, so that none is taken for another type.
pub(super) fn yaml(document: &Value) -> String {
    let mut text = String::new();
    block(document, 0, &mut text);
    text
}

/// Writes a value whose first line begins at the present position, and ends the last line.
fn block(value: &Value, indent: usize, text: &mut String) {
    match value {
        Value::Object(object) if !object.is_empty() => {
            for (index, (key, value)) in ordered(object).into_iter().enumerate() {
                begin(index, indent, text);
                text.push_str(&if is_plain(key) { key.clone() } else { quoted(key) });
                text.push(':');
                nested(value, indent, text);
            }
        }
        Value::Array(values) if !values.is_empty() => {
            for (index, value) in values.iter().enumerate() {
                begin(index, indent, text);
                text.push_str("- ");
                block(value, indent + 1, text);
            }
        }
        scalar => {
            text.push_str(&flow(scalar));
            text.push('\n');
        }
    }
}

/// Writes the value of a key.
fn nested(value: &Value, indent: usize, text: &mut String) {
    let is_empty = match value {
        Value::Object(object) => object.is_empty(),
        Value::Array(values) => values.is_empty(),
        _ => true,
    };
    if is_empty {
        text.push(' ');
        return block(value, 0, text);
    }
    text.push('\n');
    spaces(indent + 1, text);
    block(value, indent + 1, text);
}

/// Begins the line of an entry; the first one continues the present line.
fn begin(index: usize, indent: usize, text: &mut String) {
    if index > 0 {
        spaces(indent, text);
    }
}

fn spaces(indent: usize, text: &mut String) {
    for _ in 0..indent {
        text.push_str("  ");
    }
}

fn flow(scalar: &Value) -> String {
    match scalar {
        Value::String(text) => quoted(text),
        Value::Object(_) => "{}".to_owned(),
        Value::Array(_) => "[]".to_owned(),
        other => other.to_string(),
    }
}

/// Returns `true` for a key that no version of YAML takes for another type than a text.
fn is_plain(key: &str) -> bool {
    const OTHER: [&str; 8] = ["true", "false", "null", "yes", "no", "on", "off", "nan"];
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    key.len() > 1
        && key.starts_with(|first: char| first.is_ascii_alphabetic())
        && key.bytes().all(is_name)
        && !OTHER.iter().any(|other| key.eq_ignore_ascii_case(other))
}

/// Returns a text in double quotes; characters that YAML does not allow are escaped.
fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => {
                quoted.push('\\');
                quoted.push(character);
            }
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}' => escape(character, &mut quoted),
            other if other.is_control() => escape(other, &mut quoted),
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}

fn escape(character: char, quoted: &mut String) {
    // Writing to a text does not fail.
    let _ = write!(quoted, "\\u{:04x}", u32::from(character));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn keys_have_a_stable_order() {
        let document =
            json!({ "zebra": 1, "channels": {}, "asyncapi": "3.1.0", "info": { "version": "1", "title": "a" } });
        let keys = "{\n  \"asyncapi\": \"3.1.0\",\n  \"info\": {\n    \"title\": \"a\",\n    \"version\": \"1\"\n  },\n  \"channels\": {},\n  \"zebra\": 1\n}\n";
        assert_eq!(json(&document), keys);
    }

    #[test]
    fn yaml_quotes_every_text() {
        let document = json!({
            "a b": "no", "yes": [1, -2.5, true, null], "list": [{ "x1": 1, "y1": [[1, 2], []] }, "a: b # c"],
            "empty": {}, "text": "\"\\\n\t\u{7f}\u{85}\u{feff}é", "$ref": "#/x",
        });
        let expected = concat!(
            "\"$ref\": \"#/x\"\n",
            "\"a b\": \"no\"\n",
            "empty: {}\n",
            "list:\n",
            "  - x1: 1\n",
            "    y1:\n",
            "      - - 1\n",
            "        - 2\n",
            "      - []\n",
            "  - \"a: b # c\"\n",
            "text: \"\\\"\\\\\\n\\t\\u007f\\u0085\\ufeffé\"\n",
            "\"yes\":\n",
            "  - 1\n",
            "  - -2.5\n",
            "  - true\n",
            "  - null\n",
        );
        assert_eq!(yaml(&document), expected);
    }
}
