//! Payloads: decoded, refused, and published as they are.

use jetstream_handlers::ErrorKind;
use jetstream_handlers::prelude::*;
use jetstream_handlers::testing::TestBroker;
use jetstream_handlers_tests::Recorder;

use crate::{Order, Transport, accept, all};

contract![
    other_format_is_named,
    number_that_json_lacks_is_not_published,
    bytes_are_published_as_they_are,
    empty_payload_is_a_value_of_optional_and_unit_payloads,
];

async fn other_format_is_named(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<accept>()).await;
    let payloads = [
        (&b"\x1f\x8b\x08"[..], "gzip, without the header `Content-Encoding: gzip`"),
        (b"\x81\xa2id\x01", "MessagePack"),
    ];
    for (payload, named) in payloads {
        broker.publish_bytes("orders.created", payload).await;
        let letters = broker.dead_letters().await;
        let error = &letters.last().unwrap().error;
        assert!(error.contains(named), "{error}");
    }
}

async fn number_that_json_lacks_is_not_published(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<all>()).await;
    for number in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let error = broker.broker().publish("orders.created", &Some(number)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Encode, "{error}");
        assert!(error.to_string().contains("JSON does not have"), "{error}");
    }
    assert_eq!(broker.publish("orders.created", &(None::<f64>, f64::MAX)).await.sequence, 1);
}

async fn bytes_are_published_as_they_are(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<all>()).await;
    let recorder = Recorder::<Vec<u8>>::default();
    let note = recorder.clone();
    let handler = move |message: Message| {
        note.add(message.payload().to_vec());
        std::future::ready(())
    };
    let _subscription = broker.broker().subscribe("orders.*", "bytes", handler).await.unwrap();
    for payload in [&b"\0\xff"[..], b"", b"[1,2]"] {
        broker.publish_bytes("orders.created", payload).await;
    }
    recorder.until_len(3).await;
    assert_eq!(recorder.items(), [&b"\0\xff"[..], b"", b"[1,2]"]);
}

async fn empty_payload_is_a_value_of_optional_and_unit_payloads(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<accept>()).await;
    let calls = Recorder::<&str>::default();
    let recorder = calls.clone();
    let handler = move |order: Option<Order>| {
        recorder.add(if order.is_none() { "none" } else { "some" });
        std::future::ready(())
    };
    let _optional = broker.broker().subscribe("orders.created", "optional", handler).await.unwrap();
    let recorder = calls.clone();
    let handler = move |(): ()| {
        recorder.add("unit");
        std::future::ready(())
    };
    let _unit = broker.broker().subscribe("orders.created", "unit", handler).await.unwrap();
    broker.publish_bytes("orders.created", "").await;
    calls.until_len(2).await;
    broker.idle().await;
    assert_eq!((calls.count("none"), calls.count("unit")), (1, 1));
    let letters = broker.dead_letters().await;
    assert_eq!((letters.len(), letters[0].consumer.as_str(), letters[0].reason.as_str()), (1, "accept", "undecodable"));
    assert!(letters[0].error.contains("the payload is empty"), "{}", letters[0]);
}
