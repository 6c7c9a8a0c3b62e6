//! Metrics for Prometheus, health for Kubernetes: `cargo run --example metrics`.
//!
//! `GET /metrics` returns the metrics, `GET /livez` and `GET /readyz` answer the probes.
//! With `NATS_URL` it handles a stream of orders until SIGTERM or Ctrl-C, of which some fail; without it, it runs in memory, reads
//! its own metrics once and exits.

use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use jetstream_handlers::metrics::{BUCKETS, PREFIX};
use jetstream_handlers::prelude::*;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

#[derive(Debug, Serialize, Deserialize, Event)]
#[event(subject = "shop.orders.created", id = "id")]
struct OrderCreated {
    id: u64,
}

#[derive(Debug, Serialize, Deserialize, Event)]
#[event(subject = "shop.orders.{region}.paid")]
struct OrderPaid {
    id: u64,
    region: String,
}

#[subscriber(event = OrderCreated, queue = "payments", concurrency = 8, max_deliver = 3, backoff = ["200ms"])]
async fn pay(order: OrderCreated) -> HandlerResult<OrderPaid> {
    tokio::time::sleep(Duration::from_millis(5 + order.id % 20)).await;
    match order.id % 50 {
        7 | 17 => Err(format!("the bank does not answer to order {}", order.id).into()),
        27 if order.id % 100 == 27 => Err(HandlerError::terminate("the card is blocked")),
        _ => Ok(OrderPaid { id: order.id, region: if order.id.is_multiple_of(2) { "eu" } else { "us" }.to_owned() }),
    }
}

#[subscriber(event = OrderPaid, queue = "shipping", concurrency = 4)]
async fn ship(order: OrderPaid) {
    tokio::time::sleep(Duration::from_millis(10 + order.id % 15)).await;
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // Before the start, because each handler creates its metrics at its start.
    let prometheus = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Prefix(PREFIX.to_owned()), &BUCKETS)?
        .install_recorder()?;

    let broker = jetstream_handlers_examples::broker(|settings| settings.client_name("metrics")).await?;
    broker.include::<pay>().include::<ship>();

    let listener = TcpListener::bind(std::env::var("LISTEN").as_deref().unwrap_or("127.0.0.1:0")).await?;
    let address = listener.local_addr()?;
    println!("Listening on http://{address}: GET /metrics, /livez, /readyz.");
    let http = tokio::spawn(axum::serve(listener, routes(broker.clone(), prometheus)).into_future());

    match jetstream_handlers_examples::server() {
        None => {
            let running = broker.start_all().await?;
            for id in 1..=50 {
                broker.send(&OrderCreated { id }).await?;
            }
            for (path, line) in
                [("/metrics", r#"settled_total{handler="metrics::ship""#), ("/livez", ""), ("/readyz", "")]
            {
                print_when_available(address, path, line).await?;
            }
            running.shutdown().await?;
            broker.disconnect().await?;
        }
        // Until SIGTERM or Ctrl-C, then a graceful stop. The probes and the metrics are served until its end.
        Some(_) => tokio::select! {
            stopped = broker.run_all() => stopped?,
            () = publish_orders(&broker) => {}
        },
    }
    http.abort();
    Ok(())
}

/// The routes of a service: metrics for Prometheus, and the probes of Kubernetes.
fn routes(broker: Broker, prometheus: PrometheusHandle) -> Router {
    // Only the status: the text of the health may contain errors of handlers.
    let probe = |is_ok: bool| if is_ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let ready = broker.clone();
    Router::new()
        .route("/metrics", get(async move || prometheus.render()))
        .route("/livez", get(async move || probe(broker.health().is_alive())))
        .route("/readyz", get(async move || probe(ready.health().is_ready())))
}

/// Publishes orders without an end: most of the time a few, and every two minutes as many as a busy day has.
async fn publish_orders(broker: &Broker) {
    // Message ids are unique over restarts of the program.
    let begun = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs();
    for id in begun * 1_000.. {
        if let Err(error) = broker.send(&OrderCreated { id }).await {
            eprintln!("{error}");
        }
        let second = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs();
        let is_busy = second % 120 < 20;
        tokio::time::sleep(Duration::from_millis(if is_busy { 1 } else { 10 })).await;
    }
}

/// Requests a path until a line of the answer contains `text`, and prints such lines.
async fn print_when_available(address: std::net::SocketAddr, path: &str, text: &str) -> anyhow::Result<()> {
    loop {
        let mut connection = TcpStream::connect(address).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        connection.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await?;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let lines: Vec<_> = body.lines().filter(|line| line.contains(text)).collect();
        if lines.iter().any(|line| !line.ends_with(" 0")) || body.is_empty() {
            println!("GET {path} -> {}", head.lines().next().unwrap_or_default());
            lines.iter().for_each(|line| println!("  {line}"));
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
