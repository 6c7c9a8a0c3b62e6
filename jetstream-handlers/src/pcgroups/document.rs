//! The document of a group, as other clients write and read it.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind};
use crate::spelling;

/// The maximum number of partitions, each of which is a filter of a consumer.
const MAX_PARTITIONS: u32 = 10_000;

/// The document of an elastic group: the number of its partitions, and its members.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Document {
    /// The number of partitions.
    pub(super) max_members: u32,
    /// Without any, all messages are partitioned by their whole subject; some clients write `null` for that.
    #[serde(default)]
    pub(super) partitioning_filters: Option<Vec<PartitioningFilter>>,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(super) max_buffered_msg: i64,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(super) max_buffered_bytes: i64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) members: Vec<String>,
    /// The partitions of each member, instead of `members`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) member_mappings: Vec<MemberMapping>,
}

/// The messages of one filter, and the wildcards whose tokens are their key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PartitioningFilter {
    pub(super) filter: String,
    /// The numbers of the wildcards, from 1; without any, the key is the whole subject.
    #[serde(default)]
    pub(super) partitioning_wildcards: Option<Vec<u32>>,
}

/// The partitions of one member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct MemberMapping {
    pub(super) member: String,
    pub(super) partitions: Vec<u32>,
}

fn is_zero(number: &i64) -> bool {
    *number == 0
}

impl Document {
    /// Parses and checks a document, about which an error says `about`.
    pub(super) fn parse(json: &[u8], about: &str) -> Result<Self, Error> {
        let document: Self = serde_json::from_slice(json).map_err(|error| invalid(about, &error.to_string()))?;
        document.check(about)?;
        Ok(document)
    }

    /// Returns an error for a document that no client accepts.
    pub(super) fn check(&self, about: &str) -> Result<(), Error> {
        self.problem().map_or(Ok(()), |problem| Err(invalid(about, &problem)))
    }

    /// Returns what makes a document useless for all members.
    fn problem(&self) -> Option<String> {
        if !(1..=MAX_PARTITIONS).contains(&self.max_members) {
            let number = self.max_members;
            return Some(format!(
                "`max_members` is {number}; expected 1 to {MAX_PARTITIONS}, the number of partitions"
            ));
        }
        if !self.members.is_empty() && !self.member_mappings.is_empty() {
            return Some("it has `members` and `member_mappings`, of which one excludes the other".to_owned());
        }
        let mut mapped: Vec<u32> = self.member_mappings.iter().flat_map(|it| it.partitions.iter().copied()).collect();
        mapped.sort_unstable();
        if let Some(number) = mapped.iter().find(|number| **number >= self.max_members) {
            return Some(format!("`member_mappings` has partition {number}, but there are {}", self.max_members));
        }
        let twice = mapped.windows(2).find(|pair| pair[0] == pair[1]);
        twice.map(|pair| format!("`member_mappings` has partition {} twice", pair[0]))
    }

    /// Returns the filters for the partitions of one member; none if it is no member.
    ///
    /// The partitions are divided among the sorted members, in the way in which all clients do it.
    pub(super) fn filters(&self, member: &str) -> Vec<String> {
        if !self.member_mappings.is_empty() {
            let own = self.member_mappings.iter().filter(|mapping| mapping.member == member);
            return own.flat_map(|mapping| &mapping.partitions).map(|number| format!("{number}.>")).collect();
        }
        let members: BTreeSet<&str> = self.members.iter().map(String::as_str).collect();
        let members: Vec<&str> = members.into_iter().take(self.max_members as usize).collect();
        let Some(place) = members.iter().position(|it| *it == member) else { return Vec::new() };
        let (count, place) = (members.len() as u32, place as u32);
        let each = self.max_members / count;
        let is_own = |number: &u32| match number.checked_sub(count * each) {
            None => number / each == place,
            Some(rest) => rest % count == place,
        };
        let all = vec![PartitioningFilter { filter: ">".to_owned(), partitioning_wildcards: None }];
        let filters = self.partitioning_filters.as_ref().filter(|filters| !filters.is_empty()).unwrap_or(&all);
        let of_filter = |it: &PartitioningFilter| {
            let filter = it.filter.clone();
            (0..self.max_members).filter(is_own).map(move |number| format!("{number}.{filter}")).collect::<Vec<_>>()
        };
        filters.iter().flat_map(of_filter).collect()
    }
}

fn invalid(about: &str, problem: &str) -> Error {
    Error::new(ErrorKind::Config, format!("{about} is not valid: {problem}"))
}

/// Returns the transform of a filter, by which the stream of the group adds the number of the partition.
pub(super) fn transform(filter: &PartitioningFilter, partitions: u32) -> String {
    let numbers = filter.partitioning_wildcards.iter().flatten().map(|number| format!(",{number}"));
    let mut wildcard = 0;
    let tokens = filter.filter.split('.').map(|token| match token {
        "*" => {
            wildcard += 1;
            format!("{{{{Wildcard({wildcard})}}}}")
        }
        token => token.to_owned(),
    });
    let tokens: Vec<_> = tokens.collect();
    format!("{{{{Partition({partitions}{})}}}}.{}", numbers.collect::<String>(), tokens.join("."))
}

/// Returns the problem of a name in the key of a document, or of a member, which is the name of a consumer.
pub(super) fn name_problem(what: &str, name: &str) -> Option<Error> {
    let problem = spelling::name_problem(name)?;
    Some(Error::new(ErrorKind::Config, format!("the {what} `{}` is not valid: {problem}", name.escape_debug())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(json: &str) -> Document {
        Document::parse(json.as_bytes(), "the group").unwrap()
    }

    fn numbers(document: &Document, member: &str) -> Vec<u32> {
        let number = |filter: String| filter.split('.').next().unwrap().parse().unwrap();
        document.filters(member).into_iter().map(number).collect()
    }

    /// Documents as the Go library of version 0.2.1 writes them, with the members and the filters that it computes.
    #[test]
    fn documents_of_other_clients_are_read_and_written_alike() {
        let filter = r#""partitioning_filters":[{"filter":"foo.*","partitioning_wildcards":[1]}]"#;
        for json in [
            format!(r#"{{"max_members":4,{filter}}}"#),
            format!(r#"{{"max_members":4,{filter},"members":["m1","m2"]}}"#),
            format!(r#"{{"max_members":4,{filter},"max_buffered_msg":50}}"#),
            format!(r#"{{"max_members":4,{filter},"member_mappings":[{{"member":"m1","partitions":[0]}}]}}"#),
            r#"{"max_members":4,"partitioning_filters":null}"#.to_owned(),
        ] {
            assert_eq!(serde_json::to_string(&parsed(&json)).unwrap(), json);
        }
        let two = parsed(&format!(r#"{{"max_members":4,{filter},"members":["m2","m1","m2"]}}"#));
        assert_eq!(
            (two.filters("m1"), two.filters("m2")),
            (vec!["0.foo.*".to_owned(), "1.foo.*".to_owned()], vec!["2.foo.*".to_owned(), "3.foo.*".to_owned()],)
        );
        let three = parsed(&format!(r#"{{"max_members":4,{filter},"members":["m3","m2","m1"]}}"#));
        assert_eq!(
            ["m1", "m2", "m3", "m4"].map(|member| numbers(&three, member)),
            [vec![0, 3], vec![1], vec![2], vec![]]
        );
        let mapped = r#""member_mappings":[{"member":"m1","partitions":[0]},{"member":"m2","partitions":[1,3]}]"#;
        let mapped = parsed(&format!(r#"{{"max_members":4,{filter},{mapped}}}"#));
        assert_eq!(mapped.filters("m2"), ["1.>", "3.>"]);
        let all = parsed(r#"{"max_members":2,"partitioning_filters":[],"members":["a"]}"#);
        assert_eq!(all.filters("a"), ["0.>", "1.>"]);
    }

    #[test]
    fn every_partition_has_one_member() {
        for (partitions, count) in [(1, 1), (12, 5), (5, 12), (7, 3), (1000, 7)] {
            let members: Vec<_> = (0..count).map(|number| format!("member-{number}")).collect();
            let document = Document {
                max_members: partitions,
                partitioning_filters: None,
                max_buffered_msg: 0,
                max_buffered_bytes: 0,
                members: members.clone(),
                member_mappings: Vec::new(),
            };
            let mut all: Vec<u32> = members.iter().flat_map(|member| numbers(&document, member)).collect();
            all.sort_unstable();
            assert_eq!(all, (0..partitions).collect::<Vec<_>>());
        }
    }

    #[test]
    fn transform_is_that_of_other_clients() {
        let of = |filter: &str, wildcards: &[u32]| {
            let filter =
                PartitioningFilter { filter: filter.to_owned(), partitioning_wildcards: Some(wildcards.to_vec()) };
            transform(&filter, 4)
        };
        assert_eq!(of("foo.*", &[1]), "{{Partition(4,1)}}.foo.{{Wildcard(1)}}");
        assert_eq!(of("foo.*.*", &[2, 1]), "{{Partition(4,2,1)}}.foo.{{Wildcard(1)}}.{{Wildcard(2)}}");
        assert_eq!(of("foo.*", &[]), "{{Partition(4)}}.foo.{{Wildcard(1)}}");
        assert_eq!(of(">", &[]), "{{Partition(4)}}.>");
    }

    #[test]
    fn invalid_documents_are_refused_with_the_reason() {
        let mapping = |member: &str| format!(r#"{{"member":"{member}","partitions":[1]}}"#);
        for (json, part) in [
            ("nonsense".to_owned(), "expected"),
            (r#"{"max_members":0}"#.to_owned(), "`max_members` is 0; expected 1"),
            (r#"{"max_members":-1}"#.to_owned(), "expected u32"),
            (r#"{"max_members":4000000000}"#.to_owned(), "1 to 10000"),
            (format!(r#"{{"max_members":2,"members":["a"],"member_mappings":[{}]}}"#, mapping("a")), "excludes"),
            (format!(r#"{{"max_members":1,"member_mappings":[{}]}}"#, mapping("a")), "has partition 1"),
            (format!(r#"{{"max_members":2,"member_mappings":[{},{}]}}"#, mapping("a"), mapping("b")), "twice"),
        ] {
            let error = Document::parse(json.as_bytes(), "the group").unwrap_err().to_string();
            assert!(error.contains("the group is not valid") && error.contains(part), "{json}: {error}");
        }
    }
}
