//! The metadata by which programs know the streams and consumers that they own, and what replaced which configuration.

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_nats::jetstream::{consumer, stream};

use super::drift;
use crate::text::fingerprint;

/// The prefix of the entries that this crate adds to metadata.
pub(super) const METADATA_PREFIX: &str = "jetstream-handlers.";

/// The metadata key of the handler that a consumer belongs to; its value is the full name of the function.
pub(super) const HANDLER: &str = "jetstream-handlers.handler";

/// The metadata key of the configurations that were replaced: fingerprints, each with the time in seconds since 1970.
pub(super) const REPLACED: &str = "jetstream-handlers.replaced";

/// The entries that workers write while they run.
const RECORDS: [&str; 4] = [
    "jetstream-handlers.handed-back",
    "jetstream-handlers.tried-alone",
    "jetstream-handlers.exhausted",
    "jetstream-handlers.restored-at",
];

/// The time after a configuration was replaced in which programs that want it adopt the one that they find.
pub(super) const ROLLOUT: Duration = Duration::from_secs(3600);

/// The maximum number of replaced configurations that are recorded.
const MAX_REPLACED: usize = 16;

type Metadata = HashMap<String, String>;

/// Returns metadata without the entries of the server, and without those that change while handlers run.
pub(super) fn lasting(metadata: &Metadata) -> Metadata {
    let is_lasting = |key: &str| !key.starts_with("_nats.") && !RECORDS.contains(&key);
    metadata.iter().filter(|(key, _)| is_lasting(key)).map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// Returns `true` for an entry that a consumer keeps if it is deleted and created again.
pub(super) fn survives(key: &str) -> bool {
    !key.starts_with("_nats.")
        && (!key.starts_with(METADATA_PREFIX) || [HANDLER, drift::PARTITIONS_ENTRY, REPLACED].contains(&key))
}

/// Returns the fingerprint of the fields of a consumer that its handler sets.
pub(super) fn of_consumer(config: &consumer::Config) -> String {
    fingerprint(&drift::owned(config))
}

/// Returns the fingerprint of the fields of a stream that its declaration sets.
pub(super) fn of_stream(config: &stream::Config) -> String {
    fingerprint(&drift::owned_of_stream(config))
}

/// Records that the configuration with the fingerprint `replaced` was replaced now by the one with `after`.
///
/// A change of fields that no fingerprint has replaces nothing: the next such change would be taken for one of the
/// former version.
pub(super) fn record(metadata: &mut Metadata, replaced: &str, after: &str) {
    if replaced == after {
        return;
    }
    let now = seconds(SystemTime::now());
    let mut entries = entries(metadata);
    entries.retain(|(other, at)| other != replaced && now.saturating_sub(*at) < ROLLOUT.as_secs());
    entries.push((replaced.to_owned(), now));
    let first = entries.len().saturating_sub(MAX_REPLACED);
    let texts: Vec<_> = entries[first..].iter().map(|(replaced, at)| format!("{replaced}:{at}")).collect();
    metadata.insert(REPLACED.to_owned(), texts.join(","));
}

/// Returns the time at which a configuration with this fingerprint was replaced, if a rollout may be in progress since.
pub(super) fn replaced_since(metadata: &Metadata, wanted: &str) -> Option<SystemTime> {
    let (_, at) = entries(metadata).into_iter().find(|(replaced, _)| replaced == wanted)?;
    // A time in the future is that of a clock that is ahead.
    let is_recent = seconds(SystemTime::now()).saturating_sub(at) < ROLLOUT.as_secs();
    is_recent.then(|| UNIX_EPOCH.checked_add(Duration::from_secs(at))).flatten()
}

fn entries(metadata: &Metadata) -> Vec<(String, u64)> {
    let text = metadata.get(REPLACED).map(String::as_str).unwrap_or_default();
    let entry = |entry: &str| {
        let (replaced, at) = entry.split_once(':')?;
        Some((replaced.to_owned(), at.parse().ok()?))
    };
    text.split(',').filter_map(entry).collect()
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaced_configuration_is_known_for_an_hour() {
        let now = seconds(SystemTime::now());
        let metadata = |at: u64| Metadata::from([(REPLACED.to_owned(), format!("x,aa:{at},bb:oops"))]);
        assert!(replaced_since(&metadata(now - 3500), "aa").is_some());
        assert!(replaced_since(&metadata(now + 60), "aa").is_some(), "the clock of another process is ahead");
        assert!(replaced_since(&metadata(u64::MAX), "aa").is_none(), "no such time exists");
        assert!(replaced_since(&metadata(now - 3700), "aa").is_none());
        assert!(replaced_since(&metadata(now), "bb").is_none());
    }

    #[test]
    fn record_keeps_the_recent_ones_once() {
        let old = seconds(SystemTime::now()) - 3700;
        let mut metadata = Metadata::from([(REPLACED.to_owned(), format!("old:{old}"))]);
        for index in 0..MAX_REPLACED + 2 {
            record(&mut metadata, &index.to_string(), "after");
        }
        record(&mut metadata, "7", "after");
        record(&mut metadata, "same", "same");
        let names: Vec<_> = entries(&metadata).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names.len(), MAX_REPLACED);
        assert_eq!((names.first().unwrap().as_str(), names.last().unwrap().as_str()), ("2", "7"));
    }
}
