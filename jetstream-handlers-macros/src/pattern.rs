//! Subjects with wildcards and placeholders.
//!
//! The library and its macro crate each contain this file, byte for byte; see `rules.rs`.

#![allow(dead_code)] // neither crate uses all of it

use std::borrow::Cow;

/// A placeholder of a subject: `{name}` for one token, or `{name..}` for one or more at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Placeholder<'a> {
    pub(crate) name: &'a str,
    /// `true` for all remaining tokens.
    pub(crate) is_rest: bool,
}

impl<'a> Placeholder<'a> {
    /// Parses a token; returns `None` for one that is not a placeholder.
    pub(crate) fn parse(token: &'a str) -> Option<Self> {
        let name = token.strip_prefix('{')?.strip_suffix('}')?;
        let (name, is_rest) = name.strip_suffix("..").map_or((name, false), |name| (name, true));
        Some(Self { name, is_rest })
    }
}

/// Returns the placeholders of a subject, in order.
pub(crate) fn placeholders(subject: &str) -> impl Iterator<Item = Placeholder<'_>> {
    tokens(subject).filter_map(Placeholder::parse)
}

/// Returns `true` if a token is the placeholder of this name for one token.
pub(crate) fn is_token_of(token: &str, name: &str) -> bool {
    Placeholder::parse(token) == Some(Placeholder { name, is_rest: false })
}

/// Returns `true` if one of the tokens of a subject is the placeholder of this name for one token.
pub(crate) fn has_token(subject: &str, name: &str) -> bool {
    tokens(subject).any(|token| is_token_of(token, name))
}

/// Returns the pattern of a subject with placeholders: `orders.*.created` for `orders.{region}.created`.
pub(crate) fn filter(subject: &str) -> Cow<'_, str> {
    if !subject.contains('{') {
        return Cow::Borrowed(subject);
    }
    let tokens = tokens(subject).map(|token| match Placeholder::parse(token) {
        Some(Placeholder { is_rest: true, .. }) => ">",
        Some(_) => "*",
        None => token,
    });
    Cow::Owned(tokens.collect::<Vec<_>>().join("."))
}

/// Returns the tokens of a subject; `{name..}` is one of them.
pub(crate) fn tokens(subject: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(subject);
    std::iter::from_fn(move || {
        let text = rest?;
        let inside = if text.starts_with('{') { text.find('}').unwrap_or(0) } else { 0 };
        let end = text[inside..].find('.').map(|end| inside + end);
        rest = end.map(|end| &text[end + 1..]);
        Some(&text[..end.unwrap_or(text.len())])
    })
}

/// Returns `true` if there is a subject that both patterns match.
pub(crate) fn overlap(one: &str, other: &str) -> bool {
    let mut one = one.split('.');
    let mut other = other.split('.');
    loop {
        match (one.next(), other.next()) {
            (Some(">"), Some(_)) | (Some(_), Some(">")) => return true,
            (Some(a), Some(b)) if a == b || a == "*" || b == "*" => {}
            (None, None) => return true,
            _ => return false,
        }
    }
}
