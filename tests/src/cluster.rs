//! A cluster of three servers.

use crate::server::{Server, TIMEOUT};
use crate::{eventually, port};
use async_nats::{Client, jetstream};
use serde_json::Value;
use std::time::Duration;

const NODES: usize = 3;
const STARTS_TRIED: u32 = 3;
/// The timeout of a request; a node that knows no leader yet does not reply.
const REPLY_TIMEOUT: Duration = Duration::from_millis(500);
/// The stream that shows that three replicas are possible.
const PROBE: &str = "HARNESS_PROBE";

/// Three nodes, `n1` to `n3`, with the user `app` of an account that has JetStream.
///
/// The system account has the user `sys`; each password is the user's name.
/// A client without credentials is `app`, because async-nats does not read those in a URL.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Server>,
    /// The ports of the routes.
    ports: Vec<u16>,
}

impl Cluster {
    /// Starts the nodes and waits until they can create a stream with three replicas, which takes
    /// a second or two.
    pub async fn start() -> Self {
        Self::start_with("").await
    }

    /// Starts a cluster like [`Cluster::start`], with these lines in the configuration of each node.
    pub async fn start_with(config: &str) -> Self {
        let mut tried = 0;
        let mut cluster = loop {
            tried += 1;
            match Self::try_start(config).await {
                Ok(cluster) => break cluster,
                // A node cannot change a port that the others know, so all nodes are replaced.
                Err(why) if tried == STARTS_TRIED => panic!("{why}"),
                Err(_) => {}
            }
        };
        cluster.ready().await;
        cluster
    }

    /// Returns the [`Server::url`] of each node, including those that are down.
    pub fn urls(&self) -> Vec<String> {
        self.nodes.iter().map(Server::url).collect()
    }

    /// Returns the node with this index, from 0 to 2.
    pub fn node(&mut self, index: usize) -> &mut Server {
        &mut self.nodes[index]
    }

    /// Replaces the lines of [`Cluster::start_with`], and signals each node to reload its configuration.
    ///
    /// # Panics
    ///
    /// When a node does not run.
    pub fn reload(&mut self, config: &str) {
        for (index, node) in self.nodes.iter_mut().enumerate() {
            node.reload(&format!("{}\n{config}", node_config(index, &self.ports)));
        }
    }

    /// Connects to one of the nodes that are up; the client changes the node when that one goes down.
    pub async fn client(&mut self) -> Client {
        let options = self.nodes[0].options();
        let up: Vec<String> = self.nodes.iter_mut().filter_map(|node| node.is_up().then(|| node.url())).collect();
        options.connect(&up).await.unwrap_or_else(|error| panic!("cannot connect to {up:?}: {error}"))
    }

    /// Returns a JetStream context on a new connection.
    pub async fn jetstream(&mut self) -> jetstream::Context {
        jetstream::new(self.client().await)
    }

    /// Waits for a leader of the stream, and returns the index of its node.
    pub async fn leader_of_stream(&mut self, stream: &str) -> usize {
        self.leader(&format!("$JS.API.STREAM.INFO.{stream}")).await
    }

    /// Waits for a leader of the consumer, and returns the index of its node.
    pub async fn leader_of_consumer(&mut self, stream: &str, consumer: &str) -> usize {
        self.leader(&format!("$JS.API.CONSUMER.INFO.{stream}.{consumer}")).await
    }

    /// Returns the leader in the reply to a request at `subject`; only the leader replies.
    async fn leader(&mut self, subject: &str) -> usize {
        let client = self.client().await;
        let what = format!("a leader in the reply to {subject}");
        eventually(&what, TIMEOUT, async || {
            let reply = request(&client, subject).await?;
            let name = reply["cluster"]["leader"].as_str()?;
            name.strip_prefix('n')?.parse::<usize>().ok()?.checked_sub(1)
        })
        .await
    }

    async fn try_start(config: &str) -> Result<Self, String> {
        let ports: Vec<u16> = (0..NODES).map(|_| port::free()).collect();
        let mut nodes = Vec::new();
        for index in 0..NODES {
            let node = Server::builder()
                .config(&node_config(index, &ports))
                .config(config)
                .user("app", "app")
                .try_start()
                .await?;
            nodes.push(node);
        }
        Ok(Self { nodes, ports })
    }

    /// Waits until each node knows the meta leader, and the meta leader knows each node.
    async fn ready(&mut self) {
        for node in &self.nodes {
            let client = node.client().await;
            eventually("a reply of JetStream", TIMEOUT, async || request(&client, "$JS.API.INFO").await).await;
        }
        let jetstream = self.jetstream().await;
        let probe = jetstream::stream::Config {
            name: PROBE.to_owned(),
            num_replicas: NODES,
            storage: jetstream::stream::StorageType::Memory,
            ..Default::default()
        };
        eventually("a stream with three replicas", TIMEOUT, async || {
            jetstream.get_or_create_stream(probe.clone()).await.ok()
        })
        .await;
        eventually("the deletion of the probe", TIMEOUT, async || jetstream.delete_stream(PROBE).await.ok()).await;
    }
}

/// Returns the reply of the JetStream API, or `None` for an error.
async fn request(client: &Client, subject: &str) -> Option<Value> {
    let request = client.request(subject.to_owned(), "".into());
    let reply = tokio::time::timeout(REPLY_TIMEOUT, request).await.ok()?.ok()?;
    let reply: Value = serde_json::from_slice(&reply.payload).ok()?;
    reply.get("error").is_none().then_some(reply)
}

fn node_config(index: usize, ports: &[u16]) -> String {
    let routes: Vec<String> = ports.iter().map(|port| format!("nats://127.0.0.1:{port}")).collect();
    format!(
        "server_name: n{name}
cluster {{ name: harness, listen: \"127.0.0.1:{port}\", routes: [{routes}] }}
accounts {{
    $SYS {{ users: [{{ user: sys, password: sys }}] }}
    APP {{ jetstream: enabled, users: [{{ user: app, password: app }}] }}
}}
no_auth_user: app",
        name = index + 1,
        port = ports[index],
        routes = routes.join(", "),
    )
}
