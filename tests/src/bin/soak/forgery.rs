//! What other clients publish: unreadable messages, messages that look like those of the server, or that are large.

use jetstream_handlers_tests::RawClient;
use rand::RngExt as _;

use crate::faults::Fault;
use crate::field::Field;
use crate::message::{Id, Kind};
use crate::queue::QUEUES;

/// Header blocks that async-nats cannot read.
const UNREADABLE: [&[u8]; 6] = [
    b"NATS/1.0\r\nCustomer: Zo\xeb\r\n\r\n",
    b"NATS/1.0\r\nno colon\r\n\r\n",
    b"NATS/1.0\r\nA name: with a space\r\n\r\n",
    b"NATS/1.0\r\nX: a\rb\r\n\r\n",
    b"NATS/1.0\r\nN\xc3\xa4me: b\r\n\r\n",
    b"NATS/9.9\r\nA: b\r\n\r\n",
];

/// Header blocks of the server's status messages.
const STATUSES: [&[u8]; 3] = [
    b"NATS/1.0 503 No Responders\r\n\r\n",
    b"NATS/1.0 409 Consumer Deleted\r\n\r\n",
    b"NATS/1.0 100 Idle Heartbeat\r\nNats-Last-Consumer: 1\r\n\r\n",
];

const HEADERS: [&[u8]; 7] = [
    b"NATS/1.0\r\nNats-Pin-Id: forged\r\n\r\n",
    b"NATS/1.0\r\nStatus: 409\r\nDescription: Consumer Deleted\r\n\r\n",
    b"NATS/1.0\r\nNats-Stream: OTHER\r\nNats-Sequence: 1\r\nNats-Subject: other\r\n\r\n",
    b"NATS/1.0\r\nNats-Pending-Messages: 0\r\nNats-Pending-Bytes: 0\r\n\r\n",
    b"NATS/1.0\r\nDead-Letter-Reason: error\r\nDead-Letter-Stream: WORK\r\nDead-Letter-Message-Id: 1\r\n\r\n",
    b"NATS/1.0\r\nNats-Marker-Reason: MaxAge\r\n\r\n",
    b"NATS/1.0\r\nNats-Last-Consumer: 1\r\nNats-Consumer-Stalled: x\r\n\r\n",
];

/// Publishes the messages of a fault through a random node.
pub(crate) async fn publish(fault: Fault, field: &mut Field) {
    let node = field.random.random_range(0..3);
    match fault {
        Fault::Large => return large(field).await,
        Fault::ForgedAdvisories => return advisories(field).await,
        _ => {}
    }
    let mut raw = RawClient::connect(field.cluster.node(node).address()).await;
    for round in 0..20 {
        let (kind, block) = match fault {
            Fault::Unreadable if round == 8 => break,
            Fault::Unreadable => (Kind::Unreadable, UNREADABLE[field.random.random_range(0..UNREADABLE.len())]),
            Fault::Markers => (Kind::Marker, &b"NATS/1.0\r\nNats-Marker-Reason: MaxAge\r\n\r\n"[..]),
            _ if round % 4 == 0 => (Kind::ForgedStatus, STATUSES[round / 4 % STATUSES.len()]),
            _ => (Kind::ForgedHeaders, HEADERS[round % HEADERS.len()]),
        };
        let id = field.next_id(kind);
        let payload = match kind {
            Kind::Marker => String::new(),
            // Its letter needs several messages.
            Kind::Unreadable if round == 7 => payload(id, 900_000),
            _ => payload(id, 0),
        };
        let block = match kind {
            // Like the id of a dead letter.
            Kind::ForgedHeaders if round == 13 => forged_id(id),
            _ => block.to_vec(),
        };
        raw.publish_block(id.subject(), block, payload).await;
    }
    raw.flush().await;
}

/// Publishes two messages that the client library cannot read.
pub(crate) async fn unreadable(field: &mut Field) {
    let mut raw = RawClient::connect(field.cluster.node(0).address()).await;
    for _ in 0..2 {
        let id = field.next_id(Kind::Unreadable);
        let block = UNREADABLE[field.random.random_range(0..UNREADABLE.len())];
        raw.publish_block(id.subject(), block, payload(id, 0)).await;
    }
    raw.flush().await;
}

fn payload(id: Id, filler: usize) -> String {
    format!(r#"{{"number":{},"filler":"{}"}}"#, id.number, "x".repeat(filler))
}

fn forged_id(id: Id) -> Vec<u8> {
    format!("NATS/1.0\r\nNats-Msg-Id: dlq:WORK:plain:{0}:{0}\r\n\r\n", id.number).into_bytes()
}

async fn large(field: &mut Field) {
    for _ in 0..20 {
        let id = field.next_id(Kind::Large);
        if let Err(error) = field.stored.publish(&field.broker, id, 1_000_000).await {
            println!("  a large message was not published: {error:?}");
        }
    }
}

/// Publishes advisories about messages that are not delivered or not finished, and about deletions that did not happen.
async fn advisories(field: &mut Field) {
    let client = field.cluster.client().await;
    for queue in QUEUES {
        let (name, floor) = (queue.name(), field.ack_floor(queue).await);
        for sequence in floor.saturating_sub(2)..floor + 30 {
            let advisory = format!(
                r#"{{"type":"io.nats.jetstream.advisory.v1.max_deliver","id":"x","timestamp":"2026-01-01T00:00:00Z","stream":"WORK","consumer":"{name}","stream_seq":{sequence},"deliveries":10000}}"#
            );
            let subject = format!("$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.WORK.{name}");
            let _ = client.publish(subject, advisory.into()).await;
        }
        for (kind, subject) in [
            ("consumer_action", format!("$JS.EVENT.ADVISORY.CONSUMER.DELETED.WORK.{name}")),
            ("stream_action", "$JS.EVENT.ADVISORY.STREAM.DELETED.WORK".to_owned()),
        ] {
            let advisory = format!(
                r#"{{"type":"io.nats.jetstream.advisory.v1.{kind}","id":"x","timestamp":"2026-01-01T00:00:00Z","stream":"WORK","consumer":"{name}","action":"delete"}}"#
            );
            let _ = client.publish(subject, advisory.into()).await;
        }
    }
    let _ = client.flush().await;
}
