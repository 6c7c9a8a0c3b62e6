//! Dead letters that are too large for one message.

use jetstream_handlers::prelude::*;
use jetstream_handlers::stream::RetentionPolicy;
use jetstream_handlers::{ErrorKind, Subscription, stream};
use jetstream_handlers_tests::{
    Recorder, SOON, Server, assert_error, connect, connect_with, dead_letters, dead_letters_of, eventually,
    stream_config,
};

use crate::header_map;

/// A received message: the size of the payload and of the header `Filler`, and whether it is a replay.
type Received = (usize, usize, bool);

/// Terminates every message that is no replay.
async fn failing(broker: &Broker, calls: &Recorder<Received>) -> Subscription {
    let calls = calls.clone();
    let handler = move |message: Message| {
        let filler = message.header("Filler").map_or(0, str::len);
        let is_replay = message.header("Nats-Msg-Id").is_some_and(|id| id.starts_with("replay/"));
        calls.add((message.payload().len(), filler, is_replay));
        std::future::ready(if is_replay { Settle::Ack } else { Settle::Terminate })
    };
    broker.subscribe("work.a", "worker", handler).await.unwrap()
}

/// Publishes a message of another client, with a payload and a header of these sizes.
async fn store(server: &Server, subject: &'static str, payload: usize, filler: usize) {
    let filler = "f".repeat(filler);
    let headers = if filler.is_empty() { header_map(&[]) } else { header_map(&[("Filler", &filler)]) };
    let jetstream = server.jetstream().await;
    jetstream.publish_with_headers(subject, headers, vec![b'x'; payload].into()).await.unwrap().await.unwrap();
}

async fn count(server: &Server, stream: &str) -> u64 {
    server.jetstream().await.get_stream(stream).await.unwrap().cached_info().state.messages
}

#[tokio::test]
async fn large_message_is_dead_lettered_and_replayed_with_its_bytes() {
    for retention in [RetentionPolicy::Limits, RetentionPolicy::Interest, RetentionPolicy::WorkQueue] {
        let server = Server::builder().config("max_payload: 200000").start().await;
        let config = stream::Config { retention, ..stream_config("WORK", &["work.>"]) };
        server.jetstream().await.create_stream(config).await.unwrap();
        let broker = connect(&server).await;
        let calls = Recorder::<Received>::default();
        let subscription = failing(&broker, &calls).await;
        // The headers, the payload, and both are too large; the line of the header has 10 bytes more.
        let cases = [(10, 65_440 - 24), (199_850, 0), (134_600, 65_000)];
        for (payload, filler) in cases {
            store(&server, "work.a", payload, filler).await;
        }
        let letters = dead_letters(&broker, 3).await;
        server.all_acked("WORK", "worker").await;
        assert_eq!(count(&server, "DLQ").await, 3 + 4, "{retention:?}: three dead letters and their contents");
        let mut found: Vec<_> = letters
            .iter()
            .map(|letter| (letter.payload.len(), letter.header("Filler").map_or(0, str::len), letter.is_complete()))
            .collect();
        found.sort_unstable();
        assert_eq!(found, [(10, 65_416, true), (134_600, 65_000, true), (199_850, 0, true)]);
        let report = broker.dead_letters().replay_all().await.unwrap();
        assert_eq!((report.replayed, report.kept), (3, 0), "{report}");
        for (payload, filler) in cases {
            calls.until((payload, filler, true)).await;
        }
        assert_eq!(count(&server, "DLQ").await, 0, "the parts are deleted with their dead letters");
        subscription.unsubscribe().await.unwrap();
    }
}

#[tokio::test]
async fn payload_of_the_maximum_size_is_replayed_when_the_limit_is_raised() {
    let mut server = Server::builder().config("max_payload: 8192").start().await;
    let broker = connect(&server).await;
    let calls = Recorder::<Received>::default();
    let subscription = failing(&broker, &calls).await;
    store(&server, "work.a", 8192, 0).await;
    let letter = dead_letters(&broker, 1).await.remove(0);
    assert_eq!((letter.payload.len(), letter.is_complete()), (8192, true));
    let result = broker.dead_letters().replay(letter.sequence).await;
    assert_error(result, ErrorKind::PayloadTooLarge, &["max_payload"]);
    assert_eq!(dead_letters(&broker, 1).await.len(), 1);
    server.reload("max_payload: 16384");
    // The client knows the limit that the server announced when it connected.
    eventually("it is replayed", SOON, async || {
        connect(&server).await.dead_letters().replay(letter.sequence).await.ok()
    })
    .await;
    calls.until((8192, 0, true)).await;
    subscription.unsubscribe().await.unwrap();
}

#[tokio::test]
async fn small_limit_of_the_stream_divides_a_payload() {
    let server = Server::start().await;
    let config = stream::Config { max_message_size: 1200, ..stream_config("DLQ", &["dlq.>"]) };
    server.jetstream().await.create_stream(config).await.unwrap();
    let broker = connect(&server).await;
    let calls = Recorder::<Received>::default();
    let subscription = failing(&broker, &calls).await;
    store(&server, "work.a", 5000, 3000).await;
    let letter = dead_letters(&broker, 1).await.remove(0);
    assert_eq!((letter.payload.len(), letter.header("Filler").map(str::len)), (5000, Some(3000)));
    assert!(count(&server, "DLQ").await > 8);

    // Without one of its parts it is listed, but not replayed.
    let stream = server.jetstream().await.get_stream("DLQ").await.unwrap();
    stream.delete_message(1).await.unwrap();
    let letter = broker.dead_letters().get(letter.sequence).await.unwrap().unwrap();
    assert!(!letter.is_complete());
    let result = broker.dead_letters().replay(letter.sequence).await;
    assert_error(result, ErrorKind::Config, &["cannot be replayed", "part of its payload or headers is gone"]);
    assert_eq!(broker.dead_letters().purge().await.unwrap(), 1);
    assert_eq!(count(&server, "DLQ").await, 0);
    subscription.unsubscribe().await.unwrap();
}

#[subscriber(subject = "work.ordered", queue = "ordered", ordered)]
async fn ordered(message: Message, State(calls): State<Recorder<usize>>) -> Settle {
    calls.add(message.payload().len());
    if message.payload().len() == 2 { Settle::Ack } else { Settle::Terminate }
}

#[tokio::test]
async fn ordered_handler_goes_on_after_a_large_dead_letter() {
    let server = Server::builder().config("max_payload: 200000").start().await;
    let calls = Recorder::<usize>::default();
    let broker = connect_with(&server, &calls).await;
    let running = broker.include::<ordered>().start_all().await.unwrap();
    for (payload, filler) in [(10, 65_416), (2, 0), (199_990, 0), (2, 0)] {
        store(&server, "work.ordered", payload, filler).await;
    }
    calls.until_len(4).await;
    assert_eq!(calls.items(), [10, 2, 199_990, 2], "each is tried once");
    server.all_acked("WORK", "ordered").await;
    let letters = dead_letters_of(&broker, "ordered", 2).await;
    assert_eq!(letters.iter().map(|letter| letter.payload.len()).collect::<Vec<_>>(), [10, 199_990]);
    running.shutdown().await.unwrap();
}

#[tokio::test]
async fn part_of_another_dead_letter_is_not_taken() {
    let server = Server::builder().config("max_payload: 8192").start().await;
    let broker = connect(&server).await;
    let calls = Recorder::<Received>::default();
    let subscription = failing(&broker, &calls).await;
    store(&server, "work.a", 8000, 0).await;
    let letter = dead_letters(&broker, 1).await.remove(0);
    assert_eq!(letter.sequence, 3, "after the two parts of its payload");
    // A forged dead letter names the part of the other one, and the other one itself.
    let jetstream = server.jetstream().await;
    let raw = jetstream.get_stream("DLQ").await.unwrap().get_raw_message(3).await.unwrap();
    for sequences in ["1", "1,2", "3", "1,1,1", "99", "", "x"] {
        let mut headers = raw.headers.clone();
        headers.insert("Nats-Msg-Id", format!("forged {sequences}"));
        headers.insert("Dead-Letter-Payload-At", sequences);
        let ack = jetstream.publish_with_headers("dlq.WORK.worker", headers, "".into()).await.unwrap();
        let sequence = ack.await.unwrap().sequence;
        if let Some(forged) = broker.dead_letters().get(sequence).await.unwrap() {
            assert_eq!((forged.is_complete(), forged.payload.len()), (false, 0), "{sequences}");
            broker.dead_letters().replay(sequence).await.unwrap_err();
        }
    }
    broker.dead_letters().replay(3).await.unwrap();
    calls.until((8000, 0, true)).await;
    subscription.unsubscribe().await.unwrap();
}

#[tokio::test]
async fn message_with_a_guessed_id_does_not_replace_a_dead_letter() {
    let server = Server::builder().config("max_payload: 8192").start().await;
    let jetstream = server.jetstream().await;
    jetstream.create_stream(stream_config("WORK", &["work.>"])).await.unwrap();
    jetstream.create_stream(stream_config("DLQ", &["dlq.>"])).await.unwrap();
    // An adversary takes the ids of the dead letters, and of a part, before the handler starts.
    let work = jetstream.get_stream("WORK").await.unwrap();
    for (payload, sequence) in [(10, 1), (8000, 2)] {
        store(&server, "work.a", payload, 0).await;
        let stored = work.get_raw_message(sequence).await.unwrap();
        let id = format!("dlq:WORK:worker:{sequence}:{}", stored.time.unix_timestamp_nanos());
        for id in [format!("{id}:payload:0:7680"), id] {
            let headers = header_map(&[("Nats-Msg-Id", &id)]);
            jetstream.publish_with_headers("dlq.forged", headers, "taken".into()).await.unwrap().await.unwrap();
        }
    }
    let broker = connect(&server).await;
    let calls = Recorder::<Received>::default();
    let subscription = failing(&broker, &calls).await;
    let letters = dead_letters(&broker, 2).await;
    server.all_acked("WORK", "worker").await;
    let found: Vec<_> = letters.iter().map(|letter| (letter.payload.len(), letter.is_complete())).collect();
    assert!(found.len() == 2 && found.contains(&(10, true)) && found.contains(&(8000, true)), "{found:?}");
    assert_eq!(broker.dead_letters().replay_all().await.unwrap().replayed, 2);
    calls.until((10, 0, true)).await;
    calls.until((8000, 0, true)).await;
    subscription.unsubscribe().await.unwrap();
}

#[tokio::test]
async fn message_that_fails_again_has_one_dead_letter() {
    let server = Server::builder().config("max_payload: 8192").start().await;
    let broker = connect(&server).await;
    let calls = Recorder::<Received>::default();
    let subscription = failing(&broker, &calls).await;
    store(&server, "work.a", 10, 100).await;
    store(&server, "work.a", 8000, 0).await;
    dead_letters(&broker, 2).await;
    server.all_acked("WORK", "worker").await;
    let before = count(&server, "DLQ").await;
    subscription.unsubscribe().await.unwrap();
    // A new consumer delivers both again, as after a termination that was lost.
    let work = server.jetstream().await.get_stream("WORK").await.unwrap();
    work.delete_consumer("worker").await.unwrap();
    let subscription = failing(&broker, &calls).await;
    calls.until_len(4).await;
    server.all_acked("WORK", "worker").await;
    assert_eq!(count(&server, "DLQ").await, before);
    assert_eq!(dead_letters(&broker, 2).await.len(), 2);
    subscription.unsubscribe().await.unwrap();
}

#[tokio::test]
async fn forged_dead_letter_has_no_part_in_another_one() {
    let server = Server::builder().config("max_payload: 8192").start().await;
    let broker = connect(&server).await;
    let calls = Recorder::<Received>::default();
    let subscription = failing(&broker, &calls).await;
    store(&server, "work.a", 8000, 0).await;
    let real = dead_letters(&broker, 1).await.remove(0);
    assert!(real.is_complete() && real.sequence > 1, "its payload is stored before it");
    // The time of the original is known to every consumer of its stream.
    let stored = server.jetstream().await.get_stream("WORK").await.unwrap().get_raw_message(1).await.unwrap();
    let nanos = stored.time.unix_timestamp_nanos();
    let jetstream = server.jetstream().await;
    for part in 1..real.sequence {
        let headers = [
            ("Nats-Msg-Id", format!("dlq:WORK:worker:1:{nanos}/{part}")),
            ("Dead-Letter-Reason", "error".to_owned()),
            ("Dead-Letter-Handler", real.handler.clone()),
            ("Dead-Letter-Subject", "work.public".to_owned()),
            ("Dead-Letter-Stream", "WORK".to_owned()),
            ("Dead-Letter-Sequence", "1".to_owned()),
            ("Dead-Letter-Consumer", "worker".to_owned()),
            ("Dead-Letter-Delivered", "1".to_owned()),
            ("Dead-Letter-Payload-At", part.to_string()),
        ];
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let forged = jetstream.publish_with_headers("dlq.WORK.worker", header_map(&headers), "".into()).await.unwrap();
        forged.await.unwrap();
    }
    let letters = broker.dead_letters().list(10).await.unwrap();
    assert!(letters.len() > 1);
    for letter in letters.iter().filter(|letter| letter.sequence != real.sequence) {
        assert!(!letter.is_complete() && letter.payload.is_empty(), "{letter}");
        broker.dead_letters().replay(letter.sequence).await.unwrap_err();
    }
    assert!(broker.dead_letters().get(real.sequence).await.unwrap().unwrap().is_complete());
    broker.dead_letters().replay(real.sequence).await.unwrap();
    calls.until((8000, 0, true)).await;
    subscription.unsubscribe().await.unwrap();
}
