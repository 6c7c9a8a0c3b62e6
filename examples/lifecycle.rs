//! Handlers next to an HTTP server, with an explicit start and shutdown: `cargo run --example lifecycle`.
//!
//! `GET /health` returns the health of the broker, `POST /orders` publishes the request body.
//! With `NATS_URL` it serves until Ctrl-C; without it, it runs in memory, sends itself a few requests and exits.
//! HTTP is implemented by hand to keep the example small; a service would use a framework.

use std::net::SocketAddr;

use jetstream_handlers::Builder;
use jetstream_handlers::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

#[subscriber(subject = "orders.placed", queue = "kitchen", concurrency = 4)]
async fn cook(order: String) -> HandlerResult {
    println!("  kitchen   {order} is ready");
    Ok(())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // The builder does no I/O; connecting, starting and stopping are separate steps.
    let settings = |settings: Builder| settings.client_name("lifecycle").shutdown_grace(secs(10));
    let broker = jetstream_handlers_examples::broker(settings).await?;
    let running = broker.start_all().await?; // returns when every handler receives messages

    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    println!("Listening on http://{address}: GET /health, POST /orders.");
    let http = tokio::spawn(serve(listener, broker.clone()));

    match jetstream_handlers_examples::server() {
        None => send_requests(address).await?,
        Some(_) => tokio::signal::ctrl_c().await?,
    }

    // In this order: stop accepting requests, stop the handlers, disconnect.
    http.abort();
    running.shutdown().await?;
    println!("The handlers have stopped, and the server has received every ack.");
    broker.disconnect().await?;
    println!("Disconnected.");
    Ok(())
}

async fn serve(listener: TcpListener, broker: Broker) {
    while let Ok((connection, _)) = listener.accept().await {
        let broker = broker.clone();
        tokio::spawn(async move {
            if let Err(error) = respond(connection, &broker).await {
                eprintln!("a request failed: {error}");
            }
        });
    }
}

async fn respond(mut connection: TcpStream, broker: &Broker) -> std::io::Result<()> {
    let mut buffer = [0; 4096];
    let length = connection.read(&mut buffer).await?;
    let request = String::from_utf8_lossy(&buffer[..length]);
    let (head, body) = request.split_once("\r\n\r\n").unwrap_or((&request, ""));
    let (status, text) = match head.split(' ').take(2).collect::<Vec<_>>()[..] {
        ["GET", "/health"] => {
            let health = broker.health();
            (if health.is_healthy() { "200 OK" } else { "503 Service Unavailable" }, health.to_string())
        }
        ["POST", "/orders"] => match broker.publish("orders.placed", body).await {
            Ok(ack) => ("201 Created", format!("stored in {} as message {}", ack.stream, ack.sequence)),
            Err(error) => ("502 Bad Gateway", error.to_string()),
        },
        _ => ("404 Not Found", "GET /health or POST /orders".to_owned()),
    };
    let length = text.len();
    let response = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{text}");
    connection.write_all(response.as_bytes()).await
}

/// Sends requests as a client of the service would.
async fn send_requests(address: SocketAddr) -> std::io::Result<()> {
    for (request, body) in [("GET /health", ""), ("POST /orders", "soup"), ("POST /orders", "bread"), ("GET /menu", "")]
    {
        let mut connection = TcpStream::connect(address).await?;
        let length = body.len();
        let text = format!("{request} HTTP/1.1\r\nhost: {address}\r\ncontent-length: {length}\r\n\r\n{body}");
        connection.write_all(text.as_bytes()).await?;
        let mut response = String::new();
        connection.read_to_string(&mut response).await?;
        let (head, text) = response.split_once("\r\n\r\n").unwrap_or((&response, ""));
        let status = head.lines().next().unwrap_or_default();
        println!("  client    {request} -> {status}: {}", text.replace('\n', "; "));
    }
    Ok(())
}
