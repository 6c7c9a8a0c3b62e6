//! Differences between the configuration that the code asks for and the one on the server.
//!
//! Defaults that the server fills in and its `_nats.*` metadata are not differences.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::time::Duration;

use async_nats::jetstream::{consumer, stream};
use serde_json::Value;

use crate::error::difference::Difference;
use crate::error::problem::Problem;

/// The metadata key of a consumer that was deleted and created again; its value is the stream sequence at which it
/// starts.
pub(super) const RESTORED: &str = "jetstream-handlers.restored-at";

/// The metadata key of the number of partitions of the handler that a consumer belongs to.
pub(super) const PARTITIONS_ENTRY: &str = "jetstream-handlers.partitions";

/// The name of a difference in the number of partitions, which is in the metadata of each of their consumers.
pub(super) const PARTITIONS: &str = "partitions";

/// Returns `true` if a handler has partitions in this stream, which the server derives from another one.
pub(super) fn is_derived(config: &stream::Config) -> bool {
    config.metadata.contains_key(PARTITIONS_ENTRY)
}

/// Returns the fields in which a consumer on the server differs from the configuration that a handler needs.
///
/// Fields that no handler sets are not compared, so that an operator can set them: description, metadata, sampling,
/// replicas, storage, request limits, inactivity, pause.
/// The deliver policy is not compared either, because it has no effect once the consumer exists.
/// The same applies to `max_ack_pending`, unless it is below the handler's `concurrency`.
pub(super) fn consumer(found: &consumer::Config, wanted: &consumer::Config, concurrency: usize) -> Vec<Difference> {
    let mut differences = Vec::new();
    let mut compare = |field, changeable, found: String, wanted: String| {
        if found != wanted {
            differences.push(Difference { field, found, wanted, changeable });
        }
    };
    let target = |config: &consumer::Config| {
        config.deliver_subject.clone().map_or("none (pull)".to_owned(), |subject| format!("{subject} (push)"))
    };
    compare("deliver_subject", false, target(found), target(wanted));
    compare("filter_subjects", true, filters(found), filters(wanted));
    if let Some(wanted) = wanted.metadata.get(PARTITIONS_ENTRY) {
        let found = found.metadata.get(PARTITIONS_ENTRY).map_or("unknown", String::as_str);
        compare(PARTITIONS, true, found.to_owned(), wanted.clone());
    }
    compare("ack_policy", false, lower_case(&found.ack_policy), lower_case(&wanted.ack_policy));
    compare("ack_wait", true, duration(found.ack_wait, 30), duration(wanted.ack_wait, 30));
    compare("backoff", true, format!("{:?}", found.backoff), format!("{:?}", wanted.backoff));
    compare("replay_policy", false, lower_case(&found.replay_policy), lower_case(&wanted.replay_policy));
    compare("rate_limit_bps", true, found.rate_limit.to_string(), wanted.rate_limit.to_string());
    compare("headers_only", true, found.headers_only.to_string(), wanted.headers_only.to_string());
    // nats-server can change these fields, although ADR-42 states otherwise (`consumer.go`, `checkNewConsumerConfig`).
    compare("priority_policy", true, serialized(&found.priority_policy), serialized(&wanted.priority_policy));
    compare("priority_groups", true, format!("{:?}", found.priority_groups), format!("{:?}", wanted.priority_groups));
    let is_pinned = |config: &consumer::Config| config.priority_policy == consumer::PriorityPolicy::PinnedClient;
    if is_pinned(found) && is_pinned(wanted) {
        compare(
            "priority_timeout",
            true,
            duration(found.priority_timeout, 120),
            duration(wanted.priority_timeout, 120),
        );
    }
    // With fewer deliveries, the server would stop delivering a message before its last attempt.
    if (1..wanted.max_deliver).contains(&found.max_deliver) {
        let (found, wanted) = (found.max_deliver.to_string(), format!("unlimited, or at least {}", wanted.max_deliver));
        differences.push(Difference { field: "max_deliver", found, wanted, changeable: true });
    }
    if (1..concurrency as i64).contains(&found.max_ack_pending) {
        let (found, wanted) = (found.max_ack_pending.to_string(), format!("at least the concurrency of {concurrency}"));
        differences.push(Difference { field: "max_ack_pending", found, wanted, changeable: true });
    }
    differences
}

/// Returns the fields of a consumer that its handler sets, as text; without those whose value only has a lower bound.
pub(super) fn owned(config: &consumer::Config) -> String {
    let is_pinned = config.priority_policy == consumer::PriorityPolicy::PinnedClient;
    let timeout = if is_pinned { duration(config.priority_timeout, 120) } else { String::new() };
    let fields = [
        config.deliver_subject.clone().unwrap_or_default(),
        filters(config),
        lower_case(&config.ack_policy),
        duration(config.ack_wait, 30),
        format!("{:?}", config.backoff),
        lower_case(&config.replay_policy),
        config.rate_limit.to_string(),
        config.headers_only.to_string(),
        serialized(&config.priority_policy),
        format!("{:?}", config.priority_groups),
        timeout,
    ];
    fields.join("\n")
}

/// Returns the fields of a stream that every declaration sets, as text.
pub(super) fn owned_of_stream(config: &stream::Config) -> String {
    let mut fields = normalised(config);
    fields.retain(|(field, _)| !["description", "metadata", "num_replicas"].contains(field));
    format!("{fields:?}")
}

/// Returns the configuration on the server with the fields in which it differs from the wanted one replaced by those.
pub(super) fn changed_consumer(
    found: &consumer::Config,
    wanted: &consumer::Config,
    differences: &[Difference],
) -> consumer::Config {
    let mut changed = found.clone();
    for difference in differences {
        match difference.field {
            "filter_subjects" => {
                changed.filter_subject.clone_from(&wanted.filter_subject);
                changed.filter_subjects.clone_from(&wanted.filter_subjects);
            }
            "ack_wait" => changed.ack_wait = wanted.ack_wait,
            "backoff" => changed.backoff.clone_from(&wanted.backoff),
            "rate_limit_bps" => changed.rate_limit = wanted.rate_limit,
            "headers_only" => changed.headers_only = wanted.headers_only,
            "priority_policy" => {
                changed.priority_policy = wanted.priority_policy.clone();
                changed.priority_timeout = wanted.priority_timeout;
            }
            "priority_groups" => changed.priority_groups.clone_from(&wanted.priority_groups),
            "priority_timeout" => changed.priority_timeout = wanted.priority_timeout,
            "max_deliver" => changed.max_deliver = wanted.max_deliver,
            "max_ack_pending" => changed.max_ack_pending = wanted.max_ack_pending,
            _ => {}
        }
    }
    changed
}

/// Returns the configuration on the server with the fields in which it differs from the declared one replaced by those.
pub(super) fn changed_stream(
    found: &stream::Config,
    wanted: &stream::Config,
    differences: &[Difference],
) -> stream::Config {
    let (mut changed, wanted_fields) = (json(found), json(wanted));
    for difference in differences {
        let Some(fields) = changed.as_object_mut() else { break };
        match wanted_fields.get(difference.field) {
            Some(value) => drop(fields.insert(difference.field.to_owned(), value.clone())),
            None => drop(fields.remove(difference.field)),
        }
    }
    let mut changed: stream::Config = serde_json::from_value(changed).unwrap_or_else(|_| wanted.clone());
    changed.metadata = found.metadata.clone();
    changed.metadata.extend(wanted.metadata.clone());
    changed
}

/// Returns an error if a stream on the server differs from the configuration passed to the builder.
pub(super) fn check_stream(found: &stream::Config, wanted: &stream::Config) -> Result<(), Problem> {
    let differences = stream(found, wanted);
    if differences.is_empty() {
        Ok(())
    } else {
        Err(Problem::StreamDiffers { stream: wanted.name.clone(), differences })
    }
}

/// Returns the fields in which a stream on the server differs from the configuration passed to the builder.
///
/// A description, metadata and replicas are compared only if the builder's configuration has them.
pub(super) fn stream(found: &stream::Config, wanted: &stream::Config) -> Vec<Difference> {
    let mut found = found.clone();
    found.metadata.retain(|key, _| wanted.metadata.contains_key(key));
    found.description = found.description.filter(|_| wanted.description.is_some());
    if wanted.num_replicas == 0 {
        found.num_replicas = 0;
    }
    let (found, wanted) = (normalised(&found), normalised(wanted));
    let mut differences = Vec::new();
    for (field, wanted) in &wanted {
        let found = found.iter().find(|(name, _)| name == field).map_or(&Value::Null, |(_, value)| value);
        if found != wanted {
            differences.push(Difference {
                field,
                found: shown(found),
                wanted: shown(wanted),
                changeable: is_changeable(field, found),
            });
        }
    }
    differences
}

/// Returns `true` if the server accepts another value than `found` (nats-server `stream.go`, `configUpdateCheck`).
fn is_changeable(field: &str, found: &Value) -> bool {
    match field {
        // Changing these needs a new stream.
        "storage" | "retention" | "mirror" | "max_consumers" | "persist_mode" | "allow_msg_counter" | "first_seq" => {
            false
        }
        // These can be set and never removed.
        "deny_delete" | "deny_purge" | "sealed" | "allow_msg_ttl" | "allow_msg_schedules" => {
            found != &Value::from(true)
        }
        _ => true,
    }
}

/// Returns the subjects of a stream, which are its name by default.
pub(super) fn subjects(config: &stream::Config) -> BTreeSet<String> {
    let is_default = config.subjects.is_empty() && config.mirror.is_none() && config.sources.is_none();
    if is_default { [config.name.clone()].into() } else { config.subjects.iter().cloned().collect() }
}

/// Returns the fields of a stream's configuration, with each default in one spelling.
fn normalised(config: &stream::Config) -> Vec<(&'static str, Value)> {
    let unlimited = |limit: i64| Value::from(if limit <= 0 { -1 } else { limit });
    let nanos = |duration: Duration| Value::from(format!("{duration:?}"));
    let subjects = subjects(config);
    let metadata: BTreeMap<_, _> = config.metadata.iter().filter(|(key, _)| !key.starts_with("_nats.")).collect();
    let metadata: Vec<_> = metadata.into_iter().map(|(key, value)| format!("{key}={value}")).collect();
    let duplicates = match (config.duplicate_window.is_zero(), config.max_age.is_zero()) {
        (false, _) => config.duplicate_window,
        (true, true) => Duration::from_secs(120),
        (true, false) => config.max_age.min(Duration::from_secs(120)),
    };
    // The server enables a field that another enabled field requires (`stream.go`, `checkStreamCfg`).
    let markers = config.subject_delete_marker_ttl.is_some();
    let rollup = config.allow_rollup || config.allow_message_schedules || markers;
    vec![
        ("subjects", Value::from(subjects.into_iter().collect::<Vec<_>>())),
        ("retention", Value::from(lower_case(&config.retention))),
        ("storage", Value::from(lower_case(&config.storage))),
        ("discard", Value::from(lower_case(&config.discard))),
        ("discard_new_per_subject", Value::from(config.discard_new_per_subject)),
        ("max_consumers", unlimited(config.max_consumers.into())),
        ("max_msgs", unlimited(config.max_messages)),
        ("max_bytes", unlimited(config.max_bytes)),
        ("max_age", nanos(config.max_age)),
        ("max_msgs_per_subject", unlimited(config.max_messages_per_subject)),
        ("max_msg_size", unlimited(config.max_message_size.into())),
        ("num_replicas", Value::from(config.num_replicas.max(1))),
        ("no_ack", Value::from(config.no_ack)),
        ("duplicate_window", nanos(duplicates)),
        ("sealed", Value::from(config.sealed)),
        ("description", Value::from(config.description.clone().unwrap_or_default())),
        ("allow_rollup_hdrs", Value::from(rollup)),
        ("deny_delete", Value::from(config.deny_delete)),
        ("deny_purge", Value::from(config.deny_purge)),
        ("republish", json(&config.republish)),
        ("allow_direct", Value::from(config.allow_direct)),
        ("mirror_direct", Value::from(config.mirror_direct)),
        ("mirror", json(&config.mirror)),
        ("sources", json(&config.sources)),
        ("metadata", Value::from(metadata)),
        ("subject_transform", json(&config.subject_transform)),
        ("compression", Value::from(config.compression.as_ref().map_or("none".to_owned(), lower_case))),
        ("consumer_limits", json(&config.consumer_limits.as_ref().filter(|limits| **limits != Default::default()))),
        ("persist_mode", Value::from(lower_case(&config.persist_mode.unwrap_or_default()))),
        ("subject_delete_marker_ttl", nanos(config.subject_delete_marker_ttl.unwrap_or_default())),
        ("first_seq", Value::from(config.first_sequence.unwrap_or(0).max(1))),
        ("placement", json(&config.placement)),
        ("allow_msg_ttl", Value::from(config.allow_message_ttl || markers)),
        ("allow_atomic", Value::from(config.allow_atomic_publish)),
        ("allow_msg_schedules", Value::from(config.allow_message_schedules)),
        ("allow_msg_counter", Value::from(config.allow_message_counter)),
        ("allow_batched", Value::from(config.allow_batch_publish)),
    ]
}

/// Returns a value as text: without quotes, and a list with commas.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => "none".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(values) if values.is_empty() => "none".to_owned(),
        Value::Array(values) if values.iter().all(Value::is_string) => {
            values.iter().map(shown).collect::<Vec<_>>().join(", ")
        }
        value => value.to_string(),
    }
}

fn json(value: &impl serde::Serialize) -> Value {
    serde_json::to_value(value).unwrap_or(Value::Null)
}

/// Returns the name of an enum's variant in lower case, as the server writes it.
fn lower_case(value: &impl Debug) -> String {
    format!("{value:?}").to_lowercase()
}

/// Returns the name of an enum's variant as the server writes it, including a name of several words.
fn serialized(value: &impl serde::Serialize) -> String {
    json(value).as_str().unwrap_or_default().to_owned()
}

fn duration(value: Duration, default_secs: u64) -> String {
    let value = if value.is_zero() { Duration::from_secs(default_secs) } else { value };
    format!("{value:?}")
}

/// Returns the filters in one form.
fn filters(config: &consumer::Config) -> String {
    let filters: BTreeSet<&str> = crate::delivery::filters(config).into_iter().collect();
    match filters.first() {
        Some(&">") => "every subject".to_owned(),
        _ => filters.into_iter().collect::<Vec<_>>().join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignores_defaults_of_the_server() {
        let wanted = consumer::Config {
            filter_subject: "orders.created".into(),
            ack_wait: Duration::from_secs(30),
            ..Default::default()
        };
        let mut found = wanted.clone();
        found.max_deliver = -1;
        found.max_ack_pending = 1000;
        found.max_waiting = 512;
        found.num_replicas = 3;
        found.filter_subjects = vec![std::mem::take(&mut found.filter_subject)];
        found.metadata.insert("_nats.level".into(), "1".into());
        assert_eq!(consumer(&found, &wanted, 64), []);
    }

    #[test]
    fn compares_every_field_that_a_handler_depends_on() {
        let wanted = consumer::Config { ack_wait: Duration::from_secs(3), max_deliver: 10_000, ..Default::default() };
        let found = consumer::Config {
            ack_wait: Duration::from_secs(60),
            max_deliver: 7,
            backoff: vec![Duration::from_secs(60), Duration::from_secs(61)],
            max_ack_pending: 2,
            headers_only: true,
            ack_policy: consumer::AckPolicy::None,
            deliver_policy: consumer::DeliverPolicy::New,
            ..Default::default()
        };
        let fields: Vec<_> = consumer(&found, &wanted, 4).into_iter().map(|difference| difference.field).collect();
        assert_eq!(fields, ["ack_policy", "ack_wait", "backoff", "headers_only", "max_deliver", "max_ack_pending"]);
    }

    #[test]
    fn ordered_consumer_differs_in_ack_policy_and_pin() {
        let plain = consumer::Config::default();
        let ordered = consumer::Config {
            ack_policy: consumer::AckPolicy::All,
            priority_policy: consumer::PriorityPolicy::PinnedClient,
            priority_groups: vec!["ordered".into()],
            priority_timeout: Duration::from_secs(5),
            ..Default::default()
        };
        assert_eq!(consumer(&ordered, &ordered, 1), []);
        for (found, wanted) in [(&plain, &ordered), (&ordered, &plain)] {
            let fields: Vec<_> = consumer(found, wanted, 1).iter().map(|it| (it.field, it.changeable)).collect();
            assert_eq!(fields, [("ack_policy", false), ("priority_policy", true), ("priority_groups", true)]);
        }
        let mut found = ordered.clone();
        found.priority_timeout = Duration::ZERO;
        let differences = consumer(&found, &ordered, 1);
        let [Difference { field: "priority_timeout", found, wanted, changeable: true }] = differences.as_slice() else {
            panic!("{differences:?}");
        };
        assert_eq!((found.as_str(), wanted.as_str()), ("120s", "5s"), "the default of the server is two minutes");
    }

    #[test]
    fn ignores_stream_fields_that_were_left_to_the_server() {
        let wanted = stream::Config {
            name: "ORDERS".into(),
            subjects: vec!["orders.>".into()],
            max_age: Duration::from_secs(60),
            ..Default::default()
        };
        let mut found = wanted.clone();
        found.max_messages = -1;
        found.num_replicas = 1;
        found.duplicate_window = Duration::from_secs(60);
        found.metadata.insert("_nats.ver".into(), "2.15.1".into());
        assert_eq!(stream(&found, &wanted), []);
        found.max_age = Duration::from_secs(30);
        found.duplicate_window = Duration::from_secs(30);
        let fields: Vec<_> = stream(&found, &wanted).into_iter().map(|difference| difference.field).collect();
        assert_eq!(fields, ["max_age", "duplicate_window"]);
    }

    #[test]
    fn values_of_a_stream_are_shown_without_quotes() {
        let wanted = stream::Config { name: "ORDERS".into(), subjects: vec!["orders.>".into()], ..Default::default() };
        let found = stream::Config {
            subjects: vec!["orders.>".into(), "bills.>".into()],
            storage: stream::StorageType::Memory,
            max_age: Duration::from_secs(60),
            max_messages: 7,
            mirror: Some(stream::Source { name: "OTHER".into(), ..Default::default() }),
            ..wanted.clone()
        };
        let differences: Vec<_> = stream(&found, &wanted).iter().map(Difference::to_string).collect();
        let (mirror, others): (Vec<_>, Vec<_>) = differences.iter().partition(|text| text.starts_with("mirror "));
        assert_eq!(
            others,
            [
                "subjects is bills.>, orders.> on the server, orders.> here",
                "storage is memory on the server, file here",
                "max_msgs is 7 on the server, -1 here",
                "max_age is 60s on the server, 0ns here",
                "duplicate_window is 60s on the server, 120s here",
            ]
        );
        assert!(
            mirror[0].contains("\"name\":\"OTHER\"") && mirror[0].ends_with("on the server, none here"),
            "{mirror:?}"
        );
    }
}
