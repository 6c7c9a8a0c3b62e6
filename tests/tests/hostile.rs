//! Random bytes from another client among good messages: all good ones are handled, and each bad one is accounted for.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use async_nats::jetstream::stream::Stream;
use jetstream_handlers::Message;
use jetstream_handlers::prelude::*;
use jetstream_handlers_tests::{RawClient, Recorder, Server, connect, ms, stream_config, trace};
use tokio::time::{Instant, sleep};

/// The time within which any message must end; how long all of them take depends on what else the machine does.
const MAX_STALL: Duration = Duration::from_secs(60);

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
    ///
    /// The index of subjects leaves out those with byte 127, so that the server may deliver such a message to no consumer
    /// (`stree.go`, `noPivot`; observed on nats-server 2.15.1).
    fn subject(&mut self) -> Vec<u8> {
        match self.below(3) {
            0 => [b"work.", &self.bytes(12, b" \t\r\n.*>\x7f")[..], b"x"].concat(),
            1 => "work.\u{a0}x".as_bytes().to_vec(),
            _ => b"work.a".to_vec(),
        }
    }
}

/// The payloads of the dead letters of each queue; each letter is read once, because there are hundreds.
struct Letters {
    broker: Broker,
    payloads: BTreeMap<String, Vec<String>>,
    last: u64,
}

impl Letters {
    async fn of(&mut self, queue: &str) -> &[String] {
        for letter in self.broker.dead_letters().after(self.last).list(10_000).await.unwrap() {
            self.last = letter.sequence;
            self.payloads.entry(letter.consumer).or_default().push(text(&letter.payload));
        }
        self.payloads.get(queue).map_or(&[], Vec::as_slice)
    }
}

fn text(payload: &[u8]) -> String {
    String::from_utf8_lossy(payload).into_owned()
}

/// Waits until each of these messages was handled or is a dead letter of the queue, and is acknowledged.
async fn all_ended(stream: &Stream, queue: &str, names: &[String], handled: &Recorder<String>, letters: &mut Letters) {
    let (mut progress, mut since) = (None, Instant::now());
    loop {
        let mut ended = handled.distinct();
        ended.extend(letters.of(queue).await.iter().cloned());
        let missing: Vec<_> = names.iter().filter(|name| !ended.contains(*name)).collect();
        let info = stream.consumer_info(queue).await;
        if missing.is_empty() && info.as_ref().is_ok_and(|info| info.num_ack_pending == 0 && info.num_pending == 0) {
            return;
        }
        let now = Some((missing.len(), info.as_ref().map_or(0, |info| info.ack_floor.stream_sequence)));
        if progress != now {
            (progress, since) = (now, Instant::now());
        }
        assert!(
            since.elapsed() < MAX_STALL,
            "{queue}: nothing has ended for {MAX_STALL:?}; {} of {} messages are missing, the first ones are {:?}; {info:?}",
            missing.len(),
            names.len(),
            &missing[..missing.len().min(20)],
        );
        sleep(ms(20)).await;
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
            handled.add(text(message.payload()));
            std::future::ready(())
        }
    };
    let plain = broker.subscribe("work.>", "plain", handler(0)).name("plain").concurrency(4).await.unwrap();
    let single = broker.subscribe("work.>", "single", handler(1)).name("single").await.unwrap();
    let ordered = broker.subscribe("work.>", "ordered", handler(2)).name("ordered").ordered().await.unwrap();

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

    let stream = jetstream.get_stream("WORK").await.unwrap();
    let mut letters = Letters { broker: reader, payloads: BTreeMap::new(), last: 0 };
    for (index, queue) in ["plain", "single", "ordered"].into_iter().enumerate() {
        all_ended(&stream, queue, &names, &handled[index], &mut letters).await;
        let counts = handled[index].counts();
        let payloads = letters.of(queue).await;
        let distinct: BTreeSet<_> = payloads.iter().collect();
        assert_eq!(distinct.len(), payloads.len(), "seed {seed}, {queue}: a message has two dead letters");
        let both: Vec<_> = payloads.iter().filter(|name| counts.contains_key(*name)).collect();
        assert!(both.is_empty(), "seed {seed}, {queue}: handled, and dead letters as well: {both:?}");
        assert_eq!(counts.len() + payloads.len(), names.len(), "seed {seed}, {queue}: nothing else was handled");
        // Those that are being acknowledged when one of the hundreds of connections ends; an ordered handler knows what
        // it has handled.
        let again = counts.values().filter(|count| **count > 1).count();
        let max = if queue == "ordered" { 0 } else { 16 };
        assert!(again <= max, "seed {seed}, {queue}: {again} messages were handled again");
    }
    let order: Vec<_> = handled[2].items();
    let expected: Vec<_> = names.iter().filter(|name| order.contains(name)).cloned().collect();
    assert_eq!(order, expected, "seed {seed}: the ordered handler has kept the order");
    for subscription in [plain, single, ordered] {
        subscription.unsubscribe().await.unwrap();
    }
}

/// Runs with a fixed seed or that in `HOSTILE_SEED`, and with the seeds after it if `HOSTILE_ROUNDS` is above 1.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_bytes_of_another_client_harm_nothing_else() {
    trace();
    let variable = |name, default| {
        std::env::var(name).map_or(default, |value| value.parse().unwrap_or_else(|_| panic!("{name} is a number")))
    };
    let first = variable("HOSTILE_SEED", 2026);
    for seed in first..first + variable("HOSTILE_ROUNDS", 1) {
        hostile(seed, 5000, 500).await;
    }
}
