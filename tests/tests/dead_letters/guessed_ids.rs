//! Message ids that somebody guesses: another message that has the id of a replay or of a dead letter hides neither.

use jetstream_handlers::prelude::*;
use jetstream_handlers::stream::RetentionPolicy;
use jetstream_handlers::{DeadLetter, ErrorKind, Subscription, stream};
use jetstream_handlers_tests::{
    Recorder, SOON, Server, assert_error, connect, dead_letters, eventually, publish, stream_config,
};

use crate::header_map;

/// Records customer and payload of each message, and terminates the first call of each.
async fn failing_once(broker: &Broker, calls: &Recorder<String>) -> Subscription {
    let calls = calls.clone();
    let handler = move |message: Message| {
        let customer = message.header("Customer").unwrap_or("nobody");
        let attempt = calls.attempt(format!("{customer} {}", String::from_utf8_lossy(message.payload())));
        std::future::ready(if attempt == 1 { Settle::Terminate } else { Settle::Ack })
    };
    broker.subscribe("work.>", "worker", handler).await.unwrap()
}

async fn create_streams(server: &Server, retention: RetentionPolicy) {
    let jetstream = server.jetstream().await;
    let config = stream::Config { retention, allow_message_ttl: true, ..stream_config("WORK", &["work.>"]) };
    jetstream.create_stream(config).await.unwrap();
    jetstream.create_stream(stream_config("DLQ", &["dlq.>"])).await.unwrap();
}

async fn store(server: &Server, subject: &'static str, headers: &[(&str, &str)], payload: &'static str) -> u64 {
    let jetstream = server.jetstream().await;
    let publish = jetstream.publish_with_headers(subject, header_map(headers), payload.into());
    publish.await.unwrap().await.unwrap().sequence
}

async fn count(server: &Server, stream: &str) -> u64 {
    server.jetstream().await.get_stream(stream).await.unwrap().cached_info().state.messages
}

/// Returns the message id of a replay, as a client that can read the dead letter computes it.
fn guess(letter: &DeadLetter) -> String {
    let stored_at = letter.stored_at.duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
    format!("replay/DLQ/{}/{stored_at}/WORK.worker", letter.sequence)
}

#[tokio::test]
async fn another_message_with_the_id_of_a_replay_does_not_replace_it() {
    let server = Server::start().await;
    create_streams(&server, RetentionPolicy::Limits).await;
    let broker = connect(&server).await;
    let calls = Recorder::<String>::default();
    let subscription = failing_once(&broker, &calls).await;
    for (round, (subject, customer, ttl, payload)) in [
        ("work.a", "alice", None, "666"),
        ("work.a", "mallory", None, "1"),
        ("work.b", "alice", None, "1"),
        // The server would remove it before it is handled.
        ("work.a", "alice", Some("1000s"), "1"),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("alice{round}");
        store(&server, "work.a", &[("Customer", &name)], "1").await;
        let letter = dead_letters(&broker, 1).await.remove(0);
        // The same customer of this round, or another one.
        let customer = if customer == "alice" { &*name } else { customer };
        let id = guess(&letter);
        let mut headers = vec![("Nats-Msg-Id", &*id), ("Customer", customer)];
        headers.extend(ttl.map(|ttl| ("Nats-TTL", ttl)));
        let forged = store(&server, subject, &headers, payload).await;
        let before = calls.count(format!("{name} 1"));
        let ack = broker.dead_letters().replay(letter.sequence).await.unwrap();
        assert!(ack.sequence > forged && !ack.duplicate, "{ack:?}");
        let stored = server.jetstream().await.get_stream("WORK").await.unwrap();
        let stored = stored.get_raw_message(ack.sequence).await.unwrap();
        let value = |name: &str| stored.headers.get(name).map(ToString::to_string);
        assert_eq!((&*stored.subject, value("Customer"), value("Nats-TTL")), ("work.a", Some(name.clone()), None));
        assert_eq!(value("Dead-Letter-Replay-For").as_deref(), Some("WORK.worker"));
        calls.until_times(format!("{name} 1"), before + 1).await;
        server.all_acked("WORK", "worker").await;
        // The forged message may have failed as well.
        assert_eq!(broker.dead_letters().get(letter.sequence).await.unwrap().map(|letter| letter.sequence), None);
        broker.dead_letters().purge().await.unwrap();
    }
    subscription.unsubscribe().await.unwrap();
}

#[tokio::test]
async fn replay_whose_id_belongs_to_a_message_that_is_gone_keeps_the_dead_letter() {
    let server = Server::start().await;
    create_streams(&server, RetentionPolicy::WorkQueue).await;
    let broker = connect(&server).await;
    let calls = Recorder::<String>::default();
    let subscription = failing_once(&broker, &calls).await;
    for (customer, subject, payload) in [("alice", "work.a", "1"), ("bob", "work.other", "99")] {
        store(&server, "work.a", &[("Customer", customer)], "1").await;
        let letter = dead_letters(&broker, 1).await.remove(0);
        store(&server, subject, &[("Nats-Msg-Id", &guess(&letter)), ("Customer", "mallory")], payload).await;
        eventually("the other message is gone", SOON, async || (count(&server, "WORK").await == 0).then_some(())).await;
        let result = broker.dead_letters().replay(letter.sequence).await;
        let parts = ["cannot be replayed", "is gone", "`duplicate_window`"];
        assert_error(result, ErrorKind::Duplicate, &parts);
        let report = broker.dead_letters().replay_all().await.unwrap();
        assert!(report.failures.iter().any(|(sequence, _)| *sequence == letter.sequence), "{report}");
        assert!(broker.dead_letters().get(letter.sequence).await.unwrap().is_some(), "it is kept");
        broker.dead_letters().purge().await.unwrap();
    }
    subscription.unsubscribe().await.unwrap();
}

#[tokio::test]
async fn replay_after_a_crash_is_not_handled_twice() {
    for retention in [RetentionPolicy::Limits, RetentionPolicy::WorkQueue] {
        let server = Server::start().await;
        create_streams(&server, retention).await;
        let broker = connect(&server).await;
        let calls = Recorder::<String>::default();
        let subscription = failing_once(&broker, &calls).await;
        store(&server, "work.a", &[("Customer", "alice")], "1").await;
        let letter = dead_letters(&broker, 1).await.remove(0);
        // What a process publishes that is killed before it deletes the dead letter.
        let crashed = [
            ("Nats-Msg-Id", &*guess(&letter)),
            ("Customer", "alice"),
            ("Dead-Letter-Message-Id", letter.idempotency_key()),
            ("Dead-Letter-Replay-Of", &format!("DLQ:{}", letter.sequence)),
            ("Dead-Letter-Replay-For", "WORK.worker"),
            ("Nats-Expected-Stream", "WORK"),
        ];
        let sequence = store(&server, "work.a", &crashed, "1").await;
        calls.until_times("alice 1".to_owned(), 2).await;
        server.all_acked("WORK", "worker").await;
        let result = broker.dead_letters().replay(letter.sequence).await;
        if retention == RetentionPolicy::Limits {
            let ack = result.unwrap();
            assert_eq!((ack.sequence, ack.duplicate), (sequence, true));
            assert!(broker.dead_letters().get(letter.sequence).await.unwrap().is_none());
        } else {
            assert_error(result, ErrorKind::Duplicate, &["replayed before and handled"]);
        }
        // A message that is published afterwards is handled after a replay would have been.
        publish(&broker, "work.a", [2]).await;
        calls.until("nobody 2".to_owned()).await;
        assert_eq!(calls.count("alice 1".to_owned()), 2, "{retention:?}");
        subscription.unsubscribe().await.unwrap();
    }
}

#[tokio::test]
async fn another_message_with_the_id_of_a_dead_letter_does_not_replace_it() {
    let server = Server::start().await;
    create_streams(&server, RetentionPolicy::Limits).await;
    let broker = connect(&server).await;
    let calls = Recorder::<String>::default();
    for (sequence, is_deleted) in [(1, false), (2, true)] {
        store(&server, "work.a", &[("Customer", "alice")], "1").await;
        let stream = server.jetstream().await.get_stream("WORK").await.unwrap();
        let nanos = stream.get_raw_message(sequence).await.unwrap().time.unix_timestamp_nanos();
        let id = format!("dlq:WORK:worker:{sequence}:{nanos}");
        let forged = store(&server, "dlq.forged", &[("Nats-Msg-Id", &id)], "{}").await;
        if is_deleted {
            server.jetstream().await.get_stream("DLQ").await.unwrap().delete_message(forged).await.unwrap();
        }
    }
    let calls_of_each = calls.clone();
    let handler = move |message: Message| {
        calls_of_each.add(message.info().stream_sequence().to_string());
        std::future::ready(Settle::Terminate)
    };
    let subscription = broker.subscribe("work.>", "worker", handler).stream("WORK").await.unwrap();
    let letters = dead_letters(&broker, 2).await;
    let mut sequences: Vec<_> = letters.iter().map(|letter| letter.stream_sequence).collect();
    sequences.sort_unstable();
    assert_eq!(sequences, [1, 2]);
    subscription.unsubscribe().await.unwrap();
}
