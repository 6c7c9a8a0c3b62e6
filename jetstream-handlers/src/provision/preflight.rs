//! The comparison of streams to create with the limits of the account.

use async_nats::jetstream::stream::{self, StorageType};
use serde_json::Value;

/// Returns a warning for each limit of the account that the streams to create exceed.
///
/// `account` is the answer of `$JS.API.INFO`. The limits of a tiered account are not compared.
pub(super) fn warnings(account: &Value, created: &[&stream::Config]) -> Vec<String> {
    if has_tiers(account) {
        return Vec::new();
    }
    let mut warnings = Vec::new();
    let kinds = [
        (StorageType::File, "file storage", "max_storage", "storage", "reserved_storage"),
        (StorageType::Memory, "memory", "max_memory", "memory", "reserved_memory"),
    ];
    for (storage, name, limit, used, reserved) in kinds {
        let Some(limit) = account["limits"][limit].as_u64() else { continue };
        let number = |field: &str| account[field].as_u64().unwrap_or_default();
        let left = limit.saturating_sub(number(used).max(number(reserved)));
        let of_kind = created.iter().filter(|config| config.storage == storage);
        let needed: u64 = of_kind.map(|config| bytes(config)).fold(0, u64::saturating_add);
        if needed > left {
            warnings.push(format!(
                "the streams to create reserve {needed} bytes of {name} (`max_bytes` of all replicas), and the account has {left} left"
            ));
        }
    }
    if account["limits"]["max_bytes_required"] == Value::Bool(true) {
        let unlimited = created.iter().filter(|config| config.max_bytes <= 0);
        warnings.extend(unlimited.map(|config| {
            format!(
                "the account requires `max_bytes` of each stream, and `{}` has none; declare it with `Builder::stream`",
                config.name
            )
        }));
    }
    warnings
}

/// Returns `true` if an account has limits by the replicas of streams; those of the whole account are 0 then.
pub(crate) fn has_tiers(account: &Value) -> bool {
    account["tiers"].as_object().is_some_and(|tiers| !tiers.is_empty())
}

fn bytes(config: &stream::Config) -> u64 {
    u64::try_from(config.max_bytes).unwrap_or_default().saturating_mul(config.num_replicas.max(1) as u64)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn limits_count_all_replicas_and_what_is_reserved() {
        let config = stream::Config { max_bytes: 100, num_replicas: 3, ..Default::default() };
        let account = |limit: i64| json!({ "storage": 10, "reserved_storage": 50, "limits": { "max_storage": limit } });
        assert_eq!(warnings(&account(-1), &[&config]), Vec::<String>::new());
        assert_eq!(warnings(&account(350), &[&config]), Vec::<String>::new());
        let exceeded = warnings(&account(349), &[&config]);
        assert_eq!(exceeded.len(), 1);
        assert!(exceeded[0].contains("reserve 300 bytes") && exceeded[0].contains("has 299 left"), "{exceeded:?}");
        let required = json!({ "limits": { "max_storage": -1, "max_bytes_required": true } });
        let unlimited = stream::Config { name: "ORDERS".to_owned(), ..Default::default() };
        assert!(warnings(&required, &[&unlimited, &config])[0].contains("`ORDERS` has none"));
    }
}
