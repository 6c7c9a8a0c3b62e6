//! Checks of the connection, the server and the account.

use std::time::Duration;

use serde_json::Value;

use super::Diagnosis;
use crate::error::ErrorKind;
use crate::nats::Connection;
use crate::provision::has_tiers;
use crate::settings::Settings;

/// The round trip from which on a connection counts as slow.
const SLOW: Duration = Duration::from_millis(500);

/// The part of a limit from which on little is left.
const NEARLY_FULL: f64 = 0.9;

/// The difference of clocks that matters: the library compares times of the server with its own.
const MAX_SKEW: f64 = 1.0;

/// The payload below which dead letters with all their headers may not fit into one message.
const SMALL_PAYLOAD: usize = 64 * 1024;

/// Checks the connection, and what the server is; returns `false` if the server answers nothing.
pub(crate) async fn check_server(connection: &Connection, inbox_prefix: &str, found: &mut Diagnosis) -> bool {
    found.ok("connection", format!("connected to {}", connection.server()));
    let answers = check_inbox(connection, inbox_prefix, found).await;
    check_security(connection, found);
    let max_payload = connection.client().max_payload();
    if max_payload < SMALL_PAYLOAD {
        let text = format!("the server accepts messages of at most {max_payload} bytes (`max_payload`)");
        found.warn("payload", text, "raise `max_payload`; larger dead letters are stored in several messages");
    } else {
        found.ok("payload", format!("the server accepts messages of up to {max_payload} bytes"));
    }
    check_versions(connection, &connection.settings, found);
    if answers {
        check_account(connection, found).await;
    }
    answers
}

async fn check_inbox(connection: &Connection, inbox_prefix: &str, found: &mut Diagnosis) -> bool {
    match connection.latency().await {
        Ok(latency) if latency > SLOW => {
            let text = format!("a message to the own inbox and back took {latency:.1?}");
            found.warn("inbox", text, "look at the network, and at the load of the server and of this process");
            true
        }
        Ok(latency) => {
            let text = format!("answers arrive on `{inbox_prefix}.>`; a message and back took {latency:.1?}");
            found.ok("inbox", text);
            true
        }
        Err(error) if error.missing_permission().is_some() => {
            let fix = format!("permit the service to publish to `{inbox_prefix}.>`");
            found.warn("inbox", error.to_string(), fix);
            true
        }
        Err(error) => {
            let fix = "permit both lists of `permissions`, with the inbox prefix of `Builder::inbox_prefix`";
            found.fail("inbox", error.to_string(), fix);
            false
        }
    }
}

fn check_security(connection: &Connection, found: &mut Diagnosis) {
    let (_, is_tls) = connection.security();
    let info = connection.client().server_info();
    match (is_tls, info.auth_required) {
        (true, _) => found.ok("tls", "the connection is encrypted"),
        (false, true) => found.warn(
            "tls",
            "the server requires credentials, and the connection is not known to be encrypted",
            "configure `tls` on the server, and use an address with `tls://`",
        ),
        (false, false) => found.ok("tls", "the connection is not known to be encrypted, and has no credentials"),
    }
}

/// Checks the features that declared streams require; those of handlers are checked by a start.
fn check_versions(connection: &Connection, settings: &Settings, found: &mut Diagnosis) {
    let (version, _) = connection.security();
    let required = settings.streams.iter().flat_map(|stream| {
        [
            (stream.allow_message_ttl, "allow_msg_ttl", (2, 11, 0)),
            (stream.allow_atomic_publish, "allow_atomic_publish", (2, 12, 0)),
            (stream.allow_batch_publish, "allow_batch_publish", (2, 14, 0)),
        ]
        .into_iter()
        .filter_map(|(is_set, setting, since)| is_set.then_some((&stream.name, setting, since)))
    });
    let mut is_enough = true;
    for (stream, setting, since) in required {
        if connection.version_before(since).is_some() {
            is_enough = false;
            let (major, minor, patch) = since;
            let text = format!("the server {version} does not know `{setting}` of stream `{stream}`");
            found.fail("version", text, format!("use a server from {major}.{minor}.{patch}, or remove the setting"));
        }
    }
    if connection.version_before((2, 10, 0)).is_some() {
        is_enough = false;
        found.fail("version", format!("the server {version} is not supported"), "use a server from 2.10.0");
    } else if connection.version_before((2, 14, 0)).is_some() {
        is_enough = false;
        let pause = if connection.version_before((2, 11, 0)).is_some() { "pause, " } else { "" };
        let text = format!("the server {version} cannot {pause}reset a consumer");
        found.warn("version", text, "use a server from 2.14.0 to operate the service with these commands");
    }
    if is_enough {
        found.ok("version", format!("the server {version} has what the service requires"));
    }
}

async fn check_account(connection: &Connection, found: &mut Diagnosis) {
    let account = connection.account().await.map_err(|error| error.into_error("reading the limits of the account"));
    match account {
        Ok(account) => {
            found.ok("jetstream", "JetStream answers");
            check_limits(&account, found);
        }
        Err(error) if error.kind() == ErrorKind::Authorization => {
            found.warn("account", error.to_string(), "it is needed by this check alone");
        }
        Err(error) => {
            let fix = "enable JetStream on the server (`nats-server -js`) and for the account (`jetstream: enabled`)";
            found.fail("jetstream", error.to_string(), fix);
        }
    }
}

/// Compares what the account has used with its limits; `account` is the answer of `$JS.API.INFO`.
fn check_limits(account: &Value, found: &mut Diagnosis) {
    if has_tiers(account) {
        return found.ok("account", "the limits are by tier, and not compared");
    }
    let mut used = Vec::new();
    for (what, field, limit) in [
        ("bytes of memory", "memory", "max_memory"),
        ("bytes of storage", "storage", "max_storage"),
        ("streams", "streams", "max_streams"),
        ("consumers", "consumers", "max_consumers"),
    ] {
        let count = account[field].as_u64().unwrap_or_default();
        // -1 stands for no limit.
        let Some(limit) = account["limits"][limit].as_u64() else {
            used.push(format!("{count} {what}"));
            continue;
        };
        let text = format!("{count} of {limit} {what}");
        if count as f64 >= limit as f64 * NEARLY_FULL {
            let fix = "raise the limit, or delete what is not needed";
            found.warn("account", format!("the account has used {text}"), fix);
        } else {
            used.push(text);
        }
    }
    found.ok("account", format!("used: {}", used.join(", ")));
}

/// Compares the clock of the server, as it shows when it reports a stream, with that of this process.
pub(crate) async fn check_clock(connection: &Connection, stream: &str, found: &mut Diagnosis) {
    match connection.clock_skew(stream).await {
        Ok(Some((skew, precision))) if skew.abs() > MAX_SKEW + precision.as_secs_f64() => {
            let text = format!("the clock of the server differs from that of this process by {skew:+.1} s");
            found.warn(
                "clock",
                text,
                "synchronize both with NTP; lag and the time of delayed messages are wrong by this",
            );
        }
        Ok(Some((skew, _))) => found.ok("clock", format!("the clocks differ by {skew:+.3} s")),
        Ok(None) => found.ok("clock", "the server does not report its time"),
        // The rights say why.
        Err(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::doctor::FindingStatus;

    fn findings(account: &Value) -> Vec<(FindingStatus, String)> {
        let mut found = Diagnosis::default();
        check_limits(account, &mut found);
        found.findings().iter().map(|finding| (finding.status, finding.text.clone())).collect()
    }

    #[test]
    fn limits_of_tiers_are_not_compared() {
        let limits = json!({ "max_memory": 0, "max_storage": 0, "max_streams": 0, "max_consumers": 0 });
        let tiered = json!({ "storage": 10, "streams": 1, "limits": limits, "tiers": { "R3": { "storage": 10 } } });
        assert_eq!(findings(&tiered), [(FindingStatus::Ok, "the limits are by tier, and not compared".to_owned())]);
    }

    #[test]
    fn limits_that_are_nearly_used_up_are_named() {
        let limits = json!({ "max_memory": -1, "max_storage": 100, "max_streams": 10, "max_consumers": -1 });
        let account = json!({ "memory": 7, "storage": 89, "streams": 9, "consumers": 4, "limits": limits });
        let expected = [
            (FindingStatus::Warning, "the account has used 9 of 10 streams"),
            (FindingStatus::Ok, "used: 7 bytes of memory, 89 of 100 bytes of storage, 4 consumers"),
        ];
        assert_eq!(findings(&account), expected.map(|(status, text)| (status, text.to_owned())));
    }
}
