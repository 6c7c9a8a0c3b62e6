//! Many dead letters: chosen, counted, grouped, replayed, deleted, exported and imported.

use std::time::{Duration, SystemTime};

use jetstream_handlers::prelude::*;
use jetstream_handlers::testing::TestBroker;
use jetstream_handlers::{DeadLetter, ErrorKind, Raw, Reason};
use jetstream_handlers_tests::{Recorder, SOON, assert_error, eventually};

use crate::{Order, Transport, accept, order, orders, refuse};

contract![
    every_condition_applies_to_every_method,
    dead_letters_of_one_cause_are_a_group,
    more_letters_than_are_read_at_once_are_all_found,
    dry_run_changes_nothing,
    letters_after_the_count_are_neither_replayed_nor_deleted,
    rate_limits_replays_and_deletions,
    replay_with_another_payload_keeps_the_rest,
    exported_letters_are_imported_once,
    every_letter_of_one_message_is_imported,
    letters_are_imported_into_the_selected_stream_only,
    imported_letter_that_is_gone_is_stored_by_one_import,
    large_letter_is_exported_and_imported,
    letter_that_is_gone_cannot_be_replayed,
];

/// Fails with a text that depends on the message.
#[subscriber(subject = "orders.*", queue = "failing", max_deliver = 1)]
async fn failing(message: Message) -> HandlerResult {
    let payload = String::from_utf8_lossy(message.payload()).into_owned();
    match &*payload {
        "panic" => panic!("a bug"),
        payload if payload.contains("stock") => Err(format!("no stock of \"{payload}\"").into()),
        payload => Err(format!("order {payload} is late by {} s", payload.len()).into()),
    }
}

/// Stores these payloads, and waits until each is a dead letter.
async fn fail_with(broker: &TestBroker, subject: &str, payloads: &[&str]) -> Vec<DeadLetter> {
    let before = broker.dead_letters().await.len();
    for payload in payloads {
        broker.publish_bytes(subject, (*payload).to_owned()).await;
    }
    eventually("a dead letter of each", SOON, async || {
        let letters = broker.dead_letters().await;
        (letters.len() == before + payloads.len()).then_some(letters)
    })
    .await
}

async fn every_condition_applies_to_every_method(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().stream(orders()).include::<failing>()).await;
    fail_with(&broker, "orders.eu", &["1", "panic", "stock 1"]).await;
    let letters = fail_with(&broker, "orders.us", &["2", "stock 2"]).await;
    let all = broker.broker().dead_letters();
    let (first, last) = (letters[0].stored_at, letters[4].stored_at);
    let group = all.clone().error_contains("stock").groups().await.unwrap().groups.remove(0).id;
    for (name, chosen, expected) in [
        ("all", all.clone(), &["1", "panic", "stock 1", "2", "stock 2"][..]),
        ("handler", all.clone().for_handler("failing"), &["1", "panic", "stock 1", "2", "stock 2"]),
        ("other handler", all.clone().for_handler("ailing"), &[]),
        ("reason", all.clone().reason(Reason::Panic), &["panic"]),
        ("error", all.clone().error_contains("stock"), &["stock 1", "stock 2"]),
        ("group", all.clone().in_group(&group), &["stock 1", "stock 2"]),
        ("other group", all.clone().in_group("none"), &[]),
        ("subject", all.clone().subject("orders.us"), &["2", "stock 2"]),
        ("wildcard", all.clone().subject("*.eu"), &["1", "panic", "stock 1"]),
        ("since", all.clone().since(first), &["1", "panic", "stock 1", "2", "stock 2"]),
        ("since last", all.clone().since(last), &["stock 2"]),
        ("since later", all.clone().since(last + Duration::from_secs(1)), &[]),
        ("until", all.clone().until(last), &["1", "panic", "stock 1", "2"]),
        ("until first", all.clone().until(first), &[]),
        ("after", all.clone().after(letters[2].sequence), &["2", "stock 2"]),
        ("several", all.clone().error_contains("stock").subject("orders.eu").reason(Reason::Error), &["stock 1"]),
    ] {
        let listed = chosen.list(10).await.unwrap();
        let payloads: Vec<_> = listed.iter().map(|letter| String::from_utf8_lossy(&letter.payload)).collect();
        assert_eq!(payloads, expected, "{name}");
        assert_eq!(chosen.count().await.unwrap(), expected.len() as u64, "{name}");
        let grouped: u64 = chosen.groups().await.unwrap().groups.iter().map(|group| group.count).sum();
        assert_eq!(grouped, expected.len() as u64, "{name}");
        assert_eq!(chosen.dry_run().await.unwrap().replayed, expected.len(), "{name}");
        assert_eq!(chosen.export(std::io::sink()).await.unwrap(), expected.len(), "{name}");
        assert_eq!(chosen.list(1).await.unwrap().len(), expected.len().min(1), "{name}");
    }
    assert_eq!(all.clone().reason(Reason::Panic).purge().await.unwrap(), 1);
    assert_eq!(all.clone().reason(Reason::Panic).purge().await.unwrap(), 0);
    let report = all.clone().subject("orders.us").replay_all().await.unwrap();
    assert_eq!((report.replayed, report.kept), (2, 0), "{report}");
    let left = eventually("the replayed ones failed again", SOON, async || {
        let letters = all.list(10).await.unwrap();
        (letters.len() == 4).then_some(letters)
    })
    .await;
    assert_eq!(left[0].sequence, letters[0].sequence);
    assert_eq!(left[1].sequence, letters[2].sequence);
}

async fn dead_letters_of_one_cause_are_a_group(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().stream(orders()).include::<failing>()).await;
    let payloads = ["7", "stock 1", "8", "panic", "9", "1", "2", "3", "stock 2"];
    let letters = fail_with(&broker, "orders.eu", &payloads).await;
    let found = broker.broker().dead_letters().groups().await.unwrap();
    assert_eq!((found.version, found.other), (1, 0));
    let shown: Vec<_> = found.groups.iter().map(|it| (it.count, it.reason, it.error.as_str())).collect();
    assert_eq!(shown[0], (6, Reason::Error, "order # is late by # s"));
    assert_eq!(shown[1], (2, Reason::Error, "no stock of \"#\""));
    assert_eq!((shown[2].0, shown[2].1), (1, Reason::Panic));
    let largest = &found.groups[0];
    assert!(largest.handler.ends_with("::failing"), "{largest:?}");
    assert_eq!((largest.first, largest.last), (letters[0].stored_at, letters[7].stored_at));
    let of_orders: Vec<_> = [0, 2, 4, 5, 6].iter().map(|index| letters[*index].sequence).collect();
    assert_eq!(largest.samples, of_orders, "at most five");
    assert_eq!(broker.broker().dead_letters().groups().await.unwrap(), found, "the ids are the same again");
}

async fn more_letters_than_are_read_at_once_are_all_found(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().stream(orders()).include::<failing>()).await;
    let payloads: Vec<_> = (0..60).map(|number| number.to_string()).collect();
    let payloads: Vec<_> = payloads.iter().map(String::as_str).collect();
    let letters = fail_with(&broker, "orders.eu", &payloads).await;
    // With gaps: single ones, a long one, and the last message.
    let deleted = |index: usize| index.is_multiple_of(3) || (20..50).contains(&index) || index == 59;
    for (_, letter) in letters.iter().enumerate().filter(|(index, _)| deleted(*index)) {
        transport.delete_message(&broker, "DLQ", letter.sequence).await;
    }
    let kept: Vec<_> = letters.iter().enumerate().filter(|(index, _)| !deleted(*index)).collect();
    let kept: Vec<_> = kept.into_iter().map(|(_, letter)| letter.sequence).collect();
    let all = broker.broker().dead_letters();
    let found: Vec<_> = all.list(100).await.unwrap().iter().map(|letter| letter.sequence).collect();
    assert_eq!(found, kept);
    let middle = letters[19].stored_at;
    let since: Vec<_> = all.clone().since(middle).list(100).await.unwrap().iter().map(|it| it.sequence).collect();
    let expected: Vec<_> = letters
        .iter()
        .filter(|it| it.stored_at >= middle && kept.contains(&it.sequence))
        .map(|it| it.sequence)
        .collect();
    assert_eq!(since, expected);
    assert_eq!(all.purge().await.unwrap(), kept.len());
    assert_eq!(all.count().await.unwrap(), 0);
}

async fn dry_run_changes_nothing(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<accept>()).await;
    let calls = Recorder::new();
    let handler = broker.broker().subscribe("orders.created", "worker", refusing(&calls)).await.unwrap();
    broker.publish("orders.created", &order(1)).await;
    broker.idle().await;
    let letters = broker.broker().dead_letters();
    let report = letters.dry_run().await.unwrap();
    assert_eq!((report.is_dry_run, report.replayed, report.kept), (true, 1, 0));
    assert_eq!(report.to_string(), "1 would be replayed, 0 would be kept");
    broker.idle().await;
    assert_eq!(calls.items(), [1]);
    handler.unsubscribe().await.unwrap();
    transport.delete_consumer(&broker, "ORDERS", "worker").await;
    let report = letters.dry_run().await.unwrap();
    assert_eq!((report.replayed, report.kept), (0, 1), "{report}");
    assert!(report.to_string().contains("the queue `worker` on stream `ORDERS` does not exist"), "{report}");
    assert_eq!(letters.count().await.unwrap(), 1);
}

/// Returns a handler that refuses every order, and records it.
fn refusing(calls: &Recorder) -> impl Fn(Order) -> std::future::Ready<Settle> + Send + Sync + 'static {
    let calls = calls.clone();
    move |order: Order| {
        calls.add(order.id);
        std::future::ready(Settle::Terminate)
    }
}

async fn letters_after_the_count_are_neither_replayed_nor_deleted(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().stream(orders()).include::<failing>()).await;
    fail_with(&broker, "orders.eu", &["1", "2"]).await;
    let all = broker.broker().dead_letters();
    let letters = all.clone().up_to_now().await.unwrap();
    assert_eq!(letters.count().await.unwrap(), 2);
    let late = fail_with(&broker, "orders.us", &["3"]).await.pop().unwrap();
    assert_eq!(letters.clone().count().await.unwrap(), 2);
    let report = letters.replay_all().await.unwrap();
    assert_eq!((report.replayed, report.kept), (2, 0), "{report}");
    eventually("both failed again", SOON, async || (all.count().await.unwrap() == 3).then_some(())).await;
    assert_eq!(letters.purge().await.unwrap(), 0, "those that failed again are others");
    assert!(all.get(late.sequence).await.unwrap().is_some());
    assert_eq!(all.purge().await.unwrap(), 3);
}

async fn rate_limits_replays_and_deletions(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().stream(orders()).include::<failing>()).await;
    fail_with(&broker, "orders.eu", &["1", "2", "3", "4"]).await;
    let letters = broker.broker().dead_letters();
    for result in
        [letters.clone().rate(0).purge().await.map(drop), letters.clone().rate(0).replay_all().await.map(drop)]
    {
        assert_error(result, ErrorKind::Config, &["`rate` is 0"]);
    }
    let begin = tokio::time::Instant::now();
    assert_eq!(letters.clone().rate(10).replay_all().await.unwrap().replayed, 4);
    assert!(begin.elapsed() >= Duration::from_millis(300), "{:?}", begin.elapsed());
    eventually("all failed again", SOON, async || (letters.count().await.unwrap() == 4).then_some(())).await;
    let begin = tokio::time::Instant::now();
    assert_eq!(letters.clone().rate(10).purge().await.unwrap(), 4);
    assert!(begin.elapsed() >= Duration::from_millis(300), "{:?}", begin.elapsed());
}

async fn replay_with_another_payload_keeps_the_rest(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<accept>()).await;
    let publish = broker.broker().publish_message("orders.created", &"oops");
    let publish = publish.header("Tenant", "eu").header("Content-Type", "application/json");
    publish.header("Content-Encoding", "identity").message_id("first").await.unwrap();
    broker.idle().await;
    let letters = broker.broker().dead_letters();
    let letter = letters.list(1).await.unwrap().remove(0);
    assert_eq!(letter.reason, Reason::Undecodable);
    let refused = letters.replay_with(letter.sequence, "{ oops").await;
    assert_error(refused, ErrorKind::Config, &["cannot be replayed", "`Content-Type` is `application/json`"]);
    letters.replay_with(letter.sequence, r#"{"id": 7}"#).await.unwrap();
    broker.idle().await;
    let handled = broker.handled::<accept>();
    handled.with(&order(7));
    assert_eq!(letters.count().await.unwrap(), 0);
    assert_error(letters.replay_with(letter.sequence, "{}").await, ErrorKind::Config, &["has no dead letter"]);
}

async fn exported_letters_are_imported_once(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().stream(orders()).include::<failing>()).await;
    let publish = |payload: &'static [u8]| broker.broker().publish_message("orders.eu", &Raw(payload));
    for payload in [&b"7"[..], b"{\"id\":\n7}", b"\xff\x00\x80", b""] {
        publish(payload).header("Tenant", "eu").header("Tenant", "us").await.unwrap();
    }
    let letters = broker.broker().dead_letters();
    let before = eventually("four dead letters", SOON, async || {
        let found = letters.list(10).await.unwrap();
        (found.len() == 4).then_some(found)
    })
    .await;
    let mut file = Vec::new();
    assert_eq!(letters.export(&mut file).await.unwrap(), 4);
    // Those that are still there are not stored twice.
    let report = letters.import(&*file).await.unwrap();
    assert_eq!((report.imported, report.duplicates, report.failed), (0, 4, 0), "{report}");
    assert_eq!(letters.purge().await.unwrap(), 4);
    let broken = [&file[..], b"\n{ \"version\": 1 }\n", &file[..]].concat();
    let report = letters.import(&*broken).await.unwrap();
    assert_eq!((report.imported, report.duplicates, report.failed), (4, 4, 1), "{report}");
    assert_eq!(report.failures[0].0, 6);
    assert!(report.to_string().contains("line 6: it is not a dead letter"), "{report}");
    let after = letters.list(10).await.unwrap();
    assert_eq!(after.len(), 4);
    for (before, after) in before.iter().zip(&after) {
        assert!(after.sequence > before.sequence);
        assert_eq!(after.payload, before.payload);
        assert_eq!(after.idempotency_key(), before.idempotency_key());
        assert_eq!((after.stream_sequence, &after.error), (before.stream_sequence, &before.error));
        assert_eq!(after.header("Tenant"), Some("eu"));
        let tenants = |letter: &DeadLetter| serde_json::to_value(letter).unwrap()["headers"]["Tenant"].clone();
        assert_eq!(tenants(after), serde_json::json!(["eu", "us"]));
    }
    let report = letters.replay_all().await.unwrap();
    assert_eq!((report.replayed, report.kept), (4, 0), "{report}");
    let unreadable = r#""unreadable":"kept","header_block":"TkFUUy8xLjANClg6IP8NCg0K","payload""#;
    let first = String::from_utf8_lossy(&file).lines().next().unwrap().replace("\"payload\"", unreadable);
    let report = letters.import(first.as_bytes()).await.unwrap();
    assert_eq!((report.imported, report.failed), (1, 0), "{report}");
    let mut found = letters.list(20).await.unwrap();
    found.retain(|letter| letter.header_block().is_some());
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].header_block(), Some(&b"NATS/1.0\r\nX: \xff\r\n\r\n"[..]));
    assert!(found[0].is_complete());
    let forged = String::from_utf8(file).unwrap().replace("\"dlq.ORDERS.failing\"", "\"$JS.API.STREAM.DELETE.ORDERS\"");
    let report = letters.import(forged.as_bytes()).await.unwrap();
    assert_eq!(report.failed, 4, "{report}");
    assert!(report.to_string().contains("reserved"), "{report}");
    let forged = forged.replace("\"$JS.API.STREAM.DELETE.ORDERS\"", "\"orders.eu\"");
    let report = letters.import(forged.as_bytes()).await.unwrap();
    assert_eq!(report.failed, 4, "{report}");
    assert!(
        report.to_string().contains("stream `DLQ` does not store its `dead_letter_subject` `orders.eu`"),
        "{report}"
    );
}

/// Returns lines with three dead letters of the same message, as an export writes those of one that was delivered again.
async fn exported_thrice(broker: &TestBroker, payload: &[u8]) -> String {
    let letters = broker.broker().dead_letters();
    let mut file = Vec::new();
    letters.export(&mut file).await.unwrap();
    let mut line: serde_json::Value = serde_json::from_slice(&file).unwrap();
    assert_eq!(line["payload"].to_string().as_bytes(), payload);
    // As if it was another server: the stream has not seen the message id before.
    line["id"] = "dlq:ORDERS:failing:1:1".into();
    let again = |sequence: u64| {
        line["sequence"] = sequence.into();
        line["error"] = format!("attempt {sequence}").into();
        line["stored_at"] = format!("2026-01-01T00:00:0{sequence}Z").into();
        format!("{line}\n")
    };
    [1, 3, 4].map(again).concat()
}

async fn every_letter_of_one_message_is_imported(transport: &Transport) {
    let large = format!("\"{}\"", "x".repeat(1024 * 1024 - 100));
    for payload in ["7", &large] {
        let broker = transport.start(TestBroker::builder().stream(orders()).include::<failing>()).await;
        fail_with(&broker, "orders.eu", &[payload]).await;
        let file = exported_thrice(&broker, payload.as_bytes()).await;
        let letters = broker.broker().dead_letters();
        assert_eq!(letters.purge().await.unwrap(), 1);
        let report = letters.import(file.as_bytes()).await.unwrap();
        assert_eq!((report.imported, report.duplicates, report.failed), (3, 0, 0), "{report}");
        let report = letters.import(file.as_bytes()).await.unwrap();
        assert_eq!((report.imported, report.duplicates, report.failed), (0, 3, 0), "{report}");
        let found = letters.list(10).await.unwrap();
        let errors: Vec<_> = found.iter().map(|letter| &*letter.error).collect();
        assert_eq!(errors, ["attempt 1", "attempt 3", "attempt 4"]);
        // Each has parts of its own.
        letters.delete(found[0].sequence).await.unwrap();
        let rest = letters.list(10).await.unwrap();
        assert!(rest.len() == 2 && rest.iter().all(|letter| letter.payload == payload.as_bytes()));
        letters.purge().await.unwrap();
    }
}

async fn letters_are_imported_into_the_selected_stream_only(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().stream(orders()).include::<failing>()).await;
    fail_with(&broker, "orders.eu", &["7"]).await;
    let file = exported_thrice(&broker, b"7").await;
    let letters = broker.broker().dead_letters();
    letters.purge().await.unwrap();
    for (stream, part) in [
        ("NOPE", "line 1: stream `NOPE` of dead letters does not exist"),
        ("ORDERS", "line 1: stream `ORDERS` does not store its `dead_letter_subject`"),
    ] {
        let report = letters.clone().stream(stream).import(file.as_bytes()).await.unwrap();
        assert_eq!((report.imported, report.duplicates, report.failed), (0, 0, 3), "{report}");
        assert!(report.to_string().contains(part), "{report}");
    }
    assert_eq!(letters.count().await.unwrap(), 0);
}

async fn imported_letter_that_is_gone_is_stored_by_one_import(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().stream(orders()).include::<failing>()).await;
    fail_with(&broker, "orders.eu", &["7"]).await;
    let file = exported_thrice(&broker, b"7").await;
    let letters = broker.broker().dead_letters();
    letters.purge().await.unwrap();
    let import = async || {
        let report = letters.import(file.as_bytes()).await.unwrap();
        (report.imported, report.duplicates, report.failed)
    };
    assert_eq!(import().await, (3, 0, 0));
    for round in 0..3 {
        let second = letters.list(10).await.unwrap().remove(1);
        assert!(letters.delete(second.sequence).await.unwrap());
        // A message that is gone may have been another one with its id.
        assert_eq!(import().await, (1, 2, 0), "{round}");
        assert_eq!(import().await, (0, 3, 0), "{round}");
        assert_eq!(letters.count().await.unwrap(), 3, "{round}");
    }
}

async fn large_letter_is_exported_and_imported(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<refuse>()).await;
    let filler = "f".repeat(65_400);
    broker.broker().publish_message("orders.created", &order(1)).header("Filler", &filler).await.unwrap();
    broker.publish_bytes("orders.created", "x".repeat(1024 * 1024 - 100)).await;
    broker.idle().await;
    let letters = broker.broker().dead_letters();
    assert_eq!(letters.count().await.unwrap(), 2, "parts are no dead letters");
    let mut file = Vec::new();
    letters.export(&mut file).await.unwrap();
    assert_eq!(letters.purge().await.unwrap(), 2);
    let report = letters.import(&*file).await.unwrap();
    assert_eq!((report.imported, report.failed), (2, 0), "{report}");
    let found = letters.list(10).await.unwrap();
    assert_eq!(found.iter().map(|letter| letter.payload.len()).collect::<Vec<_>>(), [8, 1024 * 1024 - 100]);
    assert_eq!(found[0].header("Filler"), Some(&*filler));
    assert!(found.iter().all(DeadLetter::is_complete));
    let report = letters.import(&*file).await.unwrap();
    assert_eq!((report.imported, report.duplicates), (0, 2), "the second import stores nothing: {report}");
    assert_eq!(letters.purge().await.unwrap(), 2);
    let left = test_messages(transport, &broker).await;
    assert_eq!(left, 0, "no part is left");
}

/// Returns the number of messages in the stream of dead letters, with all parts.
async fn test_messages(transport: &Transport, broker: &TestBroker) -> u64 {
    match transport {
        Transport::Live(server) => {
            server.jetstream().await.get_stream("DLQ").await.unwrap().cached_info().state.messages
        }
        Transport::Memory => broker.purge("DLQ") as u64,
    }
}

async fn letter_that_is_gone_cannot_be_replayed(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<refuse>()).await;
    let letters = broker.broker().dead_letters();
    assert_error(letters.replay(1).await, ErrorKind::Config, &["stream `DLQ` has no dead letter 1"]);
    for empty in [letters.replay_all().await.unwrap(), letters.dry_run().await.unwrap()] {
        assert_eq!((empty.replayed, empty.kept), (0, 0));
    }
    assert_eq!((letters.count().await.unwrap(), letters.purge().await.unwrap()), (0, 0));
    broker.publish("orders.created", &order(1)).await;
    broker.idle().await;
    let late = letters.clone().for_handler("refuse").since(SystemTime::now() + Duration::from_secs(60));
    let parts = ["stream `DLQ` has no dead letter 1 of handler `refuse` since `"];
    assert_error(late.replay(1).await, ErrorKind::Config, &parts);
    letters.purge().await.unwrap();
    assert_error(letters.replay(1).await, ErrorKind::Config, &["stream `DLQ` has no dead letter 1"]);
}
