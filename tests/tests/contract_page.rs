//! The page `docs/contract.md` lists every name that other programs may depend on, and no other.

#![allow(clippy::unwrap_used, reason = "tests may panic")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use jetstream_handlers::metrics::FAMILIES;
use jetstream_handlers::prelude::*;
use jetstream_handlers::{ExportFormat, HandlerState, Reason, Settlement};
use jetstream_handlers_tests::{SOON, eventually};

fn library() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../jetstream-handlers/src")
}

fn page() -> String {
    std::fs::read_to_string(library().join("docs/contract.md")).unwrap()
}

/// Returns the rows of the tables below a heading: the cells of each.
fn rows(heading: &str) -> Vec<Vec<String>> {
    let page = page();
    let section = page.split_once(&format!("\n# {heading}\n")).unwrap_or_else(|| panic!("no section {heading}")).1;
    let section = section.split("\n# ").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| `") || line.starts_with("| the "));
    rows.map(|row| row.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()).collect()
}

/// Returns the texts in backticks.
fn names(text: &str) -> Vec<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Returns the sources of the library without their unit tests and comments.
fn sources() -> String {
    fn collect(folder: &Path, text: &mut String) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, text);
            } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("worker/tests.rs")
            {
                let file = std::fs::read_to_string(&path).unwrap();
                let file = file.split("#[cfg(test)]\nmod tests").next().unwrap();
                let lines = file.lines().filter(|line| !line.trim_start().starts_with("//"));
                lines.for_each(|line| text.extend([line, "\n"]));
            }
        }
    }
    let mut text = String::new();
    collect(&library(), &mut text);
    text
}

/// Returns the string literals of the library with one of these beginnings.
fn literals(beginnings: &[&str]) -> BTreeSet<String> {
    let is_name = |text: &&str| text.chars().all(|char| char.is_ascii_alphanumeric() || "-_.".contains(char));
    let sources = sources();
    let all =
        sources.lines().flat_map(|line| line.split('"').skip(1).step_by(2).map(str::to_owned)).collect::<Vec<_>>();
    let named = all.iter().map(String::as_str).filter(is_name);
    named.filter(|text| beginnings.iter().any(|beginning| text.starts_with(beginning))).map(str::to_owned).collect()
}

#[test]
fn metrics_are_listed() {
    let metrics = rows("Metrics");
    let listed: Vec<_> = metrics.iter().filter(|row| row.len() == 4).collect();
    let expected: Vec<_> = FAMILIES
        .iter()
        .map(|family| {
            let labels: Vec<_> = family.labels.iter().map(|label| format!("`{label}`")).collect();
            let kind = format!("{:?}", family.kind).to_lowercase();
            vec![format!("`{}`", family.name), kind, labels.join(", "), family.description.to_owned()]
        })
        .collect();
    assert_eq!(listed, expected.iter().collect::<Vec<_>>());
    let labels: BTreeSet<_> = metrics.iter().filter(|row| row.len() == 2).flat_map(|row| names(&row[0])).collect();
    for label in FAMILIES.iter().flat_map(|family| family.labels) {
        assert!(labels.contains(*label), "the label `{label}` is not described");
    }
}

#[test]
fn values_of_labels_are_listed() {
    let rows = rows("Metrics");
    let values = |label: &str| names(&rows.iter().find(|row| row[0] == label).unwrap()[1]);
    let settlements = [
        Settlement::Ack,
        Settlement::Retry,
        Settlement::DeadLetter,
        Settlement::Terminated,
        Settlement::HandedBack,
        Settlement::Lost,
    ];
    assert_eq!(values("`outcome` of `messages_settled_total`"), settlements.map(Settlement::as_str));
    let reasons = [
        Reason::Error,
        Reason::Panic,
        Reason::Timeout,
        Reason::Undecodable,
        Reason::Output,
        Reason::Killed,
        Reason::Exhausted,
    ];
    assert_eq!(values("`reason`"), reasons.map(Reason::as_str));
    let states = [
        HandlerState::Running,
        HandlerState::Degraded,
        HandlerState::Recovering,
        HandlerState::Stopping,
        HandlerState::Stopped,
        HandlerState::Failed,
    ];
    assert_eq!(values("`state`"), states.map(HandlerState::as_str));
}

#[test]
fn spans_have_the_listed_fields() {
    let source = std::fs::read_to_string(library().join("observe/span.rs")).unwrap();
    let rows = rows("Spans");
    for span in ["process", "process_batch"] {
        let fields = source.split_once(&format!("handler_span!(\n            \"{span}\",")).unwrap().1;
        let fields = fields.split_once("\n        );").unwrap().0;
        let fields = fields.lines().filter_map(|line| line.trim().split_once(" = ")).map(|(field, _)| field.to_owned());
        let row = rows.iter().find(|row| row[0] == format!("`{span}`")).unwrap();
        assert_eq!(names(&row[1]), fields.collect::<Vec<_>>(), "{span}");
    }
}

#[test]
fn attributes_of_spans_are_listed() {
    let rows = rows("Spans");
    let listed: BTreeSet<_> = rows.iter().filter(|row| row.len() == 3).flat_map(|row| names(&row[2])).collect();
    let attributes = std::fs::read_to_string(library().join("observe/otel/attributes.rs")).unwrap();
    let constants = attributes.lines().filter(|line| line.contains("const ") && line.contains(": &str"));
    let used: BTreeSet<_> = constants.map(|line| line.split('"').nth(1).unwrap().to_owned()).collect();
    assert_eq!(listed, used);
}

#[test]
fn metrics_of_the_messaging_conventions_are_listed() {
    let rows = rows("Spans");
    let listed: BTreeSet<_> = rows.iter().flat_map(|row| names(&row[0])).filter(|name| name.contains('.')).collect();
    let meters = std::fs::read_to_string(library().join("observe/otel/meters.rs")).unwrap();
    let used = meters.split('"').filter(|literal| literal.starts_with("messaging.")).map(str::to_owned);
    assert_eq!(listed, used.collect());
}

#[test]
fn headers_are_listed() {
    let page = page();
    // What the library reads of the protocol of the server, and never sets on a message.
    let protocol = ["Nats-Pin-Id", "Nats-Wrong-Pin-Id", "Nats-Pending-Messages", "Nats-Encoding", "Nats-Rollup"];
    for literal in literals(&["Dead-Letter-", "Nats-", "Event-", "Content-", "KV-"]) {
        let is_prefix = literal.ends_with('-');
        let listed = if is_prefix { format!("`{literal}…`") } else { format!("`{literal}`") };
        let is_listed = page.contains(&listed) || matches!(&*literal, "Dead-Letter-" | "Nats-" | "Nats-Batch-");
        assert!(is_listed || protocol.contains(&&*literal), "{listed} is not listed");
    }
    let sources = sources();
    for name in rows("Headers").iter().flat_map(|row| names(&row[0])) {
        let name = name.trim_end_matches('…');
        // The origin of a dead letter is written by its last token.
        let suffix = name.strip_prefix("Dead-Letter-").unwrap_or(name);
        let constant = format!("header::{}", name.to_uppercase().replace('-', "_").replace("MSG_ID", "MESSAGE_ID"));
        let is_used = [format!("\"{name}"), format!("\"{suffix}\"")].iter().any(|text| sources.contains(text));
        let is_constant = sources.contains(&constant) || name == "Nats-TTL" || name == "Nats-Expected-";
        assert!(is_used || is_constant || name == "header", "the library does not name `{name}`");
    }
}

#[test]
fn metadata_is_listed() {
    let listed: BTreeSet<_> = rows("Metadata of consumers").iter().flat_map(|row| names(&row[0])).collect();
    let used: BTreeSet<_> =
        literals(&["jetstream-handlers."]).into_iter().filter(|name| !name.ends_with('.')).collect();
    assert_eq!(listed, used);
}

/// Returns the names of the fields of a serialized object.
fn fields(object: &serde_json::Value) -> BTreeSet<String> {
    object.as_object().unwrap().keys().cloned().collect()
}

#[tokio::test]
async fn serialized_fields_are_listed() {
    let broker = Broker::in_memory();
    let failing = async |_: u64| Err::<(), HandlerError>(HandlerError::retry("no stock"));
    let subscription = broker.subscribe("orders.created", "billing", failing).await.unwrap();
    broker.publish("orders.created", &7).await.unwrap();
    let failed = async || Some(broker.health()).filter(|health| health.handlers[0].last_failure.is_some());
    let health = serde_json::to_value(eventually("the call has failed", SOON, failed).await).unwrap();
    let info = serde_json::to_value(&broker.handlers()[0]).unwrap();
    let handler = &health["handlers"][0];
    let listed: Vec<BTreeSet<_>> =
        rows("Serialized values").iter().map(|row| names(&row[1]).into_iter().collect()).collect();
    let states = [HandlerState::NotStarted, HandlerState::OtherBroker].map(|state| state.to_string()).into();
    let own = [fields(&info), states, fields(&health), fields(handler), fields(&handler["last_failure"])];
    assert_eq!(listed[..own.len()], own);
    let described = std::fs::read_to_string(library().join("docs/health.md")).unwrap();
    for field in fields(&health).into_iter().chain(fields(handler)) {
        assert!(described.contains(&format!("`{field}`")), "`{field}` is not described in `docs/health.md`");
    }
    subscription.unsubscribe().await.unwrap();
}

#[tokio::test]
async fn fields_of_plans_and_exports_are_listed() {
    #[subscriber(subject = "orders.created", queue = "billing")]
    async fn bill(_: u64) {}
    let listed: Vec<BTreeSet<_>> =
        rows("Plans and exports").iter().map(|row| names(&row[1]).into_iter().collect()).collect();
    let broker = Broker::builder().include::<bill>().connect_in_memory();
    let snapshot = broker.export(ExportFormat::Json).await.unwrap();
    let differing = snapshot.replace("\"ack_policy\": \"explicit\"", "\"ack_policy\": \"all\", \"headers_only\": true");
    let former = broker.plan_against(&differing).await.unwrap();
    let plan: serde_json::Value = serde_json::from_str(&former.to_json()).unwrap();
    let change = plan["changes"].as_array().unwrap().iter().find(|it| it["action"] == "recreate").unwrap();
    assert_eq!(fields(&plan), listed[0]);
    // A problem is that of a blocked change.
    assert_eq!(&fields(change) | &BTreeSet::from(["problem".to_owned()]), listed[1]);
    assert_eq!(fields(&change["fields"][0]), listed[2]);
    for (field, listed) in [("object", &listed[3]), ("action", &listed[4]), ("risk", &listed[5])] {
        let values = plan["changes"].as_array().unwrap().iter().filter_map(|it| it[field].as_str());
        values.for_each(|value| assert!(listed.contains(value), "{field} {value}"));
    }
    let snapshot: serde_json::Value = serde_json::from_str(&snapshot).unwrap();
    assert_eq!(&fields(&snapshot) | &fields(&snapshot["consumers"][0]), listed[6]);
}

/// Returns the listed fields of the value whose row begins with this name.
fn listed_fields(name: &str) -> BTreeSet<String> {
    let rows = rows("Serialized values");
    let row = rows.iter().find(|row| row[0].starts_with(name)).unwrap_or_else(|| panic!("no row {name}"));
    names(&row[1]).into_iter().collect()
}

#[tokio::test]
async fn serialized_fields_of_dead_letters_are_listed() {
    let broker = Broker::in_memory();
    let failing = async |_: u64| Settle::Terminate;
    let subscription = broker.subscribe("orders.created", "letters", failing).await.unwrap();
    broker.publish("orders.created", &7).await.unwrap();
    let letters = broker.dead_letters();
    eventually("a dead letter", SOON, async || (letters.count().await.unwrap() == 1).then_some(())).await;
    let letter = serde_json::to_value(letters.get(1).await.unwrap()).unwrap();
    let optional = ["unreadable", "header_block", "payload_text", "payload_base64"].map(str::to_owned);
    let all: BTreeSet<_> = fields(&letter).into_iter().chain(optional).collect();
    assert_eq!(listed_fields("`DeadLetter`"), all);
    let groups = serde_json::to_value(letters.groups().await.unwrap()).unwrap();
    assert_eq!(listed_fields("`DeadLetterGroups`"), fields(&groups));
    assert_eq!(listed_fields("the `groups` of"), fields(&groups["groups"][0]));
    let paused = serde_json::to_value(broker.pause("letters", secs(60)).await.unwrap()).unwrap();
    assert_eq!(listed_fields("`HandlerConsumer`"), fields(&paused));
    subscription.unsubscribe().await.unwrap();
}

#[test]
fn fields_of_documents_are_listed() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli/documents.json");
    let documents: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let rows = rows("Documents of the command line");
    for row in &rows {
        let command = names(&row[0]).remove(0);
        let paths = documents[&command].as_array().unwrap_or_else(|| panic!("no document of `{command}`"));
        let paths: Vec<_> = paths.iter().filter_map(|path| path.as_str()).collect();
        let own = paths.iter().filter(|path| !path.contains('.')).map(|path| (*path).to_owned());
        assert_eq!(names(&row[1]).into_iter().collect::<BTreeSet<_>>(), own.collect(), "{command}");
        // The fields of a value of the library are listed with it.
        if !row[2].contains("those of") {
            let nested = paths.iter().filter_map(|path| Some(path.rsplit_once('.')?.1.to_owned()));
            assert_eq!(names(&row[2]).into_iter().collect::<BTreeSet<_>>(), nested.collect(), "{command}");
        }
    }
    let described: BTreeSet<_> = rows.iter().flat_map(|row| names(&row[0])).collect();
    let values = ["dlq show", "dlq groups"].map(str::to_owned);
    assert_eq!(described.into_iter().chain(values).collect::<BTreeSet<_>>(), fields(&documents));
}

#[test]
fn changelog_and_readmes_link_the_page() {
    for readme in ["README.md", "README.zh-TW.md"] {
        let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(readme)).unwrap();
        assert!(text.contains("docs/contract.md"), "{readme}");
    }
}
