//! The other instances whose announcements were received lately.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use super::announcement::Announcement;

/// The time without an announcement after which an instance counts as gone; it announces its partitions every second.
const EXPIRY: Duration = Duration::from_millis(3500);

/// The maximum number of instances, which bounds the memory if another client invents some.
const MAX_OTHERS: usize = 1000;

/// The maximum number of instances with another number of partitions that are logged.
const MAX_UNLIKE: usize = 16;

/// The other instances of a handler with partitions.
#[derive(Debug, Default)]
pub(super) struct Others {
    instances: BTreeMap<String, Other>,
    /// The ids of instances with another number of partitions, which were logged.
    unlike: BTreeSet<String>,
}

#[derive(Debug)]
struct Other {
    claims: Vec<u32>,
    received_at: Instant,
}

/// The effect of an announcement.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// Nothing has changed.
    Again,
    /// The claims of a known instance have changed, or it has stopped.
    Changed,
    /// The instance was not known.
    New,
    /// The instance has another number of partitions, which is to be logged.
    Unlike,
}

impl Others {
    /// Records an announcement of another instance, for a handler with this number of partitions.
    pub(super) fn receive(&mut self, announcement: Announcement, partitions: u32, now: Instant) -> Received {
        let Announcement { id, partitions: of_other, claims, stops, .. } = announcement;
        if of_other != partitions {
            let is_new = self.unlike.len() < MAX_UNLIKE && self.unlike.insert(id);
            return if is_new { Received::Unlike } else { Received::Again };
        }
        if stops {
            return if self.instances.remove(&id).is_some() { Received::Changed } else { Received::Again };
        }
        let is_full = self.instances.len() >= MAX_OTHERS;
        match self.instances.entry(id) {
            Entry::Occupied(known) => {
                let before = known.into_mut();
                let is_same = before.claims == claims;
                *before = Other { claims, received_at: now };
                if is_same { Received::Again } else { Received::Changed }
            }
            Entry::Vacant(_) if is_full => Received::Again,
            Entry::Vacant(new) => {
                new.insert(Other { claims, received_at: now });
                Received::New
            }
        }
    }

    /// Forgets the instances without a recent announcement; returns `true` if there are any.
    pub(super) fn expire(&mut self, now: Instant) -> bool {
        let before = self.instances.len();
        self.instances.retain(|_, other| now.saturating_duration_since(other.received_at) < EXPIRY);
        self.instances.len() < before
    }

    /// Sets the time of the last announcement of all instances, because none could be received before.
    pub(super) fn excuse(&mut self, now: Instant) {
        self.instances.values_mut().for_each(|other| other.received_at = now);
    }

    /// Returns the ids of the instances with their claims.
    pub(super) fn claims(&self) -> impl Iterator<Item = (&str, &[u32])> {
        self.instances.iter().map(|(id, other)| (id.as_str(), other.claims.as_slice()))
    }

    /// Returns the number of instances.
    pub(super) fn count(&self) -> usize {
        self.instances.len()
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    fn announcement(id: &str, partitions: u32, claims: &[u32], stops: bool) -> Announcement {
        Announcement { id: id.to_owned(), stream: 0, partitions, claims: claims.to_vec(), stops }
    }

    #[tokio::test(start_paused = true)]
    async fn instance_without_announcements_is_forgotten() {
        let mut others = Others::default();
        let receive = |others: &mut Others, announcement| others.receive(announcement, 12, Instant::now());
        assert_eq!(receive(&mut others, announcement("a", 12, &[1], false)), Received::New);
        assert_eq!(receive(&mut others, announcement("a", 12, &[1], false)), Received::Again);
        assert_eq!(receive(&mut others, announcement("a", 12, &[1, 2], false)), Received::Changed);
        assert_eq!(receive(&mut others, announcement("b", 8, &[1], false)), Received::Unlike);
        assert_eq!(receive(&mut others, announcement("b", 8, &[2], false)), Received::Again);
        advance(EXPIRY - Duration::from_millis(1)).await;
        assert!(!others.expire(Instant::now()));
        others.excuse(Instant::now());
        advance(EXPIRY - Duration::from_millis(1)).await;
        assert!(!others.expire(Instant::now()));
        advance(Duration::from_millis(1)).await;
        assert!(others.expire(Instant::now()));
        assert_eq!(others.count(), 0);
        receive(&mut others, announcement("a", 12, &[1], false));
        assert_eq!(receive(&mut others, announcement("a", 12, &[], true)), Received::Changed);
        assert_eq!(receive(&mut others, announcement("a", 12, &[], true)), Received::Again);
    }

    #[tokio::test(start_paused = true)]
    async fn invented_instances_are_bounded() {
        let mut others = Others::default();
        for id in 0..2 * MAX_OTHERS {
            others.receive(announcement(&id.to_string(), 12, &[], false), 12, Instant::now());
            others.receive(announcement(&id.to_string(), 8, &[], false), 12, Instant::now());
        }
        assert_eq!((others.count(), others.unlike.len()), (MAX_OTHERS, MAX_UNLIKE));
    }
}
