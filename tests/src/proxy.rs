//! A TCP proxy that can interrupt connections.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep_until};

const MAX_CONNECTIONS: usize = 64;
/// The size of the buffer for one direction of one connection.
const BUFFER: usize = 16 * 1024;
/// The size of the socket buffer for what the server sends over a connection with a limited rate.
const RATED_BUFFER: u32 = 64 * 1024;

/// A TCP proxy in front of a server.
///
/// It ends, with its connections, when dropped.
/// A client must connect with `ignore_discovered_servers`: otherwise it learns other addresses
/// from the server and connects without the proxy.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    state: watch::Sender<State>,
    task: AbortHandle,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    /// The number of cuts; a connection that is older than the last one ends.
    cuts: u64,
    paused: bool,
    refusing: bool,
    /// The maximum number of bytes per second in each direction; 0 for no limit.
    rate: u64,
}

impl Proxy {
    /// Starts a proxy on a free port, which connects each client to `target`.
    pub async fn start(target: SocketAddr) -> Self {
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("the loopback interface has a free port");
        let address = listener.local_addr().expect("a bound listener has an address");
        let state = watch::Sender::new(State::default());
        let task = tokio::spawn(accept(listener, target, state.clone())).abort_handle();
        Self { address, state, task }
    }

    /// Returns the address of the proxy, such as `nats://127.0.0.1:4222`, without credentials.
    pub fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    /// Returns the address of the proxy.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes all connections; the bytes in transit are lost.
    pub fn cut(&self) {
        self.state.send_modify(|state| state.cuts += 1);
    }

    /// Holds back the bytes in both directions, while the connections stay open.
    pub fn pause(&self) {
        self.state.send_modify(|state| state.paused = true);
    }

    /// Ends a pause; the bytes that arrived meanwhile are forwarded.
    pub fn resume(&self) {
        self.state.send_modify(|state| state.paused = false);
    }

    /// Forwards at most this many bytes per second in each direction of each connection.
    ///
    /// Call it before a client connects, so that little waits between the server and the proxy.
    pub fn limit_rate(&self, bytes_per_second: u64) {
        self.state.send_modify(|state| state.rate = bytes_per_second);
    }

    /// Closes each new connection at once, until [`Proxy::accept`] is called.
    pub fn refuse(&self) {
        self.state.send_modify(|state| state.refusing = true);
    }

    /// Accepts new connections again.
    pub fn accept(&self) {
        self.state.send_modify(|state| state.refusing = false);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Accepts connections, and owns their tasks, so that they end with it.
async fn accept(listener: TcpListener, target: SocketAddr, state: watch::Sender<State>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((client, _)) = listener.accept().await else {
            return;
        };
        while connections.try_join_next().is_some() {}
        let state = state.subscribe();
        let now = *state.borrow();
        if !now.refusing && connections.len() < MAX_CONNECTIONS {
            connections.spawn(connect(client, target, state, now.cuts));
        }
    }
}

/// Forwards bytes between the client and the target until one of them closes or the connection is cut.
async fn connect(mut client: TcpStream, target: SocketAddr, state: watch::Receiver<State>, born: u64) {
    let mut cut = state.clone();
    let carry = async {
        let socket = TcpSocket::new_v4().ok()?;
        if state.borrow().rate > 0 {
            socket.set_recv_buffer_size(RATED_BUFFER).ok()?;
        }
        let mut server = socket.connect(target).await.ok()?;
        // Acks are small and must not wait for more bytes.
        client.set_nodelay(true).ok()?;
        server.set_nodelay(true).ok()?;
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        tokio::select! {
            _ = forward(from_client, to_server, state.clone()) => {}
            _ = forward(from_server, to_client, state) => {}
        }
        Some(())
    };
    tokio::select! {
        _ = carry => {}
        _ = cut.wait_for(|state| state.cuts > born) => {}
    }
}

/// Forwards bytes in one direction until a side is closed.
async fn forward(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, mut state: watch::Receiver<State>) -> Option<()> {
    let mut buffer = vec![0; BUFFER];
    let mut free_at = Instant::now();
    loop {
        let count = from.read(&mut buffer).await.ok()?;
        if count == 0 {
            return None;
        }
        // The wait comes after the read, so that at most one buffer arrives during a pause.
        let rate = state.wait_for(|state| !state.paused).await.ok()?.rate;
        if rate > 0 {
            sleep_until(free_at).await;
            free_at = free_at.max(Instant::now()) + Duration::from_secs_f64(count as f64 / rate as f64);
        }
        to.write_all(&buffer[..count]).await.ok()?;
    }
}
