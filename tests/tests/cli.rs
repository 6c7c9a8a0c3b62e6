//! The command line of a service: what it prints, and how it ends.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

#[path = "cli/documents.rs"]
mod documents;
#[path = "cli/letters.rs"]
mod letters;

use std::future::ready;
use std::process::{ExitCode, Stdio};

use async_nats::jetstream::consumer::pull;
use jetstream_handlers::Broker;
use jetstream_handlers::prelude::*;
use jetstream_handlers_tests::{Ended, Program, SOON, Server, connect, eventually, run_command, stream_config, users};
use serde_json::{Value, json};
use tokio::process::Command;

const SERVICE: &str = env!("CARGO_BIN_EXE_operated");

/// Runs a command of the service with these variables and no others; the standard input is `input`.
async fn run_with(arguments: &[&str], variables: &[(&str, &str)], input: &str) -> Ended {
    run_command(SERVICE, arguments, variables, input).await
}

async fn run(arguments: &[&str]) -> Ended {
    run_with(arguments, &[], "").await
}

async fn run_on(server: &Server, arguments: &[&str]) -> Ended {
    run_with(arguments, &[("NATS_URL", &server.url())], "").await
}

/// Waits until the consumers of the service exist.
async fn until_started(server: &Server) {
    let jetstream = server.jetstream().await;
    let exist = || async {
        for consumer in ["audit", "billing", "shipping"] {
            jetstream.get_consumer_from_stream::<pull::Config, _, _>(consumer, "SHOP").await.ok()?;
        }
        Some(())
    };
    eventually("the consumers of the service exist", SOON, exist).await;
}

#[tokio::test]
async fn handlers_are_listed_without_a_server() {
    let listed = run(&["handlers"]).await;
    let lines: Vec<_> = listed.code(0).stdout.lines().map(str::trim_end).collect();
    let location = |name: &str| lines.iter().position(|line| line.starts_with(name)).unwrap();
    assert_eq!(
        lines[location("operated::bill")],
        "operated::bill       shop.orders.created    billing    by subject  4            money  yes"
    );
    assert!(lines[location("operated::elsewhere")].ends_with("broker other"), "{lines:?}");
    assert_eq!(lines.len(), 5, "one line for the header and each handler: {lines:?}");
    let found = run(&["handlers", "shipp"]).await;
    assert_eq!(found.code(0).stdout.lines().count(), 2, "{found:?}");
    for arguments in [&["handlers", "nothing"][..], &["handlers", "nothing", "--json"]] {
        run(arguments).await.code(1).says(&["none of the 4 handlers contains `nothing`"]);
    }
    let document = run(&["handlers", "billing", "--json"]).await.code(0).json();
    assert_eq!(document["version"], 1);
    let handler = &document["handlers"][0];
    let picked = json!({
        "name": handler["name"], "subjects": handler["subjects"], "queue": handler["queue"], "selected": handler["selected"],
        "dead_letter": handler["dead_letter"], "state": handler["state"],
    });
    let expected = json!({
        "name": "operated::bill", "subjects": ["shop.orders.created"], "queue": "billing", "selected": true,
        "dead_letter": "dlq.*.billing", "state": "not_started",
    });
    assert_eq!(picked, expected);
}

#[tokio::test]
async fn handler_is_described() {
    for name in ["ship", "operated::ship", "shipping"] {
        run(&["describe", name]).await.code(0).says(&["shop.orders.{id}.paid", "ordered       yes", "shop.shipped"]);
    }
    run(&["describe", "audit"]).await.code(0).says(&["dead letters  off", "at most 10 messages"]);
    run(&["describe", "nothing"]).await.code(1).says(&["no handler is named `nothing`", "operated::bill"]);
    assert_eq!(run(&["describe", "bill", "--json"]).await.code(0).json()["handler"]["max_deliver"], 2);
}

#[tokio::test]
async fn problems_of_the_settings_are_found_without_a_server() {
    run(&["check", "--offline"]).await.code(0).says(&["no problems: 3 handlers checked, without a server"]);
    let variables = [("OPERATED_ACK_WAIT", "soon")];
    let found = run_with(&["check", "--offline"], &variables, "").await;
    found.code(2).says(&["problem: `operated::bill`: ack_wait", "OPERATED_ACK_WAIT"]);
    let document = run_with(&["check", "--offline", "--json"], &variables, "").await.code(2).json();
    assert_eq!(document["problems"].as_array().unwrap().len(), 1, "{document}");
    assert_eq!(document["problems"][0]["handler"], "operated::bill");
}

#[tokio::test]
async fn all_problems_of_the_server_are_found_at_once_and_nothing_is_changed() {
    let server = Server::start().await;
    run_on(&server, &["check"]).await.code(0);
    let jetstream = server.jetstream().await;
    assert!(jetstream.get_stream("SHOP").await.is_err(), "a check creates nothing");
    jetstream.create_stream(stream_config("SHOP", &["shop.orders.>"])).await.unwrap();
    jetstream.create_stream(stream_config("OTHER", &["shop.shipped"])).await.unwrap();
    let found = run_on(&server, &["check"]).await;
    found.code(2).says(&["stream `SHOP` exists and differs", "`operated::audit`", "2 problems: 3 handlers checked"]);
}

#[tokio::test]
async fn status_shows_what_waits_for_each_handler() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    let missing = run_on(&server, &["status"]).await;
    missing.code(2).says(&["operated::bill: the consumer does not exist; a start creates it"]);
    let mut service = Program::start(SERVICE, &[], &[("NATS_URL", &server.url())]);
    until_started(&server).await;
    service.signal("TERM");
    service.ended().await;
    for order in 0..3 {
        broker.publish("shop.orders.created", &json!({ "id": order, "customer": "Ada" })).await.unwrap();
    }
    let status = run_on(&server, &["status", "--json"]).await;
    let handlers = status.code(0).json()["handlers"].clone();
    let of = |name: &str| handlers.as_array().unwrap().iter().find(|it| it["handler"] == name).unwrap().clone();
    assert_eq!(of("operated::bill")["counts"]["pending"], 3, "{status:?}");
    assert_eq!(of("operated::ship")["counts"]["pending"], 0, "{status:?}");
    assert_eq!(of("operated::audit")["dead_letters"], Value::Null);
    run_on(&server, &["status"]).await.code(0).says(&["operated::bill   SHOP    billing   3        0/10000"]);
}

#[tokio::test]
async fn watched_status_is_one_document_per_line_until_a_signal() {
    let server = Server::start().await;
    let mut watch = Program::start(SERVICE, &["status", "--watch", "--json"], &[("NATS_URL", &server.url())]);
    let two = || ready(Some(watch.lines("{")).filter(|lines| lines.len() >= 2));
    let documents = eventually("two documents", SOON, two).await;
    for line in documents {
        let document: Value = serde_json::from_str(&format!("{{{line}")).unwrap();
        assert_eq!((&document["version"], document["handlers"].as_array().unwrap().len()), (&json!(1), 3));
    }
    watch.signal("INT");
    assert_eq!(watch.ended().await.code(), Some(0), "{}", watch.output());
}

#[tokio::test]
async fn command_whose_output_is_closed_ends() {
    let server = Server::start().await;
    let mut child = Command::new(SERVICE);
    child.args(["status", "--watch"]).env_clear().env("NATS_URL", server.url()).kill_on_drop(true);
    let mut child = child.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let ended = tokio::time::timeout(secs(60), child.wait_with_output()).await;
    let ended = ended.expect("the command does not end").unwrap();
    assert_eq!((ended.status.code(), String::from_utf8(ended.stderr).unwrap()), (Some(0), String::new()));
}

#[tokio::test]
async fn program_without_handlers_publishes() {
    let server = Server::start().await;
    server.jetstream().await.create_stream(stream_config("SHOP", &["shop.>"])).await.unwrap();
    let command = async |arguments: &[&str]| {
        let builder = Broker::builder().name("empty").servers([server.url()]);
        let builder = builder.connect_options(|options| options.ignore_discovered_servers());
        builder.run_cli_from(["empty"].into_iter().chain(arguments.iter().copied())).await
    };
    let published = command(&["publish", "shop.orders.created", "{}"]).await;
    assert_eq!(published, ExitCode::SUCCESS);
    let message = server.jetstream().await.get_stream("SHOP").await.unwrap().get_raw_message(1).await.unwrap();
    assert_eq!(&*message.payload, b"{}");
    assert_ne!(command(&["check"]).await, ExitCode::SUCCESS, "nothing is checked");
}

#[tokio::test]
async fn status_says_which_right_is_missing() {
    let denied = r#"publish: { deny: ["$JS.API.CONSUMER.INFO.>"] }"#;
    let server = Server::builder().config(&users(denied)).user("admin", "secret").start().await;
    server.jetstream().await.create_stream(stream_config("SHOP", &["shop.>"])).await.unwrap();
    let address = server.address();
    let url = format!("nats://worker:secret@{address}");
    let status = run_with(&["status"], &[("NATS_URL", &url)], "").await;
    status.code(2).says(&["operated::bill", "the user may not publish to `$JS.API.CONSUMER.INFO.SHOP.billing`"]);
}

#[tokio::test]
async fn published_message_fits_its_handlers() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    let subject = "shop.orders.created";
    let good = r#"{"id":1,"customer":"Ada"}"#;
    run_on(&server, &["publish", subject, good]).await.code(1).says(&["no stream", "shop.orders.created"]);
    server.jetstream().await.create_stream(stream_config("SHOP", &["shop.>"])).await.unwrap();
    let stored = run_on(&server, &["publish", subject, good, "--id", "a", "--header", "Tenant: eu"]).await;
    stored.code(0).says(&["stored as message 1 of stream SHOP", "operated::audit, operated::bill"]);
    let refused = run_on(&server, &["publish", subject, r#"{"id":1}"#]).await;
    refused.code(1).says(&["`operated::bill`: ", "missing field `customer`", "--force"]);
    run_on(&server, &["publish", subject, r#"{"id":1}"#, "--force"]).await.code(0);
    let again = run_with(&["publish", subject, "-", "--id", "a", "--json"], &[("NATS_URL", &server.url())], good).await;
    let expected = json!({ "version": 1, "stream": "SHOP", "sequence": 1, "duplicate": true });
    assert_eq!(again.code(0).json(), expected);
    run_on(&server, &["publish", subject, good, "--header", "Tenant"]).await.code(1).says(&["`--header` is `Tenant`"]);
    let message = server.jetstream().await.get_stream("SHOP").await.unwrap().get_raw_message(1).await.unwrap();
    assert_eq!(message.headers.get("Tenant").map(|value| value.as_str()), Some("eu"));
    assert_eq!(&*message.payload, good.as_bytes());
    drop(broker);
}

#[tokio::test]
async fn service_without_arguments_runs_its_handlers() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    let mut service = Program::start(SERVICE, &[], &[("NATS_URL", &server.url())]);
    until_started(&server).await;
    broker.publish("shop.orders.created", &json!({ "id": 7, "customer": "Ada" })).await.unwrap();
    assert_eq!(service.until("billed ").await, "7");
    service.signal("TERM");
    assert!(service.ended().await.success());
    let mut only = Program::start(SERVICE, &["run", "--group", "nothing"], &[("NATS_URL", &server.url())]);
    assert_eq!(only.ended().await.code(), Some(1));
    assert!(only.output().contains("no handler has `group = \"nothing\"`"), "{}", only.output());
}

#[tokio::test]
async fn arguments_that_do_not_fit_are_named() {
    run(&["handlrs"]).await.code(1).says(&["unrecognized subcommand 'handlrs'", "handlers"]);
    run(&["check", "--context", "nowhere"]).await.code(1).says(&["the context is `nowhere`", "HOME"]);
    let home = tempfile::tempdir().unwrap();
    let variables = [("XDG_CONFIG_HOME", home.path().to_str().unwrap())];
    let unknown = run_with(&["status", "--context", "nowhere"], &variables, "").await;
    unknown.code(1).says(&["the context is `nowhere`", "nats/context/nowhere.json", "nats context ls"]);
    run(&["status", "--server", "nats://127.0.0.1:1"]).await.code(1).says(&["no server at `nats://127.0.0.1:1`"]);
    run(&["--version"]).await.code(0).says(&["1.2.3"]);
    run(&["help"]).await.code(0).says(&["handlers", "status", "completions"]);
    run(&["completions", "bash"]).await.code(0).says(&["complete -F", "operated"]);
}

#[tokio::test]
async fn output_that_is_piped_has_no_colors() {
    let found = run(&["check", "--offline"]).await;
    assert!(!found.code(0).stdout.contains('\u{1b}'), "{found:?}");
}

#[tokio::test]
async fn asyncapi_document_is_printed_and_compared() {
    let printed = run(&["asyncapi"]).await;
    let document = printed.code(0).says(&["without a schema: `operated::Order` of `operated::bill`"]).json();
    let info = (&document["info"]["title"], &document["info"]["version"]);
    assert_eq!(info, (&json!("operated"), &json!("1.2.3")));
    assert_eq!(document["operations"]["operated.bill"]["description"], "Bills an order.");
    run(&["asyncapi", "--require-schemas"]).await.code(1).says(&["payloads have no schema: `operated::Order` of"]);
    let yaml = run(&["asyncapi", "--yaml"]).await;
    assert!(yaml.code(0).stdout.starts_with("asyncapi: \"3.1.0\"\n"), "{yaml:?}");
    let named = run(&["asyncapi", "--server", "nats://ada:secret@one:4222,tls://two:4222"]).await;
    let servers = json!({
        "server-1": { "host": "one:4222", "protocol": "nats" },
        "server-2": { "host": "two:4222", "protocol": "nats", "description": "Requires TLS." },
    });
    assert_eq!(named.code(0).json()["servers"], servers);

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("asyncapi.json");
    let file = path.to_str().unwrap();
    let written = run(&["asyncapi", "-o", file]).await;
    assert_eq!(written.code(0).stdout, "");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), printed.stdout);
    run(&["asyncapi", "diff", file]).await.code(0).says(&["no changes"]);

    let mut earlier = document;
    earlier["operations"]["operated.bill"]["x-jetstream"]["stream"] = "SALES".into();
    std::fs::write(&path, earlier.to_string()).unwrap();
    run(&["asyncapi", "diff", file]).await.code(0).says(&["dangerous: `operated.bill` receives `shop.orders.created`"]);
    run(&["asyncapi", "diff", file, "--fail-on", "dangerous"]).await.code(2);
    earlier["operations"]["operated.bill"]["x-jetstream"]["consumer"] = "bills".into();
    std::fs::write(&path, earlier.to_string()).unwrap();
    let compared = run(&["asyncapi", "diff", file, "--json"]).await;
    let changes = compared.code(2).json();
    assert_eq!((&changes["version"], &changes["changes"][0]["severity"]), (&json!(1), &json!("breaking")));
    assert_eq!(changes["changes"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn document_that_cannot_be_compared_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("asyncapi.json");
    let file = path.to_str().unwrap();
    run(&["asyncapi", "diff", file]).await.code(1).says(&["asyncapi.json` cannot be read: No such file"]);
    for (text, problem) in [
        ("{\n  \"asyncapi\" \"3.1.0\"\n}", "not valid JSON: expected `:` at line 2 column 14"),
        ("asyncapi: 3.1.0", "it seems to be YAML"),
        ("{\"asyncapi\": \"2.6.0\"}", "`asyncapi` is `2.6.0`"),
        ("{}", "the document has no field `asyncapi`"),
    ] {
        std::fs::write(&path, text).unwrap();
        run(&["asyncapi", "diff", file]).await.code(1).says(&["asyncapi.json`: ", problem]);
    }
    std::fs::write(&path, b"\xff").unwrap();
    run(&["asyncapi", "diff", file]).await.code(1).says(&["asyncapi.json` cannot be read"]);
    let folder = folder.path().to_str().unwrap();
    run(&["asyncapi", "-o", folder]).await.code(1).says(&["cannot be written"]);
}
