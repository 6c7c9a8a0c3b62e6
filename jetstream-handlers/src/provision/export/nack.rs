//! Manifests of the Kubernetes controller NACK.

use serde_json::{Value, json};

use super::fields::{Field, Form, Name, object, renamed, unique};
use super::text::{yaml_field, yaml_text};
use crate::provision::planning::json as config_of;
use crate::provision::snapshot::{ConsumerOf, Snapshot};

const STREAM: &[Name] = &[
    ("name", "name", Form::Same),
    ("description", "description", Form::Same),
    ("subjects", "subjects", Form::Same),
    ("retention", "retention", Form::Same),
    ("storage", "storage", Form::Same),
    ("num_replicas", "replicas", Form::Same),
    ("max_age", "maxAge", Form::GoDuration),
    ("duplicate_window", "duplicateWindow", Form::GoDuration),
    ("max_msgs", "maxMsgs", Form::Same),
    ("max_bytes", "maxBytes", Form::Same),
    ("max_msg_size", "maxMsgSize", Form::Same),
    ("max_msgs_per_subject", "maxMsgsPerSubject", Form::Same),
    ("max_consumers", "maxConsumers", Form::Same),
    ("discard", "discard", Form::Same),
    ("discard_new_per_subject", "discardPerSubject", Form::Same),
    ("no_ack", "noAck", Form::Same),
    ("compression", "compression", Form::Same),
    ("allow_rollup_hdrs", "allowRollup", Form::Same),
    ("allow_direct", "allowDirect", Form::Same),
    ("mirror_direct", "mirrorDirect", Form::Same),
    ("allow_msg_ttl", "allowMsgTtl", Form::Same),
    ("subject_delete_marker_ttl", "subjectDeleteMarkerTtl", Form::GoDuration),
    ("allow_atomic", "allowAtomicPublish", Form::Same),
    ("allow_msg_schedules", "allowMsgSchedules", Form::Same),
    ("allow_msg_counter", "allowMsgCounter", Form::Same),
    ("persist_mode", "persistMode", Form::Same),
    ("sealed", "sealed", Form::Same),
    ("deny_delete", "denyDelete", Form::Same),
    ("deny_purge", "denyPurge", Form::Same),
    ("first_seq", "firstSequence", Form::Same),
    ("placement", "placement", Form::Same),
    ("metadata", "metadata", Form::Same),
];

const TRANSFORM: &[Name] = &[("src", "source", Form::Same), ("dest", "dest", Form::Same)];

const REPUBLISH: &[Name] = &[("src", "source", Form::Same), ("dest", "destination", Form::Same)];

const LIMITS: &[Name] =
    &[("inactive_threshold", "inactiveThreshold", Form::GoDuration), ("max_ack_pending", "maxAckPending", Form::Same)];

const SOURCE: &[Name] = &[
    ("name", "name", Form::Same),
    ("opt_start_seq", "optStartSeq", Form::Same),
    ("opt_start_time", "optStartTime", Form::Same),
    ("filter_subject", "filterSubject", Form::Same),
];

const CONSUMER: &[Name] = &[
    ("durable_name", "durableName", Form::Same),
    ("opt_start_seq", "optStartSeq", Form::Same),
    ("opt_start_time", "optStartTime", Form::Same),
    ("ack_policy", "ackPolicy", Form::Same),
    ("ack_wait", "ackWait", Form::GoDuration),
    ("max_deliver", "maxDeliver", Form::Same),
    ("max_ack_pending", "maxAckPending", Form::Same),
    ("filter_subject", "filterSubject", Form::Same),
    ("filter_subjects", "filterSubjects", Form::Same),
    ("replay_policy", "replayPolicy", Form::Same),
    ("priority_policy", "priorityPolicy", Form::Same),
    ("priority_groups", "priorityGroups", Form::Same),
    ("priority_timeout", "pinnedTtl", Form::GoDuration),
    ("metadata", "metadata", Form::Same),
];

/// Returns one document for each stream and consumer.
pub(super) fn manifests(snapshot: &Snapshot) -> String {
    let mut out = String::new();
    let (mut streams, mut consumers) = (Vec::new(), Vec::new());
    for config in &snapshot.streams {
        let batched =
            config.allow_batch_publish.then_some("allow_batched of the stream is set, which NACK cannot express");
        let name = unique(&config.name, &mut streams, kubernetes_char);
        document(&mut out, "Stream", &name, &stream(&config_of(config)), batched);
    }
    for ConsumerOf { stream_name, config } in &snapshot.consumers {
        let name = format!("{stream_name}-{}", config.durable_name.as_deref().unwrap_or_default());
        let name = unique(&name, &mut consumers, kubernetes_char);
        document(&mut out, "Consumer", &name, &consumer(stream_name, &config_of(config)), None);
    }
    out
}

fn document(out: &mut String, kind: &str, name: &str, spec: &[Field], comment: Option<&str>) {
    let name = yaml_text(name.trim_matches(|char| char == '-' || char == '.'));
    out.push_str("---\n");
    comment.iter().for_each(|comment| out.push_str(&format!("# {comment}\n")));
    out.push_str(&format!("apiVersion: jetstream.nats.io/v1beta2\nkind: {kind}\nmetadata:\n  name: {name}\nspec:\n"));
    spec.iter().for_each(|(name, value)| yaml_field(out, 1, name, value));
}

/// Returns a character that the name of a Kubernetes object can have.
fn kubernetes_char(char: char) -> char {
    let char = char.to_ascii_lowercase();
    if char.is_ascii_lowercase() || char.is_ascii_digit() { char } else { '-' }
}

fn stream(config: &Value) -> Vec<Field> {
    let mut spec = renamed(config, STREAM);
    let mut add = |name, value: Option<Value>| spec.extend(value.map(|value| (name, value)));
    add("subjectTransform", object(config.get("subject_transform"), TRANSFORM));
    add("republish", object(config.get("republish"), REPUBLISH));
    add("consumerLimits", object(config.get("consumer_limits"), LIMITS));
    add("mirror", config.get("mirror").filter(|it| it.is_object()).map(source));
    let sources = config.get("sources").and_then(Value::as_array);
    add("sources", sources.map(|sources| sources.iter().map(source).collect()));
    spec
}

fn source(config: &Value) -> Value {
    let mut source = object(Some(config), SOURCE).unwrap_or_else(|| json!({}));
    let external = config.get("external");
    for (api, name) in [("api", "externalApiPrefix"), ("deliver", "externalDeliverPrefix")] {
        if let Some(prefix) = external.and_then(|it| it.get(api)).and_then(Value::as_str).filter(|it| !it.is_empty()) {
            source[name] = json!(prefix);
        }
    }
    if let Some(transforms) = config.get("subject_transforms").and_then(Value::as_array).filter(|it| !it.is_empty()) {
        source["subjectTransforms"] = transforms.iter().filter_map(|it| object(Some(it), TRANSFORM)).collect();
    }
    source
}

fn consumer(stream: &str, config: &Value) -> Vec<Field> {
    let deliver = match config.get("deliver_policy").and_then(Value::as_str) {
        Some("by_start_sequence") => "byStartSequence",
        Some("by_start_time") => "byStartTime",
        Some("last_per_subject") => "lastPerSubject",
        Some("new") => "new",
        Some("last") => "last",
        _ => "all",
    };
    let mut spec = vec![("streamName", json!(stream)), ("deliverPolicy", json!(deliver))];
    spec.extend(renamed(config, CONSUMER));
    spec
}
