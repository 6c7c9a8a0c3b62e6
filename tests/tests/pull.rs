//! Pull requests: batch sizes, shared inboxes, ack subjects and permissions.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use futures::{FutureExt as _, StreamExt as _};
use jetstream_handlers::async_nats;
use jetstream_handlers::prelude::*;
use jetstream_handlers_tests::{
    Proxy, Recorder, SOON, Server, binary, connect, eventually, ms, once_each, publish, stream_config,
};
use serde_json::Value;

/// Subscribes to the pull requests of a consumer; the client must be kept.
async fn pull_requests(server: &Server, consumer: &str) -> (async_nats::Subscriber, async_nats::Client) {
    let client = server.client().await;
    let subject = format!("$JS.API.CONSUMER.MSG.NEXT.WORK.{consumer}");
    let subscriber = client.subscribe(subject).await.unwrap();
    client.flush().await.unwrap();
    (subscriber, client)
}

/// Returns the batch sizes of the requests so far.
async fn sizes(subscriber: &mut async_nats::Subscriber) -> Vec<u64> {
    let mut sizes = Vec::new();
    while let Ok(Some(request)) = tokio::time::timeout(ms(300), subscriber.next()).await {
        let request: Value = serde_json::from_slice(&request.payload).unwrap();
        sizes.push(request["batch"].as_u64().unwrap());
    }
    sizes
}

#[tokio::test]
async fn requests_of_a_fast_handler_grow_from_ten_to_hundreds() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    let messages = (0..20_000).map(|id| broker.publish_message("work.quick", &id));
    let results: Vec<_> = futures::StreamExt::collect(broker.publisher().publish_all(messages)).await;
    assert!(results.iter().all(Result::is_ok));
    let (mut requests, _client) = pull_requests(&server, "quick").await;
    let calls = Recorder::new();
    let _subscription = broker.subscribe("work.quick", "quick", calls.handler()).await.unwrap();
    calls.until_len(20_000).await;
    let sizes = sizes(&mut requests).await;
    assert_eq!(sizes[0], 11, "one to start and ten to prefetch: {sizes:?}");
    assert!(sizes.iter().any(|size| *size >= 400), "{sizes:?}");
    assert!(sizes.len() < 200, "{} requests", sizes.len());
    assert!(calls.counts().values().all(|count| *count == 1));
}

#[tokio::test]
async fn slow_handler_requests_only_what_it_can_start_soon() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    publish(&broker, "work.slow", 0..150).await;
    let (mut requests, _client) = pull_requests(&server, "slow").await;
    let calls = Recorder::new();
    let handler = {
        let calls = calls.clone();
        move |id: u64| {
            let calls = calls.clone();
            async move {
                tokio::time::sleep(ms(100)).await;
                calls.add(id);
            }
        }
    };
    let subscribe = broker.subscribe("work.slow", "slow", handler).ack_wait(secs(3));
    let _subscription = subscribe.await.unwrap();
    calls.until_distinct(150).await;
    // Five messages take half a second, which is a sixth of `ack_wait`.
    let sizes = sizes(&mut requests).await;
    assert!(sizes.iter().skip(1).all(|size| *size <= 7), "{sizes:?}");
    assert!(calls.counts().values().all(|count| *count == 1), "each once");
}

#[tokio::test]
async fn handlers_too_slow_to_prefetch_handle_everything() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    publish(&broker, "work.slow", 0..30).await;
    let mut running = Vec::new();
    for concurrency in [1, 4] {
        let calls = Recorder::new();
        let recorder = calls.clone();
        let handler = move |id: u64| {
            let recorder = recorder.clone();
            async move {
                // Longer than the sixth of `ack_wait` that a message may wait, for each parallel call.
                tokio::time::sleep(ms(75 * concurrency)).await;
                recorder.add(id);
            }
        };
        let subscribe = broker.subscribe("work.slow", &format!("slow-{concurrency}"), handler).ack_wait(ms(300));
        running.push((subscribe.concurrency(concurrency.try_into().unwrap()).await.unwrap(), calls));
    }
    for (_, calls) in &running {
        calls.until_distinct(30).await;
    }
    // The handlers pull again after an idle time.
    tokio::time::sleep(ms(300)).await;
    publish(&broker, "work.slow", [99]).await;
    for (_, calls) in &running {
        calls.until_distinct(31).await;
    }
}

#[tokio::test]
async fn configured_batch_size_is_kept() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    publish(&broker, "work.pinned", 0..500).await;
    let (mut requests, _client) = pull_requests(&server, "pinned").await;
    let calls = Recorder::new();
    let handler = {
        let calls = calls.clone();
        move |id: u64| {
            calls.add(id);
            async {}
        }
    };
    let _subscription = broker.subscribe("work.pinned", "pinned", handler).batch_size(20).await.unwrap();
    calls.until_distinct(500).await;
    assert!(sizes(&mut requests).await.iter().all(|size| *size <= 21));
}

#[tokio::test]
async fn hundred_handlers_share_two_inboxes() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    let client = server.client().await;
    let mut requests = client.subscribe("$JS.API.CONSUMER.MSG.NEXT.>").await.unwrap();
    client.flush().await.unwrap();
    let calls = Recorder::new();
    let mut subscriptions = Vec::new();
    for number in 0..100 {
        subscriptions.push(
            broker.subscribe(format!("work.many.{number}"), &format!("many-{number}"), calls.handler()).await.unwrap(),
        );
    }
    let prefix = |subject: &str| subject.split('.').take(2).collect::<Vec<_>>().join(".");
    let inboxes: BTreeSet<String> =
        std::iter::from_fn(|| requests.next().now_or_never().flatten()).map(|it| prefix(&it.reply.unwrap())).collect();
    assert_eq!(inboxes.len(), 2);
    // Half of the handlers stop while the other half receives messages.
    let publisher = connect(&server).await;
    let publishing = async {
        for id in 0..400_u64 {
            publisher.publish(&format!("work.many.{}", 50 + id % 50), &id).await.unwrap();
        }
    };
    let rest = subscriptions.split_off(50);
    let stopping = async {
        for subscription in subscriptions {
            subscription.unsubscribe().await.unwrap();
        }
    };
    let started = Instant::now();
    futures::join!(publishing, stopping);
    calls.until_distinct(400).await;
    assert!(started.elapsed() < secs(25), "no message waited for `ack_wait`");
    let counts: BTreeSet<usize> = calls.counts().into_values().collect();
    assert_eq!(counts, BTreeSet::from([1]), "each once");
    drop(rest);
}

/// Returns the inbox of the next pull request.
async fn next_inbox(requests: &mut async_nats::Subscriber) -> String {
    let request = tokio::time::timeout(SOON, requests.next()).await.expect("a request is sent").unwrap();
    request.reply.unwrap().split('.').take(2).collect::<Vec<_>>().join(".")
}

#[tokio::test]
async fn busy_handler_reads_an_inbox_of_its_own_and_shares_one_while_idle() {
    let server = Server::start().await;
    let broker = Broker::builder().servers([server.url()]).fetch_wait(secs(1)).connect().await.unwrap();
    let (mut requests, _client) = pull_requests(&server, "busy").await;
    let calls = Recorder::new();
    let neighbour = broker.subscribe("work.other", "neighbour", async |_: u64| {}).await.unwrap();
    let subscription = broker.subscribe("work.busy", "busy", calls.handler()).await.unwrap();
    let shared = next_inbox(&mut requests).await;
    let mut sent = 0..;
    let mut publish_some = async |count| publish(&broker, "work.busy", sent.by_ref().take(count)).await;
    publish_some(500).await;
    calls.until_len(500).await;
    // The rest of the last request arrives at the inbox that it names.
    let own = loop {
        let inbox = next_inbox(&mut requests).await;
        if inbox != shared {
            break inbox;
        }
        publish_some(1).await;
    };
    // It is not concerned by the stop of a neighbour.
    neighbour.unsubscribe().await.unwrap();
    publish_some(500).await;
    let again = loop {
        let inbox = next_inbox(&mut requests).await;
        if inbox != own {
            break inbox;
        }
    };
    assert_ne!(again, shared, "that one is closed");
    publish_some(10).await;
    calls.until_distinct(1010).await;
    subscription.unsubscribe().await.unwrap();
    assert!(calls.counts().values().all(|count| *count == 1), "each once");
    server.all_acked("WORK", "busy").await;
}

#[tokio::test]
async fn stop_of_a_busy_handler_delays_nothing() {
    let server = Server::start().await;
    let (first, second) = (connect(&server).await, connect(&server).await);
    publish(&first, "work.busy", 0..3000).await;
    let calls = Recorder::new();
    let mut subscription = first.subscribe("work.busy", "busy", calls.handler()).await.unwrap();
    for round in 1..=5 {
        calls.until_len(round * 300).await;
        subscription.unsubscribe().await.unwrap();
        subscription = second.subscribe("work.busy", "busy", calls.handler()).await.unwrap();
    }
    let started = Instant::now();
    calls.until_distinct(3000).await;
    assert!(started.elapsed() < secs(25), "no message waited for `ack_wait`");
    assert!(calls.counts().values().all(|count| *count == 1), "each once");
    subscription.unsubscribe().await.unwrap();
}

#[tokio::test]
async fn busy_handler_continues_after_each_reconnect() {
    let server = Server::start().await;
    let proxy = Proxy::start(server.address()).await;
    let broker = Broker::builder().servers([proxy.url()]);
    let broker = broker.connect_options(|options| options.ignore_discovered_servers()).connect().await.unwrap();
    let publisher = connect(&server).await;
    let calls = Recorder::new();
    let subscription = broker.subscribe("work.busy", "busy", calls.handler()).await.unwrap();
    let started = Instant::now();
    for round in 1..=5_u64 {
        publish(&publisher, "work.busy", (round - 1) * 300..round * 300).await;
        calls.until_distinct(usize::try_from(round * 300 - 100).unwrap()).await;
        proxy.cut();
    }
    calls.until_distinct(1500).await;
    assert!(started.elapsed() < secs(25), "no message waited for `ack_wait`");
    subscription.unsubscribe().await.unwrap();
}

#[tokio::test]
async fn long_request_is_repeated_when_the_consumer_has_another_leader() {
    let server = Server::start().await;
    // Heartbeats would show after half a minute that the request is lost.
    let broker = Broker::builder().servers([server.url()]).fetch_wait(secs(100)).connect().await.unwrap();
    let (mut requests, client) = pull_requests(&server, "idle").await;
    let calls = Recorder::new();
    let _subscription = broker.subscribe("work.idle", "idle", calls.handler()).await.unwrap();
    next_inbox(&mut requests).await;
    let elected = async |consumer: &str| {
        let subject = format!("$JS.EVENT.ADVISORY.CONSUMER.LEADER_ELECTED.WORK.{consumer}");
        client.publish(subject, "{}".into()).await.unwrap();
    };
    elected("other").await;
    assert!(tokio::time::timeout(ms(300), requests.next()).await.is_err(), "it is about another consumer");
    for _ in 0..3 {
        elected("idle").await;
    }
    next_inbox(&mut requests).await;
    assert!(tokio::time::timeout(ms(300), requests.next()).await.is_err(), "one for a flood");
    publish(&broker, "work.idle", 0..100).await;
    calls.until_distinct(100).await;
    assert!(calls.counts().values().all(|count| *count == 1), "each once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn handler_continues_when_a_neighbour_stops_during_its_computation() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    let (calls, started, may_end) = (Recorder::new(), Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
    let handler = {
        let (calls, started, may_end) = (calls.clone(), started.clone(), may_end.clone());
        move |id: u64| {
            let since = Instant::now();
            started.store(true, Ordering::SeqCst);
            // The task of this handler cannot react to anything meanwhile.
            while !may_end.load(Ordering::SeqCst) && since.elapsed() < secs(5) {
                std::thread::sleep(ms(5));
            }
            calls.add(id);
            async {}
        }
    };
    let _computing = broker.subscribe("work.computing", "computing", handler).await.unwrap();
    let neighbour = broker.subscribe("work.other", "other", async |_: u64| {}).await.unwrap();
    publish(&broker, "work.computing", [0]).await;
    eventually("the call runs", SOON, async || started.load(Ordering::SeqCst).then_some(())).await;
    neighbour.unsubscribe().await.unwrap();
    // Time for the shared inbox to be replaced.
    tokio::time::sleep(ms(300)).await;
    may_end.store(true, Ordering::SeqCst);
    publish(&broker, "work.computing", 1..10).await;
    calls.until_distinct(10).await;
    assert!(broker.health().is_healthy(), "{:?}", broker.health());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn handlers_continue_when_neighbours_stop_after_a_reconnect() {
    let server = Server::start().await;
    let proxy = Proxy::start(server.address()).await;
    let broker = Broker::builder().servers([proxy.url()]).fetch_wait(secs(1));
    let broker = broker.connect_options(|options| options.ignore_discovered_servers()).connect().await.unwrap();
    let publisher = connect(&server).await;
    let calls = Recorder::new();
    let mut running = Vec::new();
    for number in 0..5 {
        running.push(
            broker
                .subscribe(format!("work.stays.{number}"), &format!("stays-{number}"), calls.handler())
                .await
                .unwrap(),
        );
    }
    let mut neighbours = Vec::new();
    for number in 0..10 {
        neighbours.push(broker.subscribe("work.goes", &format!("goes-{number}"), async |_: u64| {}).await.unwrap());
    }
    // The neighbours stop before, during and after the change to new inboxes.
    for (round, neighbour) in (0_u64..).zip(neighbours) {
        proxy.cut();
        tokio::time::sleep(ms(round * 30)).await;
        neighbour.unsubscribe().await.unwrap();
        for number in 0..5 {
            publish(&publisher, &format!("work.stays.{number}"), [round * 5 + number]).await;
        }
        calls.until_distinct(usize::try_from(round + 1).unwrap() * 5).await;
    }
}

#[tokio::test]
async fn version_2_ack_subjects_are_supported() {
    if binary::version() < (2, 14, 0) {
        // The server only knows version 1.
        return;
    }
    let server = Server::builder().config("feature_flags { js_ack_fc_v2: true }").start().await;
    let broker = connect(&server).await;
    publish(&broker, "work.second", 0..300).await;
    let mut acks = server.client().await.subscribe("$JS.ACK.>").await.unwrap();
    let (plain, ordered) = (Recorder::new(), Recorder::new());
    let first = broker.subscribe("work.second", "plain", plain.handler()).await.unwrap();
    plain.until_distinct(300).await;
    let ack = acks.next().await.unwrap();
    assert!(ack.subject.split('.').count() >= 11, "{}", ack.subject);
    let handler = {
        let ordered = ordered.clone();
        move |id: u64| {
            ordered.add(id);
            async {}
        }
    };
    let second = broker.subscribe("work.second", "ordered", handler).ordered().await.unwrap();
    ordered.until_distinct(300).await;
    first.unsubscribe().await.unwrap();
    second.unsubscribe().await.unwrap();
    let stream = server.jetstream().await.get_stream("WORK").await.unwrap();
    for consumer in ["plain", "ordered"] {
        let info = stream.consumer_info(consumer).await.unwrap();
        assert_eq!((info.num_ack_pending, info.ack_floor.stream_sequence), (0, 300), "{consumer}");
    }
}

#[tokio::test]
async fn running_handler_needs_only_pull_and_ack_permissions() {
    // The store directory is in the file, because servers before 2.11 forget the flag at a reload.
    let store = tempfile::tempdir().unwrap();
    let config = |worker: &str| {
        format!(
            r#"jetstream {{ store_dir: {:?} }}
            accounts {{ APP {{ jetstream: enabled, users: [
                {{ user: admin, password: secret }},
                {{ user: worker, password: secret, permissions: {{ {worker} }} }} ] }} }}"#,
            store.path()
        )
    };
    let everything = config(r#"publish: ">", subscribe: ">""#);
    let mut server = Server::builder().without_jetstream().config(&everything).user("admin", "secret").start().await;
    let publisher = Broker::builder()
        .servers([server.url()])
        .connect_options(|options| options.user_and_password("admin".into(), "secret".into()))
        .connect()
        .await
        .unwrap();
    let worker = Broker::builder()
        .servers([server.url()])
        .connect_options(|options| options.user_and_password("worker".into(), "secret".into()))
        .connect()
        .await
        .unwrap();
    publish(&publisher, "work.least", 0..10).await;
    let calls = Recorder::new();
    let _subscription = worker.subscribe("work.least", "least", calls.handler()).await.unwrap();
    calls.until_distinct(10).await;
    server.reload(&config(
        r#"publish: ["$JS.API.CONSUMER.MSG.NEXT.WORK.least", "$JS.ACK.WORK.least.>"], subscribe: "_INBOX.>""#,
    ));
    eventually("the configuration is reloaded", SOON, async || server.log().contains("Reloaded").then_some(())).await;
    publish(&publisher, "work.least", 10..2000).await;
    calls.until_distinct(2000).await;
    assert!(calls.counts().values().all(|count| *count == 1), "each once");
    server.all_acked("WORK", "least").await;
}

#[tokio::test]
async fn single_message_after_idle_time_stays_healthy() {
    let server = Server::start().await;
    // With the default `fetch_wait`: after five idle seconds a request lasts longer, with fewer heartbeats.
    let broker = Broker::connect(server.url()).await.unwrap();
    broker.publish("work.quiet", &0).await.unwrap();
    let client = server.client().await;
    let mut requests = client.subscribe("$JS.API.CONSUMER.MSG.NEXT.WORK.quiet").await.unwrap();
    client.flush().await.unwrap();
    let calls = Recorder::new();
    let _subscription = broker.subscribe("work.quiet", "quiet", calls.handler()).await.unwrap();
    loop {
        let request: Value = serde_json::from_slice(&requests.next().await.unwrap().payload).unwrap();
        if request["expires"].as_u64().unwrap() > 20_000_000_000 {
            break;
        }
    }
    broker.publish("work.quiet", &1).await.unwrap();
    calls.until_distinct(2).await;
    let quiet = Instant::now();
    while quiet.elapsed() < secs(8) {
        assert!(broker.health().is_healthy(), "{} after {:?}", broker.health(), quiet.elapsed());
        tokio::time::sleep(ms(50)).await;
    }
}

#[tokio::test]
async fn short_max_expires_causes_few_requests() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    let calls = Recorder::new();
    let subscription = broker.subscribe("work.a", "worker", calls.handler()).await.unwrap();
    server.change_consumer("WORK", "worker", |config| config.max_expires = ms(100)).await;
    publish(&broker, "work.a", [1]).await;
    calls.until(1).await;
    let mut requests = server.client().await.subscribe("$JS.API.CONSUMER.MSG.NEXT.>").await.unwrap();
    // The worker needs a second to adapt to the limit; the requests are counted in the next one.
    tokio::time::sleep(ms(1000)).await;
    while requests.next().now_or_never().is_some() {}
    let end = Instant::now() + ms(1000);
    let mut count = 0;
    while let Ok(Some(_)) = tokio::time::timeout_at(end.into(), requests.next()).await {
        count += 1;
    }
    assert!((1..60).contains(&count), "{count} requests in a second");
    publish(&broker, "work.a", [2]).await;
    calls.until(2).await;
    subscription.unsubscribe().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_batches_of_a_blocking_handler_are_handled_once() {
    let server = Server::start().await;
    let jetstream = server.jetstream().await;
    jetstream.create_stream(stream_config("WORK", &["work.>"])).await.unwrap();
    for (batch, busy, count) in [(1000, 3, 500), (10, 60, 30)] {
        let consumer = format!("batch{batch}");
        let subject = format!("work.{consumer}");
        for id in 0..count {
            jetstream.publish(subject.clone(), id.to_string().into()).await.unwrap().await.unwrap();
        }
        let broker = connect(&server).await;
        let calls = Recorder::new();
        let recorder = calls.clone();
        let blocking = move |id: u64| {
            recorder.add(id);
            std::thread::sleep(ms(busy));
            std::future::ready(())
        };
        let subscribe = broker.subscribe(&subject, &consumer, blocking);
        let subscription = subscribe.batch_size(batch).ack_wait(ms(500)).await.unwrap();
        server.all_acked("WORK", &consumer).await;
        assert_eq!(calls.counts(), once_each(0..count), "batches of {batch}");
        subscription.unsubscribe().await.unwrap();
    }
}

#[tokio::test]
async fn handler_keeps_its_messages_while_others_at_its_inbox_stop() {
    let server = Server::start().await;
    let jetstream = server.jetstream().await;
    jetstream.create_stream(stream_config("WORK", &["work.>"])).await.unwrap();
    jetstream.create_stream(stream_config("OTHER", &["other.>"])).await.unwrap();
    let (broker, publisher) = (connect(&server).await, connect(&server).await);
    let handled = Recorder::new();
    // A message that is lost with an inbox would wait for the whole `ack_wait`.
    let subscription =
        broker.subscribe("work.>", "worker", handled.handler()).ack_wait(secs(60)).concurrency(4).await.unwrap();
    let publishing = tokio::spawn(async move { publish(&publisher, "work.a", 0..3000).await });
    while !publishing.is_finished() {
        let other = broker.subscribe("other.>", "other", Recorder::new().handler()).await.unwrap();
        tokio::time::sleep(ms(20)).await;
        other.unsubscribe().await.unwrap();
    }
    handled.until_distinct(3000).await;
    server.all_acked("WORK", "worker").await;
    subscription.unsubscribe().await.unwrap();
}
