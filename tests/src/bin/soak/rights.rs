//! The rights of the workers, which come and go.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use crate::faults::Excuse;
use crate::field::Field;
use crate::ledger::Period;

/// Returns lines of a server's configuration by which the workers may not publish to these subjects.
pub(crate) fn without(subject: Option<&str>) -> String {
    let denied = subject.map_or_else(String::new, |subject| format!(r#"publish: {{ deny: ["{subject}"] }}"#));
    format!(
        "accounts {{
            $SYS {{ users: [{{ user: sys, password: sys }}] }}
            APP {{ jetstream: enabled, users: [
                {{ user: app, password: app }},
                {{ user: worker, password: worker, permissions: {{ {denied} }} }} ] }}
        }}"
    )
}

/// Denies the workers a subject for a while.
pub(crate) async fn deny(field: &mut Field, subject: &str) -> Excuse {
    let begin = Instant::now();
    field.cluster.reload(&without(Some(subject)));
    sleep(Duration::from_secs(3)).await;
    field.cluster.reload(&without(None));
    Excuse { queue: None, period: Period::since(begin) }
}
