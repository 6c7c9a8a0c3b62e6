//! Rules for texts: subjects, the names of consumers, streams and groups, header names, and the keys of messages.
//!
//! The library and its macro crate each contain this file, byte for byte; see `rules.rs`.

#![allow(dead_code)] // neither crate uses all of it

use std::borrow::Cow;

use crate::pattern::{Placeholder, filter, overlap, tokens};

/// The maximum length of a subject and of a name, in bytes.
///
/// The server stores a consumer in a directory named after it, and most file systems limit a name to 255 bytes.
const MAX_LENGTH: usize = 255;

/// Returns the problem of `name` as the name of a closure, which appears in logs, health and dead letters.
pub(crate) fn handler_name_problem(name: &str) -> Option<String> {
    if name.is_empty() {
        return Some("the name is empty; write for example `order-processor`".to_owned());
    }
    if name.len() > MAX_LENGTH {
        return Some(format!("the name is {} bytes long; the maximum is {MAX_LENGTH}", name.len()));
    }
    let wrong = name.chars().find(|character| character.is_control())?;
    Some(format!("name `{}` contains {}, which a header cannot hold", visible(name), in_words(wrong)))
}

/// Returns the problem of a list of subjects to subscribe to.
pub(crate) fn subjects_problem(subjects: &[Cow<'_, str>]) -> Option<String> {
    if subjects.is_empty() {
        return Some(
            "the list of subjects is empty; write for example `[\"orders.created\", \"orders.paid\"]`".to_owned(),
        );
    }
    let problem = subjects.iter().find_map(|subject| subject_problem(subject));
    problem.or_else(|| {
        subjects.iter().enumerate().find_map(|(index, one)| {
            // The server refuses such a consumer (`CONSUMER_OVERLAPPING_SUBJECT_FILTERS`).
            let other = subjects[..index].iter().find(|other| overlap(&filter(one), &filter(other)))?;
            Some(format!(
                "the subjects `{other}` and `{one}` have messages in common; remove one of them, or write a handler for each"
            ))
        })
    })
}

/// Returns the problem of `subject` as a subject to subscribe to, which may have wildcards and placeholders.
pub(crate) fn subject_problem(subject: &str) -> Option<String> {
    let tokens: Vec<&str> = tokens(subject).collect();
    let last = tokens.len() - 1;
    spelling_problem(subject).or_else(|| {
        if subject.starts_with('$') && !is_readable(&tokens) {
            return Some(format!(
                "subject `{subject}` begins with `$`, which is reserved for the server; choose another first token, or read `$KV.<bucket>.>`, `$O.<bucket>.>` or `$JS.EVENT.>` from a stream that stores it"
            ));
        }
        tokens
            .iter()
            .enumerate()
            .find_map(|(position, token)| match *token {
                "*" => None,
                ">" if position == last => None,
                ">" => Some(format!(
                    "subject `{subject}` has `>` before its end; use `*` for a single token, and `>` only as the last token"
                )),
                token => match Placeholder::parse(token) {
                    Some(placeholder) => placeholder_problem(subject, &tokens[..position], placeholder, position == last),
                    None => token_problem(subject, token),
                },
            })
    })
}

/// Returns the problem of a placeholder, which comes after the tokens in `before`.
fn placeholder_problem(
    subject: &str,
    before: &[&str],
    Placeholder { name, is_rest }: Placeholder<'_>,
    is_last: bool,
) -> Option<String> {
    if !is_placeholder_name(name) {
        return Some(format!(
            "subject `{subject}` has a placeholder with the name `{name}`; write a name of letters, digits and `_`, as in `{{region}}`"
        ));
    }
    if before.iter().filter_map(|token| Placeholder::parse(token)).any(|other| other.name == name) {
        return Some(format!("subject `{subject}` has the placeholder `{name}` twice; give each a name of its own"));
    }
    (is_rest && !is_last).then(|| {
        format!(
            "subject `{subject}` has `{{{name}..}}` before its end; write `{{{name}}}` for a single token, and `{{{name}..}}` only as the last token"
        )
    })
}

fn is_placeholder_name(name: &str) -> bool {
    let mut characters = name.chars();
    characters.next().is_some_and(|first| first.is_ascii_alphabetic() || first == '_')
        && characters.all(|character| character.is_ascii_alphanumeric() || character == '_')
}

/// Returns the problem of a token that is neither a wildcard nor a placeholder.
fn token_problem(subject: &str, token: &str) -> Option<String> {
    if token.contains(['{', '}']) {
        return Some(format!(
            "subject `{subject}` has a brace within the token `{token}`; a placeholder must be a whole token, as in `orders.{{region}}`"
        ));
    }
    let wildcard = token.chars().find(is_wildcard)?;
    Some(format!(
        "subject `{subject}` has `{wildcard}` within the token `{token}`; a wildcard must be a whole token, as in `orders.{wildcard}`"
    ))
}

/// Returns the problem of `subject` as a subject to publish to.
pub(crate) fn publish_subject_problem(subject: &str) -> Option<String> {
    // This function runs for every published message, and most subjects are plain.
    if is_plain(subject) {
        return None;
    }
    spelling_problem(subject).or_else(|| {
        if subject.starts_with('$') {
            return Some(format!(
                "subject `{subject}` begins with `$`, which is reserved for the server; choose another first token"
            ));
        }
        if let Some(placeholder) = tokens(subject).find(|token| Placeholder::parse(token).is_some()) {
            return Some(format!(
                "subject `{subject}` has the placeholder `{placeholder}`; a message is published to one subject, so write out every token"
            ));
        }
        let wildcard = subject.chars().find(is_wildcard)?;
        Some(format!(
            "subject `{subject}` has the wildcard `{wildcard}`; a message is published to one subject, so write out every token"
        ))
    })
}

/// Returns `true` if these are the tokens of a subject of the server that streams store: key-value buckets, object
/// stores, and advisories.
fn is_readable(tokens: &[&str]) -> bool {
    matches!(tokens, ["$KV" | "$O", bucket, ..] if *bucket != ">") || matches!(tokens, ["$JS", "EVENT", _, ..])
}

/// Returns `true` if a subject needs no further check: it has only letters, digits, `-` and `_` between single dots.
fn is_plain(subject: &str) -> bool {
    let mut before = b'.';
    for byte in subject.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => {}
            b'.' if before != b'.' => {}
            _ => return false,
        }
        before = byte;
    }
    before != b'.' && subject.len() <= MAX_LENGTH
}

/// Returns the problem of `name` as the name of a consumer, a stream, a group or a broker.
pub(crate) fn name_problem(name: &str) -> Option<String> {
    if name.is_empty() {
        return Some("the name is empty; write for example `order-processor`".to_owned());
    }
    if name.len() > MAX_LENGTH {
        return Some(format!("the name is {} bytes long; the maximum is {MAX_LENGTH}", name.len()));
    }
    let wrong =
        name.chars().find(|character| is_blank(character) || matches!(character, '.' | '*' | '>' | '/' | '\\'))?;
    Some(format!("name `{}` contains {}; use letters, digits, `-` and `_`", visible(name), in_words(wrong)))
}

/// Returns the problem of `text` as the place of the key in a message: the path of a field, or a placeholder.
pub(crate) fn key_problem(text: &str) -> Option<String> {
    if text.is_empty() {
        return Some("`key` is empty; write a field of the payload, as in `key = \"customer\"`".to_owned());
    }
    if text.len() > MAX_LENGTH {
        return Some(format!("`key` is {} bytes long; the maximum is {MAX_LENGTH}", text.len()));
    }
    if let Some(Placeholder { name, .. }) = Placeholder::parse(text).filter(|it| !it.name.contains(['{', '}'])) {
        return (!is_placeholder_name(name)).then(|| {
            format!(
                "`key` is a placeholder with the name `{}`; write a name of letters, digits and `_`, as in `{{region}}`",
                visible(name)
            )
        });
    }
    if let Some(brace) = text.chars().find(|character| matches!(character, '{' | '}')) {
        let shown = visible(text);
        return Some(format!(
            "`key` is `{shown}`, which contains `{brace}`; write one placeholder alone, as in `{{region}}`, or a field of the payload"
        ));
    }
    let field = text.split('.').find(|field| field.trim() != *field || field.contains(char::is_control));
    if let Some(field) = field {
        let wrong = field.chars().find(is_blank).unwrap_or(' ');
        let shown = visible(text);
        return Some(format!("`key` is `{shown}`, which contains {}; separate fields with `.` only", in_words(wrong)));
    }
    text.split('.')
        .any(str::is_empty)
        .then(|| format!("`key` is `{text}`, which has an empty field; put a field on both sides of every `.`"))
}

/// Returns the problem of `name` as the name of the header that has the key of a message.
pub(crate) fn header_problem(name: &str) -> Option<String> {
    if name.is_empty() {
        return Some("`key` is a header without a name; write for example `header(\"Tenant\")`".to_owned());
    }
    let wrong = name.chars().find(|character| !character.is_ascii_graphic() || *character == ':')?;
    Some(format!(
        "`key` is the header `{}`, which contains {}; a header name has visible ASCII characters other than `:`",
        visible(name),
        in_words(wrong)
    ))
}

/// Returns the problem that makes a subject invalid both with and without wildcards.
fn spelling_problem(subject: &str) -> Option<String> {
    if subject.is_empty() {
        return Some("the subject is empty; write for example `orders.created`".to_owned());
    }
    if subject.len() > MAX_LENGTH {
        return Some(format!("the subject is {} bytes long; the maximum is {MAX_LENGTH}", subject.len()));
    }
    if let Some(wrong) = subject.chars().find(is_blank) {
        return Some(format!(
            "subject `{}` contains {}; separate tokens with `.` only",
            visible(subject),
            in_words(wrong)
        ));
    }
    if tokens(subject).any(str::is_empty) {
        return Some(format!("subject `{subject}` has an empty token; put a token on both sides of every `.`"));
    }
    None
}

/// Returns `true` if a character is white space or a control character.
fn is_blank(character: &char) -> bool {
    character.is_whitespace() || character.is_control()
}

fn is_wildcard(character: &char) -> bool {
    matches!(character, '*' | '>')
}

/// Returns the text with its invisible characters escaped, except for spaces.
pub(crate) fn visible(text: &str) -> String {
    let mut shown = String::new();
    for character in text.chars() {
        if character != ' ' && is_blank(&character) {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}

/// Returns the name of a character for an error text.
fn in_words(character: char) -> String {
    match character {
        ' ' => "a space".to_owned(),
        '\t' => "a tab".to_owned(),
        '\n' | '\r' => "a line break".to_owned(),
        other if is_blank(&other) => format!("the invisible character U+{:04X}", u32::from(other)),
        other => format!("`{other}`"),
    }
}
