//! Resources of the Terraform provider for JetStream.

use serde_json::{Value, json};

use super::fields::{Field, Form, Name, renamed, unique};
use super::text::{hcl_text, hcl_value};
use crate::provision::planning::json as config_of;
use crate::provision::snapshot::{ConsumerOf, Snapshot};

const HEADER: &str = "terraform {
  required_providers {
    jetstream = {
      source = \"nats-io/jetstream\"
    }
  }
}
";

const STREAM: &[Name] = &[
    ("name", "name", Form::Same),
    ("description", "description", Form::Same),
    ("subjects", "subjects", Form::Same),
    ("retention", "retention", Form::Same),
    ("storage", "storage", Form::Same),
    ("num_replicas", "replicas", Form::Same),
    ("max_age", "max_age", Form::Seconds),
    ("duplicate_window", "duplicate_window", Form::Seconds),
    ("max_msgs", "max_msgs", Form::Same),
    ("max_bytes", "max_bytes", Form::Same),
    ("max_msg_size", "max_msg_size", Form::Same),
    ("max_msgs_per_subject", "max_msgs_per_subject", Form::Same),
    ("max_consumers", "max_consumers", Form::Same),
    ("discard", "discard", Form::Same),
    ("discard_new_per_subject", "discard_new_per_subject", Form::Same),
    ("compression", "compression", Form::Same),
    ("allow_rollup_hdrs", "allow_rollup_hdrs", Form::Same),
    ("allow_direct", "allow_direct", Form::Same),
    ("mirror_direct", "mirror_direct", Form::Same),
    ("allow_msg_ttl", "allow_msg_ttl", Form::Same),
    ("subject_delete_marker_ttl", "subject_delete_marker_ttl", Form::Seconds),
    ("allow_atomic", "allow_atomic", Form::Same),
    ("allow_batched", "allow_batched", Form::Same),
    ("allow_msg_schedules", "allow_msg_schedules", Form::Same),
    ("allow_msg_counter", "allow_msg_counter", Form::Same),
    ("persist_mode", "persist_mode", Form::Same),
    ("deny_delete", "deny_delete", Form::Same),
    ("deny_purge", "deny_purge", Form::Same),
    ("first_seq", "first_seq", Form::Same),
    ("metadata", "metadata", Form::Same),
];

const SOURCE: &[Name] = &[
    ("name", "name", Form::Same),
    ("opt_start_seq", "start_seq", Form::Same),
    ("opt_start_time", "start_time", Form::Same),
    ("filter_subject", "filter_subject", Form::Same),
];

const TRANSFORM: &[Name] = &[("src", "source", Form::Same), ("dest", "destination", Form::Same)];

const EXTERNAL: &[Name] = &[("api", "api", Form::Same), ("deliver", "deliver", Form::Same)];

const CONSUMER: &[Name] = &[
    ("durable_name", "durable_name", Form::Same),
    ("opt_start_seq", "stream_sequence", Form::Same),
    ("opt_start_time", "start_time", Form::Same),
    ("ack_policy", "ack_policy", Form::Same),
    ("ack_wait", "ack_wait", Form::Seconds),
    ("max_deliver", "max_delivery", Form::Same),
    ("max_ack_pending", "max_ack_pending", Form::Same),
    ("filter_subject", "filter_subject", Form::Same),
    ("filter_subjects", "filter_subjects", Form::Same),
    ("replay_policy", "replay_policy", Form::Same),
    ("priority_policy", "priority_policy", Form::Same),
    ("priority_groups", "priority_groups", Form::Same),
    ("priority_timeout", "priority_timeout", Form::Seconds),
    ("metadata", "metadata", Form::Same),
];

/// Returns one resource for each stream and consumer.
pub(super) fn resources(snapshot: &Snapshot) -> String {
    let mut out = HEADER.to_owned();
    let (mut streams, mut consumers) = (Vec::new(), Vec::new());
    for config in &snapshot.streams {
        let label = unique(&label(&config.name), &mut streams, |char| char);
        let config = config_of(config);
        out.push_str(&format!("\nresource \"jetstream_stream\" \"{label}\" {{\n"));
        attributes(&mut out, 1, &stream(&config));
        blocks(&mut out, &config);
        out.push_str("}\n");
    }
    for ConsumerOf { stream_name, config } in &snapshot.consumers {
        let name = format!("{stream_name}_{}", config.durable_name.as_deref().unwrap_or_default());
        let label = unique(&label(&name), &mut consumers, |char| char);
        let stream = snapshot.streams.iter().position(|it| it.name == *stream_name);
        let stream = stream.map_or(hcl_text(stream_name), |index| format!("jetstream_stream.{}.id", streams[index]));
        out.push_str(&format!("\nresource \"jetstream_consumer\" \"{label}\" {{\n  stream_id = {stream}\n"));
        if config.ack_wait.subsec_nanos() > 0 {
            out.push_str(&format!("  # {:?}, which the provider cannot express\n", config.ack_wait));
        }
        attributes(&mut out, 1, &consumer(&config_of(config)));
        out.push_str("}\n");
    }
    out
}

/// Returns a label, which begins with a letter or an underscore.
fn label(name: &str) -> String {
    let char = |char: char| if char.is_ascii_alphanumeric() || char == '-' { char.to_ascii_lowercase() } else { '_' };
    let label: String = name.chars().map(char).collect();
    let starts_well = label.starts_with(|char: char| char.is_ascii_alphabetic() || char == '_');
    if starts_well { label } else { format!("_{label}") }
}

fn attributes(out: &mut String, depth: usize, fields: &[Field]) {
    let indent = "  ".repeat(depth);
    fields.iter().for_each(|(name, value)| out.push_str(&format!("{indent}{name} = {}\n", hcl_value(value))));
}

fn stream(config: &Value) -> Vec<Field> {
    let mut fields = renamed(config, STREAM);
    let mut add = |name, value: Option<&Value>| fields.extend(value.map(|value| (name, value.clone())));
    add("ack", config.get("no_ack").filter(|it| **it == json!(true)).map(|_| &Value::Bool(false)));
    if let Some(placement) = config.get("placement") {
        add("placement_cluster", placement.get("cluster"));
        add("placement_tags", placement.get("tags"));
    }
    if let Some(republish) = config.get("republish").filter(|it| it.is_object()) {
        add("republish_source", republish.get("src"));
        add("republish_destination", republish.get("dest"));
        add("republish_headers_only", republish.get("headers_only"));
    }
    if let Some(limits) = config.get("consumer_limits").filter(|it| it.is_object()) {
        fields.extend(renamed(
            limits,
            &[
                ("max_ack_pending", "max_ack_pending", Form::Same),
                ("inactive_threshold", "inactive_threshold", Form::Seconds),
            ],
        ));
    }
    fields
}

fn blocks(out: &mut String, config: &Value) {
    if let Some(transform) = config.get("subject_transform").filter(|it| it.is_object()) {
        block(out, 1, "subject_transform", &renamed(transform, TRANSFORM), |_| ());
    }
    if let Some(mirror) = config.get("mirror").filter(|it| it.is_object()) {
        source(out, "mirror", mirror);
    }
    for origin in config.get("sources").and_then(Value::as_array).into_iter().flatten() {
        source(out, "source", origin);
    }
}

fn source(out: &mut String, name: &str, config: &Value) {
    block(out, 1, name, &renamed(config, SOURCE), |out| {
        if let Some(external) = config.get("external").filter(|it| it.is_object()) {
            block(out, 2, "external", &renamed(external, EXTERNAL), |_| ());
        }
        for transform in config.get("subject_transforms").and_then(Value::as_array).into_iter().flatten() {
            block(out, 2, "subject_transform", &renamed(transform, TRANSFORM), |_| ());
        }
    });
}

fn block(out: &mut String, depth: usize, name: &str, fields: &[Field], nested: impl FnOnce(&mut String)) {
    let indent = "  ".repeat(depth);
    out.push_str(&format!("{indent}{name} {{\n"));
    attributes(out, depth + 1, fields);
    nested(out);
    out.push_str(&format!("{indent}}}\n"));
}

fn consumer(config: &Value) -> Vec<Field> {
    let deliver = match config.get("deliver_policy").and_then(Value::as_str) {
        Some("all") => Some("deliver_all"),
        Some("new") => Some("deliver_new"),
        Some("last") => Some("deliver_last"),
        Some("last_per_subject") => Some("deliver_last_per_subject"),
        // The sequence or the time says it.
        _ => None,
    };
    let mut fields = renamed(config, CONSUMER);
    fields.extend(deliver.map(|deliver| (deliver, json!(true))));
    fields
}
