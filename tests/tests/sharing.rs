//! Several processes at one subject: one queue shares the messages, each queue gets all of them.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall say where")]

use std::time::Duration;

use jetstream_handlers::prelude::*;
use jetstream_handlers_tests::{Program, Server, eventually};

const SOON: Duration = Duration::from_secs(30);
const MESSAGES: u64 = 200;

fn worker(server: &Server, group: &str) -> Program {
    Program::start(env!("CARGO_BIN_EXE_worker"), &[group], &[("NATS_URL", &server.url())])
}

/// Waits until so many requests for messages of a consumer are open.
async fn asking(server: &Server, consumer: &str, count: usize) {
    let jetstream = server.jetstream().await;
    eventually(&format!("{count} workers ask for messages of {consumer}"), SOON, async || {
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

async fn publish_all(server: &Server) {
    let broker = Broker::connect(server.url()).await.unwrap();
    for id in 1..=MESSAGES {
        broker.publish("work.shared", &id).await.unwrap();
    }
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
async fn two_processes_with_one_queue_share_the_messages() {
    let server = Server::start().await;
    let (mut one, mut other) = (worker(&server, "shared"), worker(&server, "shared"));
    asking(&server, "shared", 2).await;
    publish_all(&server).await;
    all_handled(&[&one, &other]).await;
    // What comes twice would come before they end.
    end(&mut one).await;
    end(&mut other).await;
    assert_eq!(handled(&[&one, &other]), (1..=MESSAGES).collect::<Vec<_>>(), "each exactly once");
    let (one, other) = (handled(&[&one]).len(), handled(&[&other]).len());
    // It need not be half and half.
    assert!(one > 10 && other > 10, "{one} and {other}");
}

#[tokio::test]
async fn two_queues_on_one_subject_each_get_every_message() {
    let server = Server::start().await;
    let (mut shared, mut audit) = (worker(&server, "shared"), worker(&server, "audit"));
    asking(&server, "shared", 1).await;
    asking(&server, "audit", 1).await;
    publish_all(&server).await;
    for worker in [&mut shared, &mut audit] {
        all_handled(&[worker]).await;
        end(worker).await;
        assert_eq!(handled(&[worker]), (1..=MESSAGES).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn a_process_that_joins_late_takes_its_share() {
    let server = Server::start().await;
    let mut first = worker(&server, "shared");
    asking(&server, "shared", 1).await;
    publish_all(&server).await;
    all_handled(&[&first]).await;
    let mut second = worker(&server, "shared");
    asking(&server, "shared", 2).await;
    publish_all(&server).await;
    eventually("the second round was handled", SOON, async || {
        (handled(&[&first, &second]).len() >= 2 * MESSAGES as usize).then_some(())
    })
    .await;
    let late = handled(&[&second]).len();
    assert!(late > 10, "{late}");
    end(&mut first).await;
    // The one that is left has all the work.
    asking(&server, "shared", 1).await;
    publish_all(&server).await;
    eventually("the third round was handled", SOON, async || {
        (handled(&[&first, &second]).len() >= 3 * MESSAGES as usize).then_some(())
    })
    .await;
    end(&mut second).await;
    let each: Vec<_> = (1..=MESSAGES).flat_map(|id| [id; 3]).collect();
    assert_eq!(handled(&[&first, &second]), each);
}
