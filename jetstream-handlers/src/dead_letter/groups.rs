//! Groups of dead letters with the same cause: by handler, reason and error without its values.

use std::collections::HashMap;
use std::time::SystemTime;

use serde::Serialize;

use super::DeadLetter;
use super::json::rfc3339;
use crate::outcome::Reason;
use crate::text::fingerprint;

/// The maximum number of groups that are kept apart.
const MAX_GROUPS: usize = 1000;

/// The maximum number of sequences that a group names.
const MAX_SAMPLES: usize = 5;

/// The replacement of a value in an error text.
const VALUE: &str = "#";

/// The names of Rust's types in which digits are no value, as in `expected u64`.
const NUMBER_TYPES: [&str; 12] = ["u8", "u16", "u32", "u64", "u128", "i8", "i16", "i32", "i64", "i128", "f32", "f64"];

/// The number of hexadecimal digits from which on a word of them is taken for an id.
const MIN_HEX: usize = 8;

/// The length from which on a word of letters and digits is taken for an id, such as a ULID.
const MIN_ID: usize = 16;

/// The dead letters of one handler with the same reason and the same error, apart from the values in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct DeadLetterGroup {
    /// The id of the group, which [`DeadLetters::in_group`](crate::DeadLetters::in_group) accepts; the same in every
    /// process and at every time.
    pub id: String,
    /// The full name of the handler.
    pub handler: String,
    /// The class of the failure.
    pub reason: Reason,
    /// The error, with `#` in place of numbers, ids, hexadecimal digits and quoted texts.
    pub error: String,
    /// The number of dead letters.
    pub count: u64,
    /// The time at which the oldest of them was stored.
    #[serde(serialize_with = "rfc3339")]
    pub first: SystemTime,
    /// The time at which the newest of them was stored.
    #[serde(serialize_with = "rfc3339")]
    pub last: SystemTime,
    /// The sequences of the oldest of them, at most 5.
    pub samples: Vec<u64>,
}

/// The result of [`DeadLetters::groups`](crate::DeadLetters::groups).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct DeadLetterGroups {
    /// The version of this form when it is serialized, which is 1.
    pub version: u32,
    /// The groups, the largest first.
    pub groups: Vec<DeadLetterGroup>,
    /// The number of dead letters in further groups, of which only the first 1000 that are found are kept apart.
    pub other: u64,
}

/// The groups of the dead letters that were read so far.
#[derive(Debug, Default)]
pub(super) struct Grouping {
    groups: HashMap<String, DeadLetterGroup>,
    other: u64,
}

impl Grouping {
    pub(super) fn add(&mut self, letter: &DeadLetter) {
        let id = group_id(letter);
        let is_full = self.groups.len() >= MAX_GROUPS;
        let group = match self.groups.get_mut(&id) {
            Some(group) => group,
            None if is_full => {
                self.other += 1;
                return;
            }
            None => self.groups.entry(id.clone()).or_insert_with(|| DeadLetterGroup {
                id,
                handler: letter.handler.clone(),
                reason: letter.reason,
                error: without_values(&letter.error),
                count: 0,
                first: letter.stored_at,
                last: letter.stored_at,
                samples: Vec::new(),
            }),
        };
        group.count += 1;
        group.first = group.first.min(letter.stored_at);
        group.last = group.last.max(letter.stored_at);
        if group.samples.len() < MAX_SAMPLES {
            group.samples.push(letter.sequence);
        }
    }

    pub(super) fn into_groups(self) -> DeadLetterGroups {
        let mut groups: Vec<_> = self.groups.into_values().collect();
        groups.sort_by(|one, other| other.count.cmp(&one.count).then_with(|| one.id.cmp(&other.id)));
        DeadLetterGroups { version: 1, groups, other: self.other }
    }
}

/// Returns the id of the group of a dead letter.
pub(super) fn group_id(letter: &DeadLetter) -> String {
    let error = without_values(&letter.error);
    let parts = [&letter.handler, letter.reason.as_str(), &error];
    let text: String = parts.iter().flat_map(|part| [*part, "\0"]).collect();
    fingerprint(&text)[..10].to_owned()
}

/// Returns an error with `#` in place of quoted texts, numbers and ids.
///
/// Names in backticks are kept, because they are mostly those of fields and types.
fn without_values(error: &str) -> String {
    let mut normalised = String::with_capacity(error.len());
    let mut rest = error;
    while let Some(char) = rest.chars().next() {
        let is_in_word = normalised.ends_with(|last: char| last.is_alphanumeric());
        if let Some(after) = after_quoted(rest, is_in_word) {
            normalised.extend([char, '#', char]);
            rest = after;
            continue;
        }
        let end = rest.find(|char: char| !is_of_word(char)).unwrap_or(rest.len());
        if end == 0 {
            normalised.push(char);
            rest = &rest[char.len_utf8()..];
        } else {
            push_word(&mut normalised, &rest[..end]);
            rest = &rest[end..];
        }
    }
    normalised
}

fn is_of_word(char: char) -> bool {
    char.is_alphanumeric() || matches!(char, '-' | '_')
}

/// Returns the text after a quoted text at the beginning; an apostrophe in a word begins none.
fn after_quoted(text: &str, is_in_word: bool) -> Option<&str> {
    let quote = text.chars().next().filter(|char| *char == '"' || (*char == '\'' && !is_in_word))?;
    let mut is_escaped = false;
    for (index, char) in text.char_indices().skip(1) {
        match char {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            _ if char == quote => return Some(&text[index + 1..]),
            _ => {}
        }
    }
    None
}

/// Adds a word, or `#` if it is an id; of any other word, only its numbers are replaced.
fn push_word(normalised: &mut String, word: &str) {
    if NUMBER_TYPES.contains(&word) {
        normalised.push_str(word);
        return;
    }
    let digits = word.strip_prefix("0x").unwrap_or(word);
    let bare = |is: fn(char) -> bool| digits.chars().all(|char| char == '-' || is(char));
    let count = digits.chars().filter(|char| *char != '-').count();
    let has_number = digits.contains(|char: char| char.is_ascii_digit());
    let is_hex = bare(|char| char.is_ascii_hexdigit()) && count >= MIN_HEX;
    let is_id = bare(|char| char.is_ascii_alphanumeric()) && count >= MIN_ID;
    if has_number && (is_hex || is_id || digits.len() < word.len()) {
        normalised.push_str(VALUE);
        return;
    }
    let mut in_number = false;
    for char in word.chars() {
        let is_digit = char.is_ascii_digit();
        if !is_digit {
            normalised.push(char);
        } else if !in_number {
            normalised.push_str(VALUE);
        }
        in_number = is_digit;
    }
}

#[cfg(test)]
mod tests {
    use async_nats::HeaderMap;

    use super::*;
    use crate::message::Stored;

    fn letter(sequence: u64, error: &str) -> DeadLetter {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("Reason", "error"),
            ("Error", error),
            ("Stream", "ORDERS"),
            ("Sequence", "7"),
            ("Subject", "orders.created"),
            ("Consumer", "billing"),
            ("Delivered", "3"),
            ("Handler", "app::bill"),
        ] {
            headers.insert(format!("Dead-Letter-{name}").as_str(), value);
        }
        let (subject, time) = ("dlq.ORDERS.billing".into(), SystemTime::UNIX_EPOCH);
        let stored = Stored { sequence, subject, payload: bytes::Bytes::new(), headers, time };
        DeadLetter::parse(stored).expect("it is a dead letter")
    }

    #[test]
    fn number_of_groups_is_bounded() {
        let word = |number: u64| number.to_string().bytes().map(|digit| char::from(digit + 49)).collect::<String>();
        let mut grouping = Grouping::default();
        for sequence in 0..1010 {
            grouping.add(&letter(sequence, &word(sequence)));
        }
        grouping.add(&letter(1010, &word(3)));
        let found = grouping.into_groups();
        assert_eq!((found.groups.len(), found.other), (1000, 10));
        assert_eq!((found.groups[0].count, &*found.groups[0].error), (2, "d"), "a known group still counts");
        assert_eq!(found.groups[0].id, group_id(&letter(1, "d")));
        assert_eq!(found.groups[0].id, "b9a2922606", "an id is the same at every time");
    }

    #[test]
    fn values_are_replaced_and_names_are_kept() {
        for (error, expected) in [
            ("no stock", "no stock"),
            ("order 42 has 3.50 left", "order # has #.# left"),
            ("order-42 of customer7", "order-# of customer#"),
            ("no row 3f2504e0-4f89-11d3-9a0c-0305e82c3301 in orders", "no row # in orders"),
            ("commit deadbeef0 at 0x1f", "commit # at #"),
            ("id 01ARZ3NDEKTSV4RRFFQ69G5FAV is unknown", "id # is unknown"),
            (r#"invalid type: string "a \" b", expected u64"#, r##"invalid type: string "#", expected u64"##),
            ("f32, i128 or u8, not u7, u64x, f16, xu8 or i8-7", "f32, i128 or u8, not u#, u#x, f#, xu# or i#-#"),
            ("no customer 'Ann' in 'EU'", "no customer '#' in '#'"),
            ("can't connect, it isn't up", "can't connect, it isn't up"),
            ("missing field `customer_id` at line 1 column 20", "missing field `customer_id` at line # column #"),
            ("an unclosed \" quote", "an unclosed \" quote"),
            ("défaut é5 ✗", "défaut é# ✗"),
            ("", ""),
        ] {
            assert_eq!(without_values(error), expected, "{error}");
        }
    }
}
