//! Headers that belong to the server, in messages of other clients.

use jetstream_handlers::prelude::*;
use jetstream_handlers_tests::{
    Recorder, SOON, Server, connect, connect_with, dead_letters, eventually, stream_config,
};

use crate::header_map;

#[subscriber(subject = "work.pinned", queue = "pinned", ordered)]
async fn pinned(id: u64, headers: Headers, message: Message, State(calls): State<Recorder<(u64, usize)>>) {
    assert_eq!((headers.get("Nats-Pin-Id"), message.header("Nats-Pin-Id")), (None, None));
    assert_eq!(headers.get("Tenant"), Some("eu"));
    calls.add((id, headers.iter().filter(|(name, _)| name.starts_with("Nats-Pin")).count()));
}

#[tokio::test]
async fn pin_id_is_not_a_header_of_the_message() {
    let server = Server::start().await;
    let calls = Recorder::<(u64, usize)>::default();
    let broker = connect_with(&server, &calls).await;
    let running = broker.include::<pinned>().start_all().await.unwrap();
    let jetstream = server.jetstream().await;
    // The forged id precedes the one that the server adds, and must not stop the handler.
    for (id, forged) in [(1, None), (2, Some("forged")), (3, Some("")), (4, None)] {
        let mut headers = header_map(&[("Tenant", "eu")]);
        if let Some(forged) = forged {
            headers.append("Nats-Pin-Id", forged);
        }
        let ack = jetstream.publish_with_headers("work.pinned", headers, id.to_string().into()).await.unwrap();
        ack.await.unwrap();
    }
    calls.until_len(4).await;
    assert_eq!(calls.items(), [(1, 0), (2, 0), (3, 0), (4, 0)]);
    server.all_acked("WORK", "pinned").await;
    running.shutdown().await.unwrap();
}

#[tokio::test]
async fn dead_letter_and_replay_carry_no_header_of_the_server() {
    let server = Server::start().await;
    let jetstream = server.jetstream().await;
    let mut config = stream_config("WORK", &["work.>"]);
    config.allow_rollup = true;
    jetstream.create_stream(config).await.unwrap();
    let broker = connect(&server).await;
    let handler = |headers: Headers| {
        let is_replay = headers.get("Dead-Letter-Replay-Of").is_some();
        std::future::ready(if is_replay { Settle::Ack } else { Settle::Terminate })
    };
    let subscription = broker.subscribe("work.a", "worker", handler).await.unwrap();
    // `Nats-Rollup` removes the earlier messages when it is stored, and must not do so again.
    let headers = header_map(&[
        ("Nats-Rollup", "all"),
        ("Nats-Expected-Stream", "WORK"),
        ("Nats-Expected-Last-Sequence", "0"),
        ("nats-Schedule", "@every 1s"),
        ("Nats-Pin-Id", "forged"),
        ("Tenant", "eu"),
    ]);
    jetstream.publish_with_headers("work.a", headers, "1".into()).await.unwrap().await.unwrap();
    let letter = dead_letters(&broker, 1).await.remove(0);
    let raw = jetstream.get_stream("DLQ").await.unwrap().get_raw_message(letter.sequence).await.unwrap();
    let names: Vec<_> = raw.headers.iter().map(|(name, _)| AsRef::<str>::as_ref(name).to_ascii_lowercase()).collect();
    let for_server: Vec<_> = names.iter().filter(|name| name.starts_with("nats-")).collect();
    assert_eq!(for_server, ["nats-msg-id"], "only that of the dead letter itself");
    assert_eq!((letter.header("Nats-Rollup"), letter.header("Tenant")), (Some("all"), Some("eu")));
    assert_eq!(letter.header("Nats-Pin-Id"), None);

    jetstream.publish("work.b", "2".into()).await.unwrap().await.unwrap();
    let ack = broker.dead_letters().replay(letter.sequence).await.unwrap();
    assert_eq!((ack.stream.as_str(), ack.sequence), ("WORK", 3));
    let stream = jetstream.get_stream("WORK").await.unwrap();
    let raw = stream.get_raw_message(3).await.unwrap();
    assert!(raw.headers.get("Nats-Rollup").is_none() && raw.headers.get("nats-Schedule").is_none());
    assert_eq!(raw.headers.get("Tenant").unwrap().as_str(), "eu");
    eventually("the earlier messages are still there", SOON, async || {
        (stream.get_info().await.unwrap().state.messages == 3).then_some(())
    })
    .await;
    subscription.unsubscribe().await.unwrap();
}

#[tokio::test]
async fn replay_of_a_message_that_marks_a_deletion_marks_it_too() {
    let server = Server::start().await;
    let jetstream = server.jetstream().await;
    jetstream.create_stream(stream_config("WORK", &["work.>"])).await.unwrap();
    let broker = connect(&server).await;
    let handler = |headers: Headers| {
        let is_replay = headers.get("Dead-Letter-Replay-Of").is_some();
        std::future::ready(if is_replay { Settle::Ack } else { Settle::Terminate })
    };
    let subscription = broker.subscribe("work.a", "worker", handler).await.unwrap();
    let values = Recorder::<u64>::new();
    let decoding = broker.subscribe("work.a", "decoding", values.handler()).await.unwrap();
    for (payload, name, value, kept) in [
        ("", "Nats-Marker-Reason", "Purge", true),
        ("", "KV-Operation", "DEL", true),
        // A value is no marker, whatever its headers are.
        ("7", "Nats-Marker-Reason", "Purge", false),
    ] {
        let headers = header_map(&[(name, value)]);
        jetstream.publish_with_headers("work.a", headers, payload.into()).await.unwrap().await.unwrap();
        let letter = dead_letters(&broker, 1).await.remove(0);
        let ack = broker.dead_letters().to_every_queue().replay(letter.sequence).await.unwrap();
        let raw = jetstream.get_stream("WORK").await.unwrap().get_raw_message(ack.sequence).await.unwrap();
        assert_eq!(raw.headers.get(name).is_some(), kept, "{name} of {payload:?}");
        for queue in ["worker", "decoding"] {
            server.all_acked("WORK", queue).await;
        }
        assert!(broker.dead_letters().list(10).await.unwrap().is_empty());
    }
    assert_eq!(values.items(), [7, 7]);
    subscription.unsubscribe().await.unwrap();
    decoding.unsubscribe().await.unwrap();
}
