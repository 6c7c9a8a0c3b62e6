//! Random bytes from another client among good messages: all good ones are handled, and each bad one is accounted for.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

use std::collections::BTreeMap;
use std::time::Duration;

use jetstream_handlers::Message;
use jetstream_handlers::prelude::*;
use jetstream_handlers_tests::{RawClient, Recorder, Server, connect, eventually, stream_config};

/// The time for everything to be accounted for.
const LIMIT: Duration = Duration::from_secs(100);

/// A random number generator with a seed that a failure prints.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        // An xorshift generator; the test needs no better one.
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn bytes(&mut self, max: u64, exclude: &[u8]) -> Vec<u8> {
        let length = self.below(max);
        let bytes = (0..length).map(|_| self.next().to_le_bytes()[0]);
        bytes.filter(|byte| !exclude.contains(byte)).collect()
    }

    /// Returns a header block: one of the known kinds, or random bytes.
    fn block(&mut self) -> Vec<u8> {
        let kinds: [&[u8]; 12] = [
            b"NATS/1.0\r\nCustomer: Zo\xeb\r\n\r\n",
            b"NATS/1.0\r\nno colon\r\n\r\n",
            b"NATS/1.0\r\nA b: c\r\n\r\n",
            b"NATS/1.0\r\nX: a\rb\r\n\r\n",
            b"NATS/1.0\r\nX: a\nb\r\n\r\n",
            b"NATS/1.0\r\nX: a\n b\r\n\r\n",
            b"NATS/1.0 503 No Responders\r\n\r\n",
            b"NATS/1.0 409 Consumer Deleted\r\n\r\n",
            b"NATS/1.0 x\r\n\r\n",
            b"NATS/9.9\r\nA: b\r\n\r\n",
            b"NATS/1.0\r\nNats-Pin-Id: forged\r\n\r\n",
            b"\r\n\r\n",
        ];
        match self.below(3) {
            0 => kinds[self.below(kinds.len() as u64) as usize].to_vec(),
            1 => [b"NATS/1.0\r\n", &self.bytes(40, &[])[..], b"\r\n\r\n"].concat(),
            _ => [b"NATS/1.0\r\nA: ", &self.bytes(40, &[])[..], b"\r\n\r\n"].concat(),
        }
    }

    /// Returns a subject, which may have any byte that does not end the line or the argument.
    fn subject(&mut self) -> Vec<u8> {
        match self.below(3) {
            0 => [b"work.", &self.bytes(12, b" \t\r\n.*>")[..], b"x"].concat(),
            1 => "work.\u{a0}x".as_bytes().to_vec(),
            _ => b"work.a".to_vec(),
        }
    }
}

async fn hostile(seed: u64, good: u64, bad: u64) {
    println!("seed {seed}");
    let server = Server::builder().start().await;
    let jetstream = server.jetstream().await;
    jetstream.create_stream(stream_config("WORK", &["work.>"])).await.unwrap();
    jetstream.create_stream(stream_config("DLQ", &["dlq.>"])).await.unwrap();
    let broker = connect(&server).await;
    // The letters are read on a connection of their own.
    let reader = connect(&server).await;
    let handled: [Recorder<String>; 3] = std::array::from_fn(|_| Recorder::default());
    let handler = |index: usize| {
        let handled = handled[index].clone();
        move |message: Message| {
            handled.add(String::from_utf8_lossy(message.payload()).into_owned());
            std::future::ready(())
        }
    };
    let plain =
        broker.subscribe("work.>", "plain", handler(0)).name("plain").concurrency(4).ack_wait(secs(10)).await.unwrap();
    let single = broker.subscribe("work.>", "single", handler(1)).name("single").ack_wait(secs(10)).await.unwrap();
    let ordered =
        broker.subscribe("work.>", "ordered", handler(2)).name("ordered").ordered().ack_wait(secs(10)).await.unwrap();

    let mut random = Random(seed);
    let mut raw = RawClient::connect(server.address()).await;
    let mut names = Vec::new();
    let (mut goods, mut bads) = (0, 0);
    while goods < good || bads < bad {
        let is_bad = bads < bad && (goods == good || random.below(good + bad) < bad);
        let name = if is_bad { format!("bad {bads}") } else { format!("good {goods}") };
        if is_bad {
            let (subject, block) = (random.subject(), random.block());
            raw.publish_block(subject, block, &name).await;
            bads += 1;
        } else {
            raw.publish("work.a", "A: b", &name).await;
            goods += 1;
        }
        names.push(name);
        if names.len() % 100 == 0 {
            raw.flush().await;
        }
    }
    raw.flush().await;
    eventually("the server has stored everything", LIMIT, async || {
        let stored = jetstream.get_stream("WORK").await.unwrap().cached_info().state.messages;
        (stored == good + bad).then_some(())
    })
    .await;

    for (index, queue) in ["plain", "single", "ordered"].into_iter().enumerate() {
        let counts = eventually("every message is accounted for", LIMIT, async || {
            let mut counts: BTreeMap<String, usize> = handled[index].counts();
            for letter in reader.dead_letters().list(10_000).await.unwrap() {
                if letter.consumer == queue {
                    *counts.entry(String::from_utf8_lossy(&letter.payload).into_owned()).or_default() += 1;
                }
            }
            (counts.len() as u64 == good + bad).then_some(counts)
        })
        .await;
        let twice: Vec<_> = counts.iter().filter(|(_, count)| **count != 1).collect();
        assert!(twice.is_empty(), "seed {seed}, {queue}: not exactly once: {twice:?}");
        server.all_acked("WORK", queue).await;
    }
    let order: Vec<_> = handled[2].items();
    let expected: Vec<_> = names.iter().filter(|name| order.contains(name)).cloned().collect();
    assert_eq!(order, expected, "seed {seed}: the ordered handler has kept the order");
    for subscription in [plain, single, ordered] {
        subscription.unsubscribe().await.unwrap();
    }
}

/// Runs with a fixed seed, or `HOSTILE_ROUNDS` times with other seeds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_bytes_of_another_client_harm_nothing_else() {
    let rounds = std::env::var("HOSTILE_ROUNDS").ok().map(|rounds| rounds.parse().expect("HOSTILE_ROUNDS is a number"));
    for round in 0..rounds.unwrap_or(1) {
        hostile(2026 + round, 5000, 500).await;
    }
}
