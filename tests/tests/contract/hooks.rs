//! Hooks: a function of the application is called for every attempt.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use jetstream_handlers::prelude::*;
use jetstream_handlers::testing::{Builder, TestBroker};
use jetstream_handlers::{Reason, Settlement};
use jetstream_handlers_tests::{SOON, eventually, ms};

use crate::{Order, Transport, publish};

contract![
    every_way_to_settle_is_reported,
    batch_reports_each_message,
    ordered_handler_reports_each_attempt_in_place,
    handler_with_a_key_reports_each_attempt,
    message_that_a_stop_hands_back_is_reported,
    panic_in_a_hook_is_caught,
];

/// The values of an event that a hook has received.
#[derive(Debug, Clone, PartialEq)]
struct Seen {
    handler: String,
    sequence: u64,
    delivered: u64,
    outcome: Settlement,
    reason: Option<Reason>,
    error: Option<String>,
    elapsed: Option<Duration>,
}

#[derive(Debug, Clone, Default)]
struct Events(Arc<Mutex<Vec<Seen>>>);

impl Events {
    fn hook(&self, builder: Builder) -> Builder {
        let events = self.clone();
        builder.on_settled(move |event| {
            assert_eq!((event.stream, event.subject), ("ORDERS", "orders.created"));
            assert!(event.handler.ends_with(&event.queue.replace('-', "_")), "{event:?}");
            events.0.lock().unwrap().push(Seen {
                handler: event.queue.to_owned(),
                sequence: event.sequence,
                delivered: event.delivered,
                outcome: event.outcome,
                reason: event.reason,
                error: event.error.map(str::to_owned),
                elapsed: event.elapsed,
            });
        })
    }

    fn all(&self) -> Vec<Seen> {
        self.0.lock().unwrap().clone()
    }

    /// Returns what was reported of a handler: sequence, delivery, outcome and reason.
    fn of(&self, handler: &str) -> Vec<(u64, u64, Settlement, Option<Reason>)> {
        let of = self.all().into_iter().filter(|seen| seen.handler == handler);
        of.map(|seen| (seen.sequence, seen.delivered, seen.outcome, seen.reason)).collect()
    }
}

#[subscriber(subject = "orders.created", queue = "settle-all", max_deliver = 2, backoff = ["50ms"], timeout = "200ms")]
async fn settle_all(order: Order) -> HandlerResult {
    match order.id {
        1 => Ok(()),
        2 => Err("no stock".into()),
        3 => panic!("a bug"),
        4 => std::future::pending().await,
        _ => Err(HandlerError::terminate("never")),
    }
}

async fn every_way_to_settle_is_reported(transport: &Transport) {
    let events = Events::default();
    let broker = transport.start(events.hook(TestBroker::builder().include::<settle_all>())).await;
    publish(&broker, 1..=5).await;
    broker.broker().publisher().publish_bytes("orders.created", "no order").await.unwrap();
    eventually("all messages have ended", SOON, async || (events.of("settle-all").len() == 9).then_some(())).await;
    let of = |sequence| {
        let all = events.of("settle-all").into_iter();
        all.filter(move |(own, ..)| *own == sequence)
            .map(|(_, delivered, outcome, reason)| (delivered, outcome, reason))
    };
    assert_eq!(of(1).collect::<Vec<_>>(), [(1, Settlement::Ack, None)]);
    for (sequence, reason) in [(2, Reason::Error), (3, Reason::Panic), (4, Reason::Timeout)] {
        let both = [(1, Settlement::Retry, Some(reason)), (2, Settlement::DeadLetter, Some(reason))];
        assert_eq!(of(sequence).collect::<Vec<_>>(), both);
    }
    assert_eq!(of(5).collect::<Vec<_>>(), [(1, Settlement::DeadLetter, Some(Reason::Error))]);
    assert_eq!(of(6).collect::<Vec<_>>(), [(1, Settlement::DeadLetter, Some(Reason::Undecodable))]);
    let seen = events.all();
    let first = |sequence| seen.iter().find(|seen| seen.sequence == sequence).unwrap();
    assert_eq!(first(2).error.as_deref(), Some("no stock"));
    assert_eq!(first(3).error.as_deref(), Some("panicked: a bug"));
    assert!(first(4).elapsed.is_some_and(|elapsed| elapsed >= ms(200)), "{:?}", first(4));
    assert!(seen.iter().all(|seen| seen.elapsed.is_some()), "each attempt was a call: {seen:?}");
}

#[subscriber(subject = "orders.created", queue = "batched", batch = 3, batch_wait = "10s", dead_letter = false)]
async fn batched(orders: Batch<Order>) -> Vec<HandlerResult> {
    let fails = |order: &Order| if order.id == 2 { Err(HandlerError::terminate("two")) } else { Ok(()) };
    orders.iter().map(fails).collect()
}

async fn batch_reports_each_message(transport: &Transport) {
    let events = Events::default();
    let broker = transport.start(events.hook(TestBroker::builder().include::<batched>())).await;
    publish(&broker, 1..=3).await;
    eventually("the batch was handled", SOON, async || (events.all().len() == 3).then_some(())).await;
    let mut seen = events.of("batched");
    seen.sort_unstable();
    let ack = |sequence| (sequence, 1, Settlement::Ack, None);
    assert_eq!(seen, [ack(1), (2, 1, Settlement::Terminated, Some(Reason::Error)), ack(3)]);
    let elapsed: Vec<_> = events.all().iter().map(|seen| seen.elapsed).collect();
    assert!(elapsed[0].is_some() && elapsed.iter().all(|one| *one == elapsed[0]), "the call is one: {elapsed:?}");
}

#[subscriber(subject = "orders.created", queue = "in-order", ordered, max_deliver = 3, backoff = ["50ms"])]
async fn in_order(order: Order) -> HandlerResult {
    if order.id == 1 { Err("not yet".into()) } else { Ok(()) }
}

async fn ordered_handler_reports_each_attempt_in_place(transport: &Transport) {
    let events = Events::default();
    let broker = transport.start(events.hook(TestBroker::builder().include::<in_order>())).await;
    publish(&broker, 1..=2).await;
    eventually("both messages have ended", SOON, async || (events.all().len() == 4).then_some(())).await;
    let failed = |delivered, outcome| (1, delivered, outcome, Some(Reason::Error));
    assert_eq!(
        events.of("in-order"),
        [
            failed(1, Settlement::Retry),
            failed(2, Settlement::Retry),
            failed(3, Settlement::DeadLetter),
            (2, 1, Settlement::Ack, None)
        ]
    );
}

#[subscriber(subject = "orders.created", queue = "by-key", key = "id", max_deliver = 2, backoff = ["50ms"])]
async fn by_key(_order: Order) -> HandlerResult {
    Err("never".into())
}

async fn handler_with_a_key_reports_each_attempt(transport: &Transport) {
    let events = Events::default();
    let broker = transport.start(events.hook(TestBroker::builder().include::<by_key>())).await;
    publish(&broker, [1]).await;
    eventually("the message has ended", SOON, async || (events.all().len() == 2).then_some(())).await;
    let failed = |delivered, outcome| (1, delivered, outcome, Some(Reason::Error));
    assert_eq!(events.of("by-key"), [failed(1, Settlement::Retry), failed(2, Settlement::DeadLetter)]);
}

#[subscriber(subject = "orders.created", queue = "until-stop")]
async fn until_stop(_order: Order, shutdown: Shutdown) -> HandlerResult {
    shutdown.requested().await;
    Err(HandlerError::hand_back("stopping"))
}

async fn message_that_a_stop_hands_back_is_reported(transport: &Transport) {
    let events = Events::default();
    let broker = transport.start(events.hook(TestBroker::builder().include::<until_stop>())).await;
    publish(&broker, [1]).await;
    eventually("the call has begun", SOON, async || {
        (broker.broker().health().handlers[0].busy_since.is_some()).then_some(())
    })
    .await;
    broker.broker().disconnect().await.unwrap();
    assert_eq!(events.of("until-stop"), [(1, 1, Settlement::HandedBack, None)]);
}

#[subscriber(subject = "orders.created", queue = "calm")]
async fn calm(_order: Order) {}

async fn panic_in_a_hook_is_caught(transport: &Transport) {
    let events = Events::default();
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("another bug");
        }
    }
    let builder = TestBroker::builder().include::<calm>().on_settled(|_| panic!("a bug in the hook"));
    let builder = builder.on_settled(|_| std::panic::panic_any(Bomb));
    let broker = transport.start(events.hook(builder)).await;
    publish(&broker, 1..=2).await;
    broker.idle().await;
    broker.handled::<calm>().times(2).settled(Settle::Ack);
    eventually("both are reported", SOON, async || (events.all().len() == 2).then_some(())).await;
}
