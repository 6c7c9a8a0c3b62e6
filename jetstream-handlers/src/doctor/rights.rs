//! Probes of the rights that the handlers need.

use super::{Diagnosis, FindingStatus};
use crate::error::permission::{publish_line, subscribe_line};
use crate::nats::{Connection, Probe};
use crate::rights::{Operation, Permission, Permissions};

/// The token that stands for a wildcard in the subject of a probe.
const TOKEN: &str = "probe";

/// Probes every right, and reports those that the user does not have.
pub(crate) async fn check_rights(connection: &Connection, permissions: &Permissions, found: &mut Diagnosis) {
    let inboxes = format!("{}.>", permissions.inbox_prefix());
    // The right to the inbox has a check of its own.
    let publish = permissions.publish().filter(|right| right.subject() != inboxes);
    let subscribe = permissions.subscribe().filter(|right| right.subject() != inboxes);
    let rights: Vec<(&Permission, Probe, String)> = publish
        .map(|right| (right, probe(right), publish_line(right.subject())))
        .chain(subscribe.map(|right| (right, probe(right), subscribe_line(right.subject()))))
        .collect();
    let probes: Vec<_> = rights.iter().map(|(_, probe, _)| probe.clone()).collect();
    let denied = connection.probe(&probes).await;
    let count = denied.iter().filter(|denied| !**denied).count();
    let level = permissions.level();
    found.ok("rights", format!("the user has {count} of the {} rights of the level `{level}`", rights.len()));
    for (right, probe, line) in rights.iter().zip(denied).filter(|(_, denied)| *denied).map(|(right, _)| right) {
        let verb = if matches!(probe, Probe::Subscription(_)) { "subscribe" } else { "publish" };
        let text = format!("the user may not {verb} to `{}`, for {}", right.subject(), described(right));
        let status = if right.is_optional() { FindingStatus::Warning } else { FindingStatus::Failed };
        found.add("rights", status, text, format!("add to `permissions` of the user on the server: `{line}`"));
    }
}

fn described(right: &Permission) -> String {
    match right.needed_by() {
        [] => format!("the service: {}", right.purpose()),
        needed_by => format!("{}: {}", needed_by.join(", "), right.purpose()),
    }
}

/// Returns the probe of a right.
fn probe(right: &Permission) -> Probe {
    let subject = right.subject();
    match right.operation() {
        Operation::Subscribe => Probe::Subscription(subject.to_owned()),
        Operation::Request => Probe::Request(subject.to_owned()),
        // Of no delivery: its number is 0 in the stream and in the consumer.
        Operation::Ack => Probe::Ack(subject.strip_suffix('>').unwrap_or(subject).to_owned() + "0.0.0.0.0"),
        Operation::Message => Probe::Message(concrete(subject)),
    }
}

/// Returns a subject that a pattern matches.
fn concrete(subject: &str) -> String {
    let tokens = subject.split('.').map(|token| if matches!(token, "*" | ">") { TOKEN } else { token });
    tokens.collect::<Vec<_>>().join(".")
}
