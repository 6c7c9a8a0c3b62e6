//! Subjects of handlers: placeholders, several of them, and the prefix of an environment.

use jetstream_handlers::prelude::*;
use jetstream_handlers::testing::TestBroker;
use jetstream_handlers::{ErrorKind, Problem};
use jetstream_handlers_tests::Recorder;
use serde::Deserialize;

use crate::{Order, Transport, orders};

contract![
    placeholders_are_parameters,
    token_of_another_type_is_a_dead_letter,
    type_that_does_not_fit_the_subject_is_refused,
    several_subjects_have_one_handler,
    ordered_handler_reads_several_subjects_in_order,
    subjects_of_several_streams_are_refused,
    prefix_separates_environments,
];

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Region {
    Eu,
    Us,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Token {
    region: Region,
    id: u64,
    tenant: Option<String>,
}

#[subscriber(subject = "orders.{region}.{id}", queue = "tokens")]
async fn tokens(order: Order, Path(token): Path<Token>, subject: Subject) -> HandlerResult {
    assert_eq!((order.id, token.tenant), (token.id, None));
    assert_eq!(&*subject, format!("orders.{}.{}", if token.region == Region::Eu { "eu" } else { "us" }, token.id));
    Ok(())
}

async fn placeholders_are_parameters(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<tokens>()).await;
    let logs = Recorder::<(String, Vec<u8>)>::default();
    let recorder = logs.clone();
    let handler = move |Path(path): Path<(String, Vec<u8>)>| {
        recorder.add(path);
        std::future::ready(())
    };
    let _logs = broker.broker().subscribe("logs.{level}.{module..}", "logs", handler).await.unwrap();
    broker.publish("orders.eu.7", &crate::order(7)).await;
    broker.publish("orders.us.8", &crate::order(8)).await;
    broker.publish("logs.warn.1.2.3", &()).await;
    logs.until_len(1).await;
    assert_eq!(logs.items(), [("warn".to_owned(), vec![1, 2, 3])]);
    broker.handled::<tokens>().times(2).settled(Settle::Ack);
}

async fn token_of_another_type_is_a_dead_letter(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<tokens>()).await;
    broker.publish("orders.mars.7", &crate::order(7)).await;
    broker.publish("orders.eu.seven", &crate::order(7)).await;
    let letters = broker.dead_letters().await;
    let texts: Vec<_> = letters.iter().map(|letter| (letter.reason.as_str(), letter.error.as_str())).collect();
    assert_eq!(
        texts,
        [
            (
                "undecodable",
                "`{region}` of `orders.{region}.{id}` is `mars` in the subject `orders.mars.7`: unknown variant `mars`, expected `eu` or `us`"
            ),
            (
                "undecodable",
                "`{id}` of `orders.{region}.{id}` is `seven` in the subject `orders.eu.seven`: expected u64"
            ),
        ]
    );
}

async fn type_that_does_not_fit_the_subject_is_refused(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<crate::other>()).await;
    let handler = async |_: Path<Token>| {};
    let error = broker.broker().subscribe("orders.{area}.{id}", "areas", handler).await.unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains(
            "with the field `region`, but the subject `orders.{area}.{id}` has the placeholders `area`, `id`"
        ),
        "{text}"
    );
    let handler = async |_: Path<(u64, u64)>| {};
    let error = broker.broker().subscribe(["orders.{id}.paid", "orders.created"], "ids", handler).await.unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("`Path<(u64, u64)>` of 2 tokens, but the subject `orders.{id}.paid` has the placeholder `id`"),
        "{text}"
    );
}

async fn several_subjects_have_one_handler(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<crate::other>().stream(orders())).await;
    let calls = Recorder::<(String, Option<u64>)>::default();
    let start = async || {
        let recorder = calls.clone();
        let handler = move |subject: Subject, Path(id): Path<Option<u64>>| {
            recorder.add((subject.to_string(), id));
            std::future::ready(())
        };
        broker.broker().subscribe(["orders.created", "orders.{id}.paid"], "several", handler).await.unwrap()
    };
    let subscription = start().await;
    for subject in ["orders.created", "orders.7.paid", "orders.deleted", "orders.8.paid.twice"] {
        broker.publish(subject, &()).await;
    }
    calls.until_len(2).await;
    subscription.unsubscribe().await.unwrap();
    // The consumer is found again without a difference.
    let subscription = start().await;
    broker.publish("orders.9.paid", &()).await;
    calls.until_len(3).await;
    let expected = [("orders.created", None), ("orders.7.paid", Some(7)), ("orders.9.paid", Some(9))];
    assert_eq!(calls.items(), expected.map(|(subject, id)| (subject.to_owned(), id)));
    subscription.unsubscribe().await.unwrap();
}

async fn ordered_handler_reads_several_subjects_in_order(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<crate::other>().stream(orders())).await;
    let calls = Recorder::new();
    let recorder = calls.clone();
    let handler = move |id: u64| {
        recorder.add(id);
        std::future::ready(())
    };
    let options = broker.broker().subscribe(["orders.created", "orders.paid"], "several", handler).ordered();
    let subscription = options.await.unwrap();
    for id in 0..30 {
        broker.publish(["orders.created", "orders.other", "orders.paid"][id % 3], &id).await;
    }
    calls.until_len(20).await;
    assert_eq!(calls.items(), (0..30).filter(|id| id % 3 != 1).collect::<Vec<u64>>());
    subscription.unsubscribe().await.unwrap();
}

async fn subjects_of_several_streams_are_refused(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<crate::other>()).await;
    let subscribe = || broker.broker().subscribe(["invoices.created", "payments.made"], "both", async || {});
    let error = subscribe().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    let [Problem::SeveralStreams { streams, .. }] = error.problems() else { panic!("{error}") };
    let streams: Vec<_> = streams.iter().map(|(subject, stream)| (subject.as_str(), stream.as_str())).collect();
    assert_eq!(streams, [("invoices.created", "INVOICES"), ("payments.made", "PAYMENTS")]);
    // One stream is created for both if the handler names it.
    let subscription = subscribe().stream("SHOP").await.unwrap();
    assert_eq!(broker.publish("payments.made", &()).await.stream, "SHOP");
    assert_eq!(broker.publish("invoices.created", &()).await.stream, "SHOP");
    subscription.unsubscribe().await.unwrap();
}

async fn prefix_separates_environments(transport: &Transport) {
    let builder = || Broker::builder().subject_prefix("acme.staging").stream(crate::stream_config("LOGS", &["logs.>"]));
    let broker = match transport {
        Transport::Memory => builder().connect_in_memory(),
        Transport::Live(server) => builder().servers([server.url()]).connect().await.unwrap(),
    };
    let calls = Recorder::<(String, String, u64)>::default();
    let recorder = calls.clone();
    let handler = move |subject: Subject, Path(region): Path<String>, id: u64, publisher: Publisher| {
        recorder.add((subject.to_string(), region, id));
        async move {
            if id == 0 {
                return Err(HandlerError::terminate("no order"));
            }
            // The subject of the message has no prefix, and that of the next one has it again.
            publisher.publish(&subject.replace("orders", "logs"), &id).await?;
            Ok(())
        }
    };
    let subscription = broker.subscribe("orders.{region}", "billing", handler).await.unwrap();
    let ack = broker.publish("orders.eu", &7).await.unwrap();
    assert_eq!((ack.stream.as_str(), ack.sequence), ("ACME_STAGING_ORDERS", 1));
    let full = broker.publish_message("orders.us", &0).expect_stream("ORDERS").await.unwrap();
    assert_eq!((full.stream.as_str(), full.sequence), ("ACME_STAGING_ORDERS", 2));
    calls.until_len(2).await;
    let expected = [("orders.eu", "eu", 7), ("orders.us", "us", 0)];
    assert_eq!(calls.items(), expected.map(|(subject, region, id)| (subject.to_owned(), region.to_owned(), id)));
    let letters = jetstream_handlers_tests::dead_letters(&broker, 1).await;
    assert_eq!(letters[0].subject, "acme.staging.orders.us");
    broker.dead_letters().replay(letters[0].sequence).await.unwrap();
    calls.until_len(3).await;
    assert_eq!(calls.items()[2].0, "orders.us");
    assert_eq!(broker.publish("logs.eu", &8).await.unwrap().stream, "ACME_STAGING_LOGS");
    subscription.unsubscribe().await.unwrap();
    broker.disconnect().await.unwrap();
}
