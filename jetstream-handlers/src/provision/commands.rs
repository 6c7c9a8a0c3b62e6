//! The commands of the `nats` command-line tool that create a stream or a consumer.

use std::time::Duration;

use async_nats::jetstream::consumer::{self, DeliverPolicy};
use async_nats::jetstream::stream::{self, DiscardPolicy, RetentionPolicy, StorageType};

use crate::delivery::filters;
use crate::text::shell_word;

/// Returns the command that creates a stream.
pub(super) fn add_stream(config: &stream::Config) -> String {
    let mut command = Command::new(&["nats", "stream", "add", &config.name]);
    let mut covered = stream::Config { name: config.name.clone(), ..Default::default() };
    let subjects = config.subjects.join(",");
    command.option("subjects", (!subjects.is_empty()).then_some(&*subjects));
    covered.subjects.clone_from(&config.subjects);
    command.option("storage", Some(if config.storage == StorageType::Memory { "memory" } else { "file" }));
    covered.storage = config.storage;
    command.option("retention", Some(retention(config.retention)));
    covered.retention = config.retention;
    command.option("discard", (config.discard == DiscardPolicy::New).then_some("new"));
    covered.discard = config.discard;
    command.number("replicas", config.num_replicas as i64);
    covered.num_replicas = config.num_replicas;
    command.number("max-msgs", config.max_messages);
    covered.max_messages = config.max_messages;
    command.number("max-msgs-per-subject", config.max_messages_per_subject);
    covered.max_messages_per_subject = config.max_messages_per_subject;
    command.number("max-bytes", config.max_bytes);
    covered.max_bytes = config.max_bytes;
    command.number("max-msg-size", config.max_message_size.into());
    covered.max_message_size = config.max_message_size;
    command.duration("max-age", config.max_age);
    covered.max_age = config.max_age;
    command.duration("dupe-window", config.duplicate_window);
    covered.duplicate_window = config.duplicate_window;
    command.option("description", config.description.as_deref());
    covered.description.clone_from(&config.description);
    let metadata = config.metadata.iter().map(|(key, value)| format!("{key}={value}"));
    command.options("metadata", metadata.collect());
    covered.metadata.clone_from(&config.metadata);
    command.flag("allow-rollup", config.allow_rollup);
    covered.allow_rollup = config.allow_rollup;
    command.flag("deny-delete", config.deny_delete);
    covered.deny_delete = config.deny_delete;
    command.flag("deny-purge", config.deny_purge);
    covered.deny_purge = config.deny_purge;
    command.flag("allow-msg-ttl", config.allow_message_ttl);
    covered.allow_message_ttl = config.allow_message_ttl;
    command.flag("allow-batch", config.allow_atomic_publish);
    covered.allow_atomic_publish = config.allow_atomic_publish;
    // The tool turns it on by default.
    command.words.push(if config.allow_direct { "--allow-direct" } else { "--no-allow-direct" }.to_owned());
    covered.allow_direct = config.allow_direct;
    if covered == *config {
        command.words.push("--defaults".to_owned());
        return command.words.join(" ");
    }
    // Another field has no flag, or one that takes only a part of it.
    with_config(&["nats", "stream", "add", &config.name], config)
}

/// Returns the command that creates a consumer.
pub(super) fn add_consumer(stream: &str, config: &consumer::Config) -> String {
    let name = config.durable_name.as_deref().unwrap_or_default();
    let words = ["nats", "consumer", "add", stream, name];
    let sequence;
    let deliver = match config.deliver_policy {
        DeliverPolicy::All => "all",
        DeliverPolicy::New => "new",
        DeliverPolicy::Last => "last",
        DeliverPolicy::LastPerSubject => "subject",
        DeliverPolicy::ByStartSequence { start_sequence } => {
            sequence = start_sequence.to_string();
            &sequence
        }
        DeliverPolicy::ByStartTime { .. } => return with_config(&words, config),
    };
    let mut command = Command::new(&words);
    command.words.push("--pull".to_owned());
    command.options("filter", filters(config).into_iter().filter(|it| *it != ">").map(str::to_owned).collect());
    command.option("deliver", Some(deliver));
    command.option("ack", Some(if config.ack_policy == consumer::AckPolicy::All { "all" } else { "explicit" }));
    command.duration("wait", config.ack_wait);
    command.number("max-deliver", config.max_deliver);
    command.number("max-pending", config.max_ack_pending);
    command.option("replay", Some("instant"));
    command.options("pinned-groups", config.priority_groups.clone());
    command.duration("pinned-ttl", config.priority_timeout);
    command.options("metadata", config.metadata.iter().map(|(key, value)| format!("{key}={value}")).collect());
    command.words.push("--defaults".to_owned());
    command.words.join(" ")
}

fn retention(policy: RetentionPolicy) -> &'static str {
    match policy {
        RetentionPolicy::Limits => "limits",
        RetentionPolicy::Interest => "interest",
        RetentionPolicy::WorkQueue => "work",
    }
}

/// Returns a command that reads the configuration from its input.
fn with_config(words: &[&str], config: &impl serde::Serialize) -> String {
    let config = serde_json::to_string(config).unwrap_or_default();
    format!("echo {} | {} --config /dev/stdin", shell_word(&config), Command::new(words).words.join(" "))
}

struct Command {
    words: Vec<String>,
}

impl Command {
    fn new(words: &[&str]) -> Self {
        Self { words: words.iter().map(|word| shell_word(word)).collect() }
    }

    fn option(&mut self, name: &str, value: Option<&str>) {
        self.words.extend(value.map(|value| format!("--{name} {}", shell_word(value))));
    }

    fn options(&mut self, name: &str, mut values: Vec<String>) {
        values.sort();
        values.iter().for_each(|value| self.option(name, Some(value)));
    }

    fn number(&mut self, name: &str, value: i64) {
        self.words.extend((value > 0).then(|| format!("--{name} {value}")));
    }

    fn duration(&mut self, name: &str, value: Duration) {
        self.words.extend((!value.is_zero()).then(|| format!("--{name} {}", go_duration(value))));
    }

    fn flag(&mut self, name: &str, is_on: bool) {
        self.words.extend(is_on.then(|| format!("--{name}")));
    }
}

/// Returns a duration as Go writes it.
pub(super) fn go_duration(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    match nanos {
        _ if nanos.is_multiple_of(1_000_000_000) => format!("{}s", duration.as_secs()),
        _ if nanos.is_multiple_of(1_000_000) => format!("{}ms", duration.as_millis()),
        _ => format!("{nanos}ns"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stream_without_a_flag_for_each_field_is_passed_as_json() {
        let config = stream::Config { name: "ORDERS".into(), subjects: vec!["orders.>".into()], ..Default::default() };
        let command = add_stream(&config);
        assert_eq!(
            command,
            "nats stream add ORDERS --subjects 'orders.>' --storage file --retention limits --no-allow-direct --defaults"
        );
        let config = stream::Config { sealed: true, ..config };
        let command = add_stream(&config);
        assert!(command.starts_with("echo '{\"name\":\"ORDERS\""), "{command}");
        assert!(command.ends_with("' | nats stream add ORDERS --config /dev/stdin"), "{command}");
    }

    #[test]
    fn durations_are_written_as_in_go() {
        let texts = [1_500_000_000, 30_000_000_000, 1].map(|nanos| go_duration(Duration::from_nanos(nanos)));
        assert_eq!(texts, ["1500ms", "30s", "1ns"]);
    }
}
