//! Rolling restarts from one version of a service to another: replicas of both run at the same time.

use std::collections::BTreeSet;
use std::time::Duration;

use async_nats::jetstream::consumer;
use jetstream_handlers::prelude::*;
use jetstream_handlers::{Manage, Subscription};
use jetstream_handlers_tests::{Recorder, SOON, Server, builder, connect, eventually, ms, stream_config, until_health};
use tokio::task::AbortHandle;

/// The calls: the version of the replica, the subject and the number of the message.
type Calls = Recorder<(&'static str, String, u64)>;

/// The declaration of the handler in one version.
#[derive(Clone, Copy)]
struct Version {
    name: &'static str,
    subjects: &'static [&'static str],
    ack_wait: Duration,
    order: Order,
}

#[derive(Clone, Copy, PartialEq)]
enum Order {
    None,
    Ordered,
    Keyed,
}

const FORMER: Version =
    Version { name: "former", subjects: &["orders.created"], ack_wait: secs(30), order: Order::None };

const WIDENED: Version = Version { name: "new", subjects: &["orders.created", "orders.paid"], ..FORMER };

/// Returns a replica; one of the new version updates the consumer.
async fn replica(server: &Server, version: Version) -> Broker {
    let manage = if version.name == "new" { Manage::Update } else { Manage::Create };
    builder(server).manage(manage).connect().await.unwrap()
}

async fn start(broker: &Broker, version: Version, calls: &Calls) -> Subscription {
    let calls = calls.clone();
    let handler = move |id: u64, subject: Subject| {
        let calls = calls.clone();
        async move {
            assert!(version.subjects.contains(&subject.as_str()), "{} is called with {subject}", version.name);
            calls.add((version.name, subject.to_string(), id));
            // Some calls last longer than a lowered `ack_wait`.
            tokio::time::sleep(if id % 50 == 7 { ms(700) } else { ms(1) }).await;
        }
    };
    let mut closure = broker.subscribe(version.subjects, "billing", handler).ack_wait(version.ack_wait);
    closure = match version.order {
        Order::None => closure.concurrency(4),
        Order::Ordered => closure.ordered(),
        Order::Keyed => closure.key(jetstream_handlers::Key::header("Key")).concurrency(4),
    };
    closure.await.unwrap_or_else(|error| panic!("{} does not start: {error}", version.name))
}

/// Messages that are published without a pause, until they are stopped.
struct Flow {
    published: Recorder<(String, u64)>,
    task: AbortHandle,
}

impl Flow {
    fn begin(broker: &Broker, subject: &'static str) -> Self {
        let (broker, published) = (broker.clone(), Recorder::default());
        let record = published.clone();
        let task = tokio::spawn(async move {
            for id in 0.. {
                broker.publish_message(subject, &id).header("Key", &(id % 3).to_string()).await.unwrap();
                record.add((subject.to_owned(), id));
                tokio::time::sleep(ms(5)).await;
            }
        });
        Self { published, task: task.abort_handle() }
    }

    /// Waits until this many further messages were published.
    async fn further(&self, count: usize) {
        let goal = self.published.len() + count;
        eventually("messages flow", SOON, async || (self.published.len() >= goal).then_some(())).await;
    }

    fn end(&self) -> BTreeSet<(String, u64)> {
        self.task.abort();
        self.published.distinct()
    }
}

/// Waits until everything was handled, and fails if there is a dead letter.
async fn until_handled(server: &Server, calls: &Calls, published: BTreeSet<(String, u64)>) {
    let handled = || calls.items().into_iter().map(|(_, subject, id)| (subject, id)).collect::<BTreeSet<_>>();
    eventually("every message is handled", secs(60), async || published.is_subset(&handled()).then_some(())).await;
    let broker = connect(server).await;
    let letters = broker.dead_letters().list(10).await.unwrap();
    assert!(letters.is_empty(), "{letters:?}");
}

/// Replaces two replicas of the former version one by one, while messages flow; one of them is started again in the middle.
async fn roll_out(former: Version, new: Version) -> (Server, Calls) {
    let server = Server::start().await;
    let publisher = connect(&server).await;
    server.jetstream().await.create_stream(stream_config("ORDERS", &["orders.>"])).await.unwrap();
    let calls = Calls::default();
    let brokers = [replica(&server, former).await, replica(&server, former).await];
    let first = start(&brokers[0], former, &calls).await;
    let second = start(&brokers[1], former, &calls).await;
    let created = Flow::begin(&publisher, "orders.created");
    created.further(50).await;
    let new_broker = replica(&server, new).await;
    let third = start(&new_broker, new, &calls).await;
    let paid = new.subjects.contains(&"orders.paid").then(|| Flow::begin(&publisher, "orders.paid"));
    created.further(100).await;
    second.unsubscribe().await.unwrap();
    let second = start(&brokers[1], former, &calls).await;
    let config = consumer_config(&server).await;
    assert_eq!(config.ack_wait, new.ack_wait, "a replica of the former version must not change the consumer back");
    created.further(100).await;
    second.unsubscribe().await.unwrap();
    let other_broker = replica(&server, new).await;
    let fourth = start(&other_broker, new, &calls).await;
    created.further(50).await;
    first.unsubscribe().await.unwrap();
    created.further(50).await;
    let mut published = created.end();
    published.extend(paid.iter().flat_map(Flow::end));
    until_handled(&server, &calls, published).await;
    for subscription in [third, fourth] {
        subscription.unsubscribe().await.unwrap();
    }
    (server, calls)
}

async fn consumer_config(server: &Server) -> consumer::Config {
    let stream = server.jetstream().await.get_stream("ORDERS").await.unwrap();
    stream.consumer_info("billing").await.unwrap().config
}

#[tokio::test]
async fn widened_subject_is_rolled_out() {
    let (_server, calls) = roll_out(FORMER, WIDENED).await;
    let paid = calls.items().into_iter().filter(|(_, subject, _)| subject == "orders.paid");
    assert!(paid.map(|(version, ..)| version).all(|version| version == "new"));
}

#[tokio::test]
async fn narrowed_subject_is_rolled_out() {
    let narrowed = Version { name: "new", ..FORMER };
    roll_out(Version { name: "former", ..WIDENED }, narrowed).await;
}

#[tokio::test]
async fn raised_ack_wait_is_rolled_out() {
    let raised = Version { name: "new", ack_wait: secs(60), ..FORMER };
    roll_out(Version { ack_wait: ms(600), ..FORMER }, raised).await;
}

#[tokio::test]
async fn lowered_ack_wait_is_rolled_out() {
    let lowered = Version { name: "new", ack_wait: ms(600), ..FORMER };
    roll_out(FORMER, lowered).await;
}

/// The active replica of the former version makes room for one that handles the new subject.
async fn widened_in_order(order: Order) {
    let server = Server::start().await;
    let publisher = connect(&server).await;
    server.jetstream().await.create_stream(stream_config("ORDERS", &["orders.>"])).await.unwrap();
    let calls = Calls::default();
    let (former, new) = (Version { order, ..FORMER }, Version { order, ..WIDENED });
    let former_broker = replica(&server, former).await;
    let first = start(&former_broker, former, &calls).await;
    let publish = async |subject: &str, id: u64| {
        publisher.publish_message(subject, &id).header("Key", "one").await.unwrap();
    };
    for id in 0..20 {
        publish("orders.created", id).await;
    }
    calls.until(("former", "orders.created".to_owned(), 19)).await;
    let new_broker = replica(&server, new).await;
    let second = start(&new_broker, new, &calls).await;
    for id in 20..40 {
        publish(if id % 4 == 0 { "orders.paid" } else { "orders.created" }, id).await;
    }
    calls.until(("new", "orders.paid".to_owned(), 20)).await;
    let health = until_health(&former_broker, "says why", |health| health.to_string().contains("orders.paid")).await;
    assert!(health.contains("handed back for an instance of the version that has widened it"), "{health}");
    calls.until(("new", "orders.created".to_owned(), 39)).await;
    let handled: Vec<_> = calls.items().into_iter().map(|(_, _, id)| id).collect();
    assert_eq!(handled, (0..40).collect::<Vec<_>>(), "in order, and none twice");
    first.unsubscribe().await.unwrap();
    second.unsubscribe().await.unwrap();
    assert!(publisher.dead_letters().list(10).await.unwrap().is_empty());
}

#[tokio::test]
async fn ordered_replica_of_the_former_version_steps_aside() {
    if jetstream_handlers_tests::binary::version() < (2, 11, 0) {
        return;
    }
    widened_in_order(Order::Ordered).await;
}

#[tokio::test]
async fn keyed_replica_of_the_former_version_steps_aside() {
    if jetstream_handlers_tests::binary::version() < (2, 11, 0) {
        return;
    }
    widened_in_order(Order::Keyed).await;
}

#[tokio::test]
async fn running_replica_learns_a_lowered_ack_wait() {
    let server = Server::start().await;
    let calls = Recorder::new();
    let (former, new) = (connect(&server).await, builder(&server).manage(Manage::Update).connect().await.unwrap());
    let handler = |calls: &Recorder| {
        let calls = calls.clone();
        move |id: u64| {
            let calls = calls.clone();
            async move {
                calls.add(id);
                // Longer than the lowered `ack_wait`, and shorter than the former one.
                tokio::time::sleep(if id == 7 { secs(9) } else { ms(1) }).await;
            }
        }
    };
    let subscription = former.subscribe("orders.created", "billing", handler(&calls)).concurrency(2).await.unwrap();
    // The change is noticed within a second, so it is longer.
    let lowered = new.subscribe("orders.created", "billing", handler(&calls)).concurrency(2).ack_wait(secs(4));
    lowered.await.unwrap().unsubscribe().await.unwrap();
    eventually("the former version reads the new ack_wait", SOON, async || {
        former.publish("orders.created", &1_u64).await.unwrap();
        former.handlers().iter().any(|handler| handler.ack_wait == secs(4)).then_some(())
    })
    .await;
    former.publish("orders.created", &7_u64).await.unwrap();
    server.all_acked("ORDERS", "billing").await;
    assert_eq!(calls.count(7), 1, "its in-progress signals come in time");
    subscription.unsubscribe().await.unwrap();
}
