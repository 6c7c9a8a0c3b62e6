//! The examples run, and duplicated texts are equal: the READMEs, and a file of both crates.

#![allow(clippy::unwrap_used, reason = "tests may panic")]

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use jetstream_handlers::prelude::*;
use jetstream_handlers_tests::Server;
use serde_json::json;
use tokio::process::Command;
use tokio::time::timeout;

/// The timeout of an example.
const TIMEOUT: Duration = secs(60);

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(workspace().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Returns the program of an example.
///
/// `cargo test --workspace` builds it; when this file runs alone, it is built here.
fn program(example: &str) -> PathBuf {
    static BUILT: OnceLock<()> = OnceLock::new();
    let tests = std::env::current_exe().unwrap();
    let profile = tests.parent().and_then(Path::parent).unwrap();
    let program = profile.join("examples").join(example);
    if !is_fresh(&program) {
        BUILT.get_or_init(|| build(profile));
    }
    assert!(program.is_file(), "Cargo did not build {}", program.display());
    program
}

/// Returns `true` if a program is newer than all files of which it is built.
fn is_fresh(program: &Path) -> bool {
    let modified = |path: &Path| path.metadata().and_then(|metadata| metadata.modified()).ok();
    let (Some(built), Ok(list)) = (modified(program), std::fs::read_to_string(program.with_extension("d"))) else {
        return false;
    };
    let sources = list.split_once(": ").map_or("", |(_, sources)| sources);
    // A space within a path is escaped; such a path is not found, and the program is built.
    sources.split_whitespace().all(|source| modified(Path::new(source)).is_some_and(|changed| changed <= built))
}

fn build(profile: &Path) {
    let mut command = std::process::Command::new(env!("CARGO"));
    command.args(["build", "--package", "jetstream-handlers-examples", "--examples"]).current_dir(workspace());
    if profile.ends_with("release") {
        command.arg("--release");
    }
    // Some build scripts run again when these variables of the test change.
    for (name, _) in std::env::vars_os() {
        if ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
            command.env_remove(name);
        }
    }
    assert!(command.status().unwrap().success(), "the examples do not build");
}

/// Runs an example to its end, and returns its output.
async fn run(example: &str, url: Option<&str>) -> String {
    let mut command = Command::new(program(example));
    command.kill_on_drop(true).stdin(Stdio::null()).env_remove("NATS_URL").envs(url.map(|url| ("NATS_URL", url)));
    let output = timeout(TIMEOUT, command.output()).await.unwrap_or_else(|_| panic!("`{example}` does not end"));
    let Output { status, stdout, stderr } = output.unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "`{example}`: {status}\n{stdout}\n{stderr}");
    stdout.into_owned()
}

fn assert_lines(printed: &str, expected: &[&str]) {
    for line in expected {
        assert!(printed.contains(line), "no {line:?} in\n{printed}");
    }
}

const ORDERS: [&str; 5] = [
    "shop      order 1 of Ada: stored in ORDERS as message",
    "billing   order 2 of Grace: the bank does not answer, so it is retried",
    "billing   order 2 of Grace: paid in attempt 2",
    r#"orders.paid: {"id":2,"attempts":2}"#,
    "All 4 orders are paid",
];

#[tokio::test]
async fn orders_runs_in_memory() {
    let printed = run("orders", None).await;
    assert_lines(&printed, &ORDERS);
    assert_lines(&printed, &["Running in memory, where nothing is persisted; set NATS_URL"]);
}

#[tokio::test]
async fn events_runs_in_memory_and_on_a_server() {
    let server = Server::start().await;
    for url in [None, Some(server.url())] {
        let printed = run("events", url.as_deref()).await;
        let expected = [
            "shipping  order 1 of Ada in eu",
            "report    eu: order 1 is created",
            "report    us: order 2 is paid with 95",
            "letter    `{region}` of `demo.orders.{region}.created` is `mars` in the subject `demo.orders.mars.created`",
        ];
        assert_lines(&printed, &expected);
    }
}

#[tokio::test]
async fn orders_runs_repeatedly_on_a_server() {
    let server = Server::start().await;
    // A message of another program in the stream is handled as well.
    let broker = Broker::connect(server.url()).await.unwrap();
    broker.publish("orders.created", &json!({ "id": 123, "customer": "Alan" })).await.unwrap();
    for _ in 0..2 {
        let printed = run("orders", Some(&server.url())).await;
        assert_lines(&printed, &ORDERS);
        assert_lines(&printed, &[&format!("Using the server at {}.", server.url())]);
    }
    let mut stream = server.jetstream().await.get_stream("ORDERS").await.unwrap();
    assert_eq!(stream.info().await.unwrap().state.messages, 2 + 2 * 8);
}

const OUTPUTS: [&str; 5] = [
    "warehouse order 2: the shelf is empty, so it is retried, and publishes nothing yet",
    "post      parcel 2 of order 1",
    "post      parcel 2 of order 2",
    "letters   order 3: the order is empty",
    "All parcels are sent.",
];

#[tokio::test]
async fn outputs_runs_in_memory_and_on_a_server() {
    assert_lines(&run("outputs", None).await, &OUTPUTS);
    let server = Server::start().await;
    assert_lines(&run("outputs", Some(&server.url())).await, &OUTPUTS);
}

#[tokio::test]
async fn lifecycle_serves_itself_and_ends() {
    let printed = run("lifecycle", None).await;
    assert_lines(
        &printed,
        &[
            "GET /health -> HTTP/1.1 200 OK: connected; lifecycle::cook: running",
            "POST /orders -> HTTP/1.1 201 Created: stored in ORDERS as message 2",
            "GET /menu -> HTTP/1.1 404 Not Found",
            "The handlers have stopped",
            "Disconnected.",
        ],
    );
}

#[tokio::test]
async fn codecs_decodes_each_format() {
    let printed = run("codecs", None).await;
    assert_lines(
        &printed,
        &[
            "reading   kitchen has 21.5 °C, as application/msgpack",
            "reading   kitchen has 22 °C, as application/json",
            "rejected: the payload is not valid JSON for `codecs::Reading`: celsius: invalid type: string \"warm\"",
            "alarm     of attic",
            "note      \"attic is too hot\"",
            "report    200 readings in ",
            "All messages are handled.",
        ],
    );
}

#[tokio::test]
async fn metrics_serves_metrics_and_probes() {
    let printed = run("metrics", None).await;
    assert_lines(
        &printed,
        &[
            "GET /metrics -> HTTP/1.1 200 OK",
            r#"jetstream_handlers_messages_settled_total{handler="metrics::ship",stream="SHOP",consumer="shipping",outcome="ack"} "#,
            "GET /livez -> HTTP/1.1 200 OK",
            "GET /readyz -> HTTP/1.1 200 OK",
        ],
    );
}

#[tokio::test]
async fn layers_charges_every_order() {
    let server = Server::start().await;
    for url in [None, Some(server.url())] {
        let printed = run("layers", url.as_deref()).await;
        assert_lines(
            &printed,
            &["order 1: the provider does not answer", "is charged in attempt 2", "All orders are charged."],
        );
        // The fourth one is the message that the breaker tries after its first cooldown.
        assert_eq!(printed.matches("the provider does not answer").count(), 4, "{printed}");
    }
}

#[tokio::test]
async fn keys_books_the_payments_of_each_account_in_order() {
    let server = Server::start().await;
    for url in [None, Some(server.url())] {
        let printed = run("keys", url.as_deref()).await;
        for account in 1..=3 {
            assert!(printed.contains(&format!("Account {account}: 1, 2, 3, 4")), "{printed}");
        }
        let position = |line: &str| printed.find(line).unwrap_or_else(|| panic!("`{line}` is missing: {printed}"));
        assert!(position("account 3: payment 4") < position("account 2: payment 1\n"), "{printed}");
    }
}

#[tokio::test]
async fn batches_finds_the_reading_that_is_refused() {
    let server = Server::start().await;
    for url in [None, Some(server.url())] {
        let printed = run("batches", url.as_deref()).await;
        assert_lines(
            &printed,
            &["stored 100 readings", "Stored 249 readings; refused: meter 123 has a negative reading."],
        );
    }
}

#[tokio::test]
async fn tracing_prints_one_trace() {
    let server = Server::start().await;
    for url in [None, Some(server.url())] {
        let printed = run("tracing", url.as_deref()).await;
        let spans = printed.lines().skip_while(|line| !line.starts_with("POST /orders"));
        let spans: Vec<Vec<_>> = spans.map(|line| line.split_whitespace().collect()).collect();
        let expected = [
            "POST /orders internal",
            "publish tracing.{region}.orders producer",
            "process tracing.{region}.orders consumer ack",
            "publish tracing.invoices producer",
            "process tracing.invoices consumer retry",
            "process tracing.invoices consumer dead_letter",
            "publish dlq.TRACING.mailer client",
        ];
        assert_eq!(spans.iter().map(|words| words.join(" ")).collect::<Vec<_>>(), expected, "{printed}");
    }
}

#[tokio::test]
async fn tls_auth_connects_and_is_refused() {
    let printed = run("tls_auth", None).await;
    assert_lines(
        &printed,
        &[
            "Started a nats-server at tls://127.0.0.1:",
            "connected, stored message 1 in SECRETS",
            "refused the credentials",
        ],
    );
    assert!(!printed.contains("which was not expected"), "{printed}");
}

#[test]
fn quickstart_is_the_front_page() {
    let quickstart = read("examples/quickstart.rs");
    let code = quickstart.lines().skip_while(|line| line.is_empty() || line.starts_with("//!"));
    let code = code.map(|line| format!("{line}\n")).collect::<String>();
    for readme in ["README.md", "README.zh-TW.md"] {
        assert_eq!(blocks(&read(readme))[0], format!("```rust,no_run\n{code}```\n"), "{readme}");
    }
}

#[test]
fn readmes_have_the_same_sections_and_code() {
    let (english, chinese) = (read("README.md"), read("README.zh-TW.md"));
    assert_eq!(levels(&english), levels(&chinese), "the levels of the headings");
    assert_eq!(blocks(&english), blocks(&chinese));
}

/// They validate the settings at compile time and at run time.
#[test]
fn rules_are_the_same_in_both_crates() {
    for file in ["rules.rs", "spelling.rs", "pattern.rs", "duration.rs"] {
        let (library, macros) =
            (format!("jetstream-handlers/src/{file}"), format!("jetstream-handlers-macros/src/{file}"));
        assert_eq!(read(&library), read(&macros), "{file}");
    }
}

/// Returns the fenced blocks of a page, with their fences.
fn blocks(page: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut open: Option<String> = None;
    for line in page.lines() {
        let fence = line.starts_with("```");
        if let Some(block) = &mut open {
            block.push_str(line);
            block.push('\n');
            if fence {
                blocks.extend(open.take());
            }
        } else if fence {
            open = Some(format!("{line}\n"));
        }
    }
    blocks
}

/// Returns the level of each heading of a page.
fn levels(page: &str) -> Vec<usize> {
    let mut in_block = false;
    let mut levels = Vec::new();
    for line in page.lines() {
        in_block ^= line.starts_with("```");
        if line.starts_with('#') && !in_block {
            levels.push(line.bytes().take_while(|byte| *byte == b'#').count());
        }
    }
    levels
}
