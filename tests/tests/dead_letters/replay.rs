//! Replays: what a dead letter can do, who handles it, and what remains.

use jetstream_handlers::prelude::*;
use jetstream_handlers::{DeadLetter, ErrorKind, Subscription, stream};
use jetstream_handlers_tests::{
    Recorder, Server, assert_error, connect, dead_letters, dead_letters_of, payload_of, publish, stream_config,
};

use crate::header_map;

/// Stores a dead letter as an adversary could who may publish to `dlq.>`; returns its sequence.
async fn forge(server: &Server, stream: &str, queue: &str, subject: &str) -> u64 {
    let headers = header_map(&[
        ("Dead-Letter-Reason", "error"),
        ("Dead-Letter-Error", "forged"),
        ("Dead-Letter-Stream", stream),
        ("Dead-Letter-Sequence", "1"),
        ("Dead-Letter-Subject", subject),
        ("Dead-Letter-Consumer", queue),
        ("Dead-Letter-Delivered", "1"),
        ("Dead-Letter-Handler", "forged"),
    ]);
    let jetstream = server.jetstream().await;
    jetstream.publish_with_headers("dlq.forged", headers, "{}".into()).await.unwrap().await.unwrap().sequence
}

/// Handles numbers on `subject`, and terminates them until `Dead-Letter-Replay-Of` is present.
async fn failing(broker: &Broker, queue: &str, subject: &str, calls: &Recorder<(String, u64)>) -> Subscription {
    let (calls, name) = (calls.clone(), queue.to_owned());
    let handler = move |id: u64, headers: Headers| {
        calls.add((name.clone(), id));
        let is_replay = headers.get("Dead-Letter-Replay-Of").is_some();
        std::future::ready(if is_replay { Settle::Ack } else { Settle::Terminate })
    };
    broker.subscribe(subject, queue, handler).await.unwrap()
}

fn call(queue: &str, id: u64) -> (String, u64) {
    (queue.to_owned(), id)
}

#[tokio::test]
async fn forged_dead_letter_reaches_nothing_but_its_own_stream() {
    let server = Server::start().await;
    let jetstream = server.jetstream().await;
    for (name, subject) in [("DLQ", "dlq.>"), ("WORK", "work.>"), ("KV_settings", "$KV.settings.>"), ("OTHER", "other")]
    {
        jetstream.create_stream(stream_config(name, &[subject])).await.unwrap();
    }
    jetstream.publish("other", "1".into()).await.unwrap().await.unwrap();
    let broker = connect(&server).await;
    let calls = Recorder::<(String, u64)>::default();
    let subscription = failing(&broker, "worker", "work.a", &calls).await;
    for (stream, queue, subject, kind, part) in [
        ("WORK", "worker", "$JS.API.STREAM.PURGE.OTHER", ErrorKind::Config, "reserved"),
        ("OTHER", "worker", "$JS.API.STREAM.DELETE.OTHER", ErrorKind::Config, "reserved"),
        ("WORK", "worker", "$SYS.REQ.SERVER.PING", ErrorKind::Config, "reserved"),
        ("WORK", "worker", "$KV.settings.theme", ErrorKind::Config, "reserved"),
        ("WORK", "worker", "_INBOX.abc", ErrorKind::Config, "inbox"),
        ("WORK", "worker", "work.>", ErrorKind::Config, "wildcard"),
        ("WORK", "worker", "work.a b", ErrorKind::Config, "a space"),
        ("WORK", "worker", "", ErrorKind::Config, "empty"),
        ("WORK", "worker", "other", ErrorKind::StreamMismatch, "does not store subject `other`"),
        ("WORK", "worker", "new.subject", ErrorKind::StreamMismatch, "does not store subject `new.subject`"),
        ("NEW", "worker", "new.subject", ErrorKind::StreamNotFound, "`NEW` does not exist"),
        ("WORK.x", "worker", "work.a", ErrorKind::Config, "its stream"),
        ("*", "worker", "work.a", ErrorKind::Config, "its stream"),
        ("WORK", "worker.>", "work.a", ErrorKind::Config, "its queue"),
        ("WORK", "nobody", "work.a", ErrorKind::ConsumerMismatch, "`nobody` on stream `WORK` does not exist"),
        ("WORK", "worker", "work.b", ErrorKind::ConsumerMismatch, "does not receive subject `work.b`"),
    ] {
        let sequence = forge(&server, stream, queue, subject).await;
        let about = format!("dead letter {sequence} cannot be replayed");
        assert_error(broker.dead_letters().replay(sequence).await, kind, &[&about, part]);
        if kind != ErrorKind::ConsumerMismatch {
            let to_all = broker.dead_letters().to_every_queue();
            assert_error(to_all.replay(sequence).await, kind, &[&about, part]);
        }
    }
    let mut names: Vec<String> = futures::TryStreamExt::try_collect(jetstream.stream_names()).await.unwrap();
    names.sort();
    assert_eq!(names, ["DLQ", "KV_settings", "OTHER", "WORK"], "no stream was made");
    for (name, messages) in [("DLQ", 16), ("KV_settings", 0), ("OTHER", 1), ("WORK", 0)] {
        assert_eq!(jetstream.get_stream(name).await.unwrap().cached_info().state.messages, messages, "{name}");
    }
    // All of them are kept and reported.
    let report = broker.dead_letters().replay_all().await.unwrap();
    assert_eq!((report.replayed, report.kept, report.failures.len()), (0, 16, 16), "{report}");
    subscription.unsubscribe().await.unwrap();
}

#[tokio::test]
async fn dead_letter_that_cannot_be_replayed_does_not_stop_the_others() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    let calls = Recorder::<(String, u64)>::default();
    let subscription = failing(&broker, "worker", "work.a", &calls).await;
    publish(&broker, "work.a", [1]).await;
    dead_letters(&broker, 1).await;
    let forged = forge(&server, "WORK", "worker", "$JS.API.STREAM.DELETE.WORK").await;
    publish(&broker, "work.a", [2]).await;
    dead_letters(&broker, 3).await;
    let report = broker.dead_letters().replay_all().await.unwrap();
    assert_eq!((report.replayed, report.kept), (2, 1), "{report}");
    let text = report.to_string();
    assert!(text.contains(&format!("2 replayed, 1 kept\n  - #{forged}: dead letter {forged} cannot be")), "{text}");
    calls.until_times(call("worker", 2), 2).await;
    let left = broker.dead_letters().list(10).await.unwrap();
    assert_eq!(left.iter().map(|letter| letter.sequence).collect::<Vec<_>>(), [forged]);
    subscription.unsubscribe().await.unwrap();
}

#[tokio::test]
async fn every_remaining_dead_letter_is_visible() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    let calls = Recorder::<(String, u64)>::default();
    let subscription = failing(&broker, "worker", "work.a", &calls).await;
    publish(&broker, "work.a", 1..=6).await;
    let letters = dead_letters(&broker, 6).await;
    let remaining = async || broker.dead_letters().list(10).await.unwrap().iter().map(payload_of).collect::<Vec<_>>();
    let by_id = |id: u64| letters.iter().find(|letter| payload_of(letter) == id).unwrap();
    // The newest is replayed, another newest is deleted, and a stream without messages has none to show.
    broker.dead_letters().replay(letters[5].sequence).await.unwrap();
    let mut expected: Vec<_> = letters[..5].iter().map(payload_of).collect();
    assert_eq!(remaining().await, expected);
    let stream = server.jetstream().await.get_stream("DLQ").await.unwrap();
    stream.delete_message(letters[4].sequence).await.unwrap();
    expected.pop();
    assert_eq!(remaining().await, expected);
    assert_eq!(broker.dead_letters().get(by_id(expected[3]).sequence).await.unwrap().unwrap().delivered, 1);
    assert_eq!(broker.dead_letters().replay_all().await.unwrap().replayed, 4);
    assert!(remaining().await.is_empty());
    assert_eq!(broker.dead_letters().replay_all().await.unwrap().replayed, 0);
    subscription.unsubscribe().await.unwrap();
}

#[tokio::test]
async fn stream_that_denies_deletes_keeps_replayed_dead_letters() {
    let server = Server::start().await;
    let config = stream::Config { deny_delete: true, ..stream_config("DLQ", &["dlq.>"]) };
    server.jetstream().await.create_stream(config).await.unwrap();
    let broker = connect(&server).await;
    let calls = Recorder::<(String, u64)>::default();
    let subscription = failing(&broker, "worker", "work.a", &calls).await;
    publish(&broker, "work.a", 1..=2).await;
    let letters = dead_letters(&broker, 2).await;
    let report = broker.dead_letters().replay_all().await.unwrap();
    assert_eq!((report.replayed, report.kept), (0, 2));
    assert!(report.to_string().contains("`DLQ` denies deletes (`deny_delete`)"), "{report}");
    assert_eq!(calls.items().len(), 2, "nothing was replayed");
    let ack = broker.dead_letters().replay(letters[0].sequence).await.unwrap();
    assert_eq!((ack.sequence, ack.duplicate), (3, false));
    calls.until_times(call("worker", payload_of(&letters[0])), 2).await;
    // As after a crash between the publish and the deletion.
    let again = broker.dead_letters().replay(letters[0].sequence).await.unwrap();
    assert_eq!((again.sequence, again.duplicate), (3, true));
    assert_eq!(dead_letters(&broker, 2).await.len(), 2, "both are still there");
    subscription.unsubscribe().await.unwrap();
}

/// Starts three queues on `work.a`, of which `second` fails until the replay, and records key and attempts of each.
async fn three_queues(broker: &Broker, calls: &Recorder<(String, u64)>, keys: &Recorder<String>) -> Vec<Subscription> {
    let mut running = Vec::new();
    for queue in ["first", "third"] {
        let (calls, name) = (calls.clone(), queue.to_owned());
        let handler = move |id: u64| {
            calls.add((name.clone(), id));
            std::future::ready(())
        };
        running.push(broker.subscribe("work.a", queue, handler).await.unwrap());
    }
    let (calls, keys) = (calls.clone(), keys.clone());
    let handler = move |id: u64, message: Message| {
        calls.add(call("second", id));
        keys.add(message.idempotency_key().into_owned());
        // Fails again at the first replay.
        let attempts = calls.count(call("second", id));
        std::future::ready(if attempts < 3 { Settle::Terminate } else { Settle::Ack })
    };
    running.push(broker.subscribe("work.a", "second", handler).await.unwrap());
    running
}

#[tokio::test]
async fn only_the_queue_that_failed_handles_a_replay() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    let (calls, keys) = (Recorder::<(String, u64)>::default(), Recorder::<String>::default());
    let running = three_queues(&broker, &calls, &keys).await;
    broker.publish_message("work.a", &1).message_id("order-1").await.unwrap();
    let jetstream = server.jetstream().await;
    // A message without an id, as other clients publish it.
    jetstream.publish("work.a", "2".into()).await.unwrap().await.unwrap();
    for round in 1..=2 {
        let letters = dead_letters(&broker, 2).await;
        let mut found: Vec<_> = letters.iter().map(DeadLetter::idempotency_key).collect();
        found.sort_unstable();
        assert_eq!(found, ["WORK:2", "order-1"], "round {round}");
        assert_eq!(broker.dead_letters().replay_all().await.unwrap().replayed, 2);
        for id in 1..=2 {
            calls.until_times(call("second", id), round + 1).await;
        }
    }
    for queue in ["first", "second", "third"] {
        server.all_acked("WORK", queue).await;
    }
    let counted: Vec<_> = ["first", "second", "third"].map(|queue| calls.count(call(queue, 1))).into();
    assert_eq!(counted, [1, 3, 1]);
    assert_eq!(keys.counts(), [("WORK:2".to_owned(), 3), ("order-1".to_owned(), 3)].into());
    for subscription in running {
        subscription.unsubscribe().await.unwrap();
    }
}

#[tokio::test]
async fn every_queue_handles_a_replay_on_request() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    let (calls, keys) = (Recorder::<(String, u64)>::default(), Recorder::<String>::default());
    let running = three_queues(&broker, &calls, &keys).await;
    publish(&broker, "work.a", [1]).await;
    let letter = dead_letters(&broker, 1).await.remove(0);
    broker.dead_letters().to_every_queue().replay(letter.sequence).await.unwrap();
    for queue in ["first", "second", "third"] {
        calls.until_times(call(queue, 1), 2).await;
    }
    for subscription in running {
        subscription.unsubscribe().await.unwrap();
    }
}

#[subscriber(subject = "work.ordered", queue = "ordered", ordered)]
async fn ordered(id: u64, State(calls): State<Recorder<(String, u64)>>) {
    calls.add(call("ordered", id));
}

#[tokio::test]
async fn headers_copied_from_a_replay_do_not_hide_a_message() {
    let server = Server::start().await;
    let calls = Recorder::<(String, u64)>::default();
    let broker = jetstream_handlers_tests::connect_with(&server, &calls).await;
    let running = broker.include::<ordered>().start_all().await.unwrap();
    let subscription = failing(&broker, "worker", "work.a", &calls).await;
    publish(&broker, "work.a", [1]).await;
    dead_letters_of(&broker, "closure on work.a", 1).await;
    assert_eq!(broker.dead_letters().replay_all().await.unwrap().replayed, 1);
    calls.until_times(call("worker", 1), 2).await;
    let stream = server.jetstream().await.get_stream("WORK").await.unwrap();
    let replay = stream.get_raw_message(2).await.unwrap();
    assert_eq!(replay.headers.get("Dead-Letter-Replay-For").unwrap().as_str(), "WORK.worker");
    // Another client forwards it with its headers but its own id.
    let jetstream = server.jetstream().await;
    let mut headers = replay.headers.clone();
    headers.insert("Nats-Msg-Id", "forwarded");
    jetstream.publish_with_headers("work.ordered", headers, "7".into()).await.unwrap().await.unwrap();
    calls.until(call("ordered", 7)).await;
    // A replay for another queue is passed over in order.
    let mut headers = replay.headers.clone();
    headers.insert("Nats-Msg-Id", format!("{}x", headers.get("Nats-Msg-Id").unwrap()));
    jetstream.publish_with_headers("work.ordered", headers, "8".into()).await.unwrap().await.unwrap();
    publish(&broker, "work.ordered", [9]).await;
    calls.until(call("ordered", 9)).await;
    assert_eq!(calls.count(call("ordered", 8)), 0);
    server.all_acked("WORK", "ordered").await;
    subscription.unsubscribe().await.unwrap();
    running.shutdown().await.unwrap();
}

#[tokio::test]
async fn mirrored_message_is_replayed_to_its_origin() {
    let server = Server::start().await;
    let jetstream = server.jetstream().await;
    jetstream.create_stream(stream_config("WORK", &["work.>"])).await.unwrap();
    let mirror =
        jetstream_handlers::async_nats::jetstream::stream::Source { name: "WORK".into(), ..Default::default() };
    jetstream.create_stream(stream::Config { mirror: Some(mirror), ..stream_config("COPY", &[]) }).await.unwrap();
    let consumer = jetstream_handlers::async_nats::jetstream::consumer::pull::Config {
        durable_name: Some("worker".into()),
        ..Default::default()
    };
    jetstream.get_stream("COPY").await.unwrap().create_consumer(consumer).await.unwrap();
    jetstream.create_stream(stream_config("DLQ", &["dlq.>"])).await.unwrap();
    let broker = connect(&server).await;
    let sequence = forge(&server, "COPY", "worker", "work.a").await;
    let ack = broker.dead_letters().replay(sequence).await.unwrap();
    assert_eq!((ack.stream.as_str(), ack.sequence), ("WORK", 1));
    let stored = jetstream.get_stream("WORK").await.unwrap().get_raw_message(1).await.unwrap();
    assert_eq!(stored.headers.get("Dead-Letter-Replay-For").unwrap().as_str(), "COPY.worker");
}
