//! The warning about a handler that blocks its runtime thread, also while the process is stopped and continued.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

use jetstream_handlers_tests::{Program, SOON, Server, connect, eventually, ms, publish};

/// The number of times that the process is stopped.
const STOPS: usize = 60;

fn start(server: &Server, group: &str) -> Program {
    let variables = [("NATS_URL", &*server.url()), ("JSH_TRACE", "warn")];
    Program::start(env!("CARGO_BIN_EXE_worker"), &[group], &variables)
}

/// Stops the process many times, each for longer than a poll may take, and lets it run for a short time in between.
async fn stop_often(program: &Program) {
    for _ in 0..STOPS {
        program.signal("STOP");
        tokio::time::sleep(ms(130)).await;
        program.signal("CONT");
        tokio::time::sleep(ms(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handler_that_awaits_is_not_reported_although_its_process_is_stopped_often() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    publish(&broker, "work.awaited", 0..500).await;
    let mut program = start(&server, "awaiting");
    program.until("awaited ").await;
    stop_often(&program).await;
    let handled = program.lines("awaited ").len();
    assert!(handled < 500, "the handler was called to the end, with {handled} messages");
    eventually("the process goes on", SOON, async || (program.lines("awaited ").len() > handled).then_some(())).await;
    let output = program.output();
    let reported: Vec<_> = output.lines().filter(|line| line.contains("without an await")).collect();
    assert!(reported.is_empty(), "{reported:#?}");
}

async fn until_reported(program: &Program, handler: &str) {
    eventually(&format!("{handler} is reported"), SOON, async || {
        let output = program.output();
        let is_reported = |line: &str| line.contains("without an await") && line.contains(handler);
        output.lines().any(is_reported).then_some(())
    })
    .await;
}

#[tokio::test]
async fn handler_that_blocks_or_computes_is_reported() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    publish(&broker, "work.blocked", 0..60).await;
    publish(&broker, "work.computed", 0..4).await;
    let (blocking, computing) = (start(&server, "blocking"), start(&server, "computing"));
    until_reported(&blocking, "blocks_the_runtime").await;
    until_reported(&computing, "worker::computes").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handler_that_blocks_is_reported_although_its_process_is_stopped() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    publish(&broker, "work.blocked", 0..60).await;
    let mut program = start(&server, "blocking");
    program.until("blocked 0").await;
    for _ in 0..3 {
        program.signal("STOP");
        tokio::time::sleep(ms(500)).await;
        program.signal("CONT");
        tokio::time::sleep(ms(1000)).await;
    }
    until_reported(&program, "blocks_the_runtime").await;
}
