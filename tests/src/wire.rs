//! A wire that breaks at a word.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};

/// Where to connect to a server over a wire that breaks before it carries `text` to the client, the first time.
pub async fn breaking_wire(server: SocketAddr, text: &'static str) -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("the loopback works");
    let url = format!("nats://{}", listener.local_addr().expect("a bound listener has an address"));
    let broken = Arc::new(Mutex::new(false));
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let broken = broken.clone();
            tokio::spawn(async move {
                let server = TcpStream::connect(server).await.expect("the loopback works");
                let (mut from_client, mut to_client) = client.into_split();
                let (mut from_server, mut to_server) = server.into_split();
                let back = async {
                    let mut buffer = vec![0; 64 * 1024];
                    while let Ok(count @ 1..) = from_server.read(&mut buffer).await {
                        // Some servers put a space between the two.
                        let found = String::from_utf8_lossy(&buffer[..count]).replace(' ', "").contains(text);
                        if found && !std::mem::replace(&mut *broken.lock().expect("nobody panics with it"), true) {
                            return;
                        }
                        to_client.write_all(&buffer[..count]).await.expect("the loopback works");
                    }
                };
                tokio::select! {
                    () = back => {}
                    _ = copy(&mut from_client, &mut to_server) => {}
                }
            });
        }
    });
    url
}
