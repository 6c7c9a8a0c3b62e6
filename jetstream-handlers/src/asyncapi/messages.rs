//! The messages of a document.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::channels::id_of;
use super::components::{Definitions, Direction, Schemas};
use crate::event::EventMessage;
use crate::schema::{Described, PayloadSchema};
use crate::settings::Settings;

/// A message whose references to schemas are not final.
pub(super) struct Message {
    /// The name of its type, without a path.
    pub(super) name: String,
    value: Map<String, Value>,
}

/// Describes messages, and collects their schemas.
pub(super) struct Messages<'a> {
    pub(super) schemas: Schemas,
    /// The payloads without a schema.
    pub(super) gaps: BTreeSet<String>,
    settings: &'a Settings,
}

impl<'a> Messages<'a> {
    pub(super) fn new(settings: &'a Settings) -> Self {
        Self { schemas: Schemas::new(), gaps: BTreeSet::new(), settings }
    }

    /// Describes a payload of `owner`, a handler or an event; `content_type` is that of the payload if its type names none.
    pub(super) fn of_payload(
        &mut self,
        payload: &Described,
        content_type: Option<&str>,
        direction: Direction,
        owner: &str,
    ) -> Message {
        let name = short(payload.type_name);
        let content_type = payload.content_type.or(content_type).unwrap_or(self.settings.codec.content_type());
        let mut value =
            Map::from_iter([("name".to_owned(), name.clone().into()), ("contentType".to_owned(), content_type.into())]);
        match self.schemas.of(payload, direction) {
            Some(schema) => drop(value.insert("payload".to_owned(), schema)),
            None if matches!(payload.schema, PayloadSchema::Missing) => {
                self.gaps.insert(format!("`{}` of `{owner}`", payload.type_name));
            }
            None => {}
        }
        Message { name: id_of(&name), value }
    }

    /// Describes a message of an event.
    pub(super) fn of_event(&mut self, message: &EventMessage, direction: Direction, owner: &str) -> Message {
        let EventMessage { payload, codec, version, header, .. } = message;
        let content_type = codec.as_ref().map(|codec| codec.content_type());
        let mut described = self.of_payload(payload, content_type, direction, owner);
        let mut headers = Map::new();
        if let Some((header, name)) = header {
            headers.insert((*header).to_owned(), json!({ "type": "string", "const": name }));
            described.value.insert("name".to_owned(), (*name).into());
        }
        // A handler does not require the version.
        let required: Vec<_> = headers.keys().cloned().collect();
        if let Some(version) = version {
            headers.insert("Event-Version".to_owned(), json!({ "type": "string", "const": version.to_string() }));
        }
        if !headers.is_empty() {
            let mut schema = json!({ "type": "object", "properties": headers });
            if !required.is_empty() {
                schema["required"] = required.into();
            }
            described.value.insert("headers".to_owned(), schema);
        }
        described
    }

    /// Describes dead letters.
    pub(super) fn of_dead_letter() -> Message {
        let headers = ["Dead-Letter-Reason", "Dead-Letter-Error", "Dead-Letter-Subject", "Dead-Letter-Handler"];
        let properties: Map<_, _> =
            headers.into_iter().map(|header| (header.to_owned(), json!({ "type": "string" }))).collect();
        let value = json!({
            "name": "DeadLetter",
            "title": "Dead letter",
            "description": "A message that could not be handled, with its payload as it was.",
            "headers": { "type": "object", "properties": properties },
        });
        Message { name: "DeadLetter".to_owned(), value: value.as_object().cloned().unwrap_or_default() }
    }
}

impl Message {
    /// Returns the message with final references, and with the texts of its schema.
    pub(super) fn finish(self, definitions: &Definitions) -> Value {
        let mut message = Value::Object(self.value);
        definitions.resolve(&mut message);
        if let Some(payload) = message.get("payload").cloned() {
            for keyword in ["title", "description"] {
                if let Some(text) = definitions.text(&payload, keyword) {
                    message[keyword] = text.into();
                }
            }
        }
        message
    }
}

/// Returns the name of a type without the paths of it and its arguments: `Envelope_Order` for `app::Envelope<app::Order>`.
pub(super) fn short(type_name: &str) -> String {
    let is_part = |character: char| character.is_alphanumeric() || matches!(character, '_' | ':');
    let paths = type_name.split(|character| !is_part(character)).filter(|path| !path.is_empty());
    let names: Vec<_> = paths.map(|path| path.rsplit("::").next().unwrap_or(path)).collect();
    names.join("_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_types_have_no_paths() {
        for (path, name) in [
            ("app::orders::Order", "Order"),
            ("app::Envelope<app::Order>", "Envelope_Order"),
            ("(u64, alloc::string::String)", "u64_String"),
            ("&[u8]", "u8"),
            ("alloc::vec::Vec<core::option::Option<app::Order>>", "Vec_Option_Order"),
        ] {
            assert_eq!(short(path), name);
        }
    }
}
