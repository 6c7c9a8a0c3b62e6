//! The commands `plan`, `apply` and `export`.

use std::path::Path;

use jetstream_handlers::prelude::*;
use jetstream_handlers::{ExportFormat, stream};
use jetstream_handlers_tests::{Ended, Server, run_command, stream_config};
use serde_json::json;

const SERVICE: &str = env!("CARGO_BIN_EXE_operated");

/// The variable by which the handler `bill` of the service changes.
const CHANGED: (&str, &str) = ("OPERATED_ACK_WAIT", "10s");

/// Runs a command of the service without a terminal, and with these variables and no others.
async fn run_with(arguments: &[&str], variables: &[(&str, &str)]) -> Ended {
    run_command(SERVICE, arguments, variables, "").await
}

async fn run(server: &Server, arguments: &[&str]) -> Ended {
    run_with(arguments, &[("NATS_URL", &server.url())]).await
}

async fn run_changed(server: &Server, arguments: &[&str]) -> Ended {
    run_with(arguments, &[("NATS_URL", &server.url()), CHANGED]).await
}

fn in_folder(server: &Server, name: &str) -> String {
    server.folder().join(name).to_str().unwrap().to_owned()
}

#[tokio::test]
async fn change_is_planned_and_applied() {
    let server = Server::start().await;
    run(&server, &["plan"]).await.code(0).says(&[
        "+ create stream SHOP",
        "+ create consumer billing of stream SHOP (operated::bill)",
        "plan: 5 create",
    ]);
    let file = in_folder(&server, "plan.json");
    run(&server, &["plan", "--detailed-exitcode", "--out", &file]).await.code(2);
    run(&server, &["apply", "--plan", &file]).await.code(0).says(&["applied"]);
    run(&server, &["plan", "--detailed-exitcode"]).await.code(0).says(&["no changes"]);
    run(&server, &["apply"]).await.code(0).says(&["no changes"]);
    run(&server, &["apply", "--plan", &file]).await.code(1).says(&["exists now; nothing was changed"]);

    let planned = run_changed(&server, &["plan", "--json"]).await;
    let plan = planned.code(0).json();
    let change = plan["changes"].as_array().unwrap().iter().find(|it| it["action"] == "update").unwrap();
    let picked = json!([plan["version"], change["object"], change["consumer"], change["risk"], change["fields"][0]]);
    let expected = json!([1, "consumer", "billing", "careful", {
        "field": "ack_wait", "found": "30s", "wanted": "10s", "risk": "careful",
        "consequence": change["fields"][0]["consequence"],
    }]);
    assert_eq!(picked, expected);
    let refused = run_changed(&server, &["apply"]).await;
    refused.code(1).says(&["error: this needs a confirmation, and the standard input is no terminal; pass `--yes`"]);
    let applied = run_changed(&server, &["apply", "--yes", "--json"]).await;
    applied.code(0).says(&["\"action\": \"update\"", "~ update consumer billing"]);
    let document = applied.json();
    assert_eq!(document["version"], 1, "{document}");
    run_changed(&server, &["plan", "--detailed-exitcode"]).await.code(0);
}

#[tokio::test]
async fn saved_plan_without_changes_is_one_of_its_server_and_program() {
    let (server, other) = (Server::start().await, Server::start().await);
    run(&server, &["apply"]).await.code(0);
    let file = in_folder(&server, "plan.json");
    run(&server, &["plan", "--out", &file]).await.code(0).says(&["no changes"]);
    run(&server, &["apply", "--plan", &file]).await.code(0).says(&["no changes"]);
    run(&other, &["apply", "--plan", &file]).await.code(1).says(&["the plan was made for"]);
    run_changed(&server, &["apply", "--plan", &file]).await.code(1).says(&["this program needs others"]);
}

/// This program has no handlers of its own.
#[tokio::test]
async fn program_without_handlers_has_a_plan_and_an_export() {
    let server = Server::start().await;
    let builder = || Broker::builder().stream(stream_config("SHOP", &["shop.>"]));
    let connected = builder().servers([server.url()]).connect().await.unwrap();
    for publisher in [builder().connect_in_memory(), connected] {
        let plan = publisher.plan().await.unwrap();
        assert!(plan.to_string().contains("+ create stream SHOP"), "{plan}");
        publisher.apply(&plan).await.unwrap();
        let snapshot = publisher.export(ExportFormat::Json).await.unwrap();
        assert!(snapshot.contains("\"SHOP\""), "{snapshot}");
        let plan = publisher.plan_against(&snapshot).await.unwrap();
        assert!(plan.is_empty(), "{plan}");
    }
}

#[tokio::test]
async fn blocked_plan_ends_with_an_error_before_a_question() {
    let server = Server::start().await;
    let config = stream::Config { name: "SHOP".to_owned(), subjects: vec!["shop.>".to_owned()], ..Default::default() };
    let stored_in_memory = stream::Config { storage: stream::StorageType::Memory, ..config };
    server.jetstream().await.create_stream(stored_in_memory).await.unwrap();
    let problem = ["problems that have to be solved first, and nothing was changed:", "storage"];
    for arguments in [&["plan"][..], &["plan", "--detailed-exitcode"], &["apply"], &["apply", "--yes"]] {
        let ended = run(&server, arguments).await;
        ended.code(1).says(&problem);
        assert!(![&ended.stdout, &ended.stderr].iter().any(|text| text.contains("apply these changes?")), "{ended:?}");
    }
}

#[tokio::test]
async fn plan_of_another_account_is_refused() {
    if jetstream_handlers_tests::binary::version() < (2, 10, 0) {
        return;
    }
    let account = |name: &str| {
        format!(
            "{name}: {{ jetstream: enabled, users: [ {{ user: {name}, password: secret }}, {{ user: {name}-silent, password: secret, permissions: {{ publish: {{ deny: [\"$SYS.>\"] }} }} }} ] }}"
        )
    };
    let config = format!("server_name: same\naccounts {{ {}, {} }}", account("one"), account("other"));
    let server = Server::builder().config(&config).user("one", "secret").start().await;
    let url = |user: &str| server.url().replace("one:secret", &format!("{user}:secret"));
    let file = in_folder(&server, "plan.json");
    let as_user = async |user: &str, arguments: &[&str]| run_with(arguments, &[("NATS_URL", &url(user))]).await;
    as_user("one", &["plan", "-o", &file]).await.code(0);
    let refused = as_user("other", &["apply", "--yes", "--plan", &file]).await;
    refused.code(1).says(&["the plan was made for server same, account one, and this is server same, account other"]);
    // A user who may not ask does not know the account.
    as_user("one-silent", &["apply", "--yes", "--plan", &file]).await.code(0).says(&["applied"]);
}

#[tokio::test]
async fn plan_file_of_something_else_is_refused() {
    let server = Server::start().await;
    let file = in_folder(&server, "plan.json");
    let apply = ["apply", "--yes", "--plan", &file];
    run(&server, &apply).await.code(1).says(&["plan.json` cannot be read: No such file"]);
    for (content, expected) in [
        ("{}", "the plan cannot be read: missing field `version` at line 1 column 2"),
        ("{\"version\": 2}", "the plan has version 2, and this program reads version 1"),
    ] {
        std::fs::write(&file, content).unwrap();
        run(&server, &apply).await.code(1).says(&[expected]);
    }
    let other = Server::start().await;
    run(&other, &["plan", "--out", &file]).await.code(0);
    run(&server, &apply).await.code(1).says(&["the plan was made for server ", ", and this is server "]);
    run(&server, &["plan", "--detailed-exitcode"]).await.code(2);
}

#[tokio::test]
async fn exports_are_written_and_compared_without_a_server() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    run_with(&["export", "--format", "nats"], &[]).await.code(0).says(&[
        "nats stream add SHOP --subjects 'shop.>'",
        "nats consumer add SHOP shipping --pull --filter 'shop.orders.*.paid' --deliver all --ack all",
        "--pinned-groups ordered --pinned-ttl 5s",
    ]);
    run_with(&["export", "--format", "nack"], &[]).await.code(0).says(&[
        "apiVersion: jetstream.nats.io/v1beta2\nkind: Consumer\nmetadata:\n  name: \"shop-billing\"\nspec:\n  streamName: \"SHOP\"",
        "  ackWait: \"30s\"\n",
        "  filterSubject: \"shop.orders.created\"\n",
    ]);
    run_with(&["export", "--format", "terraform"], &[]).await.code(0).says(&[
        "resource \"jetstream_stream\" \"shop\" {\n  name = \"SHOP\"\n  subjects = [\"shop.>\"]\n",
        "resource \"jetstream_consumer\" \"shop_billing\" {\n  stream_id = jetstream_stream.shop.id\n",
        "  ack_wait = 30\n",
        "  deliver_all = true\n",
    ]);
    let snapshot = file("snapshot.json");
    run_with(&["export", "--format", "json", "-o", &snapshot], &[]).await.code(0);
    let against = ["plan", "--detailed-exitcode", "--against", &snapshot];
    run_with(&against, &[]).await.code(0).says(&["no changes"]);
    run_with(&against, &[CHANGED]).await.code(2).says(&["~ update consumer billing of stream SHOP", "30s -> 10s"]);
    std::fs::write(&snapshot, "{\"version\": 1, \"streams\": [{}], \"consumers\": []}").unwrap();
    run_with(&against, &[]).await.code(1).says(&["the snapshot cannot be read: streams[0]: missing field"]);
    let missing = file("missing.json");
    run_with(&["plan", "--against", &missing], &[]).await.code(1).says(&["` cannot be read"]);
    assert!(!Path::new(&missing).exists());
}

#[tokio::test]
async fn limits_of_the_account_are_compared_before() {
    let config = "accounts { APP { jetstream: { max_mem: 10M, max_file: 10M, max_bytes_required: true }, users: [
        { user: admin, password: secret } ] } }";
    let server = Server::builder().config(config).user("admin", "secret").start().await;
    let planned = run(&server, &["plan"]).await;
    planned.code(0).says(&["warning: the account requires `max_bytes` of each stream, and `SHOP` has none"]);
    run(&server, &["apply"]).await.code(1).says(&["0 of ", " changes were made: creating stream `"]);
}
