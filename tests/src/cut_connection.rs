//! A proxy that cuts a connection at a certain text.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};

/// Returns the address of a proxy that cuts the first connection on which the server sends `text`.
///
/// The bytes with `text` in them do not reach the client.
pub async fn cut_connection_at(server: SocketAddr, text: &'static str) -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("the loopback interface works");
    let url = format!("nats://{}", listener.local_addr().expect("a bound listener has an address"));
    let cut = Arc::new(Mutex::new(false));
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let cut = cut.clone();
            tokio::spawn(async move {
                let server = TcpStream::connect(server).await.expect("the loopback interface works");
                let (mut from_client, mut to_client) = client.into_split();
                let (mut from_server, mut to_server) = server.into_split();
                let to_the_client = async {
                    let mut buffer = vec![0; 64 * 1024];
                    while let Ok(count @ 1..) = from_server.read(&mut buffer).await {
                        // Some server versions put spaces into their JSON.
                        let found = String::from_utf8_lossy(&buffer[..count]).replace(' ', "").contains(text);
                        if found
                            && !std::mem::replace(&mut *cut.lock().expect("nothing panics while it is locked"), true)
                        {
                            return;
                        }
                        to_client.write_all(&buffer[..count]).await.expect("the loopback interface works");
                    }
                };
                tokio::select! {
                    () = to_the_client => {}
                    _ = copy(&mut from_client, &mut to_server) => {}
                }
            });
        }
    });
    url
}
