//! A client that publishes any bytes, as clients of other languages can.

use std::net::SocketAddr;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

/// A connection that sends bytes as they are.
#[derive(Debug)]
pub struct RawClient {
    stream: BufReader<TcpStream>,
}

impl RawClient {
    /// Connects to a server without authentication.
    pub async fn connect(server: SocketAddr) -> Self {
        Self::connect_with(server, "").await
    }

    /// Connects to a server as a user.
    pub async fn connect_as(server: SocketAddr, user: &str, password: &str) -> Self {
        Self::connect_with(server, &format!(",\"user\":\"{user}\",\"pass\":\"{password}\"")).await
    }

    async fn connect_with(server: SocketAddr, options: &str) -> Self {
        let stream = TcpStream::connect(server).await.expect("the server accepts connections");
        let mut client = Self { stream: BufReader::new(stream) };
        let connect = format!(
            "CONNECT {{\"verbose\":false,\"pedantic\":false,\"headers\":true,\"lang\":\"raw\",\"version\":\"0\"{options}}}
"
        );
        client.send(connect.as_bytes()).await;
        client.flush().await;
        client
    }

    /// Publishes a message; `headers` is its header block without the version line and the empty line at the end.
    pub async fn publish(&mut self, subject: impl AsRef<[u8]>, headers: impl AsRef<[u8]>, payload: impl AsRef<[u8]>) {
        let block = [b"NATS/1.0\r\n", headers.as_ref(), b"\r\n\r\n"].concat();
        self.publish_block(subject, block, payload).await;
    }

    /// Publishes a message with this header block.
    pub async fn publish_block(
        &mut self,
        subject: impl AsRef<[u8]>,
        block: impl AsRef<[u8]>,
        payload: impl AsRef<[u8]>,
    ) {
        self.send(&protocol(subject.as_ref(), block.as_ref(), payload.as_ref())).await;
    }

    /// Publishes messages in one write, each given by its headers and its payload.
    pub async fn publish_at_once<'a>(&mut self, subject: &str, messages: impl IntoIterator<Item = (&'a [u8], String)>) {
        let message = |(headers, payload): (&[u8], String)| {
            let block = [b"NATS/1.0\r\n", headers, b"\r\n\r\n"].concat();
            protocol(subject.as_bytes(), &block, payload.as_bytes())
        };
        let bytes: Vec<u8> = messages.into_iter().flat_map(message).collect();
        self.send(&bytes).await;
    }

    /// Waits until the server has received everything sent before.
    ///
    /// # Panics
    ///
    /// Panics if the server reports an error.
    pub async fn flush(&mut self) {
        self.send(b"PING\r\n").await;
        loop {
            let mut line = Vec::new();
            self.stream.read_until(b'\n', &mut line).await.expect("the connection is open");
            let line = String::from_utf8_lossy(&line);
            assert!(!line.is_empty() && !line.starts_with("-ERR"), "the server refused something: {line}");
            if line.starts_with("PONG") {
                return;
            }
        }
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.expect("the connection is open");
    }
}

/// Returns the bytes that publish a message.
fn protocol(subject: &[u8], block: &[u8], payload: &[u8]) -> Vec<u8> {
    let sizes = format!(" {} {}\r\n", block.len(), block.len() + payload.len());
    [b"HPUB ", subject, sizes.as_bytes(), block, payload, b"\r\n"].concat()
}
