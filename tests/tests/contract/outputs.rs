//! Outputs: what a handler returns is stored before its message is acknowledged, and not twice.

use jetstream_handlers::prelude::*;
use jetstream_handlers::testing::TestBroker;
use jetstream_handlers::{DeadLetter, ErrorKind, Message, Output, Outputs, Problem, stream};
use jetstream_handlers_tests::{SOON, assert_error, binary, eventually, ms, stream_config};

use serde::{Deserialize, Serialize};

use crate::{Order, Transport, order, orders, publish};

contract![
    returned_value_is_published,
    each_shape_publishes_its_values,
    outputs_have_subjects_and_headers,
    blocking_and_ordered_handlers_publish,
    closure_publishes,
    output_that_is_stored_is_not_stored_again,
    refused_output_is_retried_and_dead_lettered,
    unpublishable_output_is_dead_lettered_at_once,
    own_message_id_wins,
    same_message_id_in_one_stream_is_refused,
    outputs_to_one_stream_are_an_atomic_batch,
    start_refuses_outputs_that_cannot_be_published,
    start_finds_the_streams_of_returned_events,
    start_refuses_returned_events_without_a_stream,
    start_accepts_an_event_of_which_a_stream_has_a_part,
    start_refuses_a_subject_for_returned_events,
];

#[subscriber(subject = "orders.created", queue = "confirm", publish = "confirmed.orders")]
async fn confirm(order: Order) -> HandlerResult<Order> {
    Ok(order)
}

async fn returned_value_is_published(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<confirm>()).await;
    publish(&broker, 1..=3).await;
    broker.idle().await;
    assert_eq!(broker.published::<Order>("confirmed.orders").await, (1..=3).map(order).collect::<Vec<_>>());
    broker.handled::<confirm>().times(3).settled(Settle::Ack).retried(0);
    let outputs = broker.published_messages("confirmed.orders").await;
    let ids: Vec<_> = outputs.iter().filter_map(|output| output.header("Nats-Msg-Id")).collect();
    let inputs = broker.published_messages("orders.created").await;
    for ((id, input), sequence) in ids.iter().zip(&inputs).zip(1..) {
        let stored_at = input.info().stored_at().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
        assert_eq!(*id, format!("out:ORDERS:confirm:{sequence}:{stored_at}:1"));
    }
    assert_eq!(ids.len(), 3);
}

#[subscriber(subject = "orders.created", queue = "bare", publish = "confirmed.bare")]
async fn bare(order: Order) -> Order {
    order
}

#[subscriber(subject = "orders.created", queue = "option", publish = "confirmed.option")]
async fn option(order: Order) -> Result<Option<Order>, std::io::Error> {
    Ok((order.id != 2).then_some(order))
}

#[subscriber(subject = "orders.created", queue = "many", publish = "confirmed.many")]
async fn many(order: Order) -> HandlerResult<Vec<u64>> {
    Ok((0..order.id).collect())
}

async fn each_shape_publishes_its_values(transport: &Transport) {
    let builder = TestBroker::builder().include::<bare>().include::<option>().include::<many>();
    let broker = transport.start(builder).await;
    publish(&broker, 1..=3).await;
    broker.idle().await;
    assert_eq!(broker.published::<Order>("confirmed.bare").await, [order(1), order(2), order(3)]);
    assert_eq!(broker.published::<Order>("confirmed.option").await, [order(1), order(3)]);
    assert_eq!(broker.published::<u64>("confirmed.many").await, [0, 0, 1, 0, 1, 2]);
    broker.handled::<option>().times(3).settled(Settle::Ack);
}

#[subscriber(subject = "orders.created", queue = "fan-out", publish = "confirmed.orders")]
async fn fan_out(order: Order) -> HandlerResult<(Output, Option<Output>, Outputs)> {
    let first = Output::new(&order).header("Tenant", "eu").header("Tenant", "us");
    let second = (order.id == 1).then(|| Output::to("parcels.packed", &order));
    Ok((first, second, Outputs::new().publish("invoices.due", &order.id).publish("parcels.sent", &order.id)))
}

async fn outputs_have_subjects_and_headers(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<fan_out>()).await;
    publish(&broker, 1..=2).await;
    broker.idle().await;
    let confirmed = broker.published_messages("confirmed.orders").await;
    assert_eq!(confirmed.iter().map(|message| message.header("Tenant")).collect::<Vec<_>>(), [Some("eu"); 2]);
    assert_eq!(broker.published::<Order>("parcels.packed").await, [order(1)]);
    assert_eq!(broker.published::<u64>("invoices.due").await, [1, 2]);
    assert_eq!(broker.published::<u64>("parcels.sent").await, [1, 2]);
    let id = |message: &Message| message.header("Nats-Msg-Id").unwrap().rsplit(':').next().map(str::to_owned);
    let sent = broker.published_messages("parcels.sent").await;
    assert_eq!(sent.iter().filter_map(id).collect::<Vec<_>>(), ["4", "3"]);
}

#[subscriber(subject = "orders.created", queue = "blocking-out", publish = "confirmed.blocking", threads = 2)]
fn blocking_out(order: Order) -> HandlerResult<Order> {
    Ok(order)
}

#[subscriber(
    subject = "orders.created",
    queue = "ordered-out",
    publish = "confirmed.ordered",
    ordered,
    single_instance,
    backoff = ["20ms"]
)]
async fn ordered_out(order: Order, info: Info) -> HandlerResult<Order> {
    if order.id == 2 && info.delivered() == 1 {
        return Err("the first attempt fails".into());
    }
    Ok(order)
}

async fn blocking_and_ordered_handlers_publish(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<blocking_out>().include::<ordered_out>()).await;
    publish(&broker, 1..=4).await;
    eventually("all outputs", SOON, async || {
        broker.advance(ms(50)).await;
        let counts = (
            broker.published::<Order>("confirmed.blocking").await.len(),
            broker.published::<Order>("confirmed.ordered").await.len(),
        );
        (counts == (4, 4)).then_some(())
    })
    .await;
    assert_eq!(broker.published::<Order>("confirmed.ordered").await, (1..=4).map(order).collect::<Vec<_>>());
}

async fn closure_publishes(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<crate::other>()).await;
    let subscribe = broker.broker().subscribe("orders.created", "closure", |order: Order| async move {
        Ok(if order.id == 1 { Some(Output::new(&order)) } else { None })
    });
    let _one = subscribe.publish("confirmed.closure").await.unwrap();
    let subscribe = broker.broker().subscribe("orders.created", "closure-outputs", |order: Order| async move {
        Ok(vec![Output::to("confirmed.first", &order), Output::to("confirmed.second", &order)])
    });
    let _two = subscribe.await.unwrap();
    publish(&broker, 1..=2).await;
    eventually("all outputs", SOON, async || {
        broker.idle().await;
        (broker.published::<Order>("confirmed.second").await.len() == 2).then_some(())
    })
    .await;
    assert_eq!(broker.published::<Order>("confirmed.closure").await, [order(1)]);
    assert_eq!(broker.published::<Order>("confirmed.first").await, [order(1), order(2)]);
}

/// A stream that is full with one message.
fn full(name: &str, subject: &str) -> stream::Config {
    stream::Config { max_messages: 1, discard: stream::DiscardPolicy::New, ..stream_config(name, &[subject]) }
}

#[subscriber(subject = "orders.created", queue = "partly", backoff = ["100ms"], max_deliver = 1000)]
async fn partly(order: Order) -> Result<Outputs, std::io::Error> {
    Ok(Outputs::new().publish("confirmed.first", &order).publish("full", &order).publish("confirmed.last", &order))
}

async fn output_that_is_stored_is_not_stored_again(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().stream(full("FULL", "full")).include::<partly>()).await;
    broker.broker().publish("full", &0).await.unwrap();
    publish(&broker, [1]).await;
    broker.advance(ms(400)).await;
    assert_eq!(broker.published::<Order>("confirmed.>").await, [order(1)]);
    transport.purge(&broker, "FULL").await;
    eventually("the last output", SOON, async || {
        broker.advance(ms(200)).await;
        (!broker.published::<Order>("confirmed.last").await.is_empty()).then_some(())
    })
    .await;
    assert_eq!(broker.published::<Order>("confirmed.first").await, [order(1)]);
    assert_eq!(broker.published::<Order>("full").await, [order(1)]);
    assert_eq!(broker.published::<Order>("confirmed.last").await, [order(1)]);
    broker.handled::<partly>().once().settled(Settle::Ack);
}

#[subscriber(subject = "orders.created", queue = "refused", publish = "full", backoff = ["50ms"], max_deliver = 2)]
async fn refused(order: Order) -> Order {
    order
}

/// Returns the reason and the text of each dead letter.
async fn failures(broker: &TestBroker, count: usize) -> Vec<(String, String)> {
    let letters = eventually("dead letters", SOON, async || {
        broker.advance(ms(100)).await;
        let letters = broker.dead_letters().await;
        (letters.len() >= count).then_some(letters)
    });
    letters.await.into_iter().map(|DeadLetter { reason, error, .. }| (reason.to_string(), error)).collect()
}

async fn refused_output_is_retried_and_dead_lettered(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().stream(full("FULL", "full")).include::<refused>()).await;
    broker.broker().publish("full", &0).await.unwrap();
    publish(&broker, [1]).await;
    let [(reason, error)] = &*failures(&broker, 1).await else { panic!("one message has failed") };
    assert_eq!(reason, "output");
    assert!(error.starts_with("the output on `full` could not be published: "), "{error}");
    assert!(error.contains("raise `max_msgs`"), "{error}");
    broker.handled::<refused>().once().retried(1);
}

#[subscriber(subject = "orders.created", queue = "unpublishable")]
async fn unpublishable(order: Order) -> Outputs {
    let outputs = Outputs::new().publish("confirmed.first", &order);
    match order.id {
        1 => outputs.publish("confirmed.number", &f64::NAN),
        2 => outputs.publish("confirmed.*", &order),
        3 => outputs.publish("confirmed orders", &order),
        _ => [Output::new(&order)].into_iter().collect(),
    }
}

async fn unpublishable_output_is_dead_lettered_at_once(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<unpublishable>()).await;
    publish(&broker, 1..=4).await;
    let failures = failures(&broker, 4).await;
    let expected = [
        "the output for `confirmed.number` cannot be published: `f64` does not encode as JSON: the value is NaN",
        "the output for `confirmed.*` cannot be published: subject `confirmed.*` has the wildcard `*`",
        "the output for `confirmed orders` cannot be published: subject `confirmed orders` contains a space",
        "output 1 has no subject; make it with `Output::to`, or set `publish`",
    ];
    for ((reason, error), expected) in failures.iter().zip(expected) {
        assert_eq!(reason, "output");
        assert!(error.starts_with(expected), "{error}");
    }
    broker.handled::<unpublishable>().times(4).retried(0);
    assert!(broker.published::<Order>("confirmed.>").await.is_empty(), "nothing of a call is published");
}

#[subscriber(subject = "orders.created", queue = "own-id", publish = "confirmed.orders")]
async fn own_id(order: Order) -> Output {
    Output::new(&order).message_id(&format!("order-{}", order.id / 2))
}

async fn own_message_id_wins(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<own_id>()).await;
    publish(&broker, 1..=3).await;
    broker.idle().await;
    let outputs = broker.published_messages("confirmed.orders").await;
    let ids: Vec<_> = outputs.iter().filter_map(|output| output.header("Nats-Msg-Id")).collect();
    assert_eq!(ids, ["order-0", "order-1"], "the stream drops the third as a duplicate");
    broker.handled::<own_id>().times(3).settled(Settle::Ack);
}

#[subscriber(subject = "orders.created", queue = "same-id")]
async fn same_id(order: Order) -> (Output, Output, Output) {
    let output = |subject| Output::to(subject, &order).message_id(&format!("order-{}", order.id));
    // An id is that of one stream.
    (output("invoices.due"), output("confirmed.first"), output("confirmed.second"))
}

async fn same_message_id_in_one_stream_is_refused(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<same_id>()).await;
    publish(&broker, [1]).await;
    let [(reason, error)] = &*failures(&broker, 1).await else { panic!("one message has failed") };
    assert_eq!(reason, "output");
    let expected = "output 3 of 3, on `confirmed.second`, could not be published: it has the same message id `order-1`";
    assert!(error.starts_with(expected), "{error}");
    broker.handled::<same_id>().once().retried(0);
}

#[subscriber(subject = "orders.created", queue = "batch", backoff = ["50ms"], max_deliver = 2)]
async fn batch(order: Order) -> HandlerResult<Vec<Output>> {
    let text = if order.id == 2 { "long".repeat(1000) } else { "short".to_owned() };
    Ok(vec![Output::to("confirmed.first", &order.id), Output::to("confirmed.second", &text)])
}

async fn outputs_to_one_stream_are_an_atomic_batch(transport: &Transport) {
    if matches!(transport, Transport::Live(_)) && binary::version() < (2, 12, 1) {
        return;
    }
    let confirmed = stream_config("CONFIRMED", &["confirmed.>"]);
    let atomic = stream::Config { allow_atomic_publish: true, max_message_size: 1000, ..confirmed };
    let broker = transport.start(TestBroker::builder().stream(atomic).include::<batch>()).await;
    publish(&broker, 1..=3).await;
    let [(reason, error)] = &*failures(&broker, 1).await else { panic!("one message has failed") };
    assert_eq!(reason, "output");
    assert!(error.starts_with("the 2 outputs, the first on `confirmed.first`, could not be published: "), "{error}");
    assert_eq!(broker.published::<u64>("confirmed.first").await, [1, 3], "nothing of the other batch is stored");
    assert_eq!(broker.published::<String>("confirmed.second").await, ["short"; 2]);
}

async fn start_refuses_outputs_that_cannot_be_published(transport: &Transport) {
    let silent = stream::Config { no_ack: true, ..stream_config("SILENT", &["silent.>"]) };
    let builder = TestBroker::builder().stream(orders()).stream(silent).auto_create(true).include::<crate::other>();
    let broker = transport.start(builder).await;
    let endless = |order: Order| async move { Ok(Output::new(&order)) };
    let endless = broker.broker().subscribe("orders.>", "loop", endless).publish("orders.confirmed");
    let error = endless.await.map(drop).unwrap_err();
    let expected =
        "`closure on orders.>`: publish: its outputs go to `orders.confirmed`, which its own subject `orders.>` covers";
    assert_error(&error, ErrorKind::Config, &[expected]);
    assert!(matches!(error.problems(), [Problem::OutputLoop { .. }]), "{error:?}");
    let start = async |subject: &str| {
        let handler = |order: Order| async move { Ok(Output::new(&order)) };
        broker.broker().subscribe("orders.created", "closure", handler).publish(subject).await.map(drop).unwrap_err()
    };
    assert_error(
        &start("silent.orders").await,
        ErrorKind::StreamMismatch,
        &["`closure on orders.created`: its outputs would go to stream `SILENT`, which acknowledges no message"],
    );
    assert_error(
        &start("orders.*").await,
        ErrorKind::Config,
        &["`closure on orders.created`: publish: subject `orders.*` has the wildcard `*`"],
    );
    assert_error(
        &start("_INBOX.orders").await,
        ErrorKind::StreamNotFound,
        &["the outputs of `closure on orders.created`: ", "`_INBOX.orders`"],
    );
    let nothing = broker.broker().subscribe("orders.created", "nothing", |_: Order| async {});
    let error = nothing.publish("confirmed.orders").await.map(drop).unwrap_err();
    assert_error(
        &error,
        ErrorKind::Config,
        &[
            "`closure on orders.created`: publish: is `\"confirmed.orders\"`, but the closure returns nothing to publish",
        ],
    );
}

#[derive(Debug, Event, Serialize, Deserialize)]
#[event(subject = "packets.{region}.sent")]
struct PacketSent {
    region: String,
}

#[derive(Debug, Event, Serialize, Deserialize)]
#[event(subject = "bills.due")]
struct BillDue {
    order: u64,
}

#[derive(Debug, Event, Serialize, Deserialize)]
#[event(subject = "{tenant}.audited")]
struct Audited {
    tenant: String,
}

#[derive(Debug, Event)]
enum Step {
    Sent(PacketSent),
    #[event(subject = "refunds.{id}")]
    Refunded(Order),
}

#[subscriber(subject = "orders.created", queue = "steps")]
async fn steps(order: Order) -> HandlerResult<(Option<BillDue>, Vec<Step>)> {
    let sent = Step::Sent(PacketSent { region: "eu".to_owned() });
    Ok((Some(BillDue { order: order.id }), vec![sent, Step::Refunded(order)]))
}

#[subscriber(subject = "orders.created", queue = "step-batch", batch = 10)]
async fn step_batch(orders: Batch<Order>) -> HandlerResult<Vec<HandlerResult<BillDue>>> {
    Ok(orders.iter().map(|order| Ok(BillDue { order: order.id })).collect())
}

#[subscriber(subject = "orders.created", queue = "step-audit")]
async fn step_audit(_order: Order) -> Audited {
    Audited { tenant: "acme".to_owned() }
}

async fn start_finds_the_streams_of_returned_events(transport: &Transport) {
    let builder = TestBroker::builder().include::<steps>().include::<step_batch>().include::<step_audit>();
    let broker = transport.start(builder).await;
    publish(&broker, [7]).await;
    broker.idle().await;
    for (subject, messages) in [("packets.>", 1), ("bills.due", 2), ("refunds.7", 1), ("acme.audited", 1)] {
        assert_eq!(broker.published_messages(subject).await.len(), messages, "{subject}");
    }
    for subject in ["packets.>", "bills.due", "refunds.7"] {
        let name = broker.published_messages(subject).await[0].info().stream().to_owned();
        assert_eq!(name, subject.split('.').next().unwrap().to_uppercase());
    }
}

/// Returns the error of a start of a handler.
async fn error_of<H: jetstream_handlers::Subscriber>(
    transport: &Transport,
    builder: jetstream_handlers::Builder,
) -> jetstream_handlers::Error {
    let broker = match transport {
        Transport::Memory => builder.connect_in_memory(),
        Transport::Live(server) => builder.servers([server.url()]).connect().await.unwrap(),
    };
    broker.include::<H>().start_all().await.map(drop).unwrap_err()
}

async fn start_refuses_returned_events_without_a_stream(transport: &Transport) {
    let taken = stream_config("A-TAKEN", &["refunds.eu.paid", "packets.paid"]);
    let error = error_of::<steps>(transport, Broker::builder().stream(taken)).await;
    let problems: Vec<_> = error.problems().iter().map(ToString::to_string).collect();
    let [one, two] = &*problems else { panic!("{problems:?}") };
    for (problem, name) in [(one, "PACKETS"), (two, "REFUNDS")] {
        assert!(problem.contains("the outputs of `") && problem.contains("::steps`"), "{problem}");
        assert!(problem.contains(&format!("`{name}`")) && problem.contains("`A-TAKEN`"), "{problem}");
    }
    assert!(error.problems().iter().all(|problem| problem.kind() == ErrorKind::StreamOverlap), "{error:?}");
    let missing = |error: jetstream_handlers::Error, subject: &str| {
        let of_outputs = format!("the outputs of `{}::", module_path!());
        let problems: Vec<_> = error.problems().iter().map(ToString::to_string).collect();
        let found = problems.iter().any(|text| text.starts_with(&of_outputs) && text.contains(&format!("`{subject}`")));
        assert!(found, "no problem of `{subject}` in {problems:#?}");
    };
    let builder = || Broker::builder().auto_create(false);
    missing(error_of::<step_batch>(transport, builder()).await, "bills.due");
    missing(error_of::<step_audit>(transport, builder()).await, "*.audited");
    let silent = stream::Config { no_ack: true, ..stream_config("SILENT", &["bills.>"]) };
    let error = error_of::<step_batch>(transport, Broker::builder().stream(silent)).await;
    assert_error(&error, ErrorKind::StreamMismatch, &["step_batch`: its outputs would go to stream `SILENT`"]);
}

async fn start_accepts_an_event_of_which_a_stream_has_a_part(transport: &Transport) {
    let eu = stream_config("EU", &["packets.eu.*"]);
    let broker = transport.start(TestBroker::builder().stream(eu).include::<steps>()).await;
    publish(&broker, [7]).await;
    broker.idle().await;
    let sent = broker.published_messages("packets.>").await;
    assert_eq!(sent.iter().map(|it| it.info().stream()).collect::<Vec<_>>(), ["EU"]);
}

#[subscriber(subject = "orders.created", queue = "step-publish", publish = "confirmed.orders")]
async fn step_publish(order: Order) -> HandlerResult<Option<BillDue>> {
    Ok(Some(BillDue { order: order.id }))
}

#[subscriber(subject = "orders.created", queue = "step-publish-batch", publish = "confirmed.orders", batch = 10)]
async fn step_publish_batch(orders: Batch<Order>) -> Vec<BillDue> {
    orders.iter().map(|order| BillDue { order: order.id }).collect()
}

#[subscriber(subject = "orders.created", queue = "step-both", publish = "confirmed.orders")]
async fn step_both(order: Order) -> (BillDue, Output) {
    (BillDue { order: order.id }, Output::new(&order))
}

async fn start_refuses_a_subject_for_returned_events(transport: &Transport) {
    let text = |handler: &str| {
        format!(
            "{handler}`: publish: is `\"confirmed.orders\"`, but the handler returns events, which are published to subjects of their own, such as `bills.due`;"
        )
    };
    let error = error_of::<step_publish>(transport, Broker::builder()).await;
    assert_error(&error, ErrorKind::Config, &[&text("step_publish")]);
    let error = error_of::<step_publish_batch>(transport, Broker::builder()).await;
    assert_error(&error, ErrorKind::Config, &[&text("step_publish_batch")]);
    let broker = transport.start(TestBroker::builder().include::<step_both>()).await;
    let closure = |order: Order| async move { Ok(BillDue { order: order.id }) };
    let closure = broker.broker().subscribe("orders.created", "closure", closure).publish("confirmed.orders");
    let error = closure.await.map(drop).unwrap_err();
    assert_error(&error, ErrorKind::Config, &[&text("closure on orders.created")]);
    publish(&broker, [7]).await;
    broker.idle().await;
    assert_eq!(broker.published::<Order>("confirmed.orders").await, [order(7)]);
    assert_eq!(broker.published::<BillDue>("bills.due").await.len(), 1);
}
