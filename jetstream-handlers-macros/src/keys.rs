//! The lookup of keys, by exact, misspelt or synonymous names.

use crate::rules::{BACKOFF_KEYS, KEYS, Key};

/// The keys of earlier and later versions, each with the message that states what to write instead.
const UNSUPPORTED: [(&str, &str); 2] = [
    (
        "codec",
        "`codec` is not a key; name the format in the type of the parameter, as in `order: MessagePack<Order>`, or set the default of all handlers with `Builder::codec`",
    ),
    (
        "replicas",
        "`replicas` is not a key; write `single_instance` if only one process ever reads the queue, or remove `replicas`",
    ),
];

/// The names from other systems, each with the key of the same meaning.
const SYNONYMS: [(&str, &str); 49] = [
    ("topic", "subject"),
    ("filter", "subject"),
    ("filter_subject", "subject"),
    ("durable", "queue"),
    ("durable_name", "queue"),
    ("consumer", "queue"),
    ("queue_group", "queue"),
    ("stream_name", "stream"),
    ("workers", "concurrency"),
    ("parallelism", "concurrency"),
    ("spawn_blocking", "blocking"),
    ("cpu_bound", "blocking"),
    ("cpu", "blocking"),
    ("sync", "blocking"),
    ("num_threads", "threads"),
    ("thread_pool", "threads"),
    ("max_batch", "batch"),
    ("linger", "batch_wait"),
    ("max_wait", "batch_wait"),
    ("batch_timeout", "batch_wait"),
    ("max_bytes", "batch_bytes"),
    ("retries", "max_deliver"),
    ("max_retries", "max_deliver"),
    ("dlq", "dead_letter"),
    ("strict_order", "ordered"),
    ("in_order", "ordered"),
    ("sequential", "ordered"),
    ("fifo", "ordered"),
    ("single_active", "ordered"),
    ("single_active_consumer", "ordered"),
    ("ack_batch", "ack_every"),
    ("key_by", "key"),
    ("ordering_key", "key"),
    ("shards", "partitions"),
    ("num_partitions", "partitions"),
    ("partition_count", "partitions"),
    ("partition_by", "key"),
    ("partition_key", "key"),
    ("message_group", "key"),
    ("replica", "single_instance"),
    ("single_replica", "single_instance"),
    ("single_process", "single_instance"),
    ("deliver_policy", "deliver"),
    ("offset_reset", "deliver"),
    ("start_from", "deliver"),
    ("output", "publish"),
    ("outputs", "publish"),
    ("publish_to", "publish"),
    ("send_to", "publish"),
];

/// The maximum edit distance between a misspelt key and the one that is suggested.
const MAX_DISTANCE: usize = 2;

/// The keys that are valid in one place.
#[derive(Clone, Copy)]
pub(crate) struct Keys {
    all: &'static [Key],
    synonyms: &'static [(&'static str, &'static str)],
    unsupported: &'static [(&'static str, &'static str)],
}

pub(crate) const OF_ATTRIBUTE: Keys = Keys { all: &KEYS, synonyms: &SYNONYMS, unsupported: &UNSUPPORTED };

pub(crate) const OF_BACKOFF: Keys = Keys { all: &BACKOFF_KEYS, synonyms: &[], unsupported: &[] };

impl Keys {
    /// Returns the key of this name.
    pub(crate) fn find(self, name: &str) -> Option<&'static Key> {
        self.all.iter().find(|key| key.name == name)
    }

    /// Returns `true` if `typed` is the key `name`, or a misspelling or synonym of it.
    pub(crate) fn means(self, typed: &str, name: &str) -> bool {
        typed == name || (self.find(typed).is_none() && self.nearest(typed) == Some(name))
    }

    /// Returns the key that was probably meant.
    fn nearest(self, typed: &str) -> Option<&'static str> {
        if self.unsupported.iter().any(|(name, _)| *name == typed) {
            return None;
        }
        let synonym = self.synonyms.iter().find(|(synonym, _)| *synonym == typed);
        if let Some((_, name)) = synonym {
            return Some(name);
        }
        // The second bound exists because all short names are similar.
        let farthest = MAX_DISTANCE.min(typed.chars().count() / 2);
        self.all
            .iter()
            .map(|key| (distance(typed, key.name), key.name))
            .filter(|(distance, _)| *distance <= farthest)
            .min_by_key(|(distance, _)| *distance)
            .map(|(_, name)| name)
    }

    /// Returns the message for a name that is not a key.
    pub(crate) fn unknown(self, typed: &str) -> String {
        if let Some((_, message)) = self.unsupported.iter().find(|(name, _)| *name == typed) {
            return (*message).to_owned();
        }
        let names: Vec<String> = self.all.iter().map(|key| format!("`{}`", key.name)).collect();
        let names = names.join(", ");
        match self.nearest(typed) {
            Some(name) => format!("unknown key `{typed}`; did you mean `{name}`? the keys are {names}"),
            None => format!("unknown key `{typed}`; the keys are {names}"),
        }
    }
}

impl Key {
    /// Returns the key with a value, as a user would write it.
    pub(crate) fn in_use(&self) -> String {
        if self.example.is_empty() { self.name.to_owned() } else { format!("{} = {}", self.name, self.example) }
    }
}

/// Returns the number of characters to insert, delete or replace to turn one text into the other.
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (line, from_char) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = line + 1;
        for (column, to_char) in to.iter().enumerate() {
            let changed = diagonal + usize::from(from_char != *to_char);
            diagonal = row[column + 1];
            row[column + 1] = changed.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggests_the_key_that_was_meant() {
        for (typed, meant) in [
            ("subjct", "subject"),
            ("subjects", "subject"),
            ("quue", "queue"),
            ("durable", "queue"),
            ("consumer", "queue"),
            ("stream_name", "stream"),
            ("workers", "concurrency"),
            ("batchsize", "batch_size"),
            ("ackwait", "ack_wait"),
            ("ack_waits", "ack_wait"),
            ("retries", "max_deliver"),
            ("back_off", "backoff"),
            ("dead_leter", "dead_letter"),
            ("ordred", "ordered"),
            ("strict_order", "ordered"),
            ("fifo", "ordered"),
            ("single_active", "ordered"),
            ("ack_evry", "ack_every"),
            ("single_replica", "single_instance"),
            ("single_instanc", "single_instance"),
            ("blockng", "blocking"),
            ("spawn_blocking", "blocking"),
            ("cpu_bound", "blocking"),
            ("thread", "threads"),
            ("publishes", "publish"),
            ("output", "publish"),
            ("partition_key", "key"),
            ("keys", "key"),
        ] {
            assert_eq!(OF_ATTRIBUTE.nearest(typed), Some(meant), "for `{typed}`");
        }
        for typed in ["colour", "type", "foo", "x", "subscription", "replicas"] {
            assert_eq!(OF_ATTRIBUTE.nearest(typed), None, "for `{typed}`");
        }
    }

    #[test]
    fn synonyms_name_keys_that_exist() {
        for (synonym, name) in SYNONYMS {
            assert!(OF_ATTRIBUTE.find(name).is_some(), "`{name}`");
            assert!(OF_ATTRIBUTE.find(synonym).is_none(), "`{synonym}`");
        }
        for (name, _) in UNSUPPORTED {
            assert!(OF_ATTRIBUTE.find(name).is_none(), "`{name}`");
        }
    }
}
