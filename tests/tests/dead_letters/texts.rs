//! The texts of errors, which quote what a message contains.

use futures::StreamExt as _;
use jetstream_handlers::prelude::*;
use jetstream_handlers_tests::{Server, connect, dead_letters};

/// Fails in the way that the payload names, quoting a text that contains control characters.
async fn fail(kind: String) -> HandlerResult {
    let text = "card 4242\u{1b}[2J\r\n2026-01-01T00:00:00Z ERROR forged";
    match &*kind {
        "error" => Err(HandlerError::terminate(text)),
        "panic" => panic!("{text}"),
        other => Err(HandlerError::terminate(format!("unknown {other}"))),
    }
}

/// Publishes a message of each kind, and returns the texts of the dead letters and of the advisories.
async fn texts(server: &Server, broker: &Broker) -> (Vec<String>, String) {
    let advisory = "$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED.WORK.worker";
    let mut advisories = server.client().await.subscribe(advisory).await.unwrap();
    let subscription = broker.subscribe("work.a", "worker", fail).max_deliver(1).await.unwrap();
    let jetstream = server.jetstream().await;
    for payload in ["\"error\"", "\"panic\"", "{\"card\": \"4242\"}"] {
        jetstream.publish("work.a", payload.into()).await.unwrap().await.unwrap();
    }
    let mut letters = dead_letters(broker, 3).await;
    letters.sort_by_key(|letter| letter.stream_sequence);
    let mut all = String::new();
    for _ in 0..3 {
        all.push_str(&String::from_utf8_lossy(&advisories.next().await.unwrap().payload));
    }
    subscription.unsubscribe().await.unwrap();
    (letters.into_iter().map(|letter| letter.error).collect(), all)
}

#[tokio::test]
async fn control_characters_of_an_error_are_escaped() {
    let server = Server::start().await;
    let (errors, advisories) = texts(&server, &connect(&server).await).await;
    let text = r"card 4242\u{1b}[2J\r\n2026-01-01T00:00:00Z ERROR forged";
    assert_eq!(errors[..2], [text.to_owned(), format!("panicked: {text}")]);
    assert!(errors[2].contains("invalid type: map"), "{errors:?}");
    assert!(!advisories.contains(char::is_control), "{advisories:?}");
}

#[tokio::test]
async fn redacted_errors_show_no_values() {
    let server = Server::start().await;
    let broker = Broker::builder().servers([server.url()]).redact_errors().connect().await.unwrap();
    let (errors, advisories) = texts(&server, &broker).await;
    assert_eq!(errors[..2], ["the handler returned an error (redacted)", "the handler panicked (redacted)"]);
    assert_eq!(errors[2], "a parameter could not be extracted at line 1 column 0 (redacted)");
    assert!(!advisories.contains("4242"), "{advisories}");
    assert!(!dead_letters(&broker, 3).await.iter().any(|letter| letter.to_string().contains("4242")));
}

#[tokio::test]
async fn forged_dead_letter_is_displayed_on_one_line() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    let subscription =
        broker.subscribe("work.a", "worker", |_: u64| std::future::ready(Settle::Terminate)).await.unwrap();
    broker.publish("work.a", &1).await.unwrap();
    let letter = dead_letters(&broker, 1).await.remove(0);
    let jetstream = server.jetstream().await;
    let stream = jetstream.get_stream("DLQ").await.unwrap();
    let mut headers = stream.get_raw_message(letter.sequence).await.unwrap().headers;
    headers.insert("Nats-Msg-Id", "forged");
    for name in ["Subject", "Handler", "Stream", "Error"] {
        headers.insert(format!("Dead-Letter-{name}").as_str(), "\u{1b}[2Jcleared");
    }
    jetstream.publish_with_headers("dlq.WORK.worker", headers, "".into()).await.unwrap().await.unwrap();
    let forged = dead_letters(&broker, 2).await.remove(1);
    assert!(!forged.to_string().contains(char::is_control) && forged.to_string().contains("cleared"), "{forged}");
    let error = broker.dead_letters().replay(forged.sequence).await.unwrap_err().to_string();
    assert!(!error.contains(char::is_control), "{error:?}");
    subscription.unsubscribe().await.unwrap();
}
