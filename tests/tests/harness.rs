//! Tests of the test support itself.

#![allow(clippy::unwrap_used, reason = "tests may panic")]

use async_nats::jetstream::{self, stream};
use futures::StreamExt as _;
use jetstream_handlers::prelude::secs;
use jetstream_handlers_tests::{Cluster, Proxy, SOON, Server, binary, eventually, ms};
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The comparison of the benchmark program, which has no tests of its own.
#[allow(dead_code, reason = "the program also reads, prints and writes the table")]
#[path = "../../jetstream-handlers/benches/engine/instr/compared.rs"]
mod compared;

/// The timeout for the election of a leader.
const ELECTION: Duration = secs(30);
/// The variable that is set in the process of [`owner`].
const OWNER: &str = "HARNESS_OWNER";

#[tokio::test]
async fn server_starts_quickly_and_answers() {
    binary::path();
    let start = Instant::now();
    let server = Server::start().await;
    let took = start.elapsed();
    assert!(took < secs(5), "{took:?}");

    let client = server.client().await;
    let (major, minor, patch) = binary::version();
    assert_eq!(client.server_info().version, format!("{major}.{minor}.{patch}"));
    jetstream::new(client).query_account().await.unwrap();
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn pid_belongs_to_the_server() {
    let server = Server::start().await;
    let program = fs::read_link(format!("/proc/{}/exe", server.pid())).unwrap();
    assert_eq!(program, binary::path());
}

#[tokio::test]
async fn restart_keeps_port_and_store() {
    let mut server = Server::start().await;
    let client = server.client().await;
    let jetstream = jetstream::new(client.clone());
    create_stream(&jetstream, 1).await;
    publish(&jetstream).await;
    let (url, pid) = (server.url(), server.pid());

    server.restart().await;
    assert_eq!(server.url(), url);
    assert_ne!(server.pid(), pid);
    eventually("the stored message", SOON, async || (count(&jetstream).await? == 1).then_some(())).await;

    server.terminate().await;
    assert!(!server.is_up());
    server.restart().await;
    assert!(server.is_up());
    eventually("the stored message", SOON, async || (count(&jetstream).await? == 1).then_some(())).await;
}

#[tokio::test]
async fn frozen_server_is_silent_until_thawed() {
    let mut server = Server::start().await;
    let client = server.client().await;
    server.freeze();
    let silence = tokio::time::timeout(ms(200), round_trip(&client)).await;
    assert!(silence.is_err());
    server.thaw();
    tokio::time::timeout(SOON, round_trip(&client)).await.unwrap();
}

#[tokio::test]
async fn lame_duck_without_clients_ends_the_server() {
    let mut server = Server::start().await;
    server.lame_duck();
    server.ended().await;
    assert!(server.log().contains("lame duck mode"), "{}", server.log());
}

#[tokio::test]
async fn url_has_credentials_and_reload_applies_new_ones() {
    let config = |password: &str| {
        format!(
            "max_payload: 1000\n\
             accounts {{ A {{ jetstream: enabled, users: [{{ user: a, password: {password} }}] }} }}"
        )
    };
    let mut server = Server::builder().config(&config("b")).user("a", "b").start().await;
    assert!(server.url().starts_with("nats://a:b@127.0.0.1:"));
    assert_eq!(server.client().await.server_info().max_payload, 1000);

    server.reload(&config("c"));
    let url = server.url();
    eventually("the old password is refused", SOON, async || {
        let options = async_nats::ConnectOptions::with_user_and_password("a".into(), "b".into());
        options.connect(&url).await.err()
    })
    .await;
}

#[tokio::test]
async fn invalid_configuration_is_reported() {
    let parts = Server::builder().config("max_payload: often").try_start().await.unwrap_err();
    assert!(parts.contains("server.conf"), "{parts}");
}

#[tokio::test]
async fn server_can_start_without_jetstream() {
    let server = Server::builder().without_jetstream().start().await;
    assert!(server.jetstream().await.query_account().await.is_err());
}

#[tokio::test]
async fn drop_leaves_no_process_and_no_folder() {
    let mut frozen = Server::start().await;
    frozen.freeze();
    for server in [Server::start().await, frozen] {
        let traces = Traces::of(&server);
        assert!(!traces.are_gone());
        drop(server);
        assert!(traces.are_gone());
    }
}

#[test]
fn killed_owner_leaves_no_process_and_no_folder() {
    let mut owner = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "owner", "--nocapture"])
        .env(OWNER, "")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let traces: Vec<Traces> = BufReader::new(owner.stdout.take().unwrap())
        .lines()
        .filter_map(|line| Traces::parse(&line.unwrap()))
        .take(2)
        .collect();
    assert_eq!(traces.len(), 2);
    assert!(!traces.iter().any(Traces::are_gone));

    owner.kill().unwrap();
    owner.wait().unwrap();
    let end = Instant::now() + SOON;
    while !traces.iter().all(Traces::are_gone) {
        assert!(Instant::now() < end, "not removed: {traces:?}");
        std::thread::sleep(ms(5));
    }
}

/// The process of the test above; without the variable it does nothing.
#[tokio::test]
async fn owner() {
    if std::env::var_os(OWNER).is_none() {
        return;
    }
    let running = Server::start().await;
    let mut frozen = Server::start().await;
    frozen.freeze();
    for server in [&running, &frozen] {
        println!("\n{}", Traces::of(server).line());
    }
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn cluster_elects_a_new_leader() {
    let mut cluster = Cluster::start().await;
    assert_eq!(cluster.urls().len(), 3);
    let jetstream = cluster.jetstream().await;
    let stream = create_stream(&jetstream, 3).await;
    let consumer = jetstream::consumer::pull::Config { durable_name: Some("worker".to_owned()), ..Default::default() };
    stream.create_consumer(consumer).await.unwrap();
    publish(&jetstream).await;
    cluster.leader_of_consumer("EVENTS", "worker").await;

    let old = cluster.leader_of_stream("EVENTS").await;
    cluster.node(old).kill();
    let new = cluster.leader_of_stream("EVENTS").await;
    assert_ne!(new, old);
    let jetstream = cluster.jetstream().await;
    eventually("a second message", ELECTION, async || {
        let ack = jetstream.publish("events", "".into()).await.ok()?;
        ack.await.ok()
    })
    .await;

    cluster.node(old).restart().await;
    cluster.node(new).freeze();
    assert_ne!(cluster.leader_of_stream("EVENTS").await, new);
    cluster.node(new).thaw();
}

#[tokio::test]
async fn proxy_can_be_cut_paused_and_closed() {
    let server = Server::start().await;
    let proxy = Proxy::start(server.address()).await;
    let (events, mut received) = tokio::sync::mpsc::unbounded_channel();
    let client = async_nats::ConnectOptions::new()
        .event_callback(move |event| {
            let events = events.clone();
            async move {
                let _ = events.send(event);
            }
        })
        .connect(proxy.url())
        .await
        .unwrap();
    let mut subscriber = client.subscribe("events").await.unwrap();
    round_trip(&client).await;

    let publisher = server.client().await;
    proxy.pause();
    publisher.publish("events", "".into()).await.unwrap();
    publisher.flush().await.unwrap();
    let paused = tokio::time::timeout(ms(100), subscriber.next()).await;
    assert!(paused.is_err());
    proxy.resume();
    assert!(tokio::time::timeout(SOON, subscriber.next()).await.unwrap().is_some());

    proxy.refuse();
    proxy.cut();
    while received.recv().await.unwrap() != async_nats::Event::Disconnected {}
    tokio::time::sleep(ms(50)).await;
    assert_ne!(client.connection_state(), async_nats::connection::State::Connected);
    proxy.accept();
    while received.recv().await.unwrap() != async_nats::Event::Connected {}
    round_trip(&client).await;

    drop(proxy);
    while received.recv().await.unwrap() != async_nats::Event::Disconnected {}
}

#[tokio::test]
#[should_panic(expected = "a pending poll")]
async fn eventually_times_out_a_pending_poll() {
    eventually("a pending poll", ms(20), std::future::pending::<Option<()>>).await;
}

/// Waits until the server has received what the client has sent.
async fn round_trip(client: &async_nats::Client) {
    let reply = client.request("$JS.API.INFO", "".into()).await;
    reply.unwrap();
}

async fn create_stream(jetstream: &jetstream::Context, replicas: usize) -> stream::Stream {
    let config = stream::Config {
        name: "EVENTS".to_owned(),
        subjects: vec!["events".to_owned()],
        num_replicas: replicas,
        ..Default::default()
    };
    jetstream.create_stream(config).await.unwrap()
}

async fn publish(jetstream: &jetstream::Context) {
    let ack = jetstream.publish("events", "".into()).await.unwrap();
    ack.await.unwrap();
}

async fn count(jetstream: &jetstream::Context) -> Option<u64> {
    let stream = jetstream.get_stream("EVENTS").await.ok()?;
    Some(stream.cached_info().state.messages)
}

/// The process, address and folder of a server.
#[derive(Debug)]
struct Traces {
    pid: u32,
    address: SocketAddr,
    folder: PathBuf,
}

impl Traces {
    fn of(server: &Server) -> Self {
        Self { pid: server.pid(), address: server.address(), folder: server.folder().to_owned() }
    }

    fn line(&self) -> String {
        let folder = self.folder.display();
        format!("server {} {} {folder}", self.pid, self.address)
    }

    fn parse(line: &str) -> Option<Self> {
        let mut words = line.strip_prefix("server ")?.splitn(3, ' ');
        Some(Self {
            pid: words.next()?.parse().ok()?,
            address: words.next()?.parse().ok()?,
            folder: words.next()?.into(),
        })
    }

    fn are_gone(&self) -> bool {
        !self.is_running() && !self.folder.exists() && TcpStream::connect(self.address).is_err()
    }

    fn is_running(&self) -> bool {
        // A zombie process has no command line.
        fs::read(format!("/proc/{}/cmdline", self.pid)).is_ok_and(|words| !words.is_empty())
    }
}

#[test]
fn instructions_are_compared_with_the_table_of_the_same_compiler() {
    let compare = |compiler: &str, counts: &[(&'static str, u64)], all| {
        let table =
            compared::Table::parse("# text\n\ncompiler = rustc 1\n\nconsume/ours = 10000\nkeys/old = 7\n").unwrap();
        table.compare(compiler, counts, all, Path::new("profiles")).err().unwrap_or_default()
    };
    // One that takes less is printed.
    for count in [9_000, 10_000, 10_299] {
        assert_eq!(compare("rustc 1", &[("consume/ours", count)], false), "");
    }
    let slower = compare("rustc 1", &[("consume/ours", 10_400)], false);
    assert!(
        slower.starts_with(
            "`consume/ours` takes 10400 instructions per message, and 10000 in the table (+4.0 %): find the cause, or accept it by `cargo run --release -p jetstream-handlers-benches -- instr --accept \"consume/ours\"`"
        ),
        "{slower}"
    );
    assert!(slower.ends_with("the profiles are in `profiles`, for `callgrind_annotate`"), "{slower}");
    let missing = compare("rustc 1", &[("keys/1000 keys", 5)], false);
    assert!(
        missing.contains("`keys/1000 keys` takes 5 instructions per message, and is not in the table"),
        "{missing}"
    );
    let removed = compare("rustc 1", &[("consume/ours", 10_000)], true);
    assert!(
        removed.starts_with("`keys/old` is in the table, and is not a row that is counted: remove it"),
        "{removed}"
    );
    assert_eq!(compare("rustc 2", &[("consume/ours", 1)], true), "");
    for text in ["consume/ours 7", "consume/ours = many"] {
        assert!(compared::Table::parse(text).unwrap_err().contains(text));
    }
}
