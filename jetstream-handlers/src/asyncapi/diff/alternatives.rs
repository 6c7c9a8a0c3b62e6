//! The alternatives of a schema: each has one type, or is one value.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::Document;

/// The number of steps after which a schema counts as any value, so that no document takes long.
const MAX_STEPS: usize = 4_096;

/// The number of alternatives beyond which a schema counts as any value.
const MAX_ALTERNATIVES: usize = 1_024;

/// The depth of a schema in itself beyond which it counts as any value.
const MAX_DEPTH: usize = 64;

/// The schema of any value.
pub(super) const ANY: &Value = &Value::Bool(true);

/// One of the alternatives of a schema.
#[derive(Debug, Clone)]
pub(super) struct Alternative<'a> {
    /// The schemas that a value satisfies all together.
    parts: Vec<&'a Map<String, Value>>,
    pub(super) kind: Kind<'a>,
}

/// The values of an alternative.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Kind<'a> {
    Any,
    /// Values of this type.
    Type(&'a str),
    /// This value.
    Constant(&'a Value),
}

/// Returns the alternatives of a schema, in the order in which it has them.
pub(super) fn alternatives<'a>(document: Document<'a>, schema: &'a Value) -> Vec<Alternative<'a>> {
    let mut expansion = Expansion { document, steps: 0 };
    match expansion.of(schema, 0) {
        Some(all) if all.len() <= MAX_ALTERNATIVES => all.iter().flat_map(by_kind).collect(),
        _ => vec![Alternative { parts: Vec::new(), kind: Kind::Any }],
    }
}

/// The schemas that a value satisfies all together.
type Conjunction<'a> = Vec<&'a Map<String, Value>>;

struct Expansion<'a> {
    document: Document<'a>,
    steps: usize,
}

impl<'a> Expansion<'a> {
    /// Returns the alternatives of a schema; `None` if there are too many, or the schema contains itself.
    fn of(&mut self, schema: &'a Value, depth: usize) -> Option<Vec<Conjunction<'a>>> {
        self.steps += 1;
        if self.steps > MAX_STEPS || depth > MAX_DEPTH {
            return None;
        }
        let object = match self.document.resolve(schema) {
            Value::Bool(false) => return Some(Vec::new()),
            Value::Object(object) => object,
            _ => return Some(vec![Vec::new()]),
        };
        let mut all = vec![vec![object]];
        for part in values(object, "allOf") {
            let part = self.of(part, depth + 1)?;
            all = both(&all, &part)?;
        }
        for keyword in ["oneOf", "anyOf"] {
            if object.get(keyword).is_some_and(Value::is_array) {
                let mut any = Vec::new();
                for part in values(object, keyword) {
                    any.extend(self.of(part, depth + 1)?);
                }
                all = both(&all, &any)?;
            }
        }
        Some(all)
    }
}

fn both<'a>(one: &[Conjunction<'a>], other: &[Conjunction<'a>]) -> Option<Vec<Conjunction<'a>>> {
    if one.len() * other.len() > MAX_ALTERNATIVES {
        return None;
    }
    let pairs = one.iter().flat_map(|one| other.iter().map(move |other| [one.as_slice(), other].concat()));
    Some(pairs.collect())
}

fn values<'a>(object: &'a Map<String, Value>, keyword: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    object.get(keyword).and_then(Value::as_array).into_iter().flatten()
}

/// Divides an alternative with several types or values.
fn by_kind<'a>(parts: &Conjunction<'a>) -> Vec<Alternative<'a>> {
    let of = |kind| Alternative { parts: parts.clone(), kind };
    let constants = parts.iter().find_map(|part| match (part.get("const"), part.get("enum")) {
        (Some(constant), _) => Some(vec![constant]),
        (None, Some(Value::Array(values))) => Some(values.iter().collect()),
        _ => None,
    });
    if let Some(constants) = constants {
        return constants.into_iter().map(|value| of(Kind::Constant(value))).collect();
    }
    let types = parts.iter().find_map(|part| match part.get("type")? {
        Value::String(name) => Some(vec![&**name]),
        Value::Array(names) => Some(names.iter().filter_map(Value::as_str).collect()),
        _ => None,
    });
    match types {
        Some(types) => types.into_iter().map(|name| of(Kind::Type(name))).collect(),
        None => vec![of(implied(parts))],
    }
}

/// Returns the type of a schema that names none, by its other keywords.
fn implied<'a>(parts: &Conjunction<'a>) -> Kind<'a> {
    const OF_OBJECTS: [&str; 4] = ["properties", "required", "additionalProperties", "patternProperties"];
    let has = |keywords: &[&str]| parts.iter().any(|part| keywords.iter().any(|keyword| part.contains_key(*keyword)));
    if has(&OF_OBJECTS) {
        return Kind::Type("object");
    }
    if has(&["items"]) { Kind::Type("array") } else { Kind::Any }
}

impl<'a> Alternative<'a> {
    /// Returns a keyword of the schema.
    pub(super) fn keyword(&self, name: &str) -> Option<&'a Value> {
        self.parts.iter().find_map(|part| part.get(name))
    }

    /// Returns the properties of objects.
    pub(super) fn properties(&self) -> BTreeMap<&'a str, &'a Value> {
        let all = self.parts.iter().filter_map(|part| part.get("properties")?.as_object()).flatten();
        all.map(|(name, schema)| (&**name, schema)).collect()
    }

    /// Returns the names of the required properties.
    pub(super) fn required(&self) -> Vec<&'a str> {
        self.parts.iter().flat_map(|part| values(part, "required")).filter_map(Value::as_str).collect()
    }

    /// Returns the schema of the properties that are not listed.
    pub(super) fn additional(&self) -> &'a Value {
        self.keyword("additionalProperties").unwrap_or(ANY)
    }

    /// Returns what tells alternatives of one type apart: the property that serde's tags have, or the title.
    pub(super) fn tag(&self, document: Document<'a>) -> String {
        let tags = self.properties().into_iter().filter_map(|(name, schema)| {
            let constant = alternatives_of_tag(document.resolve(schema))?;
            Some(format!("with `{name}` {constant}"))
        });
        let tags: Vec<_> = tags.collect();
        if let [tag, ..] = &*tags {
            return tag.clone();
        }
        let required = self.required();
        match (&*required, self.keyword("title").and_then(Value::as_str)) {
            ([name], _) if self.properties().len() == 1 => format!("with `{name}`"),
            (_, Some(title)) => format!("`{title}`"),
            _ => String::new(),
        }
    }

    /// Describes the values.
    pub(super) fn shown(&self, document: Document<'a>) -> String {
        match self.kind {
            Kind::Any => "any value".to_owned(),
            Kind::Type("null") => "null".to_owned(),
            Kind::Type(name) => {
                let tag = if name == "object" { self.tag(document) } else { String::new() };
                let article = if name.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
                if tag.is_empty() { format!("{article} {name}") } else { format!("{article} {name} {tag}") }
            }
            Kind::Constant(value) => format!("the value {value}"),
        }
    }
}

/// Returns the only value of a schema.
fn alternatives_of_tag(schema: &Value) -> Option<&Value> {
    let of_enum = || schema.get("enum")?.as_array().filter(|values| values.len() == 1)?.first();
    schema.get("const").or_else(of_enum)
}

/// Returns the type of a value.
pub(super) fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}
