//! Channels: the subjects of a service, each once.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use crate::pattern::{Placeholder, filter, tokens};

/// The channels of a document, by the pattern of their subject.
pub(super) struct Channels(BTreeMap<String, Channel>);

struct Channel {
    id: String,
    address: Address,
    /// The messages by their ids.
    messages: BTreeSet<String>,
}

/// A subject in the form of AsyncAPI, which knows no wildcards: each is a parameter.
#[derive(Debug, PartialEq)]
struct Address {
    text: String,
    parameters: Vec<(String, &'static str)>,
}

const TOKEN: &str = "one token of the subject";
const REST: &str = "one or more tokens of the subject";

impl Address {
    fn of(subject: &str) -> Self {
        let mut parameters = Vec::new();
        let mut wildcards = 0;
        let tokens: Vec<_> = tokens(subject)
            .map(|token| {
                let (name, description) = match (token, Placeholder::parse(token)) {
                    (_, Some(Placeholder { name, is_rest })) => (name.to_owned(), if is_rest { REST } else { TOKEN }),
                    ("*", None) => {
                        wildcards += 1;
                        (format!("token{wildcards}"), TOKEN)
                    }
                    (">", None) => ("rest".to_owned(), REST),
                    (literal, None) => return literal.to_owned(),
                };
                let name = id_of(&name);
                let text = format!("{{{name}}}");
                parameters.push((name, description));
                text
            })
            .collect();
        Self { text: tokens.join("."), parameters }
    }
}

/// Returns a text as a part of an id, which references contain without escapes.
pub(super) fn id_of(text: &str) -> String {
    let is_kept = |character: &char| character.is_ascii_alphanumeric() || matches!(character, '.' | '_' | '-');
    let replaced = |character| if is_kept(&character) { character } else { '_' };
    text.replace("::", ".").replace(['{', '}'], "").chars().map(replaced).collect()
}

/// Returns the first of `base`, `base-2`, `base-3`, .. that is not taken.
pub(super) fn free_id(base: &str, is_taken: impl Fn(&str) -> bool) -> String {
    let numbered = (2..).map(|number| format!("{base}-{number}"));
    std::iter::once(base.to_owned()).chain(numbered).find(|id| !is_taken(id)).unwrap_or_default()
}

impl Channels {
    /// Returns the channels of these subjects; those with the same pattern are one.
    pub(super) fn of<'a>(subjects: impl IntoIterator<Item = &'a str>) -> Self {
        let mut by_filter: BTreeMap<String, &str> = BTreeMap::new();
        for subject in subjects {
            let known = by_filter.entry(filter(subject).into_owned()).or_insert(subject);
            // The names of placeholders say more than wildcards.
            if placeholders(subject) > placeholders(known) {
                *known = subject;
            }
        }
        let mut channels = BTreeMap::new();
        let mut taken = BTreeSet::new();
        for (filter, subject) in by_filter {
            let address = Address::of(subject);
            let id = free_id(&id_of(&address.text), |id| taken.contains(id));
            taken.insert(id.clone());
            channels.insert(filter, Channel { id, address, messages: BTreeSet::new() });
        }
        Self(channels)
    }

    /// Adds messages by their ids to the channel of a subject, and returns the id of the channel.
    pub(super) fn add(&mut self, subject: &str, messages: &[String]) -> String {
        let Some(channel) = self.0.get_mut(&*filter(subject)) else { return String::new() };
        channel.messages.extend(messages.iter().cloned());
        channel.id.clone()
    }

    pub(super) fn into_value(self) -> Value {
        let channels = self.0.into_values().map(|Channel { id, address, messages }| {
            let mut channel = Map::new();
            channel.insert("address".to_owned(), address.text.into());
            if !address.parameters.is_empty() {
                let parameter = |(name, description)| (name, json!({ "description": description }));
                channel.insert("parameters".to_owned(), address.parameters.into_iter().map(parameter).collect());
            }
            let message = |id: String| {
                let reference = format!("#/components/messages/{id}");
                (id, json!({ "$ref": reference }))
            };
            channel.insert("messages".to_owned(), messages.into_iter().map(message).collect());
            (id, channel.into())
        });
        Value::Object(channels.collect())
    }
}

fn placeholders(subject: &str) -> usize {
    crate::pattern::placeholders(subject).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_and_wildcards_are_parameters() {
        type Case = (&'static str, &'static str, &'static [(&'static str, &'static str)]);
        let cases: [Case; 5] = [
            ("orders.created", "orders.created", &[]),
            ("orders.{id}.created", "orders.{id}.created", &[("id", TOKEN)]),
            ("*.orders.*.created", "{token1}.orders.{token2}.created", &[("token1", TOKEN), ("token2", TOKEN)]),
            ("orders.>", "orders.{rest}", &[("rest", REST)]),
            ("logs.{level}.{module..}", "logs.{level}.{module}", &[("level", TOKEN), ("module", REST)]),
        ];
        for (subject, text, parameters) in cases {
            let parameters = parameters.iter().map(|(name, description)| ((*name).to_owned(), *description)).collect();
            assert_eq!(Address::of(subject), Address { text: text.to_owned(), parameters });
        }
    }

    #[test]
    fn subjects_with_one_pattern_are_one_channel_with_an_id_of_its_own() {
        let subjects = ["orders.*.created", "orders.id.created", "orders.{id}.created", "a/b~c"];
        let mut channels = Channels::of(subjects);
        assert_eq!(channels.add("orders.*.created", &[]), channels.add("orders.{order}.created", &[]));
        assert_eq!(channels.add("orders.{id}.created", &[]), "orders.id.created");
        assert_eq!(channels.add("orders.id.created", &["Order".to_owned()]), "orders.id.created-2");
        assert_eq!(channels.add("a/b~c", &[]), "a_b_c");
        let value = channels.into_value();
        assert_eq!(value["orders.id.created"]["address"], "orders.{id}.created");
        assert_eq!(value["orders.id.created-2"]["messages"]["Order"]["$ref"], "#/components/messages/Order");
        assert_eq!(value.as_object().map(Map::len), Some(3));
    }
}
