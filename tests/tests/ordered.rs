//! Strict order: one message after the other, over failures, lost connections and replicas that die.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall say where")]

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use jetstream_handlers::prelude::*;
use jetstream_handlers::{Error, Subscription, stream};
use jetstream_handlers_tests::{Program, Proxy, Server, eventually};

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

async fn subscribe(broker: &Broker, seen: &Seen, each: Duration) -> Subscription {
    let seen = seen.clone();
    let handler = move |id: u64| {
        let seen = seen.clone();
        async move {
            tokio::time::sleep(each).await;
            seen.add(id);
        }
    };
    broker.subscribe("work.ordered", "ordered", handler).ordered().await.unwrap()
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
        move |id: u64| {
            let times = seen.add(id);
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
    publish(&broker, 1..=1).await;
    let mut active = Program::start(env!("CARGO_BIN_EXE_ordered_worker"), &[], &[("NATS_URL", &server.url())]);
    active.until("handled 1").await;
    let seen = Seen::default();
    let _standby = subscribe(&broker, &seen, Duration::ZERO).await;
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
    publish(&broker, 1..=1).await;
    let mut active = Program::start(env!("CARGO_BIN_EXE_ordered_worker"), &[], &[("NATS_URL", &server.url())]);
    active.until("handled 1").await;
    let seen = Seen::default();
    let _standby = subscribe(&broker, &seen, Duration::ZERO).await;
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
