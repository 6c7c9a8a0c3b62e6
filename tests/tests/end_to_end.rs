//! Handlers receive typed messages on a real server, in one process and in several.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

use jetstream_handlers::async_nats;
use jetstream_handlers::prelude::*;
use jetstream_handlers_tests::{Program, Recorder, SOON, Server, connect, eventually, publish};
use serde::{Deserialize, Serialize};

/// The number of messages of one round in the tests of several processes.
const MESSAGES: u64 = 200;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct OrderCreated {
    id: u64,
    customer: String,
}

fn order(id: u64) -> OrderCreated {
    OrderCreated { id, customer: "Ada".into() }
}

/// The calls: the handler, and the message.
type Calls = Recorder<(&'static str, u64)>;

#[subscriber(subject = "orders.created", queue = "order-processor", group = "two")]
async fn process_order(order: OrderCreated, State(calls): State<Calls>) -> HandlerResult {
    calls.add(("process_order", order.id));
    Ok(())
}

#[subscriber(subject = "orders.*", queue = "audit", group = "two")]
async fn audit(subject: Subject, info: Info, State(calls): State<Calls>, order: OrderCreated) {
    assert_eq!((&*subject, info.stream(), info.consumer()), ("orders.created", "ORDERS", "audit"));
    calls.add(("audit", order.id));
}

async fn broker(server: &Server, calls: &Calls) -> Broker {
    Broker::builder().servers([server.url()]).state(calls.clone()).connect().await.unwrap()
}

#[tokio::test]
async fn each_queue_receives_every_message() {
    let server = Server::start().await;
    let calls = Calls::default();
    let broker = broker(&server, &calls).await;
    let running = broker.start_groups(["two"]).await.unwrap();
    for id in 1..=20 {
        let ack = broker.publish("orders.created", &order(id)).await.unwrap();
        assert_eq!((ack.stream.as_str(), ack.sequence), ("ORDERS", id));
    }
    let ids = 1..=20;
    for id in ids {
        calls.until(("process_order", id)).await;
        calls.until(("audit", id)).await;
    }
    running.shutdown().await.unwrap();
    assert_eq!(calls.len(), 40, "each once");
    let mut stream = server.jetstream().await.get_stream("ORDERS").await.unwrap();
    for consumer in ["order-processor", "audit"] {
        let info = stream.consumer_info(consumer).await.unwrap();
        assert_eq!((info.num_ack_pending, info.num_pending), (0, 0), "{consumer}");
    }
    assert_eq!(stream.info().await.unwrap().state.messages, 20);
    broker.disconnect().await.unwrap();
}

#[tokio::test]
async fn handles_messages_of_a_plain_client() {
    let server = Server::start().await;
    let calls = Calls::default();
    let broker = broker(&server, &calls).await;
    let running = broker.include::<process_order>().start_all().await.unwrap();
    let jetstream = async_nats::jetstream::new(server.client().await);
    jetstream.publish("orders.created", r#"{"id":7,"customer":"Grace"}"#.into()).await.unwrap().await.unwrap();
    calls.until(("process_order", 7)).await;
    assert_eq!(calls.len(), 1, "`audit` was not included");
    running.shutdown().await.unwrap();
}

#[tokio::test]
async fn closure_handles_until_unsubscribed() {
    let server = Server::start().await;
    let broker = Broker::connect(server.url()).await.unwrap();
    let calls = Calls::default();
    let subscribe = |calls: Calls| {
        broker.subscribe("orders.created", "closure", move |order: OrderCreated, _: Info| {
            let calls = calls.clone();
            async move {
                calls.add(("closure", order.id));
                Ok(())
            }
        })
    };
    let subscription = subscribe(calls.clone()).await.unwrap();
    broker.publish("orders.created", &order(1)).await.unwrap();
    calls.until(("closure", 1)).await;
    subscription.unsubscribe().await.unwrap();
    broker.publish("orders.created", &order(2)).await.unwrap();
    // The consumer keeps its position, so the next handler receives the second message.
    let subscription = subscribe(calls.clone()).await.unwrap();
    calls.until(("closure", 2)).await;
    assert_eq!(calls.items(), [("closure", 1), ("closure", 2)]);
    subscription.unsubscribe().await.unwrap();
}

fn worker(server: &Server, group: &str) -> Program {
    Program::start(env!("CARGO_BIN_EXE_worker"), &[group], &[("NATS_URL", &server.url())])
}

/// Waits until this many pull requests of a consumer are open.
async fn pulling(server: &Server, consumer: &str, count: usize) {
    let jetstream = server.jetstream().await;
    eventually(&format!("{count} open pull requests of {consumer}"), SOON, async || {
        let stream = jetstream.get_stream("WORK").await.ok()?;
        let info = stream.consumer_info(consumer).await.ok()?;
        (info.num_waiting >= count).then_some(())
    })
    .await;
}

fn handled(workers: &[&Program]) -> Vec<u64> {
    let lines = workers.iter().flat_map(|worker| worker.lines("handled "));
    let mut ids: Vec<_> = lines.map(|id| id.parse().unwrap()).collect();
    ids.sort_unstable();
    ids
}

async fn publish_round(server: &Server) {
    publish(&connect(server).await, "work.shared", 1..=MESSAGES).await;
}

async fn all_handled(workers: &[&Program]) {
    eventually("all messages were handled", SOON, async || (handled(workers).len() >= MESSAGES as usize).then_some(()))
        .await;
}

async fn end(worker: &mut Program) {
    worker.signal("TERM");
    let status = worker.ended().await;
    assert!(status.success(), "{status}: {}", worker.output());
}

#[tokio::test]
async fn processes_of_one_queue_share_the_messages() {
    let server = Server::start().await;
    let (mut one, mut other) = (worker(&server, "shared"), worker(&server, "shared"));
    pulling(&server, "shared", 2).await;
    publish_round(&server).await;
    all_handled(&[&one, &other]).await;
    // A second delivery would arrive before they end.
    end(&mut one).await;
    end(&mut other).await;
    assert_eq!(handled(&[&one, &other]), (1..=MESSAGES).collect::<Vec<_>>(), "each exactly once");
    let (one, other) = (handled(&[&one]).len(), handled(&[&other]).len());
    // The shares need not be equal.
    assert!(one > 10 && other > 10, "{one} and {other}");
}

#[tokio::test]
async fn queues_of_two_processes_each_receive_every_message() {
    let server = Server::start().await;
    let (mut shared, mut audit) = (worker(&server, "shared"), worker(&server, "audit"));
    pulling(&server, "shared", 1).await;
    pulling(&server, "audit", 1).await;
    publish_round(&server).await;
    for worker in [&mut shared, &mut audit] {
        all_handled(&[worker]).await;
        end(worker).await;
        assert_eq!(handled(&[worker]), (1..=MESSAGES).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn late_process_takes_its_share() {
    let server = Server::start().await;
    let mut first = worker(&server, "shared");
    pulling(&server, "shared", 1).await;
    publish_round(&server).await;
    all_handled(&[&first]).await;
    let mut second = worker(&server, "shared");
    pulling(&server, "shared", 2).await;
    publish_round(&server).await;
    eventually("the second round was handled", SOON, async || {
        (handled(&[&first, &second]).len() >= 2 * MESSAGES as usize).then_some(())
    })
    .await;
    let late = handled(&[&second]).len();
    assert!(late > 10, "{late}");
    end(&mut first).await;
    // The remaining process handles all messages.
    pulling(&server, "shared", 1).await;
    publish_round(&server).await;
    eventually("the third round was handled", SOON, async || {
        (handled(&[&first, &second]).len() >= 3 * MESSAGES as usize).then_some(())
    })
    .await;
    end(&mut second).await;
    let each: Vec<_> = (1..=MESSAGES).flat_map(|id| [id; 3]).collect();
    assert_eq!(handled(&[&first, &second]), each);
}
