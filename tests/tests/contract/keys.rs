//! Handlers with a `key`.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use jetstream_handlers::prelude::*;
use jetstream_handlers::testing::TestBroker;
use jetstream_handlers::{Codec, Key, Message, Output, Reason};
use jetstream_handlers_tests::{Recorder, SOON, eventually, ms};
use serde::de::DeserializeSeed;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio::time::sleep;

use crate::{Transport, accept};

contract![
    messages_of_a_key_are_handled_in_order_beside_others,
    retry_delays_only_its_key,
    dead_letter_is_followed_by_the_next_message_of_its_key,
    message_without_its_key_is_a_dead_letter,
    key_of_a_nested_field,
    key_of_the_subject,
    key_of_a_header,
    many_messages_of_one_key_do_not_delay_the_others,
    messages_removed_from_the_stream_do_not_block_their_key,
    batch_has_one_message_of_each_key,
    failed_element_of_a_batch_delays_only_its_key,
    stop_hands_back_what_waits_and_the_next_instance_continues_in_order,
    standby_takes_over,
    outputs_of_a_key_are_in_order,
    marker_needs_no_key,
    codec_that_panics_does_not_end_the_handler,
];

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Order {
    customer: String,
    id: u64,
}

fn order(customer: impl Into<String>, id: u64) -> Order {
    Order { customer: customer.into(), id }
}

async fn publish(broker: &TestBroker, orders: impl IntoIterator<Item = (String, u64)>) {
    for (customer, id) in orders {
        broker.publish("orders.created", &order(customer, id)).await;
    }
}

/// Returns the ids of each customer, in the order in which they were recorded.
fn by_customer(calls: &Recorder<(String, u64)>) -> BTreeMap<String, Vec<u64>> {
    let mut ids = BTreeMap::<String, Vec<u64>>::new();
    calls.items().into_iter().for_each(|(customer, id)| ids.entry(customer).or_default().push(id));
    ids
}

fn is_ascending(ids: &[u64]) -> bool {
    ids.is_sorted_by(|one, other| one < other)
}

async fn messages_of_a_key_are_handled_in_order_beside_others(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<accept>()).await;
    publish(&broker, (0..200).map(|id| (format!("c{}", id % 10), id))).await;
    let calls = Recorder::<(String, u64)>::default();
    let (running, most) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let handler = {
        let (calls, most) = (calls.clone(), most.clone());
        move |order: Order| {
            let (calls, running, most) = (calls.clone(), running.clone(), most.clone());
            async move {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                // The later messages of each pair are faster, so that they would overtake the others.
                sleep(ms(if order.id % 20 < 10 { 5 } else { 1 })).await;
                running.fetch_sub(1, Ordering::SeqCst);
                calls.add((order.customer, order.id));
            }
        }
    };
    let subscribe = broker.broker().subscribe("orders.created", "by-customer", handler).key("customer");
    let _subscription = subscribe.concurrency(8).await.unwrap();
    calls.until_len(200).await;
    broker.idle().await;
    let ids = by_customer(&calls);
    assert_eq!(ids.len(), 10);
    assert!(ids.values().all(|ids| ids.len() == 20 && is_ascending(ids)), "{ids:?}");
    assert!(most.load(Ordering::SeqCst) > 4, "{most:?} at the same time");
}

async fn retry_delays_only_its_key(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<accept>()).await;
    let all = [("a", 1), ("b", 2), ("a", 3), ("b", 4), ("a", 5), ("b", 6)];
    publish(&broker, all.map(|(customer, id)| (customer.to_owned(), id))).await;
    let calls = Recorder::<(String, u64, u64)>::default();
    let handler = {
        let calls = calls.clone();
        move |order: Order, info: Info| {
            let attempt = calls.attempt((order.customer.clone(), order.id, info.delivered()));
            std::future::ready(match (order.id, info.delivered()) {
                (1, 1 | 2) => Err(HandlerError::retry(format!("attempt {attempt}"))),
                _ => Ok(()),
            })
        }
    };
    let subscribe = broker.broker().subscribe("orders.created", "by-customer", handler).key("customer");
    let _subscription = subscribe.backoff(&[ms(300)]).await.unwrap();
    calls.until_len(8).await;
    broker.idle().await;
    let of = |customer: &str| {
        let calls = calls.items().into_iter().filter(|(other, ..)| other == customer);
        calls.map(|(_, id, delivered)| (id, delivered)).collect::<Vec<_>>()
    };
    assert_eq!(of("a"), [(1, 1), (1, 2), (1, 3), (3, 1), (5, 1)]);
    assert_eq!(of("b"), [(2, 1), (4, 1), (6, 1)]);
    let last_of_b = calls.times(("b".to_owned(), 6, 1))[0];
    assert!(last_of_b < calls.times(("a".to_owned(), 1, 2))[0], "the others do not wait, with a concurrency of 1");
}

async fn dead_letter_is_followed_by_the_next_message_of_its_key(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<accept>()).await;
    publish(&broker, (0..6).map(|id| ("a".to_owned(), id))).await;
    let calls = Recorder::new();
    let handler = {
        let calls = calls.clone();
        move |order: Order| {
            calls.add(order.id);
            std::future::ready(if order.id == 2 { Err(HandlerError::retry("fails")) } else { Ok(()) })
        }
    };
    let subscribe = broker.broker().subscribe("orders.created", "by-customer", handler).key("customer");
    let _subscription = subscribe.concurrency(4).max_deliver(2).backoff(&[ms(20)]).await.unwrap();
    calls.until_len(7).await;
    broker.idle().await;
    assert_eq!(calls.items(), [0, 1, 2, 2, 3, 4, 5]);
    let letters = broker.broker().dead_letters().list(10).await.unwrap();
    assert_eq!(letters.len(), 1);
    assert_eq!((letters[0].stream_sequence, letters[0].reason), (3, Reason::Error));
}

async fn message_without_its_key_is_a_dead_letter(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<accept>()).await;
    publish(&broker, [("a".to_owned(), 1)]).await;
    for payload in [r#"{"id": 2}"#, r#"{"customer": null, "id": 3}"#, r#"{"customer": ["a"], "id": 4}"#, "no JSON"] {
        broker.publish_bytes("orders.created", payload).await;
    }
    publish(&broker, [("a".to_owned(), 5)]).await;
    let calls = Recorder::new();
    let handler = {
        let calls = calls.clone();
        move |message: Message| {
            calls.add(message.info().stream_sequence());
            async {}
        }
    };
    let subscribe = broker.broker().subscribe("orders.created", "by-customer", handler).name("by-customer");
    let _subscription = subscribe.key("customer").await.unwrap();
    calls.until_len(2).await;
    broker.idle().await;
    assert_eq!(calls.items(), [1, 6]);
    let mut letters = broker.broker().dead_letters().list(10).await.unwrap();
    letters.sort_by_key(|letter| letter.stream_sequence);
    let letters: Vec<_> = letters.into_iter().filter(|letter| letter.consumer == "by-customer").collect();
    assert_eq!(letters.iter().map(|letter| letter.stream_sequence).collect::<Vec<_>>(), [2, 3, 4, 5]);
    assert!(letters.iter().all(|letter| letter.reason == Reason::Undecodable), "{letters:?}");
    assert!(letters[..3].iter().all(|letter| letter.error.contains("customer")), "{letters:?}");
}

/// Handles the messages 0 to 3 of `subject`, of which only 0 and 2 have the same key.
async fn check_key(broker: &TestBroker, subject: &str, key: Key) {
    let calls = Recorder::new();
    let handler = {
        let calls = calls.clone();
        move |order: Order| {
            let calls = calls.clone();
            async move {
                // The first message is slow, so that those of other keys overtake it.
                sleep(ms(if order.id == 0 { 300 } else { 0 })).await;
                calls.add(order.id);
            }
        }
    };
    let subscribe = broker.broker().subscribe(subject, "by-key", handler).key(key).concurrency(8);
    let _subscription = subscribe.await.unwrap();
    calls.until_len(4).await;
    assert_eq!(calls.items()[2..], [0, 2], "the others overtake message 0, and 2 waits for it");
}

async fn key_of_a_nested_field(transport: &Transport) {
    #[derive(Serialize)]
    struct Placed {
        id: u64,
        customer: String,
        lines: Vec<Line>,
    }
    #[derive(Serialize)]
    struct Line {
        product: u64,
    }
    let broker = transport.start(TestBroker::builder().include::<accept>()).await;
    for (id, product) in [(0, 7), (1, 8), (2, 7), (3, 9)] {
        let placed = Placed { id, customer: "a".to_owned(), lines: vec![Line { product }] };
        broker.publish("orders.created", &placed).await;
    }
    check_key(&broker, "orders.created", Key::field("lines.0.product")).await;
}

async fn key_of_the_subject(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<accept>()).await;
    for (region, id) in [("eu", 0), ("us", 1), ("eu", 2), ("asia", 3)] {
        broker.publish(&format!("orders.{region}.created"), &order("a", id)).await;
    }
    check_key(&broker, "orders.{region}.created", "{region}".into()).await;
}

async fn key_of_a_header(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<accept>()).await;
    for (tenant, id) in [("x", 0), ("y", 1), ("x", 2), ("z", 3)] {
        broker.broker().publish_message("orders.created", &order("a", id)).header("Tenant", tenant).await.unwrap();
    }
    check_key(&broker, "orders.created", Key::header("Tenant")).await;
}

async fn many_messages_of_one_key_do_not_delay_the_others(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<accept>()).await;
    publish(&broker, (0..400).map(|id| ("hot".to_owned(), id))).await;
    publish(&broker, (400..420).map(|id| (format!("c{id}"), id))).await;
    let calls = Recorder::<(String, u64)>::default();
    let deliveries = Recorder::<u64>::default();
    let gate = Arc::new(Semaphore::new(0));
    let handler = {
        let (calls, deliveries, gate) = (calls.clone(), deliveries.clone(), gate.clone());
        move |order: Order, info: Info| {
            let (calls, deliveries, gate) = (calls.clone(), deliveries.clone(), gate.clone());
            async move {
                if order.customer == "hot" {
                    gate.acquire().await.unwrap().forget();
                }
                calls.add((order.customer, order.id));
                deliveries.add(info.delivered());
            }
        }
    };
    let subscribe = broker.broker().subscribe("orders.created", "by-customer", handler).key("customer");
    let _subscription = subscribe.concurrency(4).await.unwrap();
    calls.until_len(20).await;
    assert!(calls.items().iter().all(|(customer, _)| customer != "hot"));
    gate.add_permits(400);
    calls.until_len(420).await;
    broker.idle().await;
    assert_eq!(by_customer(&calls)["hot"], (0..400).collect::<Vec<_>>());
    assert_eq!(deliveries.items(), [1; 420], "a message that was requested again is not a retry");
}

async fn messages_removed_from_the_stream_do_not_block_their_key(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<accept>()).await;
    publish(&broker, (1..=300).map(|id| ("hot".to_owned(), id))).await;
    publish(&broker, [("other".to_owned(), 301)]).await;
    let calls = Recorder::<(String, u64)>::default();
    let gate = Arc::new(Semaphore::new(0));
    let handler = {
        let (calls, gate) = (calls.clone(), gate.clone());
        move |order: Order| {
            let (calls, gate) = (calls.clone(), gate.clone());
            async move {
                if order.customer == "hot" {
                    gate.acquire().await.unwrap().forget();
                }
                calls.add((order.customer, order.id));
            }
        }
    };
    let subscribe = broker.broker().subscribe("orders.created", "by-customer", handler).key("customer");
    let _subscription = subscribe.concurrency(4).ack_wait(secs(3)).await.unwrap();
    calls.until_len(1).await;
    // The first ones are in memory, and of the others only the numbers are known.
    for sequence in (100..250).chain([260, 280]) {
        transport.delete_message(&broker, "ORDERS", sequence).await;
    }
    gate.add_permits(1000);
    publish(&broker, [("hot".to_owned(), 302)]).await;
    calls.until(("hot".to_owned(), 302)).await;
    broker.idle().await;
    let left = (1..100).chain(250..260).chain(261..280).chain(281..=300).chain([302]);
    assert_eq!(by_customer(&calls)["hot"], left.collect::<Vec<_>>());
}

async fn batch_has_one_message_of_each_key(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<accept>()).await;
    publish(&broker, (0..60).map(|id| (format!("c{}", id % 6), id))).await;
    let calls = Recorder::<Vec<(String, u64)>>::default();
    let handler = {
        let calls = calls.clone();
        move |orders: Batch<Order>| {
            calls.add(orders.iter().map(|order| (order.customer.clone(), order.id)).collect());
            async {}
        }
    };
    let subscribe = broker.broker().subscribe("orders.created", "by-customer", handler).key("customer");
    let _subscription = subscribe.batch(10).batch_wait(ms(50)).await.unwrap();
    eventually("all are handled", SOON, async || {
        (calls.items().iter().map(Vec::len).sum::<usize>() == 60).then_some(())
    })
    .await;
    broker.idle().await;
    let batches = calls.items();
    for batch in &batches {
        let customers: std::collections::BTreeSet<_> = batch.iter().map(|(customer, _)| customer).collect();
        assert_eq!(customers.len(), batch.len(), "{batch:?}");
    }
    let flat = Recorder::<(String, u64)>::default();
    batches.into_iter().flatten().for_each(|item| flat.add(item));
    assert!(by_customer(&flat).values().all(|ids| is_ascending(ids)));
}

async fn failed_element_of_a_batch_delays_only_its_key(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<accept>()).await;
    publish(&broker, (0..12).map(|id| (format!("c{}", id % 3), id))).await;
    let calls = Recorder::<(String, u64)>::default();
    let attempts = Recorder::new();
    let handler = {
        let (calls, attempts) = (calls.clone(), attempts.clone());
        move |orders: Batch<Order>| {
            let results: Vec<HandlerResult> = orders
                .iter()
                .map(|order| {
                    if order.id == 1 && attempts.attempt(1) < 3 {
                        return Err("not yet".into());
                    }
                    calls.add((order.customer.clone(), order.id));
                    Ok(())
                })
                .collect();
            std::future::ready(results)
        }
    };
    let subscribe = broker.broker().subscribe("orders.created", "by-customer", handler).key("customer");
    let _subscription = subscribe.batch(3).batch_wait(ms(20)).backoff(&[ms(200)]).await.unwrap();
    calls.until_len(12).await;
    broker.idle().await;
    let items = calls.items();
    let ids = by_customer(&calls);
    assert!(ids.values().all(|ids| ids.len() == 4 && is_ascending(ids)), "{ids:?}");
    assert!(items[..8].iter().all(|(customer, _)| customer != "c1"), "{items:?}");
}

async fn stop_hands_back_what_waits_and_the_next_instance_continues_in_order(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<accept>()).await;
    publish(&broker, (0..300).map(|id| (format!("c{}", id % 7), id))).await;
    let calls = Recorder::<(String, u64)>::default();
    let handler = || {
        let calls = calls.clone();
        move |order: Order| {
            let calls = calls.clone();
            async move {
                sleep(ms(2)).await;
                calls.add((order.customer, order.id));
            }
        }
    };
    let subscribe = || broker.broker().subscribe("orders.created", "by-customer", handler()).key("customer");
    for stop_at in [40, 150] {
        let subscription = subscribe().concurrency(3).ack_wait(secs(60)).await.unwrap();
        eventually("some are handled", SOON, async || (calls.len() >= stop_at).then_some(())).await;
        subscription.unsubscribe().await.unwrap();
    }
    let _subscription = subscribe().concurrency(3).ack_wait(secs(60)).await.unwrap();
    calls.until_len(300).await;
    broker.idle().await;
    let ids = by_customer(&calls);
    assert!(ids.values().all(|ids| is_ascending(ids)), "{ids:?}");
}

async fn standby_takes_over(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<accept>()).await;
    let start = async |broker: &Broker| {
        let calls = Recorder::new();
        let recorder = calls.clone();
        let handler = move |order: Order| {
            recorder.add(order.id);
            async {}
        };
        let subscribe = broker.subscribe("orders.created", "by-customer", handler).key("customer").concurrency(4);
        (subscribe.await.unwrap(), calls)
    };
    let (one, first_calls) = start(broker.broker()).await;
    publish(&broker, (0..5).map(|id| (format!("c{id}"), id))).await;
    first_calls.until_len(5).await;
    let second = broker.second_instance().await;
    let (_other, second_calls) = start(&second).await;
    publish(&broker, (5..10).map(|id| (format!("c{id}"), id))).await;
    first_calls.until_len(10).await;
    assert!(second_calls.is_empty());
    one.unsubscribe().await.unwrap();
    publish(&broker, (10..15).map(|id| (format!("c{id}"), id))).await;
    second_calls.until_len(5).await;
    assert_eq!(second_calls.distinct(), (10..15).collect());
}

async fn outputs_of_a_key_are_in_order(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<accept>()).await;
    publish(&broker, (0..40).map(|id| (format!("c{}", id % 4), id))).await;
    let handler = move |order: Order| async move {
        sleep(ms(order.id % 3)).await;
        Ok::<_, HandlerError>(Output::new(&order))
    };
    let subscribe = broker.broker().subscribe("orders.created", "by-customer", handler).key("customer");
    let _subscription = subscribe.concurrency(4).publish("orders.confirmed").await.unwrap();
    let confirmed = Recorder::<(String, u64)>::default();
    let reader = {
        let confirmed = confirmed.clone();
        move |order: Order| {
            confirmed.add((order.customer, order.id));
            async {}
        }
    };
    let _reader = broker.broker().subscribe("orders.confirmed", "confirmed", reader).await.unwrap();
    confirmed.until_len(40).await;
    let ids = by_customer(&confirmed);
    assert!(ids.values().all(|ids| ids.len() == 10 && is_ascending(ids)), "{ids:?}");
}

async fn marker_needs_no_key(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<accept>()).await;
    broker.broker().publisher().publish_bytes("orders.created", "").header("KV-Operation", "DEL").await.unwrap();
    publish(&broker, [("a".to_owned(), 1)]).await;
    let calls = Recorder::new();
    let handler = {
        let calls = calls.clone();
        move |order: Order| {
            calls.add(order.id);
            async {}
        }
    };
    let subscribe = broker.broker().subscribe("orders.created", "by-customer", handler).key("customer");
    let _subscription = subscribe.await.unwrap();
    calls.until_len(1).await;
    broker.idle().await;
    let letters = broker.broker().dead_letters().list(10).await.unwrap();
    assert!(letters.iter().all(|letter| letter.consumer != "by-customer"), "{letters:?}");
    assert_eq!(calls.items(), [1]);
}

/// JSON, of which a payload with a certain text makes it panic.
struct Fragile;

impl Codec for Fragile {
    const CONTENT_TYPE: &'static str = "application/vnd.acme.fragile";

    fn encode<T: Serialize + ?Sized>(&self, value: &T) -> Result<Vec<u8>, Box<dyn Error + Send + Sync>> {
        Ok(serde_json::to_vec(value)?)
    }

    fn decode<'de, S: DeserializeSeed<'de>>(
        &self,
        payload: &'de [u8],
        seed: S,
    ) -> Result<S::Value, Box<dyn Error + Send + Sync>> {
        assert!(!payload.windows(7).any(|text| text == b"fragile"), "it is fragile");
        Ok(seed.deserialize(&mut serde_json::Deserializer::from_slice(payload))?)
    }
}

async fn codec_that_panics_does_not_end_the_handler(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().codec(Fragile).include::<accept>()).await;
    publish(&broker, [("fragile".to_owned(), 1), ("a".to_owned(), 2)]).await;
    let calls = Recorder::new();
    let handler = {
        let calls = calls.clone();
        move |order: Order| {
            calls.add(order.id);
            async {}
        }
    };
    let subscribe = broker.broker().subscribe("orders.created", "by-customer", handler).key("customer");
    let _subscription = subscribe.await.unwrap();
    calls.until_len(1).await;
    broker.idle().await;
    let letters = broker.broker().dead_letters().list(10).await.unwrap();
    let letter = letters.iter().find(|letter| letter.consumer == "by-customer").unwrap();
    assert_eq!((letter.reason, letter.error.as_str()), (Reason::Panic, "panicked: it is fragile"));
    assert_eq!(calls.items(), [2]);
}
