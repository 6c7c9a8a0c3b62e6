//! Strict order: one message after the other, over failures, lost connections and replicas that die.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall say where")]

use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _};
use jetstream_handlers::async_nats::jetstream::consumer;
use jetstream_handlers::prelude::*;
use jetstream_handlers::{Error, Subscription, stream};
use jetstream_handlers_tests::{Cluster, Program, Proxy, Server, binary, eventually};
use tokio::sync::Semaphore;

const SOON: Duration = Duration::from_secs(30);

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// What was handled, in this order.
#[derive(Debug, Clone, Default)]
struct Seen(Arc<Mutex<Vec<u64>>>);

impl Seen {
    fn add(&self, id: u64) -> usize {
        let mut seen = self.0.lock().unwrap();
        seen.push(id);
        seen.iter().filter(|known| **known == id).count()
    }

    fn all(&self) -> Vec<u64> {
        self.0.lock().unwrap().clone()
    }

    async fn until(&self, id: u64) {
        eventually(&format!("message {id} was handled"), SOON, async || self.all().contains(&id).then_some(())).await;
    }
}

/// The first time of each.
fn firsts(ids: &[u64]) -> Vec<u64> {
    let mut firsts = Vec::new();
    for id in ids {
        if !firsts.contains(id) {
            firsts.push(*id);
        }
    }
    firsts
}

async fn connect(url: String) -> Broker {
    let broker = Broker::builder().servers([url]).fetch_wait(Duration::from_secs(1));
    broker.connect_options(|options| options.ignore_discovered_servers()).connect().await.unwrap()
}

async fn publish(broker: &Broker, ids: impl IntoIterator<Item = u64>) {
    for id in ids {
        broker.publish("work.ordered", &id).await.unwrap();
    }
}

/// A handler that notes each message after so much time.
fn noting(seen: &Seen, each: Duration) -> impl Fn(u64) -> BoxFuture<'static, ()> + use<> {
    let seen = seen.clone();
    move |id| {
        let seen = seen.clone();
        Box::pin(async move {
            tokio::time::sleep(each).await;
            seen.add(id);
        })
    }
}

async fn subscribe(broker: &Broker, seen: &Seen, each: Duration) -> Subscription {
    broker.subscribe("work.ordered", "ordered", noting(seen, each)).ordered().await.unwrap()
}

/// A handler that is said to be the only one.
async fn single(broker: &Broker, seen: &Seen, ack_wait: Duration) -> Subscription {
    let subscribing = broker.subscribe("work.ordered", "ordered", noting(seen, Duration::ZERO)).ordered();
    subscribing.single_instance().ack_wait(ack_wait).await.unwrap()
}

async fn consumer_info(server: &Server) -> consumer::Info {
    server.jetstream().await.get_stream("WORK").await.unwrap().consumer_info("ordered").await.unwrap()
}

/// A process that has handled message 1, and a handler here that stands by.
async fn active_and_standby(server: &Server, broker: &Broker) -> (Program, Seen, Subscription) {
    publish(broker, 1..=1).await;
    let mut active = Program::start(env!("CARGO_BIN_EXE_ordered_worker"), &[], &[("NATS_URL", &server.url())]);
    active.until("handled 1").await;
    let seen = Seen::default();
    let standby = subscribe(broker, &seen, Duration::ZERO).await;
    (active, seen, standby)
}

/// Waits until the server says that everything is acked.
async fn all_acked(server: &Server, last: u64) {
    let jetstream = server.jetstream().await;
    eventually("everything is acked", SOON, async || {
        let info = jetstream.get_stream("WORK").await.ok()?.consumer_info("ordered").await.ok()?;
        (info.num_ack_pending == 0 && info.num_pending == 0 && info.ack_floor.stream_sequence == last).then_some(())
    })
    .await;
}

#[tokio::test]
async fn one_ack_stands_for_a_hundred_messages() {
    let server = Server::start().await;
    let broker = connect(server.url()).await;
    publish(&broker, 1..=1000).await;
    let mut acks = server.client().await.subscribe("$JS.ACK.WORK.ordered.>").await.unwrap();
    let seen = Seen::default();
    let subscription = subscribe(&broker, &seen, Duration::ZERO).await;
    all_acked(&server, 1000).await;
    assert_eq!(seen.all(), (1..=1000).collect::<Vec<_>>());
    subscription.unsubscribe().await.unwrap();
    let mut count = 0;
    while let Ok(Some(ack)) = tokio::time::timeout(ms(200), acks.next()).await {
        count += usize::from(ack.payload.as_ref() == b"+ACK");
    }
    assert!((10..150).contains(&count), "{count} acks");
}

#[tokio::test]
async fn a_message_that_has_ended_is_acked_while_the_next_takes_long() {
    let server = Server::start().await;
    let broker = connect(server.url()).await;
    publish(&broker, 1..=3).await;
    let handler = |id: u64| async move {
        if id == 3 {
            std::future::pending::<()>().await;
        }
    };
    let _subscription = broker.subscribe("work.ordered", "ordered", handler).ordered().await.unwrap();
    let jetstream = server.jetstream().await;
    eventually("two of three are acked", SOON, async || {
        let info = jetstream.get_stream("WORK").await.ok()?.consumer_info("ordered").await.ok()?;
        (info.ack_floor.stream_sequence == 2 && info.num_ack_pending == 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_failing_message_holds_up_the_others_until_it_succeeds_or_is_a_dead_letter() {
    let server = Server::start().await;
    let broker = connect(server.url()).await;
    publish(&broker, 1..=6).await;
    let seen = Seen::default();
    let handler = {
        let seen = seen.clone();
        move |id: u64, info: Info| {
            let times = seen.add(id);
            assert_eq!(info.delivered(), times as u64, "an attempt counts as a delivery");
            async move {
                match id {
                    2 if times < 3 => Err("not yet".into()),
                    4 => Err("never".into()),
                    5 if times == 1 => panic!("once"),
                    _ => Ok(()),
                }
            }
        }
    };
    // The time for an ack is shorter than the retries take, so that what waits has to be kept alive.
    let subscribe = broker.subscribe("work.ordered", "ordered", handler).ordered().max_deliver(3);
    let _subscription = subscribe.ack_wait(ms(300)).backoff(&[ms(400)]).await.unwrap();
    all_acked(&server, 6).await;
    assert_eq!(seen.all(), [1, 2, 2, 2, 3, 4, 4, 4, 5, 5, 6]);
    let letters = broker.dead_letters().list().await.unwrap();
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].delivered, 3);
}

#[tokio::test]
async fn one_replica_is_active_and_the_next_takes_over_when_it_stops() {
    let server = Server::start().await;
    let (one, other) = (connect(server.url()).await, connect(server.url()).await);
    let (seen_by_one, seen_by_other) = (Seen::default(), Seen::default());
    let first = subscribe(&one, &seen_by_one, ms(2)).await;
    publish(&one, 1..=20).await;
    seen_by_one.until(20).await;
    let _second = subscribe(&other, &seen_by_other, ms(2)).await;
    publish(&one, 21..=220).await;
    seen_by_one.until(60).await;
    assert!(seen_by_other.all().is_empty(), "the other one waits");
    let begun = Instant::now();
    first.unsubscribe().await.unwrap();
    let stopped = Instant::now();
    seen_by_other.until(220).await;
    let all: Vec<_> = seen_by_one.all().into_iter().chain(seen_by_other.all()).collect();
    assert_eq!(all, (1..=220).collect::<Vec<_>>(), "each once, and in order");
    assert!(stopped - begun < Duration::from_secs(3), "the stop took {:?}", stopped - begun);
    all_acked(&server, 220).await;
}

#[tokio::test]
async fn a_replica_takes_over_when_the_active_one_is_killed() {
    let server = Server::start().await;
    let broker = connect(server.url()).await;
    let (mut active, seen, _standby) = active_and_standby(&server, &broker).await;
    publish(&broker, 2..=400).await;
    active.until("handled 100").await;
    assert!(seen.all().is_empty());
    active.signal("KILL");
    let killed = Instant::now();
    active.ended().await;
    eventually("the other one begins", SOON, async || (!seen.all().is_empty()).then_some(())).await;
    let took = killed.elapsed();
    seen.until(400).await;
    let before: Vec<u64> = active.lines("handled ").iter().map(|id| id.parse().unwrap()).collect();
    let after = seen.all();
    assert_eq!(before, (1..=before.len() as u64).collect::<Vec<_>>());
    let next = before.len() as u64 + 1;
    // What was handled and not acked comes again, what was not handled is not skipped.
    assert!(after[0] <= next && after[0] + 200 > next, "begins at {} after {next}", after[0]);
    assert_eq!(after, (after[0]..=400).collect::<Vec<_>>());
    println!("the fail-over took {took:?}");
    assert!(took < Duration::from_secs(12), "the fail-over took {took:?}");
    all_acked(&server, 400).await;
}

#[tokio::test]
async fn nothing_is_skipped_when_the_connection_is_cut_again_and_again() {
    let server = Server::start().await;
    let proxy = Proxy::start(server.address()).await;
    let publisher = connect(server.url()).await;
    let broker = connect(proxy.url()).await;
    let seen = Seen::default();
    let _subscription = subscribe(&broker, &seen, Duration::ZERO).await;
    const LAST: u64 = 6000;
    let publishing = publish(&publisher, 1..=LAST);
    let cutting = async {
        for _ in 0..8 {
            tokio::time::sleep(ms(150)).await;
            proxy.cut();
        }
    };
    futures::join!(publishing, cutting);
    seen.until(LAST).await;
    let firsts = firsts(&seen.all());
    assert_eq!(firsts.len(), LAST as usize);
    assert!(firsts.is_sorted(), "a later one came before an earlier one");
    all_acked(&server, LAST).await;
}

#[tokio::test]
async fn a_server_that_restarts_skips_nothing() {
    let mut server = Server::start().await;
    let broker = connect(server.url()).await;
    publish(&broker, 1..=3000).await;
    let seen = Seen::default();
    let _subscription = subscribe(&broker, &seen, ms(1)).await;
    seen.until(200).await;
    server.kill();
    server.restart().await;
    publish(&broker, 3001..=3010).await;
    seen.until(3010).await;
    let firsts = firsts(&seen.all());
    assert!(firsts.is_sorted() && firsts.len() == 3010);
    all_acked(&server, 3010).await;
}

#[tokio::test]
async fn a_stream_that_is_made_anew_is_handled_from_its_start() {
    let server = Server::start().await;
    let broker = connect(server.url()).await;
    publish(&broker, 1..=50).await;
    let seen = Seen::default();
    let _subscription = subscribe(&broker, &seen, Duration::ZERO).await;
    seen.until(50).await;
    let jetstream = server.jetstream().await;
    jetstream.delete_stream("WORK").await.unwrap();
    let config = stream::Config { name: "WORK".into(), subjects: vec!["work.>".into()], ..Default::default() };
    jetstream.create_stream(config).await.unwrap();
    publish(&broker, 101..=110).await;
    seen.until(110).await;
    assert_eq!(seen.all(), (1..=50).chain(101..=110).collect::<Vec<_>>());
}

#[tokio::test]
async fn what_came_again_does_not_keep_what_is_behind_it_from_being_acked() {
    let server = Server::start().await;
    let broker = connect(server.url()).await;
    publish(&broker, 1..=1).await;
    let seen = Seen::default();
    let subscribe = async || {
        let subscribing = broker.subscribe("work.ordered", "ordered", noting(&seen, Duration::ZERO)).ordered();
        subscribing.single_instance().ack_every(10).await.unwrap()
    };
    let first = subscribe().await;
    all_acked(&server, 1).await;
    first.unsubscribe().await.unwrap();
    publish(&broker, 2..=31).await;
    // These ten come again with numbers above those of the ten behind them.
    take(&server, 10).await;
    let second = subscribe().await;
    seen.until(31).await;
    second.unsubscribe().await.unwrap();
    assert_eq!(seen.all(), (1..=31).collect::<Vec<_>>());
    let info = consumer_info(&server).await;
    assert_eq!((info.num_ack_pending, info.ack_floor.stream_sequence), (0, 31));
}

/// Takes messages from the consumer as a process does that dies with them.
async fn take(server: &Server, count: usize) {
    let stream = server.jetstream().await.get_stream("WORK").await.unwrap();
    let consumer: consumer::PullConsumer = stream.get_consumer("ordered").await.unwrap();
    assert_eq!(consumer.fetch().max_messages(count).messages().await.unwrap().count().await, count);
}

/// A handler that is slow with some of the messages.
fn slow_with(seen: &Seen, slow: RangeInclusive<u64>) -> impl Fn(u64) -> BoxFuture<'static, ()> + use<> {
    let seen = seen.clone();
    move |id| {
        let each = if slow.contains(&id) { ms(200) } else { Duration::ZERO };
        noting(&seen, each)(id)
    }
}

#[tokio::test]
async fn messages_of_a_former_stream_end_none_of_the_new_one() {
    let server = Server::start().await;
    let proxy = Proxy::start(server.address()).await;
    let (broker, publisher) = (connect(proxy.url()).await, connect(server.url()).await);
    publish(&publisher, 1..=10).await;
    let (seen, after) = (Seen::default(), Seen::default());
    let subscribing = broker.subscribe("work.ordered", "ordered", noting(&seen, ms(300))).ordered();
    let first = subscribing.single_instance().await.unwrap();
    seen.until(1).await;
    proxy.refuse();
    proxy.cut();
    let jetstream = server.jetstream().await;
    jetstream.delete_stream("WORK").await.unwrap();
    let config = stream::Config { name: "WORK".into(), subjects: vec!["work.>".into()], ..Default::default() };
    jetstream.create_stream(config).await.unwrap();
    publish(&publisher, 101..=110).await;
    proxy.accept();
    eventually("something is acked", SOON, async || {
        let info = jetstream.get_stream("WORK").await.ok()?.consumer_info("ordered").await.ok()?;
        (info.ack_floor.stream_sequence > 0).then_some(())
    })
    .await;
    first.unsubscribe().await.unwrap();
    let subscribing = publisher.subscribe("work.ordered", "ordered", noting(&after, Duration::ZERO)).ordered();
    let _second = subscribing.single_instance().await.unwrap();
    publish(&publisher, [111]).await;
    after.until(111).await;
    let all = seen.all().into_iter().chain(after.all()).filter(|id| *id > 100).collect::<Vec<_>>();
    assert_eq!(firsts(&all), (101..=111).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_consumer_that_is_deleted_while_the_connection_is_away_stalls_nothing() {
    let server = Server::start().await;
    let proxy = Proxy::start(server.address()).await;
    let (broker, publisher) = (connect(proxy.url()).await, connect(server.url()).await);
    publish(&publisher, 1..=2000).await;
    let seen = Seen::default();
    let subscribing = broker.subscribe("work.ordered", "ordered", slow_with(&seen, 2002..=2010)).ordered();
    let _first = subscribing.single_instance().ack_wait(ms(1000)).await.unwrap();
    seen.until(2000).await;
    // Then it is read again how far the consumer has come.
    tokio::time::sleep(ms(5200)).await;
    publish(&publisher, 2001..=2001).await;
    all_acked(&server, 2001).await;
    publish(&publisher, 2002..=2010).await;
    seen.until(2002).await;
    proxy.refuse();
    proxy.cut();
    server.jetstream().await.get_stream("WORK").await.unwrap().delete_consumer("ordered").await.unwrap();
    proxy.accept();
    seen.until(2010).await;
    publish(&publisher, 2011..=2020).await;
    all_acked(&server, 2020).await;
}

#[tokio::test]
async fn a_consumer_that_is_reset_while_its_handler_stops_stalls_nothing() {
    let server = Server::start().await;
    if binary::version() < (2, 14, 0) {
        // It has no such request.
        return;
    }
    let broker = connect(server.url()).await;
    let seen = Seen::default();
    publish(&broker, 1..=1000).await;
    let subscribe = async || {
        let subscribing = broker.subscribe("work.ordered", "ordered", slow_with(&seen, 1001..=1010)).ordered();
        subscribing.single_instance().ack_wait(ms(2000)).await.unwrap()
    };
    let first = subscribe().await;
    all_acked(&server, 1000).await;
    publish(&broker, 1001..=1010).await;
    seen.until(1001).await;
    let client = server.client().await;
    client.request("$JS.API.CONSUMER.RESET.WORK.ordered", "{}".into()).await.unwrap();
    first.unsubscribe().await.unwrap();
    let _second = subscribe().await;
    seen.until(1010).await;
    publish(&broker, 1011..=1030).await;
    seen.until(1030).await;
    assert_eq!(firsts(&seen.all()), (1..=1030).collect::<Vec<_>>());
    eventually("nothing is unanswered", SOON, async || {
        (consumer_info(&server).await.num_ack_pending == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_is_acked_and_not_yet_replicated_stands_for_nothing_that_is_missing() {
    let mut cluster = Cluster::start().await;
    let jetstream = cluster.jetstream().await;
    let subjects = vec!["work.>".into()];
    let config = stream::Config { name: "WORK".into(), subjects, num_replicas: 3, ..Default::default() };
    jetstream.create_stream(config).await.unwrap();
    let publisher = connect(cluster.urls()[0].clone()).await;
    let (seen, go_on) = (Seen::default(), Arc::new(Semaphore::new(0)));
    let subscribe = async |broker: &Broker| {
        let (seen, go_on) = (seen.clone(), go_on.clone());
        let handler = move |id: u64| {
            let (seen, go_on) = (seen.clone(), go_on.clone());
            async move {
                if id == 1 {
                    drop(go_on.acquire().await.unwrap());
                }
                tokio::time::sleep(ms(5)).await;
                seen.add(id);
            }
        };
        let subscribing = broker.subscribe("work.ordered", "ordered", handler).ordered().single_instance();
        subscribing.ack_every(1).batch_size(100).await.unwrap()
    };
    // It makes the consumer, of which the leader has to be known.
    subscribe(&publisher).await.unsubscribe().await.unwrap();
    let leader = cluster.leader_of_consumer("WORK", "ordered").await;
    let proxy = Proxy::start(cluster.node(leader).address()).await;
    let broker = connect(proxy.url()).await;
    let client = cluster.node(leader).client().await;
    let mut asked = client.subscribe("$JS.API.CONSUMER.INFO.WORK.ordered").await.unwrap();
    client.flush().await.unwrap();
    let unanswered = async |count| {
        eventually("they are delivered", SOON, async || {
            let info = jetstream.get_stream("WORK").await.ok()?.consumer_info("ordered").await.ok()?;
            (info.num_ack_pending == count).then_some(())
        })
        .await;
    };
    publish(&publisher, 1..=20).await;
    let _subscription = subscribe(&broker).await;
    unanswered(20).await;
    // The gate is open when the first message has begun, and it is asked no more.
    tokio::time::sleep(ms(500)).await;
    // These are delivered, and lost on their way.
    proxy.pause();
    publish(&publisher, 21..=23).await;
    unanswered(23).await;
    tokio::time::sleep(ms(100)).await;
    proxy.refuse();
    proxy.cut();
    tokio::time::sleep(ms(20)).await;
    proxy.resume();
    while asked.next().now_or_never().is_some() {}
    // Now the leader hears acks that are not committed.
    for node in (0..3).filter(|node| *node != leader) {
        cluster.node(node).freeze();
    }
    proxy.accept();
    asked.next().await.unwrap();
    go_on.add_permits(1);
    tokio::time::sleep(ms(600)).await;
    for node in (0..3).filter(|node| *node != leader) {
        cluster.node(node).thaw();
    }
    publish(&publisher, 24..=30).await;
    seen.until(30).await;
    assert_eq!(firsts(&seen.all()), (1..=30).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_stop_acks_what_ends_after_a_reconnect() {
    let server = Server::start().await;
    let proxy = Proxy::start(server.address()).await;
    let (broker, publisher) = (connect(proxy.url()).await, connect(server.url()).await);
    publish(&publisher, 1..=3).await;
    let seen = Seen::default();
    let first = subscribe(&broker, &seen, ms(1500)).await;
    seen.until(1).await;
    tokio::time::sleep(ms(200)).await;
    let cutting = async {
        tokio::time::sleep(ms(200)).await;
        proxy.cut();
    };
    let (stopped, ()) = futures::join!(first.unsubscribe(), cutting);
    stopped.unwrap();
    assert_eq!(seen.all(), [1, 2]);
    let _second = subscribe(&publisher, &seen, Duration::ZERO).await;
    seen.until(3).await;
    assert_eq!(seen.all(), [1, 2, 3]);
}

#[tokio::test]
async fn a_consumer_that_is_reset_to_its_start_is_handled_again() {
    let server = Server::start().await;
    if binary::version() < (2, 14, 0) {
        // It has no such request.
        return;
    }
    let broker = connect(server.url()).await;
    publish(&broker, 1..=20).await;
    let seen = Seen::default();
    let _subscription = subscribe(&broker, &seen, Duration::ZERO).await;
    all_acked(&server, 20).await;
    let client = server.client().await;
    client.request("$JS.API.CONSUMER.RESET.WORK.ordered", r#"{"seq":1}"#.into()).await.unwrap();
    eventually("all are handled again", SOON, async || (seen.all().len() == 40).then_some(())).await;
    all_acked(&server, 20).await;
}

#[tokio::test]
async fn what_came_again_is_acked_after_an_idle_time() {
    let server = Server::start().await;
    let proxy = Proxy::start(server.address()).await;
    let (broker, publisher) = (connect(proxy.url()).await, connect(server.url()).await);
    publish(&publisher, 1..=1).await;
    let seen = Seen::default();
    let subscribing = broker.subscribe("work.ordered", "ordered", noting(&seen, Duration::ZERO)).ordered();
    let _first = subscribing.ack_wait(ms(1000)).await.unwrap();
    all_acked(&server, 1).await;
    for (ids, last) in [(2..=6, 6), (7..=7, 7)] {
        // These are delivered, and lost on their way.
        proxy.pause();
        publish(&publisher, ids).await;
        tokio::time::sleep(ms(100)).await;
        proxy.cut();
        tokio::time::sleep(ms(20)).await;
        proxy.resume();
        all_acked(&server, last).await;
        let delivered = consumer_info(&server).await.delivered.consumer_sequence;
        // The server looks at what is unanswered when `ack_wait` is over, and finds nothing.
        tokio::time::sleep(ms(2500)).await;
        assert_eq!(consumer_info(&server).await.delivered.consumer_sequence, delivered, "nothing came again");
    }
    assert_eq!(seen.all(), (1..=7).collect::<Vec<_>>());
}

#[tokio::test]
async fn what_came_again_is_acked_where_one_message_may_be_unanswered() {
    let server = Server::start().await;
    let broker = connect(server.url()).await;
    publish(&broker, 1..=1).await;
    let seen = Seen::default();
    let first = single(&broker, &seen, ms(1000)).await;
    all_acked(&server, 1).await;
    first.unsubscribe().await.unwrap();
    publish(&broker, 2..=11).await;
    take(&server, 10).await;
    let second = single(&broker, &seen, ms(1000)).await;
    all_acked(&server, 11).await;
    // The server looks at what is unanswered when `ack_wait` is over, and finds nothing.
    tokio::time::sleep(ms(2500)).await;
    second.unsubscribe().await.unwrap();
    let bound = async |bound| {
        let config = consumer::Config { max_ack_pending: bound, ..consumer_info(&server).await.config };
        server.jetstream().await.get_stream("WORK").await.unwrap().update_consumer(config).await.unwrap();
    };
    bound(1).await;
    publish(&broker, 12..=13).await;
    take(&server, 1).await;
    let third = single(&broker, &seen, ms(1000)).await;
    all_acked(&server, 13).await;
    third.unsubscribe().await.unwrap();
    // More are unanswered than may be by now.
    bound(10).await;
    publish(&broker, 14..=23).await;
    take(&server, 10).await;
    bound(1).await;
    let _fourth = single(&broker, &seen, ms(1000)).await;
    all_acked(&server, 23).await;
    assert_eq!(seen.all(), (1..=23).collect::<Vec<_>>());
}

#[tokio::test]
async fn what_is_missing_is_asked_back_while_others_publish() {
    let server = Server::start().await;
    let broker = connect(server.url()).await;
    publish(&broker, 1..=1).await;
    let seen = Seen::default();
    let first = single(&broker, &seen, SOON).await;
    all_acked(&server, 1).await;
    first.unsubscribe().await.unwrap();
    publish(&broker, 2..=2).await;
    take(&server, 1).await;
    let _second = single(&broker, &seen, SOON).await;
    let begun = Instant::now();
    for id in 3.. {
        publish(&broker, [id]).await;
        tokio::time::sleep(ms(20)).await;
        if seen.all().contains(&2) {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "nothing is handled: {:?}", seen.all());
    }
}

#[tokio::test]
async fn what_is_on_its_way_is_not_asked_back() {
    let server = Server::start().await;
    let broker = connect(server.url()).await;
    publish(&broker, 1..=900).await;
    let mut answers = server.client().await.subscribe("$JS.ACK.WORK.ordered.>").await.unwrap();
    let seen = Seen::default();
    let subscription = subscribe(&broker, &seen, Duration::ZERO).await;
    seen.until(900).await;
    subscription.unsubscribe().await.unwrap();
    let mut refused = 0;
    while let Ok(Some(answer)) = tokio::time::timeout(ms(200), answers.next()).await {
        refused += usize::from(answer.payload.starts_with(b"-NAK"));
    }
    assert_eq!(refused, 0);
}

#[tokio::test]
async fn a_message_that_fails_is_left_to_the_next_replica_by_a_stop() {
    let server = Server::start().await;
    let broker = connect(server.url()).await;
    publish(&broker, 1..=5).await;
    let failing = |id: u64| async move { if id == 3 { Err(HandlerError::retry("not here")) } else { Ok(()) } };
    let subscribe_failing = broker.subscribe("work.ordered", "ordered", failing).ordered();
    let first = subscribe_failing.backoff(&[Duration::from_secs(60)]).await.unwrap();
    let jetstream = server.jetstream().await;
    eventually("it has come to the third", SOON, async || {
        let info = jetstream.get_stream("WORK").await.ok()?.consumer_info("ordered").await.ok()?;
        (info.ack_floor.stream_sequence == 2).then_some(())
    })
    .await;
    let begun = Instant::now();
    first.unsubscribe().await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(3), "a stop does not wait for a retry");
    let seen = Seen::default();
    let _second = subscribe(&broker, &seen, Duration::ZERO).await;
    seen.until(5).await;
    assert_eq!(seen.all(), [3, 4, 5]);
    assert!(begun.elapsed() < Duration::from_secs(5), "the next one has them at once");
}

#[tokio::test]
async fn a_frozen_active_replica_does_not_hold_up_the_work() -> Result<(), Error> {
    let server = Server::start().await;
    let broker = connect(server.url()).await;
    let (mut active, seen, _standby) = active_and_standby(&server, &broker).await;
    publish(&broker, 2..=2000).await;
    active.until("handled 50").await;
    active.signal("STOP");
    seen.until(2000).await;
    assert_eq!(seen.all(), (seen.all()[0]..=2000).collect::<Vec<_>>());
    active.signal("CONT");
    // It learns that it is not the active one any more, and does no harm.
    publish(&broker, 2001..=2100).await;
    seen.until(2100).await;
    assert_eq!(seen.all(), (seen.all()[0]..=2100).collect::<Vec<_>>());
    all_acked(&server, 2100).await;
    Ok(())
}

/// What was handled, and what was not, while `remove` takes the message 25 of 30 from the stream, and one more comes.
async fn without_25(remove: impl AsyncFnOnce(&Proxy, &stream::Stream)) {
    let server = Server::start().await;
    let proxy = Proxy::start(server.address()).await;
    let (broker, publisher) = (connect(proxy.url()).await, connect(server.url()).await);
    for id in 1..=30_u64 {
        publisher.publish(&format!("work.ordered.{id}"), &id).await.unwrap();
    }
    let seen = Seen::default();
    let subscribe = broker.subscribe("work.ordered.*", "ordered", noting(&seen, ms(50)));
    let _subscription = subscribe.ordered().await.unwrap();
    seen.until(2).await;
    remove(&proxy, &server.jetstream().await.get_stream("WORK").await.unwrap()).await;
    publisher.publish("work.ordered.31", &31).await.unwrap();
    seen.until(31).await;
    // It may have been in hand already.
    let firsts: Vec<_> = firsts(&seen.all()).into_iter().filter(|id| *id != 25).collect();
    assert_eq!(firsts, (1..=31).filter(|id| *id != 25).collect::<Vec<_>>());
    all_acked(&server, 31).await;
}

#[tokio::test]
async fn a_message_that_is_deleted_while_the_connection_is_cut_takes_no_other_with_it() {
    without_25(async |proxy, stream| {
        proxy.cut();
        stream.delete_message(25).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_subject_that_is_purged_before_the_connection_is_cut_takes_no_other_with_it() {
    without_25(async |proxy, stream| {
        stream.purge().filter("work.ordered.25").await.unwrap();
        proxy.cut();
    })
    .await;
}

#[tokio::test]
async fn after_a_purge_of_one_subject_and_a_stop_the_next_replica_goes_on() {
    let server = Server::start().await;
    let broker = connect(server.url()).await;
    for id in 1..=9_u64 {
        broker.publish(&format!("work.ordered.{id}"), &id).await.unwrap();
    }
    let (before, after) = (Seen::default(), Seen::default());
    // The server takes neither an ack nor a nak for what lies before the purged one; that has to wait for its time.
    let subscribe = async |seen: &Seen, each| {
        let subscribe = broker.subscribe("work.ordered.*", "ordered", noting(seen, each)).ordered();
        subscribe.ack_wait(Duration::from_secs(3)).await.unwrap()
    };
    let first = subscribe(&before, ms(200)).await;
    before.until(1).await;
    let stream = server.jetstream().await.get_stream("WORK").await.unwrap();
    stream.purge().filter("work.ordered.7").await.unwrap();
    first.unsubscribe().await.unwrap();
    let _second = subscribe(&after, Duration::ZERO).await;
    broker.publish("work.ordered.10", &10).await.unwrap();
    after.until(10).await;
    let all: Vec<_> = before.all().into_iter().chain(after.all()).collect();
    assert_eq!(firsts(&all), (1..=10).filter(|id| *id != 7).collect::<Vec<_>>());
    all_acked(&server, 10).await;
}

#[tokio::test]
async fn a_call_that_outlives_the_stream_ends_nothing_of_the_new_one() {
    let server = Server::start().await;
    let broker = connect(server.url()).await;
    publish(&broker, 1..=20).await;
    let (seen, begun) = (Seen::default(), Seen::default());
    let go_on = Arc::new(Semaphore::new(0));
    let handler = {
        let (seen, begun, go_on) = (seen.clone(), begun.clone(), go_on.clone());
        move |id: u64| {
            let (seen, begun, go_on) = (seen.clone(), begun.clone(), go_on.clone());
            async move {
                begun.add(id);
                match id {
                    20 => drop(go_on.acquire().await.unwrap()),
                    // Longer than an ack waits for others.
                    101 => tokio::time::sleep(ms(500)).await,
                    _ => {}
                }
                seen.add(id);
            }
        }
    };
    let first = broker.subscribe("work.ordered", "ordered", handler).ordered().await.unwrap();
    begun.until(20).await;
    let jetstream = server.jetstream().await;
    jetstream.delete_stream("WORK").await.unwrap();
    let config = stream::Config { name: "WORK".into(), subjects: vec!["work.>".into()], ..Default::default() };
    jetstream.create_stream(config).await.unwrap();
    publish(&broker, 101..=130).await;
    eventually("all of the new stream is delivered", SOON, async || {
        let info = jetstream.get_stream("WORK").await.ok()?.consumer_info("ordered").await.ok()?;
        (info.num_ack_pending == 30).then_some(())
    })
    .await;
    go_on.add_permits(1);
    begun.until(101).await;
    first.unsubscribe().await.unwrap();
    let after = Seen::default();
    let _second = subscribe(&broker, &after, Duration::ZERO).await;
    publish(&broker, [131]).await;
    after.until(131).await;
    let all: Vec<_> = seen.all().into_iter().chain(after.all()).collect();
    assert_eq!(firsts(&all), (1..=20).chain(101..=131).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_replica_that_was_cut_off_for_longer_than_its_pin_stops_its_old_work() {
    let server = Server::start().await;
    let proxy = Proxy::start(server.address()).await;
    let (one, other) = (connect(proxy.url()).await, connect(server.url()).await);
    publish(&other, 1..=400).await;
    let (seen_by_one, seen_by_other) = (Seen::default(), Seen::default());
    let _first = subscribe(&one, &seen_by_one, ms(100)).await;
    seen_by_one.until(2).await;
    let _second = subscribe(&other, &seen_by_other, ms(1)).await;
    let in_hand = consumer_info(&server).await.num_ack_pending;
    proxy.pause();
    eventually("the other one begins", SOON, async || (!seen_by_other.all().is_empty()).then_some(())).await;
    proxy.resume();
    seen_by_other.until(400).await;
    eventually("the first one is idle", SOON, async || {
        let before = seen_by_one.all().len();
        tokio::time::sleep(ms(500)).await;
        (seen_by_one.all().len() == before).then_some(())
    })
    .await;
    assert!(seen_by_one.all().len() < in_hand, "it has handled all that it had in hand");
    all_acked(&server, 400).await;
}

#[tokio::test]
async fn two_workers_of_a_process_never_run_at_once_while_their_neighbours_come_and_go() {
    let server = Server::start().await;
    let (broker, publisher) = (connect(server.url()).await, connect(server.url()).await);
    publish(&publisher, [0]).await;
    let (running, most) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let handled = Arc::<Mutex<Vec<(usize, u64)>>>::default();
    let mut workers = Vec::new();
    for worker in 0..2 {
        let (running, most, handled) = (running.clone(), most.clone(), handled.clone());
        let handler = move |id: u64| {
            let (running, most, handled) = (running.clone(), most.clone(), handled.clone());
            async move {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::time::sleep(ms(1)).await;
                running.fetch_sub(1, Ordering::SeqCst);
                handled.lock().unwrap().push((worker, id));
            }
        };
        workers.push(broker.subscribe("work.ordered", "ordered", handler).ordered().await.unwrap());
    }
    let by_whom = async |id: u64| {
        let find = || handled.lock().unwrap().iter().find(|(_, handled)| *handled == id).map(|(worker, _)| *worker);
        eventually(&format!("message {id} was handled"), SOON, async || find()).await
    };
    // The second one shall be the active one.
    let client = server.client().await;
    let mut next = 0;
    while by_whom(next).await == 0 {
        let unpin = client.request("$JS.API.CONSUMER.UNPIN.WORK.ordered", r#"{"group":"ordered"}"#.into());
        unpin.await.unwrap();
        next += 1;
        publish(&publisher, [next]).await;
    }
    let last = next + 1500;
    let publishing = publish(&publisher, next + 1..=last);
    let coming_and_going = async {
        for number in 0..25 {
            let come = async || broker.subscribe("work.other", &format!("{number}"), async |_: u64| {}).await.unwrap();
            let (one, other) = (come().await, come().await);
            one.unsubscribe().await.unwrap();
            other.unsubscribe().await.unwrap();
        }
    };
    futures::join!(publishing, coming_and_going);
    by_whom(last).await;
    assert_eq!(most.load(Ordering::SeqCst), 1);
    let ids: Vec<_> = handled.lock().unwrap().iter().map(|(_, id)| *id).collect();
    assert_eq!(firsts(&ids), (0..=last).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_blocking_call_over_its_timeout_is_tried_again_when_its_thread_is_free() {
    let server = Server::start().await;
    let broker = connect(server.url()).await;
    publish(&broker, 1..=3).await;
    let (begun, seen) = (Seen::default(), Seen::default());
    let handler = {
        let (begun, seen) = (begun.clone(), seen.clone());
        move |id: u64| {
            let (begun, seen) = (begun.clone(), seen.clone());
            async move {
                if begun.add(id) == 1 && id == 1 {
                    std::thread::sleep(ms(1500));
                }
                seen.add(id);
            }
        }
    };
    let subscribe = broker.subscribe("work.ordered", "ordered", handler).ordered().blocking();
    let _subscription = subscribe.timeout(ms(200)).max_deliver(3).backoff(&[ms(50)]).await.unwrap();
    seen.until(3).await;
    assert_eq!(seen.all(), [1, 1, 2, 3]);
    assert_eq!(broker.dead_letters().list().await.unwrap().len(), 0);
}

#[tokio::test]
async fn a_connection_that_is_lost_again_and_again_uses_up_no_attempts() {
    let server = Server::start().await;
    let proxy = Proxy::start(server.address()).await;
    let (broker, publisher) = (connect(proxy.url()).await, connect(server.url()).await);
    publish(&publisher, 1..=4).await;
    let (seen, go_on) = (Seen::default(), Arc::new(Semaphore::new(0)));
    let handler = {
        let (seen, go_on) = (seen.clone(), go_on.clone());
        move |id: u64| {
            let (seen, go_on) = (seen.clone(), go_on.clone());
            async move {
                if id == 1 {
                    drop(go_on.acquire().await.unwrap());
                }
                let failed = seen.add(id) == 1 && id == 3;
                if failed { Err(HandlerError::retry("once")) } else { Ok(()) }
            }
        }
    };
    let subscribe = broker.subscribe("work.ordered", "ordered", handler).ordered();
    let client = server.client().await;
    let mut asked = client.subscribe("$JS.API.CONSUMER.INFO.WORK.ordered").await.unwrap();
    client.flush().await.unwrap();
    let _subscription = subscribe.max_deliver(3).backoff(&[ms(100)]).await.unwrap();
    eventually("all are delivered", SOON, async || (consumer_info(&server).await.num_ack_pending == 4).then_some(()))
        .await;
    for _ in 0..5 {
        while asked.next().now_or_never().is_some() {}
        proxy.cut();
        asked.next().await.unwrap();
        // Time for what it would ask back.
        tokio::time::sleep(ms(200)).await;
    }
    go_on.add_permits(1);
    seen.until(4).await;
    assert_eq!(seen.all(), [1, 2, 3, 3, 4]);
    assert_eq!(publisher.dead_letters().list().await.unwrap().len(), 0);
}

#[tokio::test]
async fn an_operator_may_let_few_messages_be_unanswered() {
    let server = Server::start().await;
    let proxy = Proxy::start(server.address()).await;
    let (broker, publisher) = (connect(proxy.url()).await, connect(server.url()).await);
    publish(&publisher, 1..=1).await;
    let seen = Seen::default();
    let first = subscribe(&broker, &seen, Duration::ZERO).await;
    seen.until(1).await;
    first.unsubscribe().await.unwrap();
    let config = consumer::Config { max_ack_pending: 3, ..consumer_info(&server).await.config };
    server.jetstream().await.get_stream("WORK").await.unwrap().update_consumer(config).await.unwrap();
    let _second = subscribe(&broker, &seen, ms(1)).await;
    const LAST: u64 = 300;
    let cutting = async {
        for part in 1..=4 {
            seen.until(part * 50).await;
            proxy.cut();
        }
    };
    futures::join!(publish(&publisher, 2..=LAST), cutting);
    seen.until(LAST).await;
    assert_eq!(firsts(&seen.all()), (1..=LAST).collect::<Vec<_>>());
    all_acked(&server, LAST).await;
}
