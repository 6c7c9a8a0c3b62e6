//! A proxy that ends a connection at a certain step of the protocol.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::wait::SOON;

/// The side that sends the text at which a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// A client.
    Client,
    /// The server.
    Server,
}

/// The end of a connection: the text that one side sends, and whether the other side receives it.
#[derive(Debug, Clone, Copy)]
pub struct Cut {
    /// The sender of the text.
    pub from: Side,
    /// The text.
    pub text: &'static str,
    /// The number of reads with the text that are forwarded before.
    pub after: usize,
    /// `true` if the text is forwarded before the connection ends.
    pub forwarded: bool,
}

/// A proxy in front of a server, which ends every connection when one of them reaches a step.
#[derive(Debug)]
pub struct Wire {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    cut: Mutex<Option<Cut>>,
    ended: Notify,
}

impl Shared {
    /// Returns the cut at this read, if there is one.
    fn reached(&self, side: Side, bytes: &[u8]) -> Option<Cut> {
        let mut cut = self.cut.lock().unwrap_or_else(PoisonError::into_inner);
        let reached = cut.as_mut().filter(|cut| cut.from == side)?;
        if !String::from_utf8_lossy(bytes).contains(reached.text) {
            return None;
        }
        if reached.after > 0 {
            reached.after -= 1;
            return None;
        }
        cut.take()
    }
}

impl Wire {
    /// Starts a proxy on a free port.
    pub async fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("the loopback interface works");
        let address = listener.local_addr().expect("a bound listener has an address");
        let shared = Arc::<Shared>::default();
        let accepting = shared.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(carry(client, server, accepting.clone()));
            }
        });
        Self { address, shared }
    }

    /// Returns the address of the proxy, without credentials.
    pub fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    /// Ends a connection at this step, and waits until that has happened.
    ///
    /// # Panics
    ///
    /// When the step is not reached in time.
    pub async fn cut(&self, cut: Cut) {
        *self.shared.cut.lock().unwrap_or_else(PoisonError::into_inner) = Some(cut);
        let ended = timeout(SOON, self.shared.ended.notified()).await;
        assert!(ended.is_ok(), "no connection has reached {cut:?}");
    }
}

async fn carry(client: TcpStream, server: SocketAddr, shared: Arc<Shared>) {
    let Ok(server) = TcpStream::connect(server).await else { return };
    client.set_nodelay(true).ok();
    server.set_nodelay(true).ok();
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let is_cut = tokio::select! {
        is_cut = forward(Side::Client, from_client, to_server, &shared) => is_cut,
        is_cut = forward(Side::Server, from_server, to_client, &shared) => is_cut,
    };
    if is_cut == Some(true) {
        shared.ended.notify_one();
    }
}

/// Forwards the bytes of one side; returns `true` if they have reached the cut.
async fn forward(side: Side, mut from: OwnedReadHalf, mut to: OwnedWriteHalf, shared: &Shared) -> Option<bool> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let count = from.read(&mut buffer).await.ok().filter(|count| *count > 0)?;
        let cut = shared.reached(side, &buffer[..count]);
        if cut.is_none_or(|cut| cut.forwarded) {
            to.write_all(&buffer[..count]).await.ok()?;
        }
        if cut.is_some() {
            return Some(true);
        }
    }
}
