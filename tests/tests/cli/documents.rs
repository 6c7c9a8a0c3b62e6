//! The documents that the commands print for programs have the committed fields.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use jetstream_handlers_tests::Server;
use serde_json::Value;

use super::letters::with_letters;
use super::{run, run_on, run_with};

/// Adds the paths of all fields of a value; `[]` is an element of a list.
fn add_fields(value: &Value, path: &str, fields: &mut BTreeSet<String>) {
    match value {
        // The names in it are those of the message.
        Value::Object(_) if path.ends_with("headers") || path.ends_with("payload") => {}
        Value::Object(object) => {
            for (name, value) in object {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                fields.insert(path.clone());
                add_fields(value, &path, fields);
            }
        }
        Value::Array(list) => list.iter().for_each(|value| add_fields(value, &format!("{path}[]"), fields)),
        _ => {}
    }
}

#[tokio::test]
async fn documents_have_the_committed_fields() {
    let server = Server::start().await;
    let _service = with_letters(&server, &[1, 2, 3]).await;
    let url = server.url();
    let exported = run_on(&server, &["dlq", "export"]).await;
    let lines = format!("{}oops\n", exported.code(0).stdout);
    // A dead letter of a queue that does not exist, which a replay keeps.
    let other = lines.lines().next().unwrap().replace("\"billing\"", "\"gone\"");
    let other = other.replace("dlq:SHOP:billing", "dlq:SHOP:gone");
    run_with(&["dlq", "import", "-"], &[("NATS_URL", &url)], &other).await.code(0).says(&["1 imported"]);
    let order = r#"{"id":1,"customer":"Ada"}"#;
    let invalid = [("OPERATED_ACK_WAIT", "soon")];
    let documents = [
        ("handlers", run(&["handlers", "--json"]).await),
        ("describe", run(&["describe", "bill", "--json"]).await),
        ("check", run_with(&["check", "--offline", "--json"], &invalid, "").await),
        ("status", run_on(&server, &["status", "--json"]).await),
        ("publish", run_on(&server, &["publish", "shop.orders.created", order, "--json"]).await),
        ("dlq list", run_on(&server, &["dlq", "list", "--json"]).await),
        ("dlq show", run_on(&server, &["dlq", "show", "1", "--json"]).await),
        ("dlq groups", run_on(&server, &["dlq", "groups", "--json"]).await),
        ("dlq import", run_with(&["dlq", "import", "-", "--json"], &[("NATS_URL", &url)], &lines).await),
        // Of a queue without a handler in this program, so that the dead letter is kept.
        ("dlq replay", run_on(&server, &["dlq", "replay", "4", "--json"]).await),
        ("dlq purge", run_on(&server, &["dlq", "purge", "2", "--yes", "--json"]).await),
    ];
    let mut found = BTreeMap::new();
    for (command, ended) in &documents {
        let mut fields = BTreeSet::new();
        add_fields(&ended.json(), "", &mut fields);
        found.insert(*command, fields);
    }
    let text = format!("{}\n", serde_json::to_string_pretty(&found).unwrap());
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli/documents.json");
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap();
    assert_eq!(committed, text, "`UPDATE_SNAPSHOTS=1` accepts the new fields; add them to `docs/contract.md`");
}
