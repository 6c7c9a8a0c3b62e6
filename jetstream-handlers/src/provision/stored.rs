//! The subjects of the messages that a stream stores.
//!
//! They differ from the subjects that it listens to if the stream transforms subjects, or copies other streams.

use async_nats::jetstream::stream::{self, Source};

use crate::subject::{covers, intersection, overlap, transformed};

/// The pattern of messages of which nothing is known, such as those of a stream of another account.
const ANYTHING: &str = ">";

/// The subjects that messages of a stream may have.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Stored {
    pattern: String,
    /// Subjects that match the pattern, and that no message has: a transform replaces them.
    except: Vec<String>,
}

impl Stored {
    /// Returns what is stored of messages of which nothing is known.
    pub(super) fn anything() -> Self {
        Self::new(ANYTHING.to_owned())
    }

    pub(super) fn new(pattern: String) -> Self {
        Self { pattern, except: Vec::new() }
    }

    fn covers(&self, subject: &str) -> bool {
        covers(&self.pattern, subject) && self.overlaps(subject)
    }

    fn overlaps(&self, subject: &str) -> bool {
        let common = intersection(&self.pattern, subject);
        common.is_some_and(|common| !self.except.iter().any(|except| covers(except, &common)))
    }
}

/// Returns the subjects that a stream listens to; a mirror has none.
pub(super) fn listened(config: &stream::Config) -> Vec<String> {
    let copies = config.mirror.is_some() || config.sources.as_ref().is_some_and(|sources| !sources.is_empty());
    if config.subjects.is_empty() && !copies { vec![config.name.clone()] } else { config.subjects.clone() }
}

/// Returns the subjects as which a stream stores the messages that are published to it.
pub(super) fn stored_directly(config: &stream::Config) -> Vec<Stored> {
    through_transform(config, listened(config).into_iter().map(Stored::new).collect())
}

/// Applies the transform of a stream, which leaves a message alone if its source does not match.
pub(super) fn through_transform(config: &stream::Config, subjects: Vec<Stored>) -> Vec<Stored> {
    let Some(transform) = &config.subject_transform else { return subjects };
    let source = if transform.source.is_empty() { ANYTHING } else { &transform.source };
    let mut stored = Vec::new();
    for mut subject in subjects {
        stored.extend(transformed(&subject.pattern, source, &transform.destination).map(Stored::new));
        if !covers(source, &subject.pattern) {
            subject.except.push(source.to_owned());
            stored.push(subject);
        }
    }
    stored
}

/// Returns the subjects that a stream copies from an origin with these subjects.
pub(super) fn copied(source: &Source, origin: &[Stored]) -> Vec<Stored> {
    let of_subject = |subject: &Stored| -> Vec<Stored> {
        if !source.subject_transforms.is_empty() {
            // Each transform is a filter as well.
            let transforms = source.subject_transforms.iter().filter(|it| subject.overlaps(&it.source));
            let copies = transforms.filter_map(|it| transformed(&subject.pattern, &it.source, &it.destination));
            return copies.map(Stored::new).collect();
        }
        let Some(filter) = source.filter_subject.as_deref().filter(|filter| !filter.is_empty()) else {
            return vec![subject.clone()];
        };
        let pattern = intersection(&subject.pattern, filter);
        pattern.map(|pattern| Stored { pattern, except: subject.except.clone() }).into_iter().collect()
    };
    origin.iter().flat_map(of_subject).collect()
}

/// Returns `true` if messages with every subject that matches are stored.
pub(super) fn stores_all(stored: &[Stored], subject: &str) -> bool {
    stored.iter().any(|stored| stored.covers(subject))
}

/// Returns `true` if messages with some of the subjects that match are stored.
pub(super) fn stores_some(stored: &[Stored], subject: &str) -> bool {
    stored.iter().any(|stored| stored.overlaps(subject))
}

/// Returns the subjects for an error text.
pub(super) fn patterns(stored: Vec<Stored>) -> Vec<String> {
    stored.into_iter().map(|stored| stored.pattern).collect()
}

/// Returns the subjects about which something is known.
pub(super) fn known(stored: Vec<Stored>) -> Vec<Stored> {
    stored.into_iter().filter(|stored| stored.pattern != ANYTHING).collect()
}

/// Returns `true` if one of these patterns covers the subject.
pub(super) fn any_covers(patterns: &[String], subject: &str) -> bool {
    patterns.iter().any(|pattern| covers(pattern, subject))
}

/// Returns `true` if one of these patterns overlaps the subject.
pub(super) fn any_overlaps(patterns: &[String], subject: &str) -> bool {
    patterns.iter().any(|pattern| overlap(pattern, subject))
}

#[cfg(test)]
mod tests {
    use async_nats::jetstream::stream::SubjectTransform;

    use super::*;

    fn transform(source: &str, destination: &str) -> SubjectTransform {
        SubjectTransform { source: source.to_owned(), destination: destination.to_owned() }
    }

    fn owned(subjects: &[&str]) -> Vec<String> {
        subjects.iter().map(|subject| (*subject).to_owned()).collect()
    }

    #[test]
    fn transform_of_a_stream_leaves_other_subjects_alone() {
        let config = |subjects: &[&str], source: &str, destination: &str| stream::Config {
            name: "SHOP".to_owned(),
            subjects: owned(subjects),
            subject_transform: Some(transform(source, destination)),
            ..Default::default()
        };
        for (config, stored) in [
            (config(&["in.*"], "in.*", "out.$1"), vec!["out.*"]),
            (config(&["in.>"], "in.*", "out.$1"), vec!["out.*", "in.>"]),
            (config(&["in.a", "other"], "in.*", "out.$1"), vec!["out.a", "other"]),
            (config(&["in.a"], "", "out.>"), vec!["out.in.a"]),
            (config(&[], "SHOP", "out"), vec!["out"]),
        ] {
            assert_eq!(patterns(stored_directly(&config)), stored);
        }
        let swapped = stored_directly(&config(&["in.>"], "in.*.*", "out.$2.$1"));
        for (subject, all, some) in [
            ("out.a.*", true, true),
            ("in.a.b", false, false),
            ("in.*.b", false, false),
            ("in.a", true, true),
            ("in.a.b.c", true, true),
            ("in.*", true, true),
            ("in.>", true, true),
            (">", false, true),
        ] {
            assert_eq!((stores_all(&swapped, subject), stores_some(&swapped, subject)), (all, some), "{subject}");
        }
    }

    #[test]
    fn copies_are_filtered_and_transformed() {
        let source = |filter: Option<&str>, transforms: &[(&str, &str)]| Source {
            name: "SHOP".to_owned(),
            filter_subject: filter.map(str::to_owned),
            subject_transforms: transforms.iter().map(|(from, to)| transform(from, to)).collect(),
            ..Default::default()
        };
        let stored = |subjects: &[&str]| -> Vec<Stored> { owned(subjects).into_iter().map(Stored::new).collect() };
        let origin = stored(&["orders.>", "payments.*"]);
        for (source, subjects) in [
            (source(None, &[]), vec!["orders.>", "payments.*"]),
            (source(Some(""), &[]), vec!["orders.>", "payments.*"]),
            (source(Some("orders.*"), &[]), vec!["orders.*"]),
            (source(Some("refunds.*"), &[]), vec![]),
            (source(None, &[("orders.>", "eu.orders.>"), ("payments.*", "")]), vec!["eu.orders.>", "payments.*"]),
        ] {
            assert_eq!(patterns(copied(&source, &origin)), subjects);
        }
        let unknown = copied(&source(Some("orders.*"), &[]), &stored(&[ANYTHING]));
        assert_eq!(patterns(unknown), ["orders.*"], "of another account");
    }

    #[test]
    fn stream_without_subjects_listens_to_its_name_unless_it_copies() {
        let plain = stream::Config { name: "orders".to_owned(), ..Default::default() };
        assert_eq!(listened(&plain), ["orders"]);
        let mirror = stream::Config { mirror: Some(Source::default()), ..plain.clone() };
        assert_eq!(listened(&mirror), [""; 0]);
        let sourced = stream::Config { sources: Some(vec![Source::default()]), ..plain };
        assert_eq!(listened(&sourced), [""; 0]);
    }
}
