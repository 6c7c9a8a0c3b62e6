//! The schemas of a document: one for what is received and one for what is sent, where they differ.

use std::collections::{BTreeMap, BTreeSet};

use schemars::generate::{SchemaGenerator, SchemaSettings};
use serde_json::{Map, Value};

use super::channels::{free_id, id_of};
use crate::schema::{Described, PayloadSchema};

/// The direction of a message, from the view of the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Direction {
    Receive,
    Send,
}

impl Direction {
    /// Returns the prefix of references to schemas; those of sent messages get that of received ones in the end.
    fn prefix(self) -> &'static str {
        match self {
            Self::Receive => "#/components/schemas/",
            Self::Send => "#/components/sent/",
        }
    }
}

/// The schemas that were generated up to now, whose references are not final.
pub(super) struct Schemas {
    received: SchemaGenerator,
    sent: SchemaGenerator,
}

/// All schemas of the document, and their final names.
pub(super) struct Definitions {
    pub(super) schemas: Map<String, Value>,
    names: BTreeMap<(Direction, String), String>,
}

impl Schemas {
    pub(super) fn new() -> Self {
        let settings = |direction: Direction| {
            let mut settings = SchemaSettings::draft07();
            settings.definitions_path = direction.prefix().trim_matches(['#', '/']).to_owned().into();
            settings.definitions_path = format!("/{}", settings.definitions_path).into();
            settings
        };
        Self {
            received: settings(Direction::Receive).for_deserialize().into_generator(),
            sent: settings(Direction::Send).for_serialize().into_generator(),
        }
    }

    /// Returns the schema of a payload, or a reference to it; `None` if it has none.
    pub(super) fn of(&mut self, payload: &Described, direction: Direction) -> Option<Value> {
        let PayloadSchema::Known(schema) = payload.schema else { return None };
        let generator = match direction {
            Direction::Receive => &mut self.received,
            Direction::Send => &mut self.sent,
        };
        let mut schema = schema(generator);
        generator.transforms_mut().for_each(|transform| transform.transform(&mut schema));
        Some(schema.to_value())
    }

    /// Names all schemas; a schema of what is sent that differs from that of what is received has a name of its own.
    pub(super) fn finish(mut self) -> Definitions {
        let (received, sent) = (self.received.take_definitions(true), self.sent.take_definitions(true));
        let differing = differing(&received, &sent);
        let mut definitions = Definitions { schemas: Map::new(), names: BTreeMap::new() };
        for name in received.keys() {
            definitions.name(Direction::Receive, name, &id_of(name));
        }
        for name in sent.keys() {
            match definitions.names.get(&(Direction::Receive, name.clone())).cloned() {
                Some(shared) if !differing.contains(name) => {
                    definitions.names.insert((Direction::Send, name.clone()), shared);
                }
                Some(_) => definitions.name(Direction::Send, name, &format!("{}-Sent", id_of(name))),
                None => definitions.name(Direction::Send, name, &id_of(name)),
            }
        }
        let all = received
            .into_iter()
            .map(|it| (Direction::Receive, it))
            .chain(sent.into_iter().map(|it| (Direction::Send, it)));
        for (direction, (name, mut schema)) in all {
            definitions.resolve(&mut schema);
            if let Some(name) = definitions.names.get(&(direction, name)) {
                definitions.schemas.insert(name.clone(), schema);
            }
        }
        definitions
    }
}

/// Returns the names of the schemas that differ between what is received and what is sent, or that refer to such.
fn differing(received: &Map<String, Value>, sent: &Map<String, Value>) -> BTreeSet<String> {
    let as_received = |schema: &Value| {
        let mut schema = schema.clone();
        each_reference(&mut schema, &mut |reference| {
            *reference = reference.replacen(Direction::Send.prefix(), Direction::Receive.prefix(), 1);
        });
        schema
    };
    let differs = |(name, schema): &(&String, &Value)| received.get(*name).is_some_and(|it| *it != as_received(schema));
    let mut differing: BTreeSet<String> = sent.iter().filter(differs).map(|(name, _)| name.clone()).collect();
    loop {
        let before = differing.len();
        for (name, schema) in sent {
            let mut refers = false;
            each_reference(&mut schema.clone(), &mut |reference| {
                refers |= target(reference).is_some_and(|(_, name)| differing.contains(&name));
            });
            if refers && received.contains_key(name) {
                differing.insert(name.clone());
            }
        }
        if differing.len() == before {
            return differing;
        }
    }
}

impl Definitions {
    fn name(&mut self, direction: Direction, name: &str, base: &str) {
        let free = free_id(base, |id| self.names.values().any(|taken| taken == id));
        self.names.insert((direction, name.to_owned()), free);
    }

    /// Makes the references in a value final.
    pub(super) fn resolve(&self, value: &mut Value) {
        each_reference(value, &mut |reference| {
            if let Some(name) = target(reference).and_then(|target| self.names.get(&target)) {
                *reference = format!("{}{name}", Direction::Receive.prefix());
            }
        });
    }

    /// Returns the text of a keyword of a schema, which may be a reference.
    pub(super) fn text(&self, schema: &Value, keyword: &str) -> Option<String> {
        let reference = schema.get("$ref").and_then(Value::as_str);
        let name = reference.and_then(|reference| reference.strip_prefix(Direction::Receive.prefix()));
        let schema = name.and_then(|name| self.schemas.get(name)).unwrap_or(schema);
        schema.get(keyword)?.as_str().map(str::to_owned)
    }
}

/// Returns the schema to which a reference that is not final refers.
fn target(reference: &str) -> Option<(Direction, String)> {
    [Direction::Receive, Direction::Send]
        .into_iter()
        .find_map(|direction| Some((direction, super::read::unescaped(reference.strip_prefix(direction.prefix())?))))
}

/// Calls a function with every reference in a value.
fn each_reference(value: &mut Value, change: &mut impl FnMut(&mut String)) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                match value {
                    Value::String(reference) if key == "$ref" => change(reference),
                    value => each_reference(value, change),
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(|value| each_reference(value, change)),
        _ => {}
    }
}
