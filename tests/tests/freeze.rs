//! A process that is stopped for longer than `ack_wait`, and goes on.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

use std::collections::BTreeSet;

use jetstream_handlers::Subscription;
use jetstream_handlers::prelude::*;
use jetstream_handlers_tests::{Program, Recorder, SOON, Server, connect, eventually, ms};

/// The number of messages, which are published at a steady rate.
const MESSAGES: u64 = 2200;

async fn subscribe(broker: &Broker, calls: &Recorder) -> Subscription {
    let subscribe = broker.subscribe("work.frozen", "frozen", calls.handler());
    subscribe.ack_wait(secs(2)).batch_size(500).await.unwrap()
}

async fn load(server: &Server) {
    let jetstream = server.jetstream().await;
    let mut pace = tokio::time::interval(ms(4));
    for id in 1..=MESSAGES {
        pace.tick().await;
        let stored = jetstream.publish("work.frozen", id.to_string().into()).await.unwrap();
        if id == MESSAGES {
            stored.await.unwrap();
        }
    }
}

/// Stops the process for this time once it handles messages.
async fn freeze(program: &mut Program, time: std::time::Duration) {
    let before = program.lines("handled ").len();
    eventually("the process handles messages", SOON, async || {
        (program.lines("handled ").len() > before + 20).then_some(())
    })
    .await;
    program.signal("STOP");
    tokio::time::sleep(time).await;
    program.signal("CONT");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn process_that_was_stopped_does_not_handle_what_others_have() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    let calls = Recorder::new();
    let subscription = subscribe(&broker, &calls).await;
    let variables = [("NATS_URL", &*server.url()), ("JSH_TRACE", "warn")];
    let mut program = Program::start(env!("CARGO_BIN_EXE_worker"), &["frozen"], &variables);
    let freezes = async {
        // Longer than `ack_wait`, and shorter.
        freeze(&mut program, ms(3500)).await;
        freeze(&mut program, ms(800)).await;
    };
    futures::join!(load(&server), freezes);
    server.all_acked("WORK", "frozen").await;
    let there: Vec<u64> = program.lines("handled ").iter().map(|id| id.parse().unwrap()).collect();
    let here = calls.counts();
    let all: BTreeSet<_> = there.iter().chain(here.keys()).copied().collect();
    let missing: Vec<_> = (1..=MESSAGES).filter(|id| !all.contains(id)).collect();
    assert!(missing.is_empty(), "{missing:?}");
    let twice = there.len() + here.values().sum::<usize>() - all.len();
    println!("{twice} messages were handled twice");
    // The call that was running, and acks that were on their way.
    assert!(twice <= 5, "{twice} messages were handled twice");
    // No wait of a handler that only awaits is its own.
    assert!(!program.output().contains("without an await"), "{}", program.output());
    subscription.unsubscribe().await.unwrap();
}
