//! A handler without the rights that it requires says so, and does nothing that cannot be finished.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

use std::time::Duration;

use jetstream_handlers::prelude::*;
use jetstream_handlers::{ErrorKind, Health};
use jetstream_handlers_tests::{
    RawClient, Recorder, SOON, Server, connect, dead_letters, eventually, once_each, publish, stream_config,
    until_health, users, worker,
};

async fn server(permissions: &str) -> Server {
    let server = Server::builder().config(&users(permissions)).user("admin", "secret").start().await;
    let jetstream = server.jetstream().await;
    jetstream.create_stream(stream_config("WORK", &["work.>"])).await.unwrap();
    jetstream.create_stream(stream_config("DLQ", &["dlq.>"])).await.unwrap();
    server
}

#[tokio::test]
async fn handler_whose_acks_are_denied_is_not_called_until_they_are_permitted() {
    let mut server = server(r#"publish: { deny: ["$JS.ACK.>"] }"#).await;
    let admin = connect(&server).await;
    let broker = worker(&server).connect().await.unwrap();
    let handled = Recorder::new();
    let subscription = broker
        .subscribe("work.>", "worker", handled.handler())
        .concurrency(1)
        .max_deliver(2)
        .ack_wait(Duration::from_secs(2))
        .await
        .unwrap();
    publish(&admin, "work.a", [0]).await;
    handled.until(0).await;
    let text = until_health(&broker, "unhealthy without acks", |health| !health.is_healthy()).await;
    assert!(text.contains("the user may not publish to `$JS.ACK.WORK.worker."), "{text}");
    publish(&admin, "work.a", 1..10).await;
    // Longer than `ack_wait`, after which the message would be handled again.
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(handled.items(), [0], "the handler is not called while its acks are denied");
    assert!(admin.dead_letters().list(10).await.unwrap().is_empty());
    server.reload(&users("publish: \">\", subscribe: \">\""));
    handled.until_distinct(10).await;
    server.all_acked("WORK", "worker").await;
    until_health(&broker, "healthy", Health::is_healthy).await;
    assert_eq!(handled.counts(), once_each(0..10), "the ack of the first one was repeated");
    subscription.unsubscribe().await.unwrap();
}

/// Returns the permissions of a user who may acknowledge only by responses, of which each delivery has this number.
fn responses(max: i64) -> String {
    format!(
        r#"publish: {{ allow: ["$JS.API.>", "dlq.>", "_INBOX.>"] }}, subscribe: ">", allow_responses: {{ max: {max}, expires: "60s" }}"#
    )
}

#[tokio::test]
async fn handler_that_may_only_respond_resumes_after_a_denied_ack() {
    let server = server(&responses(1)).await;
    let admin = connect(&server).await;
    let broker = worker(&server).connect().await.unwrap();
    let handled = Recorder::new();
    let recorder = handled.clone();
    let handler = move |id: u64| {
        let handled = recorder.clone();
        async move {
            // Its in-progress signals use up the response.
            if id == 5 {
                tokio::time::sleep(Duration::from_millis(1500)).await;
            }
            handled.add(id);
        }
    };
    let _subscription = broker
        .subscribe("work.>", "worker", handler)
        .concurrency(2)
        .max_deliver(3)
        .ack_wait(Duration::from_secs(1))
        .await
        .unwrap();
    publish(&admin, "work.a", 0..20).await;
    let text = until_health(&broker, "unhealthy without the ack", |health| !health.is_healthy()).await;
    assert!(text.contains("allow `$JS.ACK.WORK.worker.>` in `permissions.publish`"), "{text}");
    assert!(text.contains("`allow_responses` permits few answers"), "{text}");
    server.all_acked("WORK", "worker").await;
    until_health(&broker, "healthy", Health::is_healthy).await;
    publish(&admin, "work.a", 20..40).await;
    handled.until_distinct(40).await;
    server.all_acked("WORK", "worker").await;
    assert_eq!(handled.counts(), once_each(0..40), "the ack was sent for the next delivery");
    assert!(admin.dead_letters().list(10).await.unwrap().is_empty());
}

#[tokio::test]
async fn handler_that_may_only_respond_continues_after_reconnects() {
    let server = server(&responses(-1)).await;
    let admin = connect(&server).await;
    let broker = worker(&server).connect().await.unwrap();
    let handled = Recorder::new();
    let _subscription =
        broker.subscribe("work.>", "worker", handled.handler()).ack_wait(Duration::from_secs(1)).await.unwrap();
    for round in 0..3 {
        publish(&admin, "work.a", round * 10..round * 10 + 10).await;
        handled.until_distinct(round as usize * 10 + 10).await;
        server.all_acked("WORK", "worker").await;
        until_health(&broker, "healthy", Health::is_healthy).await;
        // None of the acks can be repeated on the next connection.
        broker.client().unwrap().force_reconnect().await.unwrap();
    }
    publish(&admin, "work.a", [30]).await;
    handled.until(30).await;
    assert_eq!(handled.counts(), once_each(0..31));
}

#[tokio::test]
async fn denied_pull_requests_are_named_at_once() {
    let mut server = server(r#"publish: { deny: ["$JS.API.CONSUMER.MSG.NEXT.WORK.worker"] }"#).await;
    let admin = connect(&server).await;
    let broker = worker(&server).connect().await.unwrap();
    let handled = Recorder::new();
    let subscription = broker.subscribe("work.>", "worker", handled.handler()).await.unwrap();
    let other = broker.subscribe("work.>", "other", handled.handler()).await.unwrap();
    let text = until_health(&broker, "unhealthy without pull requests", |health| !health.is_healthy()).await;
    assert!(text.contains("the user may not publish to `$JS.API.CONSUMER.MSG.NEXT.WORK.worker`"), "{text}");
    publish(&admin, "work.a", [0]).await;
    handled.until(0).await;
    server.all_acked("WORK", "other").await;
    server.reload(&users("publish: \">\", subscribe: \">\""));
    until_health(&broker, "healthy", Health::is_healthy).await;
    handled.until_times(0, 2).await;
    subscription.unsubscribe().await.unwrap();
    other.unsubscribe().await.unwrap();
}

#[tokio::test]
async fn unreadable_message_ends_alone_without_the_right_to_read_the_stream() {
    let server = server(r#"publish: { deny: ["$JS.API.STREAM.MSG.GET.WORK"] }"#).await;
    let admin = connect(&server).await;
    let broker = worker(&server).connect().await.unwrap();
    let (handled, ordered) = (Recorder::new(), Recorder::new());
    // The raw client has no credentials, so the message is published through the connection of a user.
    publish(&admin, "work.a", 0..3).await;
    let mut raw = RawClient::connect_as(server.address(), "admin", "secret").await;
    raw.publish("work.a", b"Customer: Zo\xeb", "bad").await;
    raw.flush().await;
    publish(&admin, "work.a", 3..6).await;
    let plain = broker.subscribe("work.>", "plain", handled.handler()).ack_wait(secs(60)).await.unwrap();
    handled.until_distinct(6).await;
    let letters = dead_letters(&admin, 1).await;
    assert_eq!((letters[0].stream_sequence, letters[0].is_complete()), (4, false), "{}", letters[0]);
    plain.unsubscribe().await.unwrap();
    let in_order =
        broker.subscribe("work.>", "in-order", ordered.handler()).ordered().ack_wait(secs(60)).await.unwrap();
    ordered.until_distinct(6).await;
    assert_eq!(ordered.items(), (0..6).collect::<Vec<_>>());
    dead_letters(&admin, 2).await;
    in_order.unsubscribe().await.unwrap();
    assert_eq!(handled.counts(), once_each(0..6));
}

#[tokio::test]
async fn subscription_to_everything_hides_nothing() {
    let mut server = Server::start().await;
    server.jetstream().await.create_stream(stream_config("WORK", &["work.>"])).await.unwrap();
    let mut tap = server.client().await.subscribe(">").await.unwrap();
    let drained = tokio::spawn(async move { while futures::StreamExt::next(&mut tap).await.is_some() {} });
    let broker = connect(&server).await;
    let handled = Recorder::new();
    let subscription = broker.subscribe("work.>", "worker", handled.handler()).await.unwrap();
    let connects = || broker.client().unwrap().statistics().connects.load(std::sync::atomic::Ordering::Relaxed);
    // Longer than the silence after which the server is probed.
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(connects(), 1, "an idle connection is kept");
    // Nobody reports that there is no consumer, because everything has a receiver.
    let stream = server.jetstream().await.get_stream("WORK").await.unwrap();
    stream.delete_consumer("worker").await.unwrap();
    publish(&broker, "work.a", [1]).await;
    handled.until(1).await;
    server.kill();
    server.restart().await;
    publish(&broker, "work.a", [2]).await;
    handled.until(2).await;
    until_health(&broker, "healthy", Health::is_healthy).await;
    subscription.unsubscribe().await.unwrap();
    drained.abort();
}

#[tokio::test]
async fn client_that_has_ended_is_replaced() {
    let server = Server::start().await;
    let jetstream = server.jetstream().await;
    jetstream.create_stream(stream_config("WORK", &["work.>"])).await.unwrap();
    let broker = connect(&server).await;
    // Without handlers, nothing but the publish shows that the client has ended.
    let client = broker.client().unwrap();
    let _subscriber = client.subscribe("poison").await.unwrap();
    client.flush().await.unwrap();
    let mut raw = RawClient::connect(server.address()).await;
    raw.publish("poison", "X: a\rb", "").await;
    raw.flush().await;
    eventually("the task of the client has ended", SOON, async || {
        client.publish("work.ignored", "1".into()).await.is_err().then_some(())
    })
    .await;
    broker.publish("work.a", &1).await.unwrap();
    until_health(&broker, "connected", |health| health.connected).await;
    assert!(jetstream.get_stream("WORK").await.unwrap().cached_info().state.messages >= 1);
}

#[tokio::test]
async fn publishes_succeed_again_once_the_inbox_is_permitted_again() {
    let all = r#"publish: ">", subscribe: ">""#;
    let mut server = server(all).await;
    let admin = connect(&server).await;
    let broker = worker(&server).connect().await.unwrap();
    let handled = Recorder::new();
    let _subscription = broker.subscribe("work.>", "worker", handled.handler()).await.unwrap();
    publish(&broker, "work.a", [0]).await;
    handled.until(0).await;
    server.reload(&users(r#"publish: ">", subscribe: { allow: [">"], deny: ["_INBOX.>"] }"#));
    eventually("publishes are denied", SOON, async || {
        let result = broker.publish("work.a", &1).await;
        result.is_err_and(|error| error.kind() == ErrorKind::Authorization).then_some(())
    })
    .await;
    server.reload(&users(all));
    eventually("publishes succeed", SOON, async || broker.publish("work.a", &2).await.ok()).await;
    handled.until(2).await;
    publish(&admin, "work.a", [3]).await;
    handled.until(3).await;
    until_health(&broker, "healthy", Health::is_healthy).await;
}

#[tokio::test]
async fn inbox_that_stays_refused_is_not_requested_all_the_time() {
    let all = r#"publish: ">", subscribe: ">""#;
    let mut server = server(all).await;
    let broker = worker(&server).connect().await.unwrap();
    broker.publish("work.a", &0).await.unwrap();
    let connects = || broker.client().unwrap().statistics().connects.load(std::sync::atomic::Ordering::Relaxed);
    server.reload(&users(r#"publish: ">", subscribe: { allow: [">"], deny: ["_INBOX.>"] }"#));
    eventually("the client connects again", SOON, async || (connects() >= 2).then_some(())).await;
    // Two further attempts are at least 2 s and 4 s later.
    let begun = std::time::Instant::now();
    eventually("the client connects again", SOON, async || (connects() >= 4).then_some(())).await;
    assert!(begun.elapsed() > Duration::from_secs(3), "{:?}", begun.elapsed());
}
