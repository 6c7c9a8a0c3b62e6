//! A message that cannot be handled is stored as a dead letter, and can be replayed.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod advisories;
mod guessed_ids;
mod headers;
mod large;
mod replay;
mod rights;
mod texts;

use futures::StreamExt as _;
use jetstream_handlers::async_nats::HeaderMap;
use jetstream_handlers::async_nats::jetstream::consumer::{self, PullConsumer};
use jetstream_handlers::async_nats::jetstream::stream::{DiscardPolicy, RetentionPolicy};
use jetstream_handlers::prelude::*;
use jetstream_handlers::{ErrorKind, stream};
use jetstream_handlers_tests::{
    Recorder, SOON, Server, assert_error, connect, connect_with, dead_letters, dead_letters_of, eventually, ms,
    payload_of, publish, stream_config,
};

/// Returns a header map with these names and values.
fn header_map(headers: &[(&str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    headers.iter().for_each(|(name, value)| map.append(*name, *value));
    map
}

/// Limits the bytes of the stream of dead letters, which then refuses more; -1 removes the limit.
async fn set_dead_letter_limit(server: &Server, max_bytes: i64) {
    let jetstream = server.jetstream().await;
    let mut config = jetstream.get_stream("DLQ").await.unwrap().cached_info().config.clone();
    config.discard = DiscardPolicy::New;
    config.max_bytes = max_bytes;
    jetstream.update_stream(config).await.unwrap();
}

#[derive(Debug)]
struct Outer(std::io::Error);

impl std::fmt::Display for Outer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("storing the order")
    }
}

impl std::error::Error for Outer {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

#[subscriber(subject = "work.hopeless", queue = "hopeless", max_deliver = 3, backoff = ["20ms"])]
async fn hopeless(id: u64, State(calls): State<Recorder>) -> Result<(), Outer> {
    calls.add(id);
    Err(Outer(std::io::Error::other("disk full")))
}

#[tokio::test]
async fn exhausted_message_becomes_a_dead_letter_with_its_metadata() {
    let server = Server::start().await;
    let calls = Recorder::new();
    let broker = connect_with(&server, &calls).await;
    let running = broker.include::<hopeless>().start_all().await.unwrap();
    let ack = broker
        .publish_message("work.hopeless", &7)
        .header("Tenant", "eu")
        .header("Tenant", "us")
        .message_id("seven")
        .await
        .unwrap();
    let letter = dead_letters_of(&broker, "hopeless", 1).await.remove(0);
    assert_eq!(letter.reason.as_str(), "error");
    assert_eq!(letter.error, "storing the order: disk full");
    assert_eq!(letter.handler, "dead_letters::hopeless");
    assert_eq!((letter.stream.as_str(), letter.stream_sequence), ("WORK", ack.sequence));
    assert_eq!((letter.subject.as_str(), letter.consumer.as_str()), ("work.hopeless", "hopeless"));
    assert_eq!(letter.delivered, 3);
    assert_eq!(&letter.payload[..], b"7");
    assert_eq!((letter.header("Tenant"), letter.header("Nats-Msg-Id")), (Some("eu"), Some("seven")));
    server.all_acked("WORK", "hopeless").await;
    running.shutdown().await.unwrap();
    assert_eq!(calls.count(7), 3);

    // The stored message, as a plain client sees it.
    let jetstream = server.jetstream().await;
    let mut stream = jetstream.get_stream("DLQ").await.unwrap();
    let raw = stream.get_raw_message(letter.sequence).await.unwrap();
    assert_eq!(&*raw.subject, "dlq.WORK.hopeless");
    for header in ["Reason", "Error", "Stream", "Sequence", "Subject", "Consumer", "Delivered", "Handler", "Time"] {
        assert!(raw.headers.get(format!("Dead-Letter-{header}").as_str()).is_some(), "{header}");
    }
    assert_eq!(stream.info().await.unwrap().config.retention, jetstream_handlers::stream::RetentionPolicy::Limits);
}

#[subscriber(subject = "work.refused", queue = "refused")]
async fn refused(id: u64, State(calls): State<Recorder>) -> HandlerResult {
    calls.add(id);
    Err(HandlerError::terminate("no such customer"))
}

#[tokio::test]
async fn terminated_message_becomes_a_dead_letter_at_once() {
    let server = Server::start().await;
    let calls = Recorder::new();
    let broker = connect_with(&server, &calls).await;
    let terminated = server.client().await;
    let advisory = "$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED.WORK.refused";
    let mut terminated = terminated.subscribe(advisory).await.unwrap();
    let running = broker.include::<refused>().start_all().await.unwrap();
    broker.publish("work.refused", &1).await.unwrap();
    assert_eq!(dead_letters_of(&broker, "refused", 1).await[0].error, "no such customer");
    server.all_acked("WORK", "refused").await;
    running.shutdown().await.unwrap();
    assert_eq!(calls.count(1), 1);
    let advisory = futures::StreamExt::next(&mut terminated).await.unwrap();
    let advisory = String::from_utf8_lossy(&advisory.payload).into_owned();
    assert!(advisory.contains(r#""reason":"no such customer""#), "{advisory}");
}

#[tokio::test]
async fn deleted_newest_dead_letter_does_not_hide_the_others() {
    let server = Server::start().await;
    let broker = connect_with(&server, &Recorder::new()).await;
    let running = broker.include::<refused>().start_all().await.unwrap();
    for id in 1..=3 {
        broker.publish("work.refused", &id).await.unwrap();
    }
    let newest = dead_letters_of(&broker, "refused", 3).await.pop().unwrap();
    assert!(server.jetstream().await.get_stream("DLQ").await.unwrap().delete_message(newest.sequence).await.unwrap());

    let dead_letters = broker.dead_letters();
    assert_eq!(dead_letters.list(100).await.unwrap().len(), 2);
    assert_eq!(dead_letters.list(1).await.unwrap().len(), 1);
    assert_eq!(dead_letters.purge().await.unwrap(), 2);
    running.shutdown().await.unwrap();
}

#[tokio::test]
async fn undecodable_payload_is_kept_in_the_dead_letter() {
    let server = Server::start().await;
    let calls = Recorder::new();
    let broker = connect_with(&server, &calls).await;
    let running = broker.include::<refused>().start_all().await.unwrap();
    let jetstream = server.jetstream().await;
    jetstream.publish("work.refused", "{\"id\": oops".into()).await.unwrap().await.unwrap();
    let letter = dead_letters_of(&broker, "refused", 1).await.remove(0);
    assert_eq!((letter.reason.as_str(), &letter.payload[..]), ("undecodable", &b"{\"id\": oops"[..]));
    assert!(letter.error.contains("u64") && letter.error.contains("line 1"), "{}", letter.error);
    server.all_acked("WORK", "refused").await;
    running.shutdown().await.unwrap();
    assert!(calls.counts().is_empty(), "the handler must not run");
}

#[tokio::test]
async fn message_beyond_the_max_deliver_of_the_server_becomes_a_dead_letter() {
    let server = Server::start().await;
    let calls = Recorder::new();
    let broker = connect_with(&server, &calls).await;
    let running = broker.include::<hopeless>().start_all().await.unwrap();
    // An operator sets `max_deliver` on the server below that of the handler.
    let stream = server.jetstream().await.get_stream("WORK").await.unwrap();
    let mut consumer: PullConsumer = stream.get_consumer("hopeless").await.unwrap();
    let config = consumer.info().await.unwrap().config.clone();
    let config = consumer::pull::Config {
        durable_name: config.durable_name,
        filter_subject: config.filter_subject,
        max_ack_pending: config.max_ack_pending,
        max_deliver: 1,
        ..Default::default()
    };
    stream.update_consumer(config).await.unwrap();
    broker.publish("work.hopeless", &1).await.unwrap();
    let letter = dead_letters_of(&broker, "hopeless", 1).await.remove(0);
    assert_eq!((letter.reason.as_str(), letter.delivered, &letter.payload[..]), ("killed", 1, &b"1"[..]));
    running.shutdown().await.unwrap();
    assert_eq!(calls.counts(), [(1, 1)].into());
}

#[subscriber(subject = "work.unwanted", queue = "unwanted", dead_letter = false)]
async fn unwanted(_id: u64) -> Settle {
    Settle::Terminate
}

#[subscriber(subject = "work.elsewhere", queue = "elsewhere", dead_letter = "failed.elsewhere")]
async fn elsewhere(_id: u64) -> Settle {
    Settle::Terminate
}

#[tokio::test]
async fn subject_can_be_changed_and_disabled() {
    let server = Server::start().await;
    let broker = connect_with(&server, &Recorder::new()).await;
    let running = broker.include::<unwanted>().include::<elsewhere>().start_all().await.unwrap();
    broker.publish("work.unwanted", &1).await.unwrap();
    broker.publish("work.elsewhere", &2).await.unwrap();
    server.all_acked("WORK", "unwanted").await;
    server.all_acked("WORK", "elsewhere").await;
    running.shutdown().await.unwrap();
    assert!(broker.dead_letters().list(100).await.unwrap().is_empty(), "the stream DLQ is not needed");
    let letters = broker.dead_letters().stream("FAILED").list(100).await.unwrap();
    assert_eq!(letters.iter().map(|letter| &letter.payload[..]).collect::<Vec<_>>(), [b"2"]);
}

#[subscriber(subject = "work.repaired", queue = "repaired")]
async fn repaired(id: u64, headers: Headers, State(calls): State<Recorder>) -> HandlerResult {
    calls.add(id);
    match headers.get("Dead-Letter-Replay-Of") {
        None => Err(HandlerError::terminate("broken")),
        Some(origin) => {
            assert!(origin.starts_with("DLQ:"), "{origin}");
            let tenants: Vec<_> =
                headers.iter().filter(|(name, _)| *name == "Tenant").map(|(_, value)| value).collect();
            assert_eq!(tenants, ["eu", "us"]);
            Ok(())
        }
    }
}

#[tokio::test]
async fn dead_letters_are_listed_replayed_and_purged_by_handler() {
    let server = Server::start().await;
    let calls = Recorder::new();
    let broker = connect_with(&server, &calls).await;
    assert!(broker.dead_letters().list(100).await.unwrap().is_empty(), "no stream yet");
    let running = broker.include::<repaired>().include::<refused>().start_all().await.unwrap();
    for id in 1..=3 {
        broker
            .publish_message("work.repaired", &id)
            .header("Tenant", "eu")
            .header("Tenant", "us")
            .message_id(&format!("m{id}"))
            .await
            .unwrap();
        broker.publish("work.refused", &(100 + id)).await.unwrap();
    }
    let of_repaired = dead_letters_of(&broker, "repaired", 3).await;
    let of_refused = dead_letters_of(&broker, "dead_letters::refused", 3).await;
    assert_eq!(broker.dead_letters().list(100).await.unwrap().len(), 6);
    assert_eq!(
        broker.dead_letters().for_handler("ended").list(100).await.unwrap().len(),
        0,
        "the suffix of a name does not match"
    );

    let letters = broker.dead_letters().for_handler("repaired");
    let first = &of_repaired[0];
    assert_eq!(letters.get(first.sequence).await.unwrap().unwrap().payload, first.payload);
    assert!(letters.get(of_refused[0].sequence).await.unwrap().is_none(), "of another handler");
    let error = letters.replay(of_refused[0].sequence).await.unwrap_err().to_string();
    assert!(error.contains("no dead letter") && error.contains("repaired"), "{error}");
    assert_eq!(letters.clone().after(first.sequence).list(100).await.unwrap().len(), 2);

    let ack = letters.replay(first.sequence).await.unwrap();
    assert_eq!((ack.stream.as_str(), ack.duplicate), ("WORK", false));
    calls.until_times(1, 2).await;
    assert!(letters.get(first.sequence).await.unwrap().is_none(), "a replayed dead letter is removed");
    assert_eq!(letters.replay_all().await.unwrap().replayed, 2);
    calls.until_times(2, 2).await;
    calls.until_times(3, 2).await;
    assert_eq!(broker.dead_letters().for_handler("refused").purge().await.unwrap(), 3);
    server.all_acked("WORK", "repaired").await;
    assert!(broker.dead_letters().list(100).await.unwrap().is_empty());
    running.shutdown().await.unwrap();
}

#[tokio::test]
async fn replay_without_a_consumer_keeps_the_dead_letter() {
    let server = Server::start().await;
    let stream = server
        .jetstream()
        .await
        .create_stream(stream::Config { retention: RetentionPolicy::Interest, ..stream_config("WORK", &["work.>"]) })
        .await
        .unwrap();
    let broker = connect(&server).await;
    let hopeless = |_: u64| std::future::ready(Settle::Terminate);
    let subscription = broker.subscribe("work.a", "worker", hopeless).await.unwrap();
    publish(&broker, "work.a", [1]).await;
    let letter = dead_letters(&broker, 1).await.remove(0);
    server.all_acked("WORK", "worker").await;
    subscription.unsubscribe().await.unwrap();
    stream.delete_consumer("worker").await.unwrap();
    let result = broker.dead_letters().replay(letter.sequence).await;
    assert_error(result, ErrorKind::ConsumerMismatch, &["queue `worker` on stream `WORK` does not exist"]);
    let result = broker.dead_letters().to_every_queue().replay(letter.sequence).await;
    assert_error(result, ErrorKind::ConsumerMismatch, &["no consumer for `work.a`", "discard"]);
    assert_eq!(dead_letters(&broker, 1).await.len(), 1);

    let calls = Recorder::new();
    let subscription = broker.subscribe("work.a", "worker", calls.handler()).await.unwrap();
    broker.dead_letters().replay(letter.sequence).await.unwrap();
    calls.until(1).await;
    subscription.unsubscribe().await.unwrap();
}

#[tokio::test]
async fn message_is_kept_until_its_dead_letter_is_stored() {
    let server = Server::start().await;
    let calls = Recorder::new();
    let broker = Broker::builder()
        .servers([server.url()])
        .state(calls.clone())
        .publish_timeout(ms(300))
        .auto_create(true)
        .connect()
        .await
        .unwrap();
    let running = broker.include::<hopeless>().start_all().await.unwrap();
    // The stream is full and refuses every dead letter.
    let jetstream = server.jetstream().await;
    let mut config = jetstream.get_stream("DLQ").await.unwrap().cached_info().config.clone();
    config.discard = jetstream_handlers::stream::DiscardPolicy::New;
    config.max_bytes = 1;
    jetstream.update_stream(config.clone()).await.unwrap();
    broker.publish("work.hopeless", &1).await.unwrap();
    calls.until_times(1, 3).await;
    let stream = jetstream.get_stream("WORK").await.unwrap();
    eventually("the message is redelivered", SOON, async || {
        let delivered = stream.consumer_info("hopeless").await.unwrap().delivered.consumer_sequence;
        (delivered >= 6).then_some(())
    })
    .await;
    assert_eq!(stream.consumer_info("hopeless").await.unwrap().num_ack_pending, 1);
    config.max_bytes = -1;
    jetstream.update_stream(config).await.unwrap();
    let letter = dead_letters_of(&broker, "hopeless", 1).await.remove(0);
    assert_eq!((letter.reason.as_str(), letter.error.as_str()), ("error", "storing the order: disk full"));
    server.all_acked("WORK", "hopeless").await;
    running.shutdown().await.unwrap();
    assert_eq!(calls.count(1), 3, "`max_deliver` attempts, and no more until the dead letter is stored");
}

#[tokio::test]
async fn long_full_stream_loses_no_dead_letter() {
    let server = Server::start().await;
    let start = async || {
        let broker = Broker::builder().servers([server.url()]).publish_timeout(ms(200)).connect().await.unwrap();
        let failing = |_: u64| std::future::ready(HandlerResult::<()>::Err("fails".into()));
        let subscription =
            broker.subscribe("work.a", "worker", failing).max_deliver(1).backoff(&[ms(5)]).await.unwrap();
        (broker, subscription)
    };
    let (broker, subscription) = start().await;
    set_dead_letter_limit(&server, 1).await;
    publish(&broker, "work.a", [1]).await;
    // Long enough for more deliveries than `max_deliver` with a small margin.
    tokio::time::sleep(ms(1600)).await;
    subscription.unsubscribe().await.unwrap();
    set_dead_letter_limit(&server, -1).await;
    let (broker, subscription) = start().await;
    assert_eq!(dead_letters(&broker, 1).await.iter().map(payload_of).collect::<Vec<_>>(), [1]);
    server.all_acked("WORK", "worker").await;
    subscription.unsubscribe().await.unwrap();
}

#[tokio::test]
async fn interest_stream_is_refused_for_dead_letters() {
    let server = Server::start().await;
    let config = stream::Config {
        name: "FAILED".into(),
        subjects: vec!["failed.>".into()],
        retention: RetentionPolicy::Interest,
        ..Default::default()
    };
    server.jetstream().await.create_stream(config).await.unwrap();
    let broker = connect(&server).await;
    let subscribe = broker.subscribe("work.a", "worker", |_: u64| std::future::ready(()));
    let error = subscribe.dead_letter(Some("failed.a")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StreamMismatch, "{error}");
    assert!(error.to_string().contains("`FAILED`"), "{error}");
}

#[tokio::test]
async fn failure_of_a_deleted_stream_does_not_dead_letter_a_new_message() {
    let server = Server::start().await;
    let broker =
        Broker::builder().servers([server.url()]).publish_timeout(ms(200)).fetch_wait(secs(1)).connect().await.unwrap();
    let calls = Recorder::new();
    let recorder = calls.clone();
    let handler = move |id: u64| {
        recorder.add(id);
        std::future::ready(if id == 1 { Settle::Terminate } else { Settle::Ack })
    };
    let subscription = broker.subscribe("work.a", "worker", handler).await.unwrap();
    set_dead_letter_limit(&server, 1).await;
    let mut answers = server.client().await.subscribe("$JS.ACK.WORK.worker.>").await.unwrap();
    publish(&broker, "work.a", [1]).await;
    let mut naks = answers.by_ref().filter(|answer| std::future::ready(answer.payload.starts_with(b"-NAK")));
    tokio::time::timeout(SOON, naks.next()).await.expect("the message is nakked").unwrap();
    let jetstream = server.jetstream().await;
    jetstream.delete_stream("WORK").await.unwrap();
    set_dead_letter_limit(&server, -1).await;
    jetstream.create_stream(stream_config("WORK", &["work.>"])).await.unwrap();
    let ack = jetstream.publish("work.a", "2".into()).await.unwrap().await.unwrap();
    assert_eq!(ack.sequence, 1);
    calls.until(2).await;
    server.all_acked("WORK", "worker").await;
    assert!(dead_letters(&broker, 0).await.is_empty());
    subscription.unsubscribe().await.unwrap();
}
