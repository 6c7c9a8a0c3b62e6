//! Relations between subjects with wildcards, subjects with placeholders, and subject transforms.

use std::borrow::Cow;

use crate::partition::partition;
pub(crate) use crate::pattern::overlap;
use crate::pattern::{Placeholder, filter, tokens};

/// Returns `true` if a subject with placeholders covers `subject`, which may have wildcards.
pub(crate) fn declares(template: &str, subject: &str) -> bool {
    covers(&filter(template), subject)
}

/// Returns the parts of `subject` that the placeholders of `template` stand for, each with its name; `None` if the
/// subject does not match.
pub(crate) fn parse<'a>(template: &'a str, subject: &'a str) -> Option<Vec<(&'a str, &'a str)>> {
    if !declares(template, subject) {
        return None;
    }
    let mut found = Vec::new();
    let mut rest = subject;
    for token in tokens(template) {
        let (value, behind) = rest.split_once('.').unwrap_or((rest, ""));
        match Placeholder::parse(token) {
            Some(Placeholder { name, is_rest: true }) => found.push((name, rest)),
            Some(Placeholder { name, .. }) => found.push((name, value)),
            None => {}
        }
        rest = behind;
    }
    Some(found)
}

/// Returns `true` if a filter matches more than one subject.
pub(crate) fn has_wildcard(filter: &str) -> bool {
    filter.split('.').any(|token| matches!(token, "*" | ">"))
}

/// Returns `true` if `pattern` matches every subject that `filter` matches.
pub(crate) fn covers(pattern: &str, filter: &str) -> bool {
    let mut pattern = pattern.split('.');
    let mut filter = filter.split('.');
    loop {
        match (pattern.next(), filter.next()) {
            (Some(">"), Some(_)) => return true,
            (Some("*"), Some(token)) if token != ">" => {}
            (Some(one), Some(other)) if one == other && one != ">" => {}
            (None, None) => return true,
            _ => return false,
        }
    }
}

/// Returns the pattern of the subjects that match both patterns; `None` if there are none.
pub(crate) fn intersection(one: &str, other: &str) -> Option<String> {
    let mut common = Vec::new();
    let (mut one, mut other) = (one.split('.'), other.split('.'));
    loop {
        match (one.next(), other.next()) {
            (Some(">"), Some(token)) => {
                common.push(token);
                common.extend(other);
                break;
            }
            (Some(token), Some(">")) => {
                common.push(token);
                common.extend(one);
                break;
            }
            (Some("*"), Some(token)) => common.push(token),
            (Some(token), Some(other)) if other == "*" || token == other => common.push(token),
            (None, None) => break,
            _ => return None,
        }
    }
    Some(common.join("."))
}

/// Returns the subjects that a transform makes of those subjects of `pattern` that match its `source`; `None` if none
/// matches.
///
/// A placeholder whose result is not known becomes a wildcard, so that the returned pattern may match more subjects than
/// the transform produces, and never fewer.
/// The syntax is that of nats-server (`subject_transform.go`); an empty source matches every subject, and an empty
/// destination changes none.
pub(crate) fn transformed(pattern: &str, source: &str, destination: &str) -> Option<String> {
    let source = if source.is_empty() { ">" } else { source };
    let matching = intersection(pattern, source)?;
    if destination.is_empty() || (source == ">" && destination == ">") {
        return Some(matching);
    }
    let tokens: Vec<&str> = matching.split('.').collect();
    let source: Vec<&str> = source.split('.').collect();
    let wildcards = source.iter().zip(&tokens).filter(|(source, _)| **source == "*").map(|(_, token)| *token);
    let wildcards: Vec<&str> = wildcards.collect();
    let mut result: Vec<Cow<'_, str>> = Vec::new();
    for token in destination.split('.') {
        match Replaced::parse(token) {
            _ if token == ">" => {
                let rest = tokens.get(source.len() - 1..).unwrap_or_default();
                result.extend(rest.iter().map(|token| Cow::Borrowed(*token)));
            }
            None => result.push(token.into()),
            Some(Replaced::Wildcard(number)) => {
                result.push((*number.checked_sub(1).and_then(|index| wildcards.get(index)).unwrap_or(&"*")).into());
            }
            Some(Replaced::Partition(partitions, numbers)) => {
                result.push(partition_token(&matching, &wildcards, partitions, &numbers).into());
            }
            Some(Replaced::Token) => result.push("*".into()),
            Some(Replaced::Tokens) => {
                result.push(">".into());
                break;
            }
        }
    }
    Some(result.join("."))
}

/// Returns the partition of a subject by the tokens that the wildcards of these numbers matched, or by all of its tokens;
/// a wildcard if one of them is not known.
fn partition_token(subject: &str, wildcards: &[&str], partitions: u32, numbers: &[usize]) -> String {
    let key: Option<String> = match numbers {
        [] => Some(subject.to_owned()),
        numbers => numbers.iter().map(|number| wildcards.get(number.checked_sub(1)?).copied()).collect(),
    };
    let key = key.filter(|key| !key.contains(['*', '>']));
    key.map_or_else(|| "*".to_owned(), |key| partition(key, partitions).to_string())
}

/// Returns `true` if a transform's destination has a function other than `wildcard` and `partition`.
pub(crate) fn has_other_functions(destination: &str) -> bool {
    let mut placeholders = destination.split('.').filter_map(Replaced::parse);
    placeholders.any(|placeholder| !matches!(placeholder, Replaced::Wildcard(_) | Replaced::Partition(..)))
}

/// Returns the number of partitions that a transform's destination computes.
pub(crate) fn partitions_of(destination: &str) -> Option<u32> {
    destination.split('.').find_map(|token| match Replaced::parse(token) {
        Some(Replaced::Partition(partitions, _)) => Some(partitions),
        _ => None,
    })
}

/// A token of a transform's destination that is replaced.
enum Replaced {
    /// The token that the wildcard of this number matched, counted from 1.
    Wildcard(usize),
    /// The number of the partition, of so many, to which the tokens belong that the wildcards of these numbers matched;
    /// without numbers, the whole subject.
    Partition(u32, Vec<usize>),
    /// One token that depends on the message's subject.
    Token,
    /// One or more tokens that depend on the message's subject.
    Tokens,
}

impl Replaced {
    fn parse(token: &str) -> Option<Self> {
        if let Some(number) = token.strip_prefix('$') {
            // A token such as `$KV` is no placeholder.
            return number.parse().ok().map(Self::Wildcard);
        }
        let call = token.strip_prefix("{{")?.strip_suffix("}}")?;
        let (function, arguments) = call.trim().strip_suffix(')')?.split_once('(')?;
        Some(match &*function.trim().to_ascii_lowercase() {
            "wildcard" => arguments.trim().parse().map_or(Self::Token, Self::Wildcard),
            "partition" => Self::partition(arguments).unwrap_or(Self::Token),
            "random" | "left" | "right" => Self::Token,
            _ => Self::Tokens,
        })
    }

    fn partition(arguments: &str) -> Option<Self> {
        let (partitions, numbers) = arguments.split_once(',').unwrap_or((arguments, ""));
        let numbers = numbers.split(',').map(str::trim).filter(|number| !number.is_empty()).map(str::parse);
        Some(Self::Partition(partitions.trim().parse().ok()?, numbers.collect::<Result<_, _>>().ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pattern_covers_narrower_filters() {
        for (pattern, filter) in [
            ("orders.>", "orders.created"),
            ("orders.>", "orders.*.created"),
            ("orders.>", "orders.>"),
            ("orders.*", "orders.*"),
            (">", "orders"),
            ("orders", "orders"),
            ("*.created", "orders.created"),
        ] {
            assert!(covers(pattern, filter), "{pattern} covers {filter}");
        }
        for (pattern, filter) in [
            ("orders.>", "orders"),
            ("orders.*", "orders.>"),
            ("orders.created", "orders.*"),
            ("orders.*", "orders.a.b"),
            ("orders.a.b", "orders.a"),
            ("payments.>", "orders.>"),
        ] {
            assert!(!covers(pattern, filter), "{pattern} does not cover {filter}");
        }
    }

    #[test]
    fn patterns_overlap_if_one_subject_matches_both() {
        for (one, other) in [("orders.*", "*.created"), (">", "a.b"), ("a.>", "a.b.c"), ("a.*.c", "a.b.*")] {
            assert!(overlap(one, other) && overlap(other, one), "{one} and {other}");
        }
        for (one, other) in [("orders.>", "orders"), ("a.b", "a.c"), ("a.*", "a.b.c"), ("*.a", "*.b")] {
            assert!(!overlap(one, other) && !overlap(other, one), "{one} and {other}");
        }
    }

    #[test]
    fn intersection_matches_what_both_match() {
        for (one, other, common) in [
            ("orders.>", "orders.created", Some("orders.created")),
            ("orders.>", "*.created", Some("orders.created")),
            ("orders.*.eu", "orders.new.*", Some("orders.new.eu")),
            (">", "orders.*", Some("orders.*")),
            ("orders.*.>", "orders.>", Some("orders.*.>")),
            ("orders.>", "orders", None),
            ("orders.a", "orders.b", None),
            ("orders.a", "orders.a.b", None),
        ] {
            assert_eq!(intersection(one, other).as_deref(), common, "{one} and {other}");
            assert_eq!(intersection(other, one).as_deref(), common, "{other} and {one}");
        }
    }

    #[test]
    fn placeholders_name_parts_of_a_subject() {
        let parsed = parse("orders.{region}.*.{id}", "orders.eu.new.7");
        assert_eq!(parsed, Some(vec![("region", "eu"), ("id", "7")]));
        assert_eq!(parse("logs.{level}.{rest..}", "logs.warn.a.b"), Some(vec![("level", "warn"), ("rest", "a.b")]));
        assert_eq!(parse("logs.{rest..}", "logs"), None);
        assert_eq!(parse("orders.{region}", "orders.eu.7"), None);
        assert_eq!(parse("orders.created", "orders.created"), Some(Vec::new()));
    }

    #[test]
    fn transform_maps_patterns() {
        for (pattern, source, destination, result) in [
            ("a.created", "a.*", "b.{{wildcard(1)}}", Some("b.created")),
            ("a.*", "a.*", "b.$1", Some("b.*")),
            ("a.>", "a.*.*", "b.$2.$1", Some("b.*.*")),
            ("a.eu.created", "a.*.*", "b.$2.$1", Some("b.created.eu")),
            ("a.>", "a.>", "b.>", Some("b.>")),
            ("a.x.y", "a.>", "b.>", Some("b.x.y")),
            ("a.x", ">", "copy.>", Some("copy.a.x")),
            ("a.x", "", "copy.>", Some("copy.a.x")),
            ("a.*", "a.x", "b.x", Some("b.x")),
            ("a.x", "a.x", "", Some("a.x")),
            (">", ">", ">", Some(">")),
            ("a.*", "a.*", "b.{{partition(3,1)}}.{{ Wildcard( 1 ) }}", Some("b.*.*")),
            ("a.acme", "a.*", "b.{{partition(12,1)}}", Some("b.7")),
            ("a.ac.me", "a.*.*", "b.{{ Partition( 12, 1, 2 ) }}.$1", Some("b.7.ac")),
            ("acme", ">", "{{partition(12)}}.>", Some("7.acme")),
            ("a.>", ">", "{{partition(12)}}.>", Some("*.a.>")),
            ("a.acme", "a.*", "b.{{partition(12,2)}}", Some("b.*")),
            ("a.acme", "a.*", "b.{{partition(x,1)}}", Some("b.*")),
            ("a.*", "a.*", "b.{{left(1,2)}}.{{random(9)}}", Some("b.*.*")),
            ("a.*", "a.*", "b.{{split(1,-)}}.end", Some("b.>")),
            ("a.*", "a.*", "b.{{unheard(1)}}", Some("b.>")),
            ("a.*", "a.*", "$KV.b.$1", Some("$KV.b.*")),
            ("a.x", "a.*", "b.{{wildcard(7)}}", Some("b.*")),
            ("c.x", "a.*", "b.$1", None),
        ] {
            let what = format!("{pattern} through {source} -> {destination}");
            assert_eq!(transformed(pattern, source, destination).as_deref(), result, "{what}");
        }
    }
}
