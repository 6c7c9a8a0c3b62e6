//! Random scripts, which have the same result on both transports.

use std::sync::{Arc, Mutex};

use jetstream_handlers::prelude::*;
use jetstream_handlers::testing::TestBroker;
use jetstream_handlers_tests::{SOON, Server, eventually, ms};
use proptest::prelude::*;
use proptest::test_runner::Config;
use serde::{Deserialize, Serialize};

use crate::{Transport, accept, orders};

/// A step of a script.
#[derive(Debug, Clone)]
enum Step {
    /// Publishes a message whose attempts have these results; the last one repeats.
    Publish(Vec<Attempt>),
    Wait,
    /// Deletes the message of this publish, if it still exists.
    Delete(usize),
    Purge,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
enum Attempt {
    Ack,
    Nak,
    NakLater,
    Term,
    Panic,
}

fn script() -> impl Strategy<Value = Vec<Step>> {
    let attempt = prop_oneof![
        4 => Just(Attempt::Ack),
        2 => Just(Attempt::Nak),
        2 => Just(Attempt::NakLater),
        1 => Just(Attempt::Term),
        1 => Just(Attempt::Panic),
    ];
    let step = prop_oneof![
        6 => proptest::collection::vec(attempt, 1..4).prop_map(Step::Publish),
        2 => Just(Step::Wait),
        1 => (0..6_usize).prop_map(Step::Delete),
        1 => Just(Step::Purge),
    ];
    proptest::collection::vec(step, 1..10)
}

/// Runs a script, and returns the attempts of each message and the dead letters.
async fn play(transport: &Transport, script: &[Step]) -> (Vec<Vec<Attempt>>, Vec<(u64, String, u64)>) {
    let broker = transport.start(TestBroker::builder().stream(orders()).include::<accept>()).await;
    let played = Arc::<Mutex<Vec<(u64, Attempt)>>>::default();
    let recorder = played.clone();
    let handler = move |(id, attempts): (u64, Vec<Attempt>)| {
        let recorder = recorder.clone();
        async move {
            let attempt = recorder.lock().unwrap().iter().filter(|(other, _)| *other == id).count();
            let attempt = attempts[attempt.min(attempts.len() - 1)];
            recorder.lock().unwrap().push((id, attempt));
            match attempt {
                Attempt::Ack => Ok(()),
                Attempt::Nak => Err(HandlerError::retry("nak")),
                Attempt::NakLater => Err(HandlerError::retry_after(ms(300), "later")),
                Attempt::Term => Err(HandlerError::terminate("term")),
                Attempt::Panic => panic!("on purpose"),
            }
        }
    };
    let subscribe = broker.broker().subscribe("orders.played", "player", handler).max_deliver(3);
    let _subscription = subscribe.backoff(&[ms(200)]).concurrency(2).await.unwrap();
    let mut sequences = Vec::new();
    for step in script {
        match step {
            Step::Publish(attempts) => {
                let id = sequences.len() as u64;
                let ack = broker.broker().publish("orders.played", &(id, attempts)).await.unwrap();
                sequences.push(ack.sequence);
                eventually("the first attempt", SOON, async || {
                    played.lock().unwrap().iter().any(|(other, _)| *other == id).then_some(())
                })
                .await;
            }
            // Longer than every delay, so that both transports are at the same point.
            Step::Wait => tokio::time::sleep(ms(600)).await,
            Step::Delete(index) => {
                if let Some(sequence) = sequences.get(*index) {
                    transport.delete_message(&broker, "ORDERS", *sequence).await;
                }
            }
            Step::Purge => transport.purge(&broker, "ORDERS").await,
        }
    }
    tokio::time::sleep(ms(1000)).await;
    let letters = broker.dead_letters().await;
    let played = played.lock().unwrap();
    let of = |id: usize| played.iter().filter(|(other, _)| *other == id as u64).map(|(_, attempt)| *attempt).collect();
    let mut letters: Vec<_> = letters
        .into_iter()
        .map(|letter| (letter.stream_sequence, letter.reason.to_string(), letter.delivered))
        .collect();
    letters.sort();
    ((0..sequences.len()).map(of).collect(), letters)
}

proptest! {
    #![proptest_config(Config { cases: 10, max_shrink_iters: 20, failure_persistence: None, ..Config::default() })]

    #[test]
    fn random_script_has_equal_results_on_both(script in script()) {
        let runtime = |paused| {
            let mut builder = tokio::runtime::Builder::new_current_thread();
            builder.enable_all().start_paused(paused).build().unwrap()
        };
        let in_memory = runtime(true).block_on(play(&Transport::Memory, &script));
        let on_a_server = runtime(false).block_on(async { play(&Transport::Live(Box::new(Server::start().await)), &script).await });
        prop_assert_eq!(in_memory, on_a_server);
    }
}
