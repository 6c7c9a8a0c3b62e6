//! The announcement of the partitions that an instance claims.

use std::collections::BTreeSet;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// The maximum length of an announcement, which a client with the right to publish can send.
const MAX_LENGTH: usize = 16 * 1024;

/// The maximum length of the id of an instance.
const MAX_ID: usize = 64;

/// The partitions that an instance claims.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Announcement {
    /// A random text, by which instances are told apart.
    pub(super) id: String,
    /// The time at which the stream was created, in nanoseconds since 1970: another one has another time, such as that of
    /// the same name in another JetStream domain; 0 if it is unknown.
    #[serde(default)]
    pub(super) stream: u64,
    /// The number of all partitions.
    pub(super) partitions: u32,
    /// The numbers of those that it claims; the last ones are the first that it gives up.
    pub(super) claims: Vec<u32>,
    /// `true` if the instance stops.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) stops: bool,
}

impl Announcement {
    pub(super) fn to_bytes(&self) -> Bytes {
        serde_json::to_vec(self).unwrap_or_default().into()
    }

    /// Parses an announcement; returns `None` for one that no instance sends.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        if bytes.len() > MAX_LENGTH {
            return None;
        }
        let announcement: Self = serde_json::from_slice(bytes).ok()?;
        let Self { id, partitions, claims, .. } = &announcement;
        let distinct: BTreeSet<_> = claims.iter().collect();
        let is_valid = !id.is_empty()
            && id.len() <= MAX_ID
            && distinct.len() == claims.len()
            && claims.iter().all(|claim| claim < partitions);
        is_valid.then_some(announcement)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn announcement_is_read_as_it_was_written() {
        let announcement = |claims: &[u32], stops| Announcement {
            id: "a".to_owned(),
            stream: 7,
            partitions: 12,
            claims: claims.to_vec(),
            stops,
        };
        for announcement in [announcement(&[], false), announcement(&[7, 0, 11], false), announcement(&[], true)] {
            assert_eq!(Announcement::parse(&announcement.to_bytes()), Some(announcement));
        }
        assert_eq!(announcement(&[3], false).to_bytes(), r#"{"id":"a","stream":7,"partitions":12,"claims":[3]}"#);
    }

    #[test]
    fn announcement_that_no_instance_sends_is_ignored() {
        let long = format!(r#"{{"id":"{}","partitions":1,"claims":[]}}"#, "a".repeat(MAX_LENGTH));
        for text in [
            "",
            "[]",
            r#"{"id":"","partitions":12,"claims":[]}"#,
            r#"{"id":"a","partitions":12,"claims":[12]}"#,
            r#"{"id":"a","partitions":12,"claims":[3,3]}"#,
            r#"{"id":"a","partitions":12,"claims":[-1]}"#,
            r#"{"id":"a","partitions":99999999999,"claims":[]}"#,
            &long,
        ] {
            assert_eq!(Announcement::parse(text.as_bytes()), None, "{text}");
        }
    }
}
