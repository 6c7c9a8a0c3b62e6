//! One service with payloads in several formats: `cargo run --example codecs`.
//!
//! Readings of sensors arrive in MessagePack, which is the default format here, in JSON from another program, and in
//! Protobuf from a third one; notes are plain text, and a report is compressed.
//! A reading that cannot be decoded is counted by the handler itself, which takes the rejection as a parameter.
//! With `NATS_URL` it uses that server, without it, it runs in memory; it exits when everything is handled.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use jetstream_handlers::prelude::*;
use jetstream_handlers::{Json, MessagePackCodec, Protobuf, Raw};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

#[derive(Debug, Serialize, Deserialize)]
struct Reading {
    sensor: String,
    celsius: f64,
}

/// The message of a `.proto` file, as `prost-build` generates it.
#[derive(Clone, PartialEq, prost::Message)]
struct Alarm {
    #[prost(string, tag = "1")]
    sensor: String,
}

/// Decodes each reading in the format that its `Content-Type` names, and in MessagePack without one.
#[subscriber(subject = "readings.temperature", queue = "readings")]
async fn store(reading: Result<Reading, Rejection>, headers: Headers, State(work): State<Work>) -> HandlerResult {
    let format = headers.get("Content-Type").unwrap_or("no content type");
    match reading {
        Ok(Reading { sensor, celsius }) => println!("  reading   {sensor} has {celsius} °C, as {format}"),
        Err(rejection) => println!("  reading   rejected: {rejection}"),
    }
    work.done();
    Ok(())
}

#[subscriber(subject = "readings.alarm", queue = "alarms")]
async fn alarm(Protobuf(alarm): Protobuf<Alarm>, publisher: Publisher, State(work): State<Work>) -> HandlerResult {
    println!("  alarm     of {}", alarm.sensor);
    publisher.publish("readings.note", &Raw(format!("{} is too hot", alarm.sensor))).await?;
    work.done();
    Ok(())
}

#[subscriber(subject = "readings.note", queue = "notes")]
async fn note(Raw(text): Raw<&str>, State(work): State<Work>) {
    println!("  note      {text:?}");
    work.done();
}

#[subscriber(subject = "readings.report", queue = "reports")]
async fn report(readings: Vec<Reading>, message: Message, State(work): State<Work>) {
    println!("  report    {} readings in {} bytes", readings.len(), message.payload().len());
    work.done();
}

/// The work that is left.
#[derive(Clone, Default)]
struct Work {
    handled: Arc<AtomicU64>,
    changed: Arc<Notify>,
}

impl Work {
    fn done(&self) {
        self.handled.fetch_add(1, Ordering::Relaxed);
        self.changed.notify_one();
    }

    async fn until(&self, messages: u64) {
        while self.handled.load(Ordering::Relaxed) < messages {
            self.changed.notified().await;
        }
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let work = Work::default();
    let configure = |settings: jetstream_handlers::Builder| settings.codec(MessagePackCodec).state(work.clone());
    let broker = jetstream_handlers_examples::broker(configure).await?;
    let running = broker.start_all().await?;

    let reading = |celsius| Reading { sensor: "kitchen".into(), celsius };
    broker.publish("readings.temperature", &reading(21.5)).await?;
    broker.publish("readings.temperature", &Json(reading(22.0))).await?;
    let publisher = broker.publisher();
    let foreign = publisher.publish_bytes("readings.temperature", r#"{"sensor":"attic","celsius":"warm"}"#);
    foreign.header("Content-Type", "application/json; charset=utf-8").await?;
    broker.publish("readings.alarm", &Protobuf(Alarm { sensor: "attic".into() })).await?;
    let report: Vec<_> = (0..200).map(|number| reading(f64::from(number))).collect();
    broker.publish_message("readings.report", &report).gzip().await?;

    let done = tokio::time::timeout(Duration::from_secs(30), work.until(6)).await;
    done.context("not everything was handled within 30 s")?;
    println!("\nAll messages are handled.");

    running.shutdown().await?;
    broker.disconnect().await?;
    Ok(())
}
