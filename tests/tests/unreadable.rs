//! Messages that the client library cannot read: each ends alone, and the others are handled at once.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

use std::time::{Duration, Instant};

use jetstream_handlers::prelude::*;
use jetstream_handlers::{DeadLetter, Health, Message, Reason, Settlement, Subscription};
use jetstream_handlers_tests::{
    Cluster, Proxy, RawClient, Recorder, SOON, Server, connect, dead_letters, eventually, once_each, publish,
    stream_config, until_health,
};

/// Header lines that async-nats cannot read.
const UNREADABLE: [&[u8]; 5] =
    [b"Customer: Zo\xeb", b"no colon", b"A name: with a space", b"X: a\rb", b"N\xc3\xa4me: b"];

/// Everything must be handled long before `ack_wait`.
const AT_ONCE: Duration = Duration::from_secs(10);

async fn subscribe(broker: &Broker, handled: &Recorder) -> Subscription {
    broker.subscribe("work.>", "worker", handled.handler()).concurrency(4).ack_wait(secs(60)).await.unwrap()
}

async fn create_streams(server: &Server) {
    let jetstream = server.jetstream().await;
    jetstream.create_stream(stream_config("WORK", &["work.>"])).await.unwrap();
    jetstream.create_stream(stream_config("DLQ", &["dlq.>"])).await.unwrap();
}

/// Checks that a dead letter has the bytes of an unreadable message.
fn check_letter(letter: &DeadLetter, sequence: u64, headers: &[u8], payload: &str) {
    assert_eq!((letter.reason, letter.stream_sequence), (Reason::Undecodable, sequence), "{letter}");
    assert_eq!(letter.payload, payload.as_bytes(), "{letter}");
    let block = [b"NATS/1.0\r\n", headers, b"\r\n\r\n"].concat();
    assert_eq!(letter.header_block(), Some(&block[..]), "{letter}");
}

#[tokio::test]
async fn each_kind_ends_alone() {
    for headers in UNREADABLE {
        let server = Server::start().await;
        create_streams(&server).await;
        let mut raw = RawClient::connect(server.address()).await;
        let settled = Recorder::default();
        let hook = settled.clone();
        let builder = Broker::builder().servers([server.url()]);
        let builder = builder.on_settled(move |event| hook.add((event.sequence, event.outcome, event.reason)));
        let broker = builder.connect().await.unwrap();
        raw.publish("work.a", headers, "bad").await;
        raw.flush().await;
        publish(&broker, "work.a", 0..5).await;
        let handled = Recorder::new();
        let begin = Instant::now();
        let subscription = subscribe(&broker, &handled).await;
        handled.until_distinct(5).await;
        let letters = dead_letters(&broker, 1).await;
        assert!(begin.elapsed() < AT_ONCE, "{:?}", begin.elapsed());
        check_letter(&letters[0], 1, headers, "bad");
        server.all_acked("WORK", "worker").await;
        assert_eq!(handled.counts(), once_each(0..5));
        settled.until((1, Settlement::DeadLetter, Some(Reason::Undecodable))).await;
        let of_good = settled.items().into_iter().filter(|(sequence, ..)| *sequence > 1).collect::<Vec<_>>();
        assert!(of_good.iter().all(|(_, outcome, _)| *outcome == Settlement::Ack), "{of_good:?}");
        assert_eq!(settled.items().len(), 6, "{:?}", settled.items());
        until_health(&broker, "healthy", Health::is_healthy).await;
        subscription.unsubscribe().await.unwrap();
    }
}

#[tokio::test]
async fn twenty_in_a_row_end_while_messages_flow() {
    let server = Server::start().await;
    create_streams(&server).await;
    let broker = connect(&server).await;
    let handled = Recorder::new();
    let subscription = subscribe(&broker, &handled).await;
    publish(&broker, "work.a", 0..50).await;
    handled.until_distinct(50).await;
    let mut raw = RawClient::connect(server.address()).await;
    for id in 0..20 {
        raw.publish("work.a", UNREADABLE[id % UNREADABLE.len()], format!("bad {id}")).await;
    }
    raw.flush().await;
    let begin = Instant::now();
    publish(&broker, "work.a", 50..100).await;
    handled.until_distinct(100).await;
    let letters = dead_letters(&broker, 20).await;
    assert!(begin.elapsed() < AT_ONCE, "{:?}", begin.elapsed());
    assert_eq!(letters.len(), 20);
    server.all_acked("WORK", "worker").await;
    assert_eq!(handled.counts(), once_each(0..100));
    subscription.unsubscribe().await.unwrap();
}

/// The server pins an instance with its first delivery, which this one cannot read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ordered_handler_goes_on_behind_its_first_delivery() {
    let server = Server::start().await;
    create_streams(&server).await;
    let mut raw = RawClient::connect(server.address()).await;
    let broker = connect(&server).await;
    raw.publish("work.a", UNREADABLE[1], "bad").await;
    raw.flush().await;
    publish(&broker, "work.a", 0..20).await;
    let handled = Recorder::new();
    let options = broker.subscribe("work.>", "worker", handled.handler()).ordered();
    let subscription = options.ack_wait(secs(60)).await.unwrap();
    handled.until_distinct(20).await;
    assert_eq!(handled.items(), (0..20).collect::<Vec<_>>());
    let letters = dead_letters(&broker, 1).await;
    check_letter(&letters[0], 1, UNREADABLE[1], "bad");
    server.all_acked("WORK", "worker").await;
    subscription.unsubscribe().await.unwrap();
}

/// The client reconnects to any server of the cluster.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neighbours_are_handled_at_once_in_a_cluster() {
    const ROUNDS: u64 = 6;
    let mut cluster = Cluster::start().await;
    let (jetstream, address) = (cluster.jetstream().await, cluster.node(0).address());
    for (name, subject) in [("WORK", "work.>"), ("DLQ", "dlq.>")] {
        let config = jetstream_handlers::stream::Config { num_replicas: 3, ..stream_config(name, &[subject]) };
        jetstream.create_stream(config).await.unwrap();
    }
    let connect = || async { Broker::builder().servers(cluster.urls()).connect().await.unwrap() };
    let brokers = [connect().await, connect().await];
    let handled = [Recorder::new(), Recorder::new()];
    let options = brokers[0].subscribe("work.>", "plain", handled[0].handler()).concurrency(4);
    let plain = options.ack_wait(secs(60)).await.unwrap();
    let options = brokers[1].subscribe("work.>", "ordered", handled[1].handler()).ordered();
    let ordered = options.ack_wait(secs(60)).await.unwrap();
    publish(&brokers[0], "work.a", [0]).await;
    for handled in &handled {
        handled.until(0).await;
    }
    let mut raw = RawClient::connect(address).await;
    let begin = Instant::now();
    for round in 0..ROUNDS {
        let readable = (1..6).map(|id| (&b"A: b"[..], (round * 5 + id).to_string()));
        raw.publish_at_once("work.a", std::iter::once((UNREADABLE[1], "bad".to_owned())).chain(readable)).await;
        raw.flush().await;
        for handled in &handled {
            handled.until_distinct(round as usize * 5 + 6).await;
        }
    }
    assert!(begin.elapsed() < AT_ONCE * 2, "{:?}", begin.elapsed());
    assert_eq!(dead_letters(&brokers[0], 2 * ROUNDS as usize).await.len(), 2 * ROUNDS as usize);
    for handled in &handled {
        assert_eq!(handled.counts(), once_each(0..ROUNDS * 5 + 1));
    }
    plain.unsubscribe().await.unwrap();
    ordered.unsubscribe().await.unwrap();
}

/// Two instances cannot know which of them has lost a message with its connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_instances_lose_nothing_for_long() {
    let server = Server::start().await;
    create_streams(&server).await;
    let (one, two) = (connect(&server).await, connect(&server).await);
    let handled = Recorder::new();
    let subscriptions = [subscribe(&one, &handled).await, subscribe(&two, &handled).await];
    publish(&one, "work.a", 0..200).await;
    handled.until_distinct(200).await;
    let mut raw = RawClient::connect(server.address()).await;
    for id in 200..1200_u64 {
        if id % 200 == 100 {
            raw.publish("work.a", UNREADABLE[1], format!("bad {id}")).await;
        }
        raw.publish("work.a", "A: b", id.to_string()).await;
    }
    raw.flush().await;
    let begin = Instant::now();
    handled.until_distinct(1200).await;
    assert!(begin.elapsed() < AT_ONCE, "{:?}", begin.elapsed());
    assert_eq!(dead_letters(&one, 5).await.len(), 5);
    server.all_acked("WORK", "worker").await;
    let twice = handled.counts().values().filter(|count| **count > 1).count();
    assert!(twice <= 10, "{twice} messages were handled twice");
    for subscription in subscriptions {
        subscription.unsubscribe().await.unwrap();
    }
}

#[tokio::test]
async fn ordered_handler_goes_on() {
    let server = Server::start().await;
    create_streams(&server).await;
    let broker = connect(&server).await;
    let handled = Recorder::new();
    let subscription =
        broker.subscribe("work.>", "worker", handled.handler()).ordered().ack_wait(secs(60)).await.unwrap();
    let mut raw = RawClient::connect(server.address()).await;
    let begin = Instant::now();
    for round in 0..4_u64 {
        publish(&broker, "work.a", round * 10..round * 10 + 10).await;
        raw.publish("work.a", UNREADABLE[round as usize], format!("bad {round}")).await;
        raw.flush().await;
    }
    publish(&broker, "work.a", 40..50).await;
    handled.until_distinct(50).await;
    let letters = dead_letters(&broker, 4).await;
    assert!(begin.elapsed() < AT_ONCE, "{:?}", begin.elapsed());
    for (round, letter) in letters.iter().enumerate() {
        check_letter(letter, round as u64 * 11 + 11, UNREADABLE[round], &format!("bad {round}"));
    }
    server.all_acked("WORK", "worker").await;
    assert_eq!(handled.items(), (0..50).collect::<Vec<_>>(), "in order, each once");
    subscription.unsubscribe().await.unwrap();
}

#[tokio::test]
async fn full_stream_of_dead_letters_delays_only_the_letter() {
    let server = Server::start().await;
    let jetstream = server.jetstream().await;
    jetstream.create_stream(stream_config("WORK", &["work.>"])).await.unwrap();
    let full = jetstream_handlers::stream::Config {
        max_messages: 1,
        discard: jetstream_handlers::stream::DiscardPolicy::New,
        ..stream_config("DLQ", &["dlq.>"])
    };
    jetstream.create_stream(full).await.unwrap();
    let broker = connect(&server).await;
    publish(&broker, "dlq.other", [0]).await;
    let mut raw = RawClient::connect(server.address()).await;
    raw.publish("work.a", UNREADABLE[0], "bad").await;
    raw.flush().await;
    let handled = Recorder::new();
    let subscription = broker
        .subscribe("work.>", "worker", handled.handler())
        .concurrency(2)
        .ack_wait(Duration::from_millis(500))
        .await
        .unwrap();
    publish(&broker, "work.a", 0..10).await;
    handled.until_distinct(10).await;
    let connects = broker.client().unwrap().statistics().connects.load(std::sync::atomic::Ordering::Relaxed);
    // Longer than `ack_wait`, after which the message would be redelivered.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let now = broker.client().unwrap().statistics().connects.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!(now, connects, "the message is not redelivered while its letter cannot be stored");
    jetstream.get_stream("DLQ").await.unwrap().purge().await.unwrap();
    let letters = eventually("the letter is stored", Duration::from_secs(40), async || {
        let letters = broker.dead_letters().list(10).await.unwrap();
        (letters.len() == 1).then_some(letters)
    })
    .await;
    check_letter(&letters[0], 1, UNREADABLE[0], "bad");
    server.all_acked("WORK", "worker").await;
    assert_eq!(handled.counts(), once_each(0..10));
    subscription.unsubscribe().await.unwrap();
}

/// Whether a handler is ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Any,
    Stream,
}

/// Publishes a message that its handler can read, and ends the connection each time while it is on its way.
async fn delivered_over_broken_links(order: Order) {
    let server = Server::start().await;
    create_streams(&server).await;
    let proxy = Proxy::start(server.address()).await;
    proxy.limit_rate(1_000_000);
    let (publisher, broker) = (connect(&server).await, connect(&proxy).await);
    let handled = Recorder::<usize>::default();
    let handler = {
        let handled = handled.clone();
        move |message: Message| {
            handled.add(message.payload().len());
            std::future::ready(())
        }
    };
    let options = broker.subscribe("work.>", "worker", handler).ack_wait(secs(60));
    let subscription = match order {
        Order::Any => options.await.unwrap(),
        Order::Stream => options.ordered().await.unwrap(),
    };
    publisher.publisher().publish_bytes("work.a", vec![1; 900_000]).await.unwrap();
    let connects = || broker.client().unwrap().statistics().connects.load(std::sync::atomic::Ordering::Relaxed);
    for cut in 1..=4 {
        eventually("the message is on its way", secs(30), async || {
            (server.consumer_info("WORK", "worker").await.delivered.consumer_sequence >= cut).then_some(())
        })
        .await;
        let before = connects();
        proxy.cut();
        eventually("a new connection", SOON, async || (connects() > before).then_some(())).await;
    }
    handled.until(900_000).await;
    server.all_acked("WORK", "worker").await;
    assert_eq!(handled.items(), [900_000], "{order:?}");
    let letters = publisher.dead_letters().list(10).await.unwrap();
    assert!(letters.is_empty(), "{order:?}: {letters:?}");
    subscription.unsubscribe().await.unwrap();
}

/// A connection can end at every delivery of a message although the message can be read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_message_that_can_be_read_ends_because_connections_do() {
    tokio::join!(delivered_over_broken_links(Order::Any), delivered_over_broken_links(Order::Stream));
}

/// The floor stays below a call that does not end, and all that was handled since is above it.
async fn found_far_above_the_floor(instances: usize) {
    const HANDLED: u64 = 6000;
    let server = Server::start().await;
    create_streams(&server).await;
    let handled = Recorder::new();
    let handler = {
        let handled = handled.clone();
        move |id: u64| {
            handled.add(id);
            async move {
                if id == 0 {
                    std::future::pending::<()>().await;
                }
            }
        }
    };
    let mut instances_running = Vec::new();
    for _ in 0..instances {
        let broker = connect(&server).await;
        let subscription =
            broker.subscribe("work.>", "worker", handler.clone()).concurrency(8).ack_wait(secs(60)).await.unwrap();
        instances_running.push((broker, subscription));
    }
    let broker = &instances_running[0].0;
    publish(broker, "work.a", [0]).await;
    handled.until(0).await;
    publish(broker, "work.a", 1..HANDLED).await;
    handled.until_distinct(HANDLED as usize).await;
    server.ack_pending("WORK", "worker", 1).await;
    let mut raw = RawClient::connect(server.address()).await;
    raw.publish("work.a", UNREADABLE[1], "bad").await;
    raw.flush().await;
    let begin = Instant::now();
    publish(broker, "work.a", HANDLED..HANDLED + 20).await;
    handled.until_distinct(HANDLED as usize + 20).await;
    let letters = dead_letters(broker, 1).await;
    assert!(begin.elapsed() < AT_ONCE, "{instances} instances: {:?}", begin.elapsed());
    check_letter(&letters[0], HANDLED + 1, UNREADABLE[1], "bad");
    assert_eq!(handled.counts(), once_each(0..HANDLED + 20), "{instances} instances");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn message_far_above_the_floor_ends_alone() {
    found_far_above_the_floor(1).await;
    found_far_above_the_floor(2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reset_to_an_unreadable_message_delays_nothing() {
    let server = Server::start().await;
    create_streams(&server).await;
    let broker = connect(&server).await;
    let handled = Recorder::new();
    let subscription = subscribe(&broker, &handled).await;
    publish(&broker, "work.a", [2000]).await;
    handled.until(2000).await;
    let mut raw = RawClient::connect(server.address()).await;
    raw.publish("work.a", UNREADABLE[1], "bad").await;
    for id in 0..2000 {
        raw.publish("work.a", "A: b", id.to_string()).await;
    }
    raw.flush().await;
    handled.until_distinct(2001).await;
    server.all_acked("WORK", "worker").await;
    // So its numbers stay below those of the first pass when the connection ends.
    server.change_consumer("WORK", "worker", |config| config.max_ack_pending = 100).await;
    let begin = Instant::now();
    let client = server.client().await;
    let answer = client.request("$JS.API.CONSUMER.RESET.WORK.worker", r#"{"seq":2}"#.into()).await.unwrap();
    assert!(!answer.payload.windows(7).any(|word| word == b"\"error\""), "{answer:?}");
    eventually("each is handled again", SOON, async || {
        handled.counts().range(..2000).all(|(_, count)| *count == 2).then_some(())
    })
    .await;
    assert!(begin.elapsed() < AT_ONCE, "{:?}", begin.elapsed());
    subscription.unsubscribe().await.unwrap();
}

/// The streams are created again after their server has lost them, and the library creates the consumer again.
async fn found_after_a_lost_store(handled_before: u64) {
    let mut server = Server::start().await;
    create_streams(&server).await;
    let broker = connect(&server).await;
    let handled = Recorder::new();
    let subscription = broker
        .subscribe("work.>", "worker", handled.handler())
        .stream("WORK")
        .concurrency(40)
        .ack_wait(secs(60))
        .await
        .unwrap();
    publish(&broker, "work.a", 0..handled_before).await;
    handled.until_distinct(handled_before as usize).await;
    server.all_acked("WORK", "worker").await;
    server.terminate().await;
    std::fs::remove_dir_all(server.folder().join("store")).unwrap();
    server.restart().await;
    create_streams(&server).await;
    let stream = server.jetstream().await.get_stream("WORK").await.unwrap();
    eventually("the consumer waits for messages", secs(30), async || {
        let info = stream.consumer_info("worker").await.ok()?;
        (info.num_waiting > 0).then_some(())
    })
    .await;
    // One write, so that all are delivered before the connection ends.
    let readable = (1000..1020).map(|id: u64| (&b"A: b"[..], id.to_string()));
    let messages = std::iter::once((UNREADABLE[1], "bad".to_owned())).chain(readable);
    let mut raw = RawClient::connect(server.address()).await;
    raw.publish_at_once("work.a", messages).await;
    let begin = Instant::now();
    handled.until_distinct(handled_before as usize + 20).await;
    let letters = dead_letters(&broker, 1).await;
    assert!(begin.elapsed() < AT_ONCE, "{handled_before} before: {:?}", begin.elapsed());
    check_letter(&letters[0], 1, UNREADABLE[1], "bad");
    server.all_acked("WORK", "worker").await;
    assert_eq!(handled.counts(), once_each((0..handled_before).chain(1000..1020)), "{handled_before} before");
    subscription.unsubscribe().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_store_delays_nothing() {
    // The numbers of the new consumer stay below those of the former one, or exceed them.
    found_after_a_lost_store(500).await;
    found_after_a_lost_store(5).await;
}

/// The way in which an ordered handler loses a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Loss {
    Unreadable,
    Cut,
}

/// The sequences between the floor and the last delivery are almost all those of messages on other subjects.
async fn ordered_behind_other_subjects(loss: Loss) {
    const OTHERS: u64 = 10_500;
    let server = Server::start().await;
    create_streams(&server).await;
    let proxy = Proxy::start(server.address()).await;
    let (publisher, broker) = (connect(&server).await, connect(&proxy).await);
    let handled = Recorder::new();
    let subscription =
        broker.subscribe("work.a", "worker", handled.handler()).ordered().ack_wait(secs(60)).await.unwrap();
    publish(&publisher, "work.a", 0..5).await;
    handled.until_distinct(5).await;
    let mut raw = RawClient::connect(server.address()).await;
    raw.publish_at_once("work.other", (0..OTHERS).map(|id| (&b"A: b"[..], id.to_string()))).await;
    raw.flush().await;
    let stream = server.jetstream().await.get_stream("WORK").await.unwrap();
    eventually("all are stored", SOON, async || {
        let mut stream = stream.clone();
        (stream.info().await.ok()?.state.messages == OTHERS + 5).then_some(())
    })
    .await;
    let begin = Instant::now();
    match loss {
        Loss::Unreadable => raw.publish("work.a", UNREADABLE[1], "bad").await,
        Loss::Cut => proxy.pause(),
    }
    raw.flush().await;
    publish(&publisher, "work.a", 5..10).await;
    if loss == Loss::Cut {
        eventually("all are delivered", SOON, async || {
            (server.consumer_info("WORK", "worker").await.delivered.consumer_sequence >= 10).then_some(())
        })
        .await;
        proxy.cut();
        proxy.resume();
    }
    handled.until_distinct(10).await;
    assert!(begin.elapsed() < AT_ONCE, "{loss:?}: {:?}", begin.elapsed());
    if loss == Loss::Unreadable {
        check_letter(&dead_letters(&publisher, 1).await[0], OTHERS + 6, UNREADABLE[1], "bad");
    }
    server.all_acked("WORK", "worker").await;
    assert_eq!(handled.items(), (0..10).collect::<Vec<_>>(), "{loss:?}: in order, each once");
    subscription.unsubscribe().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ordered_handler_goes_on_behind_many_messages_of_others() {
    ordered_behind_other_subjects(Loss::Unreadable).await;
    ordered_behind_other_subjects(Loss::Cut).await;
}
