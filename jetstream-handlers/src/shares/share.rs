//! The share of one instance in the partitions of a handler.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::announcement::Announcement;
use super::assignment::assigned;
use super::others::{Others, Received};
use crate::delivery::Partition;
use crate::error::{Error, chain};
use crate::transport::{Announcements, Transport};

/// The interval of the announcements of an instance whose claims do not change.
const PERIOD: Duration = Duration::from_secs(1);

/// The minimum time between two announcements, and between two assignments: another client may flood the subject.
const MIN_PERIOD: Duration = Duration::from_millis(20);

/// The time for which a new instance waits for the claims of the others, before it claims anything.
const JOIN: Duration = Duration::from_millis(100);

/// The timeout of reading the creation time of the stream; the server does not answer a user without the permission.
const CREATED_TIMEOUT: Duration = Duration::from_secs(1);

/// The part of one instance in the partitions of a handler.
#[derive(Debug)]
pub(crate) struct Share {
    handler: String,
    transport: Arc<Transport>,
    stream: String,
    subject: String,
    id: String,
    /// The time at which the stream was created, as it is announced.
    created: u64,
    partitions: Vec<Arc<Partition>>,
    /// The wake-up if a partition is kept although the share does not have it.
    kept: Arc<Notify>,
    others: Others,
    claims: Vec<u32>,
    announced_at: Instant,
    assigned_at: Instant,
    ticked_at: Instant,
    /// `true` if the claims are to be announced as soon as possible.
    is_due: bool,
    /// `true` if the claims are to be computed as soon as possible.
    is_stale: bool,
}

impl Share {
    /// Returns the share of this instance in the partitions of a handler, which are added with [`add`](Self::add).
    pub(crate) fn new(handler: &str, transport: Arc<Transport>, stream: &str, queue: &str) -> Self {
        let (now, id) = (Instant::now(), transport.new_instance());
        Self {
            handler: handler.to_owned(),
            subject: transport.settings().announcements(stream, queue),
            stream: stream.to_owned(),
            transport,
            id,
            created: 0,
            partitions: Vec::new(),
            kept: Arc::default(),
            others: Others::default(),
            claims: Vec::new(),
            announced_at: now,
            assigned_at: now,
            ticked_at: now,
            is_due: true,
            is_stale: false,
        }
    }

    /// Adds a partition, in the order of the numbers.
    pub(crate) fn add(&mut self, number: u32) -> Arc<Partition> {
        let partition = Arc::new(Partition::new(number, self.kept.clone()));
        self.partitions.push(partition.clone());
        partition
    }

    /// Announces the claims of this instance and computes its share until the handler stops.
    ///
    /// Without the right to subscribe to the subject, this instance learns of no other one, so that its share is all
    /// partitions, and the server gives each to the first that requests it. Without the right to publish, the others count on
    /// all partitions.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut announcements = match self.transport.announcements(&self.subject).await {
            Ok(announcements) => announcements,
            Err(error) => return self.claim_all(&error),
        };
        if let Ok(Ok(Some(created))) = timeout(CREATED_TIMEOUT, self.transport.stream_created(&self.stream)).await {
            let since = created.duration_since(UNIX_EPOCH).unwrap_or_default();
            self.created = u64::try_from(since.as_nanos()).unwrap_or_default();
        }
        self.join(&mut announcements).await;
        self.assign();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return self.announce(&announcements, true).await,
                () = sleep_until(self.announce_at()) => self.announce(&announcements, false).await,
                () = sleep_until(self.assigned_at + MIN_PERIOD), if self.is_stale => self.assign(),
                announcement = announcements.next() => self.is_stale |= self.receive(&announcement),
                () = self.kept.notified() => self.is_stale = true,
            }
            if self.ticked_at.elapsed() >= PERIOD {
                self.tick();
            }
        }
    }

    /// Receives the claims of the others, before anything is claimed.
    async fn join(&mut self, announcements: &mut Announcements) {
        self.announce(announcements, false).await;
        if let Some(kept) = announcements.take_kept() {
            kept.iter().for_each(|announcement| _ = self.receive(announcement));
            return;
        }
        let until = Instant::now() + JOIN;
        loop {
            tokio::select! {
                // Another client may flood the subject.
                biased;
                () = sleep_until(until) => return,
                announcement = announcements.next() => { self.receive(&announcement); }
            }
        }
    }

    fn claim_all(&self, error: &Error) {
        let handler = &*self.handler;
        tracing::warn!(handler, "partitions are not shared evenly among the instances: {}", chain(error));
        self.partitions.iter().for_each(|partition| partition.assign(true, false));
    }

    fn announce_at(&self) -> Instant {
        self.announced_at + if self.is_due { MIN_PERIOD } else { PERIOD }
    }

    async fn announce(&mut self, announcements: &Announcements, stops: bool) {
        let (id, claims) = (self.id.clone(), if stops { Vec::new() } else { self.claims.clone() });
        let announcement =
            Announcement { id, stream: self.created, partitions: self.partitions.len() as u32, claims, stops };
        announcements.announce(&self.id, announcement.to_bytes(), stops).await;
        (self.announced_at, self.is_due) = (Instant::now(), false);
    }

    /// Records an announcement; returns `true` if the assignment may have changed.
    fn receive(&mut self, announcement: &[u8]) -> bool {
        let Some(announcement) = Announcement::parse(announcement).filter(|it| it.id != self.id) else { return false };
        if announcement.stream != self.created && announcement.stream != 0 && self.created != 0 {
            return false;
        }
        let (of_other, partitions) = (announcement.partitions, self.partitions.len() as u32);
        match self.others.receive(announcement, partitions, Instant::now()) {
            Received::Again => false,
            Received::Changed => true,
            Received::New => {
                // It waits for the claims of the others.
                self.is_due = true;
                true
            }
            Received::Unlike => {
                let handler = &*self.handler;
                tracing::warn!(
                    handler,
                    "another instance has {of_other} partitions, and this one {partitions}: they do not share them evenly"
                );
                false
            }
        }
    }

    fn tick(&mut self) {
        let now = Instant::now();
        let late = now.saturating_duration_since(self.ticked_at);
        self.ticked_at = now;
        if late > PERIOD * 3 || !self.transport.is_connected() {
            // This process was suspended, or has lost its connection; the others are not gone for that.
            self.others.excuse(now);
        }
        self.partitions.iter().for_each(|partition| partition.tick(now));
        self.others.expire(now);
        self.assign();
    }

    /// Computes the share of this instance, and lets the workers of the partitions know.
    fn assign(&mut self) {
        (self.assigned_at, self.is_stale) = (Instant::now(), false);
        let kept: Vec<u32> = self.partitions.iter().filter(|it| it.is_kept()).map(|it| it.number).collect();
        let before_others = |others: &[u32]| -> Vec<u32> {
            kept.iter().chain(others.iter().filter(|it| !kept.contains(it))).copied().collect()
        };
        let own = before_others(&self.claims);
        let mut claims: BTreeMap<&str, &[u32]> = self.others.claims().collect();
        claims.insert(&self.id, &own);
        let share = assigned(&self.id, self.partitions.len() as u32, &claims);
        let of_others: BTreeSet<u32> = self.others.claims().flat_map(|(_, claims)| claims).copied().collect();
        for partition in &self.partitions {
            partition.assign(share.contains(&partition.number), of_others.contains(&partition.number));
        }
        let claims = before_others(&share);
        if claims != self.claims {
            let (handler, instances) = (&*self.handler, self.others.count() + 1);
            let (count, all) = (claims.len(), self.partitions.len());
            let numbers = claims.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
            tracing::info!(
                handler,
                instances,
                "this instance has {count} of {all} partitions: {}",
                if numbers.is_empty() { "none" } else { &numbers }
            );
            self.claims = claims;
            self.is_due = true;
        }
    }
}
