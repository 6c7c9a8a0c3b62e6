//! The keys of the attribute: which there are, and which one a typing error meant.

/// Every key, with a value to show in messages.
const KEYS: [(&str, &str); 20] = [
    ("subject", "\"orders.created\""),
    ("queue", "\"order-processor\""),
    ("stream", "\"ORDERS\""),
    ("concurrency", "4"),
    ("blocking", "true"),
    ("threads", "4"),
    ("batch_size", "100"),
    ("ack_wait", "\"30s\""),
    ("timeout", "\"5m\""),
    ("max_deliver", "5"),
    ("backoff", "[\"1s\", \"5s\", \"30s\"]"),
    ("dead_letter", "\"dlq.orders\""),
    ("key", "\"customer\""),
    ("ordered", ""),
    ("ack_every", "100"),
    ("replicas", "1"),
    ("publish", "\"orders.confirmed\""),
    ("codec", "\"json\""),
    ("ack", "\"confirmed\""),
    ("group", "\"billing\""),
];

/// Keys whose behaviour is still to come.
///
/// They are parsed and checked, and then refused, because a setting must never be ignored in silence.
/// To deliver one, strike it off here.
const NOT_YET: [&str; 3] = ["key", "publish", "codec"];

/// The keys of `backoff = { … }`, with a value to show in messages.
const BACKOFF_KEYS: [(&str, &str); 3] = [("initial", "\"1s\""), ("factor", "2"), ("max", "\"2m\"")];

/// What users of other systems may type, and the key that does it here.
const SYNONYMS: [(&str, &str); 28] = [
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
    ("batch", "batch_size"),
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
    ("single_replica", "replicas"),
];

/// The farthest that a typing error may be from the key it meant.
const MAX_DISTANCE: usize = 2;

/// The keys that are valid in one place.
#[derive(Clone, Copy)]
pub(crate) struct Keys {
    all: &'static [(&'static str, &'static str)],
    synonyms: &'static [(&'static str, &'static str)],
}

pub(crate) const OF_ATTRIBUTE: Keys = Keys { all: &KEYS, synonyms: &SYNONYMS };

pub(crate) const OF_BACKOFF: Keys = Keys { all: &BACKOFF_KEYS, synonyms: &[] };

impl Keys {
    pub(crate) fn contain(self, key: &str) -> bool {
        self.all.iter().any(|(name, _)| *name == key)
    }

    /// The key with a value, as a user would write it.
    pub(crate) fn example(self, key: &str) -> String {
        let value = self.all.iter().find(|(name, _)| *name == key);
        match value {
            Some((_, value)) if !value.is_empty() => format!("{key} = {value}"),
            _ => key.to_owned(),
        }
    }

    /// Whether a user who typed this meant `key`, spelt right or not.
    pub(crate) fn mean(self, typed: &str, key: &str) -> bool {
        typed == key || (!self.contain(typed) && self.nearest(typed) == Some(key))
    }

    /// The key that was probably meant.
    pub(crate) fn nearest(self, typed: &str) -> Option<&'static str> {
        let synonym = self.synonyms.iter().find(|(word, _)| *word == typed);
        if let Some((_, key)) = synonym {
            return Some(key);
        }
        // Short words are all near each other, hence the second bound.
        let farthest = MAX_DISTANCE.min(typed.chars().count() / 2);
        self.all
            .iter()
            .map(|(key, _)| (distance(typed, key), *key))
            .filter(|(distance, _)| *distance <= farthest)
            .min_by_key(|(distance, _)| *distance)
            .map(|(_, key)| key)
    }

    /// The message for a key that does not exist.
    pub(crate) fn unknown(self, typed: &str) -> String {
        let names = self.all.iter().map(|(key, _)| *key).filter(|key| !is_not_supported_yet(key));
        let names: Vec<String> = names.map(|key| format!("`{key}`")).collect();
        let accepted = format!("accepted are {}", names.join(", "));
        match self.nearest(typed) {
            Some(key) => format!("unknown key `{typed}`; did you mean `{key}`? {accepted}"),
            None => format!("unknown key `{typed}`; {accepted}"),
        }
    }
}

pub(crate) fn is_not_supported_yet(key: &str) -> bool {
    NOT_YET.contains(&key)
}

/// How many characters must be put in, taken out or changed to get from one word to the other.
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
    fn the_key_that_was_meant() {
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
            ("replica", "replicas"),
            ("blockng", "blocking"),
            ("spawn_blocking", "blocking"),
            ("cpu_bound", "blocking"),
            ("thread", "threads"),
            ("ky", "key"),
        ] {
            assert_eq!(OF_ATTRIBUTE.nearest(typed), Some(meant), "for `{typed}`");
        }
        for typed in ["colour", "type", "foo", "x", "subscription"] {
            assert_eq!(OF_ATTRIBUTE.nearest(typed), None, "for `{typed}`");
        }
    }

    #[test]
    fn every_list_names_keys_that_exist() {
        let meant = SYNONYMS.iter().map(|(_, key)| key);
        for key in NOT_YET.iter().chain(meant) {
            assert!(OF_ATTRIBUTE.contain(key), "`{key}`");
        }
    }
}
