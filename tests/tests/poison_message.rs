//! A poison message aborts the process of its handler at each attempt.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

use std::collections::BTreeSet;

use jetstream_handlers_tests::{
    Program, SOON, Server, connect, dead_letters, dead_letters_of, eventually, payload_of, publish,
};

#[tokio::test]
async fn becomes_a_dead_letter() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    publish(&broker, "work.poisoned", [1_u64]).await;
    let start = || {
        let mut program = tokio::process::Command::new(env!("CARGO_BIN_EXE_poisoned_worker"));
        program.env("NATS_URL", server.url()).kill_on_drop(true).spawn().unwrap()
    };
    // Two attempts, and one more in isolation, because another in-flight message might have been the cause.
    for attempt in 1..=3 {
        let status = tokio::time::timeout(SOON, start().wait()).await.expect("the process ends").unwrap();
        assert!(!status.success(), "the process survived attempt {attempt}");
    }
    let mut fourth = start();
    let letter = dead_letters_of(&broker, "poisoned", 1).await.remove(0);
    assert_eq!((letter.reason.as_str(), letter.delivered, &letter.payload[..]), ("killed", 4, &b"1"[..]));
    server.all_acked("WORK", "poisoned").await;
    assert!(fourth.try_wait().unwrap().is_none(), "the fourth process does not call the handler");
    fourth.kill().await.unwrap();
}

#[tokio::test]
async fn does_not_affect_other_messages() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    publish(&broker, "work.poisoned", 1..=6_u64).await;
    let url = server.url();
    let start = || Program::start(env!("CARGO_BIN_EXE_poisoned_worker"), &[], &[("NATS_URL", &url)]);
    let mut handled = BTreeSet::new();
    // Two attempts, and one more in isolation.
    for life in 1..=3 {
        let mut program = start();
        let status = program.ended().await;
        assert!(!status.success(), "life {life} survived: {}", program.output());
        handled.extend(program.lines("handled "));
    }
    let survivor = start();
    eventually("the other messages are handled", SOON, async || {
        let all: BTreeSet<_> = handled.iter().cloned().chain(survivor.lines("handled ")).collect();
        (all.len() == 5).then_some(())
    })
    .await;
    let letters = dead_letters(&broker, 1).await;
    assert_eq!(
        letters.iter().map(|letter| (payload_of(letter), letter.reason.as_str())).collect::<Vec<_>>(),
        [(1, "killed")]
    );
}
