//! A wire that can be cut.

use std::net::{Ipv4Addr, SocketAddr};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

const MAX_CONNECTIONS: usize = 64;
/// Bytes on their way in one direction of one connection.
const BUFFER: usize = 16 * 1024;

/// A TCP proxy in front of a server; it ends, with its connections, when dropped.
///
/// A client of a cluster has to connect with `ignore_discovered_servers`, since it would learn
/// from the server how to go round the proxy.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    state: watch::Sender<State>,
    task: AbortHandle,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    /// How often the connections have been cut; one that is older than this ends.
    cuts: u64,
    paused: bool,
    refusing: bool,
}

impl Proxy {
    /// Starts a proxy on a free port, which opens a connection to `target` for each of its own.
    pub async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("the loopback has a free port");
        let address = listener.local_addr().expect("a bound listener has an address");
        let state = watch::Sender::new(State::default());
        let task = tokio::spawn(accept(listener, target, state.clone())).abort_handle();
        Self { address, state, task }
    }

    /// Where it listens, such as `nats://127.0.0.1:4222`, without credentials.
    pub fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes all connections there are; the bytes on their way are lost.
    pub fn cut(&self) {
        self.state.send_modify(|state| state.cuts += 1);
    }

    /// Stops the bytes in both directions, while the connections stay open.
    pub fn pause(&self) {
        self.state.send_modify(|state| state.paused = true);
    }

    /// Lets the bytes go on, also those that came during the pause.
    pub fn resume(&self) {
        self.state.send_modify(|state| state.paused = false);
    }

    /// Closes each new connection at once, until [`Proxy::accept`].
    pub fn refuse(&self) {
        self.state.send_modify(|state| state.refusing = true);
    }

    /// Takes new connections again.
    pub fn accept(&self) {
        self.state.send_modify(|state| state.refusing = false);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Owns the tasks of all connections, so that they end with it.
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

/// Carries bytes between the client and the target until one of them closes or we are cut.
async fn connect(mut client: TcpStream, target: SocketAddr, state: watch::Receiver<State>, born: u64) {
    let mut cut = state.clone();
    let carry = async {
        let mut server = TcpStream::connect(target).await.ok()?;
        // Acks are small, and nobody should wait for the next one.
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

/// Returns when either side is closed.
async fn forward(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, mut state: watch::Receiver<State>) -> Option<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let count = from.read(&mut buffer).await.ok()?;
        if count == 0 {
            return None;
        }
        // After the read, so that what arrives during a pause waits here, one buffer of it.
        state.wait_for(|state| !state.paused).await.ok()?;
        to.write_all(&buffer[..count]).await.ok()?;
    }
}
