//! The rights that `Broker::permissions` lists are those that a service needs, and each of them is missed.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jetstream_handlers::async_nats::jetstream::consumer::{AckPolicy, pull};
use jetstream_handlers::async_nats::{Event as ClientEvent, ServerError};
use jetstream_handlers::prelude::*;
use jetstream_handlers::{
    Builder, ChangeAction, Diagnosis, Error, ErrorKind, FindingStatus, Output, Permission, PermissionFormat,
    PermissionLevel, Permissions, Position, stream,
};
use jetstream_handlers_tests::{Recorder, SOON, Server, eventually, run_command, stream_config};
use serde::{Deserialize, Serialize};

/// The time within which a missing right must show.
const NOTICED: Duration = secs(10);

#[derive(Event, Serialize, Deserialize)]
#[event(subject = "shipping.{region}.shipped")]
struct Shipped {
    region: String,
}

type Handled = Recorder<u64>;

/// Fails once for even numbers, and always for numbers from 100 on.
#[subscriber(subject = "orders.created", queue = "billing", max_deliver = 2, backoff = ["10ms"], ack_wait = "2s", publish = "receipts.sent")]
async fn bill(order: u64, State(handled): State<Handled>) -> Result<Output, HandlerError> {
    let attempt = handled.attempt(order);
    if order >= 100 || (order.is_multiple_of(2) && attempt == 1) {
        return Err("no credit".into());
    }
    Ok(Output::new(&order))
}

#[subscriber(subject = "orders.*", queue = "audit", dead_letter = false)]
async fn audit(_order: u64) {}

#[subscriber(subject = ["orders.paid", "orders.refunded"], queue = "ledger", dead_letter = "letters.ledger")]
async fn book(_order: u64) {}

#[subscriber(subject = "orders.packed", queue = "in-order", ordered, dead_letter = false)]
async fn pack(order: u64, State(handled): State<Handled>) {
    handled.add(order);
}

fn service() -> Builder {
    Broker::builder()
        .include::<bill>()
        .include::<audit>()
        .include::<book>()
        .include::<pack>()
        .inbox_prefix("_INBOX_orders")
        .fetch_wait(secs(1))
        .request_timeout(secs(3))
}

async fn permissions(level: PermissionLevel) -> Permissions {
    service().connect_in_memory().permissions(level).await.unwrap()
}

/// Returns a configuration with the users `admin`, and `worker` with the rights in the server's own format.
fn config(rights: &str) -> String {
    format!(
        "accounts {{ APP {{ jetstream: enabled, users: [
            {{ user: admin, password: secret }},
            {{ user: worker, password: secret\n{rights} }} ] }} }}"
    )
}

fn all_rights(permissions: &Permissions) -> Vec<(&'static str, &Permission)> {
    let publish = permissions.publish().map(|right| ("publish", right));
    publish.chain(permissions.subscribe().map(|right| ("subscribe", right))).collect()
}

/// Returns the rights in the server's format, without one of them.
fn without(permissions: &Permissions, missing: &(&'static str, &Permission)) -> String {
    let mut text = "permissions: {\n".to_owned();
    for operation in ["publish", "subscribe"] {
        let kept = all_rights(permissions).into_iter().filter(|right| right != missing && right.0 == operation);
        let kept: Vec<_> = kept.map(|(_, right)| format!("{:?}", right.subject())).collect();
        let list = if kept.is_empty() { "deny: [\">\"]".to_owned() } else { format!("allow: [{}]", kept.join(", ")) };
        text.push_str(&format!("{operation}: {{ {list} }}\n"));
    }
    text + "}\n"
}

/// A server with the users of [`config`].
struct Node {
    server: Server,
    reloads: usize,
}

impl Node {
    async fn start(rights: &str) -> Self {
        let server = Server::builder().config(&config(rights)).user("admin", "secret").start().await;
        Self { server, reloads: 0 }
    }

    async fn admin(&self) -> Broker {
        let admin = |options: jetstream_handlers::async_nats::ConnectOptions| {
            options.user_and_password("admin".into(), "secret".into())
        };
        service().servers([self.server.url()]).state(Handled::new()).connect_options(admin).connect().await.unwrap()
    }

    /// Creates the streams and the consumers, as a start with all rights does.
    async fn provision(&self) {
        let admin = self.admin().await;
        let jetstream = self.server.jetstream().await;
        jetstream.create_stream(stream_config("SHIPPING", &["shipping.>"])).await.unwrap();
        admin.start_all().await.unwrap().shutdown().await.unwrap();
        admin.disconnect().await.unwrap();
    }

    async fn delete_streams(&self) {
        let jetstream = self.server.jetstream().await;
        for stream in ["ORDERS", "RECEIPTS", "SHIPPING", "DLQ", "LETTERS", "AUDITED"] {
            jetstream.delete_stream(stream).await.ok();
        }
    }

    /// Sets other rights of the worker, and waits until the server has them.
    async fn set(&mut self, rights: &str) {
        self.reloads += 1;
        self.server.reload(&config(rights));
        eventually("the server has reloaded its configuration", SOON, async || {
            (self.server.log().matches("Reloaded server configuration").count() >= self.reloads).then_some(())
        })
        .await;
    }
}

/// The report of a worker about its rights.
#[derive(Clone, Default)]
struct Reports(Arc<Mutex<Vec<String>>>);

impl Reports {
    fn violations(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

async fn worker(node: &Node, reports: &Reports, handled: &Handled) -> Result<Broker, Error> {
    connected(service(), node, reports, handled).await
}

/// Connects with the user whose rights are limited.
async fn connected(builder: Builder, node: &Node, reports: &Reports, handled: &Handled) -> Result<Broker, Error> {
    let reports = reports.clone();
    builder
        .servers([node.server.url()])
        .state(handled.clone())
        .publish_timeout(secs(3))
        .shutdown_grace(secs(1))
        .connect_options(|options| options.user_and_password("worker".into(), "secret".into()))
        .on_client_event(move |event| {
            if let ClientEvent::ServerError(ServerError::Other(text)) = event
                && text.starts_with("Permissions Violation")
            {
                reports.0.lock().unwrap().push(text.clone());
            }
        })
        .connect()
        .await
}

/// Runs the life of a service: it starts, handles, retries, stores a dead letter, survives a lost connection and, if it may,
/// a deleted consumer, publishes and stops.
async fn life(node: &Node, level: PermissionLevel, reports: &Reports) -> Result<(), Error> {
    let handled = Handled::new();
    let broker = worker(node, reports, &handled).await?;
    let admin = node.admin().await;
    let running = broker.start_all().await?;
    broker.send(&Shipped { region: "eu".to_owned() }).await?;
    for order in [1, 2, 101] {
        admin.publish("orders.created", &order).await?;
    }
    for order in [11, 12] {
        admin.publish("orders.packed", &order).await?;
    }
    // Cannot be decoded.
    admin.publish("orders.paid", "x").await?;
    for order in [1, 2, 101, 11, 12] {
        handled.until(order).await;
    }
    for stream in ["DLQ", "LETTERS"] {
        let letters = admin.dead_letters().stream(stream);
        eventually(&format!("a dead letter in {stream}"), SOON, async || letters.list(1).await.ok()?.pop()).await;
    }
    node.server.all_acked("ORDERS", "billing").await;
    broker.client().unwrap().force_reconnect().await.unwrap();
    admin.publish("orders.created", &3).await?;
    handled.until(3).await;
    if level != PermissionLevel::Run {
        let orders = node.server.jetstream().await.get_stream("ORDERS").await.unwrap();
        orders.delete_consumer("billing").await.unwrap();
        admin.publish("orders.created", &5).await?;
        handled.until(5).await;
    }
    node.server.all_acked("ORDERS", "billing").await;
    running.shutdown().await?;
    broker.disconnect().await?;
    admin.disconnect().await
}

fn subjects(permissions: &Permissions) -> BTreeSet<(&'static str, String)> {
    all_rights(permissions).into_iter().map(|(operation, right)| (operation, right.subject().to_owned())).collect()
}

#[tokio::test]
async fn rights_to_run_pass_the_whole_life_of_a_service() {
    let run = permissions(PermissionLevel::Run).await;
    let node = Node::start(&run.format(PermissionFormat::Server, "worker")).await;
    node.provision().await;
    let reports = Reports::default();
    life(&node, PermissionLevel::Run, &reports).await.unwrap();
    // What is optional is tried, and denied.
    let info = permissions(PermissionLevel::RunInfo).await;
    let optional: Vec<_> = all_rights(&info).into_iter().filter(|(_, right)| right.is_optional()).collect();
    for violation in reports.violations() {
        let is_optional = optional.iter().any(|(_, right)| names(&violation, right.subject()));
        assert!(is_optional, "{violation}");
    }
}

#[tokio::test]
async fn rights_to_run_with_info_are_never_exceeded() {
    let info = permissions(PermissionLevel::RunInfo).await;
    let node = Node::start(&info.format(PermissionFormat::Server, "worker")).await;
    node.provision().await;
    let reports = Reports::default();
    life(&node, PermissionLevel::RunInfo, &reports).await.unwrap();
    assert_eq!(reports.violations(), [""; 0]);
    let run = subjects(&permissions(PermissionLevel::Run).await);
    assert!(run.is_subset(&subjects(&info)));
}

#[tokio::test]
async fn rights_to_provision_are_never_exceeded() {
    let provision = permissions(PermissionLevel::Provision).await;
    let node = Node::start(&provision.format(PermissionFormat::Server, "worker")).await;
    let reports = Reports::default();
    life(&node, PermissionLevel::Provision, &reports).await.unwrap();
    // A second start finds everything.
    life(&node, PermissionLevel::Provision, &reports).await.unwrap();
    assert_eq!(reports.violations(), [""; 0]);
}

#[tokio::test]
async fn rights_to_publish_are_never_exceeded_and_each_is_missed() {
    let publish = permissions(PermissionLevel::Publish).await.with_publish("orders.{kind}").unwrap();
    let mut node = Node::start(&publish.format(PermissionFormat::Server, "worker")).await;
    node.provision().await;
    let reports = Reports::default();
    let published = async |broker: &Broker| {
        broker.send(&Shipped { region: "eu".to_owned() }).await?;
        broker.publish("receipts.sent", &1).await?;
        broker.publish("orders.created", &1).await
    };
    let broker = worker(&node, &reports, &Handled::new()).await.unwrap();
    published(&broker).await.unwrap();
    broker.disconnect().await.unwrap();
    assert_eq!(reports.violations(), [""; 0]);
    for right in all_rights(&publish) {
        node.set(&without(&publish, &right)).await;
        let broker = worker(&node, &reports, &Handled::new()).await.unwrap();
        let error = published(&broker).await.expect_err(right.1.subject());
        assert_eq!(error.kind(), ErrorKind::Authorization, "{right:?}: {error:?}");
        assert!(names(&error.to_string(), right.1.subject()), "{right:?}: {error}");
        broker.disconnect().await.unwrap();
    }
}

/// Returns `true` if a text names a subject that this pattern matches.
fn names(text: &str, pattern: &str) -> bool {
    let matches = |subject: &str| {
        let mut tokens = subject.split('.');
        for expected in pattern.split('.') {
            match (expected, tokens.next()) {
                (">", Some(_)) => return true,
                ("*", Some(_)) => {}
                (expected, Some(token)) if expected == token => {}
                _ => return false,
            }
        }
        tokens.next().is_none()
    };
    text.split(['`', '"', ' ', '\n']).any(matches)
}

/// Returns `true` if something is noticed soon.
async fn eventually_shown(is_noticed: &impl Fn() -> bool) -> bool {
    for _ in 0..100 {
        if is_noticed() {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    false
}

/// Runs the life of a service until something that it reports names a subject; returns what it reported otherwise.
async fn notices(node: &Node, level: PermissionLevel, subject: &str) -> Result<(), String> {
    let (handled, reports) = (Handled::new(), Reports::default());
    let broker = worker(node, &reports, &handled).await.map_err(|error| error.to_string())?;
    let running = match broker.start_all().await {
        Ok(running) => running,
        Err(error) if names(&error.to_string(), subject) => {
            let kinds: Vec<_> = error.problems().iter().map(jetstream_handlers::Problem::kind).collect();
            assert!(kinds.contains(&ErrorKind::Authorization), "{subject}: {error:?}");
            assert!(error.to_string().contains("allow: [\""), "{subject}: {error}");
            return broker.disconnect().await.map_err(|error| error.to_string());
        }
        Err(error) => return Err(format!("{error:?}")),
    };
    let admin = node.admin().await;
    let sent = broker.send(&Shipped { region: "eu".to_owned() }).await;
    let is_noticed = || names(&broker.health().to_string(), subject);
    let of_publish =
        sent.is_err_and(|error| error.kind() == ErrorKind::Authorization && names(&error.to_string(), subject));
    let noticed = async {
        if of_publish {
            return;
        }
        for (subject, order) in [("orders.created", 1), ("orders.created", 101), ("orders.packed", 11)] {
            admin.publish(subject, &order).await.unwrap();
        }
        admin.publish("orders.paid", "x").await.unwrap();
        eventually(&format!("the health names `{subject}`: {}", broker.health()), NOTICED, async || {
            if handled.count(11) > 0 && level != PermissionLevel::Run {
                let orders = node.server.jetstream().await.get_stream("ORDERS").await.ok()?;
                orders.delete_consumer("billing").await.ok();
            }
            // The health shows the last error; what is sent to the own inbox follows a reconnect.
            if eventually_shown(&is_noticed).await {
                return Some(());
            }
            broker.client().unwrap().force_reconnect().await.ok();
            None
        })
        .await;
    };
    noticed.await;
    running.shutdown().await.ok();
    broker.disconnect().await.ok();
    admin.disconnect().await.map_err(|error| error.to_string())
}

/// Takes the required rights of a level away one by one, except for those of another level.
async fn each_is_missed(level: PermissionLevel, except: &BTreeSet<(&'static str, String)>) {
    let rights = permissions(level).await;
    let mut node = Node::start(&rights.format(PermissionFormat::Server, "worker")).await;
    for right in all_rights(&rights) {
        if right.1.is_optional() || except.contains(&(right.0, right.1.subject().to_owned())) {
            continue;
        }
        node.set(&without(&rights, &right)).await;
        node.delete_streams().await;
        if level != PermissionLevel::Provision {
            node.provision().await;
        }
        let noticed = notices(&node, level, right.1.subject()).await;
        assert_eq!(noticed, Ok(()), "without the right to {} to `{}`", right.0, right.1.subject());
    }
}

#[tokio::test]
async fn each_right_to_run_is_missed() {
    each_is_missed(PermissionLevel::Run, &BTreeSet::new()).await;
}

#[tokio::test]
async fn each_right_to_provision_is_missed() {
    let run = subjects(&permissions(PermissionLevel::Run).await);
    each_is_missed(PermissionLevel::Provision, &run).await;
}

/// Returns the findings of the rights, with their status.
fn missing(diagnosis: &Diagnosis) -> Vec<(FindingStatus, String)> {
    let rights = diagnosis.findings().iter().filter(|it| it.check == "rights" && it.status != FindingStatus::Ok);
    rights.map(|it| (it.status, format!("{it}"))).collect()
}

/// Stores dead letters, of which an operator replays all but the first of each stream.
async fn store_letters(node: &Node) {
    let admin = node.admin().await;
    let running = admin.start_all().await.unwrap();
    for order in [100, 101] {
        admin.publish("orders.created", &order).await.unwrap();
    }
    for subject in ["orders.paid", "orders.paid", "orders.refunded"] {
        admin.publish(subject, "x").await.unwrap();
    }
    for (stream, count) in [("DLQ", 2), ("LETTERS", 3)] {
        let letters = admin.dead_letters().stream(stream);
        eventually(&format!("{count} dead letters in {stream}"), SOON, async || {
            (letters.list(10).await.ok()?.len() == count).then_some(())
        })
        .await;
    }
    running.shutdown().await.unwrap();
    admin.disconnect().await.unwrap();
}

/// The service with a declared stream, which a plan updates.
fn operated() -> Builder {
    service().stream(stream_config("AUDITED", &["audited.>"]))
}

/// The errors of what an operator does.
#[derive(Default)]
struct Failed(Vec<String>);

impl Failed {
    fn keep<T>(&mut self, result: Result<T, Error>) -> Option<T> {
        result.map_err(|error| self.0.push(error.to_string())).ok()
    }
}

/// Does what an operator does with a service: with its dead letters, with its handlers, on a server that differs from the
/// code, and on an empty one.
async fn operate(broker: &Broker, node: &Node) -> Vec<String> {
    let mut failed = Failed::default();
    for handler in failed.keep(broker.status().await).unwrap_or_default() {
        failed.0.extend(handler.problem);
    }
    operate_letters(broker, &mut failed).await;
    for handler in ["bill", "audit", "book", "pack"] {
        failed.keep(broker.pause(handler, secs(60)).await);
        failed.keep(broker.resume(handler).await);
        let an_hour_ago = std::time::SystemTime::now() - secs(3600);
        for position in [Position::Time(an_hour_ago), Position::Start, Position::AckFloor] {
            failed.keep(broker.reset(handler, position).await);
        }
    }
    unsettle(node).await;
    let expected = [
        ChangeAction::Update,
        ChangeAction::Create,
        ChangeAction::Update,
        ChangeAction::Recreate,
        ChangeAction::Delete,
    ];
    apply(broker, &expected, &mut failed).await;
    node.delete_streams().await;
    // The streams ORDERS, RECEIPTS, DLQ, LETTERS and AUDITED, and the consumers.
    apply(broker, &[ChangeAction::Create; 9], &mut failed).await;
    failed.0
}

async fn operate_letters(broker: &Broker, failed: &mut Failed) {
    for stream in ["DLQ", "LETTERS"] {
        let letters = broker.dead_letters().stream(stream);
        let list = failed.keep(letters.list(10).await).unwrap_or_default();
        for letter in list.iter().skip(1) {
            failed.keep(letters.replay(letter.sequence).await);
        }
        failed.keep(letters.purge().await);
    }
}

/// Applies a plan that has these changes if the user has all rights.
async fn apply(broker: &Broker, expected: &[ChangeAction], failed: &mut Failed) {
    let Some(plan) = failed.keep(broker.plan().await) else { return };
    let plan = plan.prune();
    failed.0.extend(plan.warnings.iter().cloned());
    let actions: Vec<_> = plan.pending().map(|change| change.action).collect();
    if actions != expected {
        failed.0.push(format!("the plan is not as expected: {plan}"));
    }
    failed.keep(broker.apply(&plan).await);
}

/// Changes the server, so that a plan has a change of every kind.
async fn unsettle(node: &Node) {
    let jetstream = node.server.jetstream().await;
    let smaller = stream::Config { max_messages: 5, ..stream_config("AUDITED", &["audited.>"]) };
    jetstream.create_stream(smaller).await.unwrap();
    let orders = jetstream.get_stream("ORDERS").await.unwrap();
    let mut billing = node.server.consumer_info("ORDERS", "billing").await.config;
    billing.ack_wait = secs(7);
    orders.update_consumer(billing).await.unwrap();
    orders.delete_consumer("ledger").await.unwrap();
    orders.delete_consumer("audit").await.unwrap();
    let audit = pull::Config {
        durable_name: Some("audit".to_owned()),
        filter_subject: "orders.*".to_owned(),
        ack_policy: AckPolicy::All,
        ..pull::Config::default()
    };
    orders.create_consumer(audit).await.unwrap();
    let owner = ("jetstream-handlers.handler".to_owned(), "permissions::forgotten".to_owned());
    let forgotten = pull::Config {
        durable_name: Some("forgotten".to_owned()),
        metadata: [owner].into(),
        ..pull::Config::default()
    };
    orders.create_consumer(forgotten).await.unwrap();
}

#[tokio::test]
async fn rights_to_operate_are_never_exceeded_and_each_is_missed() {
    let rights = operated().connect_in_memory().permissions(PermissionLevel::Operate).await.unwrap();
    let mut node = Node::start(&rights.format(PermissionFormat::Server, "worker")).await;
    node.provision().await;
    store_letters(&node).await;
    let reports = Reports::default();
    let broker = connected(operated(), &node, &reports, &Handled::new()).await.unwrap();
    assert_eq!(operate(&broker, &node).await, [""; 0]);
    assert_eq!(reports.violations(), [""; 0]);
    broker.disconnect().await.unwrap();
    // Without it, the streams that are found by their subjects are enough.
    let is_passed_over = |right: &Permission| right.subject() == "$JS.API.STREAM.LIST";
    for right in all_rights(&rights).into_iter().filter(|(_, right)| !right.is_optional()) {
        node.set(&without(&rights, &right)).await;
        node.delete_streams().await;
        node.provision().await;
        store_letters(&node).await;
        let reports = Reports::default();
        let broker = connected(operated(), &node, &reports, &Handled::new()).await.unwrap();
        let failed = operate(&broker, &node).await;
        let reported = if is_passed_over(right.1) { reports.violations() } else { failed };
        assert!(reported.iter().any(|text| names(text, right.1.subject())), "{right:?}: {reported:#?}");
        broker.disconnect().await.unwrap();
    }
}

#[tokio::test]
async fn rights_to_change_a_consumer_are_those_of_the_new_subject() {
    let node = Node::start("").await;
    node.provision().await;
    let orders = node.server.jetstream().await.get_stream("ORDERS").await.unwrap();
    let mut billing = node.server.consumer_info("ORDERS", "billing").await.config;
    billing.filter_subject = "orders.former".to_owned();
    orders.update_consumer(billing).await.unwrap();
    let admin = node.admin().await;
    for level in [PermissionLevel::RunInfo, PermissionLevel::Provision, PermissionLevel::Operate] {
        let rights = admin.permissions(level).await.unwrap();
        let subjects = subjects(&rights);
        let has = |subject: &str| subjects.contains(&("publish", subject.to_owned()));
        assert!(has("$JS.API.CONSUMER.CREATE.ORDERS.billing.orders.created"), "{rights}");
        assert!(!rights.to_string().contains("orders.former"), "{rights}");
        assert_eq!(has("orders.created"), level == PermissionLevel::Operate, "{rights}");
    }
}

#[subscriber(subject = ">", stream = "EVERYTHING", queue = "everything", dead_letter = "letters")]
async fn take_everything(_order: u64) {}

#[tokio::test]
async fn rights_to_replay_never_include_requests() {
    let taker = || Broker::builder().include::<take_everything>().inbox_prefix("_INBOX_taker");
    let streams = taker().stream(stream_config("EVERYTHING", &["orders.>", "prices"]));
    let rights = streams.connect_in_memory().permissions(PermissionLevel::Operate).await.unwrap();
    let replays = rights.publish().filter(|right| right.purpose().contains("replays"));
    assert_eq!(replays.map(Permission::subject).collect::<Vec<_>>(), ["orders.>", "prices"]);
    let streams = taker().stream(stream::Config { no_ack: true, ..stream_config("EVERYTHING", &["*.>"]) });
    let rights = streams.connect_in_memory().permissions(PermissionLevel::Operate).await.unwrap();
    for right in rights.publish() {
        assert!(!["*.>", ">"].contains(&right.subject()), "{right:?}");
    }
    let text = rights.format(PermissionFormat::Server, "operator");
    assert!(text.contains("# `permissions::take_everything` receives `*.>`, which includes `$JS.API.>`"), "{text}");
}

#[tokio::test]
async fn doctor_names_each_missing_right_and_changes_nothing() {
    let info = permissions(PermissionLevel::RunInfo).await;
    let node = Node::start(
        "permissions: { publish: { allow: [\"_INBOX_orders.>\"] }, subscribe: { allow: [\"_INBOX_orders.>\"] } }",
    )
    .await;
    node.provision().await;
    let admin = node.admin().await;
    admin.publish("orders.created", &7).await.unwrap();
    let jetstream = node.server.jetstream().await;
    let state = async || {
        let mut states = Vec::new();
        for stream in ["ORDERS", "RECEIPTS", "SHIPPING", "DLQ", "LETTERS"] {
            let mut stream = jetstream.get_stream(stream).await.unwrap();
            let info = stream.info().await.unwrap();
            states.push((info.state.last_sequence, info.state.messages, info.state.consumer_count));
        }
        let billing = node.server.consumer_info("ORDERS", "billing").await;
        (states, billing.delivered.consumer_sequence, billing.num_ack_pending, billing.num_pending)
    };
    let before = state().await;
    // The admin has all rights, so that each probe reaches the server.
    let diagnosis = admin.doctor().await.unwrap();
    assert_eq!(missing(&diagnosis), [], "{diagnosis}");
    assert_ne!(diagnosis.status(), FindingStatus::Failed, "{diagnosis}");
    let broker = worker(&node, &Reports::default(), &Handled::new()).await.unwrap();
    let diagnosis = broker.doctor().await.unwrap();
    let found = missing(&diagnosis);
    for (operation, right) in all_rights(&info).into_iter().filter(|(_, right)| right.subject() != "_INBOX_orders.>") {
        let line = format!("`{operation}: {{ allow: [{:?}] }}`", right.subject());
        let status = if right.is_optional() { FindingStatus::Warning } else { FindingStatus::Failed };
        let names_it = found.iter().any(|(found, text)| *found == status && text.contains(&line));
        assert!(names_it, "{line} in {diagnosis}");
    }
    assert_eq!(state().await, before, "nothing is delivered, stored or created");
}

#[tokio::test]
async fn inbox_prefix_is_that_of_the_client_and_of_the_rights() {
    let server = Server::start().await;
    let broker = service().servers([server.url()]).state(Handled::new()).connect().await.unwrap();
    assert!(broker.client().unwrap().new_inbox().starts_with("_INBOX_orders."));
    let rights = broker.permissions(PermissionLevel::Publish).await.unwrap();
    assert_eq!(rights.subscribe().map(Permission::subject).collect::<Vec<_>>(), ["_INBOX_orders.>"]);
    for prefix in ["", "a b", "_INBOX.*", "orders.>", "a..b", "a."] {
        let refused = Broker::builder().servers([server.url()]).inbox_prefix(prefix).connect().await;
        let error = refused.map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{prefix}: {error:?}");
        assert!(error.to_string().starts_with("`inbox_prefix`: "), "{error}");
    }
}

#[tokio::test]
async fn rights_are_those_of_the_settings() {
    let broker = service().domain("hub").subject_prefix("staging").connect_in_memory();
    let rights = broker.permissions(PermissionLevel::Provision).await.unwrap();
    let subjects = subjects(&rights);
    for subject in [
        "$JS.hub.API.CONSUMER.MSG.NEXT.STAGING_ORDERS.billing",
        "$JS.hub.API.CONSUMER.CREATE.STAGING_ORDERS.billing.staging.orders.created",
        "$JS.hub.API.CONSUMER.CREATE.STAGING_ORDERS.ledger",
        "$JS.hub.API.STREAM.CREATE.STAGING_DLQ",
        "$JS.ACK.STAGING_ORDERS.billing.>",
        "staging.dlq.STAGING_ORDERS.billing",
        "staging.receipts.sent",
        "staging.shipping.*.shipped",
    ] {
        assert!(subjects.contains(&("publish", subject.to_owned())), "{subject} in {rights}");
    }
    let advisory = "$JS.EVENT.ADVISORY.CONSUMER.MSG_NAKED.STAGING_ORDERS.billing".to_owned();
    assert!(subjects.contains(&("subscribe", advisory)), "{rights}");
    // A broker that may create nothing assumes that the streams exist.
    let bound = service().auto_create(false).connect_in_memory().permissions(PermissionLevel::Provision).await.unwrap();
    assert!(!bound.to_string().contains("STREAM.CREATE"), "{bound}");
    assert!(bound.to_string().contains("$JS.API.CONSUMER.CREATE.ORDERS.ledger"), "{bound}");
}

#[tokio::test]
async fn rights_on_a_server_are_for_its_streams() {
    let server = Server::start().await;
    let jetstream = server.jetstream().await;
    jetstream.create_stream(stream_config("SHOP", &["orders.>"])).await.unwrap();
    let broker = service().servers([server.url()]).state(Handled::new()).connect().await.unwrap();
    let rights = broker.permissions(PermissionLevel::Provision).await.unwrap();
    let subjects = subjects(&rights);
    let has = |subject: &str| subjects.contains(&("publish", subject.to_owned()));
    assert!(has("$JS.ACK.SHOP.billing.>") && has("dlq.SHOP.billing"), "{rights}");
    assert!(!has("$JS.API.STREAM.CREATE.SHOP") && has("$JS.API.STREAM.CREATE.RECEIPTS"), "{rights}");
    assert!(jetstream.get_stream("RECEIPTS").await.is_err(), "nothing is created");
}

#[tokio::test]
async fn subjects_by_hand_and_the_trace_destination_are_added() {
    let rights = permissions(PermissionLevel::Run).await;
    let rights = rights.with_publish("prices.{region}").unwrap().with_trace_destination("traces.orders").unwrap();
    let subjects = subjects(&rights);
    for subject in ["prices.*", "traces.orders"] {
        assert!(subjects.contains(&("publish", subject.to_owned())), "{subject}");
    }
    for subject in ["a b", "", "$JS.API.>", "a..b", "a\nb"] {
        let refused = rights.clone().with_publish(subject).map(drop).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Config, "{subject}");
        let refused = rights.clone().with_trace_destination(subject).map(drop).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Config, "{subject}");
    }
}

#[tokio::test]
async fn doctor_reports_the_state_of_consumers_and_dead_letters() {
    let config = "accounts { APP { jetstream: { max_streams: 5 }, users: [ { user: admin, password: secret } ] } }";
    let server = Server::builder().config(config).user("admin", "secret").start().await;
    let node = Node { server, reloads: 0 };
    let jetstream = node.server.jetstream().await;
    let letters = stream::Config { deny_delete: true, ..stream_config("DLQ", &["dlq.>"]) };
    jetstream.create_stream(letters).await.unwrap();
    let admin = node.admin().await;
    let text = admin.doctor().await.unwrap().to_string();
    let of_billing = "permissions::bill: consumer `billing` of stream `ORDERS`";
    for part in [
        &format!("warning consumer: {of_billing} does not exist"),
        "warning dead_letters: stream `DLQ` keeps dead letters after a replay, because it denies deletes",
        "ok      start: a start would succeed",
        "ok      jetstream: ",
        "ok      inbox: answers arrive on `_INBOX_orders.>`",
        "warning tls: the server requires credentials",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    node.provision().await;
    let mut changed = node.server.consumer_info("ORDERS", "billing").await.config;
    changed.max_ack_pending = 1;
    let orders = jetstream.get_stream("ORDERS").await.unwrap();
    orders.update_consumer(changed).await.unwrap();
    let billing: jetstream_handlers::async_nats::jetstream::consumer::PullConsumer =
        orders.get_consumer("billing").await.unwrap();
    admin.publish("orders.created", &1).await.unwrap();
    for key in 0..300 {
        admin.publish(&format!("orders.key-{key}"), &1).await.unwrap();
    }
    let mut batch = billing.fetch().max_messages(1).messages().await.unwrap();
    futures::StreamExt::next(&mut batch).await.unwrap().unwrap();
    let text = admin.doctor().await.unwrap().to_string();
    for part in [
        &format!("warning consumer: {of_billing} delivers nothing, because 1 messages have no ack"),
        "warning account: the account has used 5 of 5 streams",
        "ok      clock: the clocks differ by ",
        "warning filters: permissions::audit: the filter `orders.*` matches 301 subjects of stream `ORDERS`",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let in_memory = service().connect_in_memory().doctor().await.unwrap();
    assert_eq!(in_memory.status(), FindingStatus::Warning, "{in_memory}");
}

#[tokio::test]
async fn server_reads_hostile_subjects_as_they_are() {
    let hostile = ["a\"b\\c", "$KV.it's#.{x}", "say.\"}; allow: [>]\"", "über.$HOME.`x`"];
    let mut rights = permissions(PermissionLevel::Publish).await;
    let mut allowed = Vec::new();
    for subject in hostile {
        match rights.clone().with_publish(subject) {
            Ok(with) => {
                rights = with;
                allowed.push(subject.replace("{x}", "y"));
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::Config, "{error}"),
        }
    }
    assert!(allowed.len() >= 2, "{allowed:?}");
    let node = Node::start(&rights.format(PermissionFormat::Server, "wor\"ker\n}")).await;
    let reports = Reports::default();
    let broker = worker(&node, &reports, &Handled::new()).await.unwrap();
    let client = broker.client().unwrap();
    for subject in &allowed {
        client.publish(subject.clone(), "".into()).await.unwrap();
    }
    client.publish("not.listed", "".into()).await.unwrap();
    let violations = eventually("the one that is not listed is denied", SOON, async || {
        Some(reports.violations()).filter(|violations| !violations.is_empty())
    })
    .await;
    assert_eq!(violations, ["Permissions Violation for Publish to \"not.listed\""]);
}

/// Runs a command of the program `operated`; returns its exit code and its standard output.
async fn command(arguments: &[&str], url: &str) -> (Option<i32>, String) {
    command_in(&[("NATS_URL", url)], arguments).await
}

/// Runs a command of the program `operated` with these environment variables.
async fn command_in(environment: &[(&str, &str)], arguments: &[&str]) -> (Option<i32>, String) {
    let ended = run_command(env!("CARGO_BIN_EXE_operated"), arguments, environment, "").await;
    (ended.code, ended.stdout + &ended.stderr)
}

#[tokio::test]
async fn command_prints_rights_that_the_server_accepts() {
    let arguments =
        ["permissions", "--level", "run+info", "--publish", "prices.*", "--trace-dest", "traces", "--user", "worker"];
    let (code, text) = command(&arguments, "").await;
    assert_eq!(code, Some(0), "{text}");
    for part in ["operated::bill: requests messages", "\"prices.*\"", "\"traces\"", "subscribe: {"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    // It starts only with a valid configuration.
    Node::start(&text).await;
    let (code, json) = command(&["permissions", "--level", "publish", "--json"], "").await;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((code, &json["version"], &json["level"]), (Some(0), &1.into(), &"publish".into()));
    for (format, part) in [("nsc", "nsc add user"), ("nats", "nats auth user add"), ("jwt", "\"nats\"")] {
        let (code, text) = command(&["permissions", "--format", format], "").await;
        assert!(code == Some(0) && text.contains(part), "{text}");
    }
    for (wrong, why) in [
        (["--level", "all"], "`run`, `run+info`, `provision`, `operate`, `publish`"),
        (["--format", "yaml"], "[possible values: server, nsc, nats, jwt]"),
        (["--publish", "a b"], "contains a space"),
    ] {
        let (code, text) = command(&["permissions", wrong[0], wrong[1]], "").await;
        assert!(code == Some(1) && text.contains(why), "{code:?}: {text}");
    }
}

#[tokio::test]
async fn command_prints_rights_for_the_environment_without_a_server() {
    let permissions = ["permissions", "--level", "run"];
    let (code, text) = command_in(&[("NATS_INBOX_PREFIX", "_INBOX_shop")], &permissions).await;
    assert!(code == Some(0) && text.contains("\"_INBOX_shop.>\""), "{text}");
    assert!(!text.contains("_INBOX.>"), "{text}");
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("nats/context");
    std::fs::create_dir_all(&folder).unwrap();
    let context = r#"{ "inbox_prefix": "_INBOX_context", "jetstream_domain": "hub", "url": "nats://127.0.0.1:1" }"#;
    std::fs::write(folder.join("shop.json"), context).unwrap();
    let home = home.path().to_str().unwrap();
    let environment = [("XDG_CONFIG_HOME", home), ("NATS_CONTEXT", "shop")];
    let (code, text) = command_in(&environment, &permissions).await;
    assert!(code == Some(0) && text.contains("\"_INBOX_context.>\""), "{text}");
    assert!(text.contains("\"$JS.hub.API.CONSUMER.MSG.NEXT.SHOP.billing\""), "{text}");
    let (code, text) = command_in(&[("NATS_INBOX_PREFIX", "a b")], &permissions).await;
    assert!(code == Some(1) && text.contains("`inbox_prefix`: "), "{text}");
}

#[tokio::test]
async fn command_asks_the_server_that_an_argument_names() {
    let server = Server::start().await;
    let stream = stream_config("LETTERBOX", &["dlq.>"]);
    server.jetstream().await.create_stream(stream).await.unwrap();
    let permissions = ["permissions", "--level", "run"];
    let url = &*server.url();
    let (_, text) = command(&permissions, url).await;
    assert!(text.contains("STREAM.INFO.DLQ"), "{text}");
    for (arguments, environment) in [(["--server", url], ""), (["--connect", "--level=run"], url)] {
        let (code, text) = command(&["permissions", arguments[0], arguments[1]], environment).await;
        assert!(code == Some(0) && text.contains("STREAM.INFO.LETTERBOX"), "{code:?}: {text}");
    }
    let (code, text) = command(&["permissions", "--context", "nowhere"], "").await;
    assert!(code == Some(1) && text.contains("nowhere"), "{text}");
}

#[tokio::test]
async fn command_doctor_exits_with_2_if_the_service_cannot_run() {
    let node = Node::start("permissions: { publish: { deny: [\"$JS.API.CONSUMER.MSG.NEXT.>\"] } }").await;
    let stream = stream_config("SHOP", &["shop.>"]);
    node.server.jetstream().await.create_stream(stream).await.unwrap();
    let url = |user: &str| format!("nats://{user}:secret@{}", node.server.address());
    let (code, text) = command(&["doctor"], &url("admin")).await;
    assert_eq!(code, Some(0), "{text}");
    let (code, text) = command(&["doctor", "--json"], &url("worker")).await;
    assert_eq!(code, Some(2), "{text}");
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&json["version"], &json["status"]), (&1.into(), &"failed".into()));
    let denied =
        json["findings"].as_array().unwrap().iter().find(|it| it["check"] == "rights" && it["status"] == "failed");
    let fix = denied.unwrap()["fix"].as_str().unwrap();
    assert!(fix.contains("publish: { allow: [\"$JS.API.CONSUMER.MSG.NEXT.SHOP."), "{fix}");
}

#[tokio::test]
async fn documents_have_the_fields_of_the_contract() {
    let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../jetstream-handlers/src/docs/contract.md");
    let page = std::fs::read_to_string(page).unwrap();
    let section = page.split_once("\n# Rights and diagnosis\n").unwrap().1.split("\n# ").next().unwrap().to_owned();
    let listed = |row: &str| -> BTreeSet<String> {
        let row = section.lines().find(|line| line.starts_with(row)).unwrap_or_else(|| panic!("no row {row}"));
        let cell = row.rsplit('|').nth(1).unwrap();
        cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
    };
    let fields =
        |value: &serde_json::Value| -> BTreeSet<String> { value.as_object().unwrap().keys().cloned().collect() };
    let rights = serde_json::to_value(permissions(PermissionLevel::Run).await).unwrap();
    assert_eq!(fields(&rights), listed("| `Permissions`"));
    assert_eq!(fields(&rights["publish"][0]), listed("| the `publish`"));
    assert_eq!(
        PermissionLevel::ALL.map(|level| level.to_string()).into_iter().collect::<BTreeSet<_>>(),
        listed("| `level`")
    );
    let diagnosis = serde_json::to_value(service().connect_in_memory().doctor().await.unwrap()).unwrap();
    assert_eq!(fields(&diagnosis), listed("| `Diagnosis`"));
    assert_eq!(fields(&diagnosis["findings"][0]), listed("| the `findings`"));
    let statuses = [FindingStatus::Ok, FindingStatus::Warning, FindingStatus::Failed];
    assert_eq!(statuses.map(|it| it.to_string()).into_iter().collect::<BTreeSet<_>>(), listed("| `status`"));
}
