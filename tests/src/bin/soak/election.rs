//! How long the cluster itself serves nobody, as clients written by hand observe it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use futures::future::{join_all, select_ok};
use jetstream_handlers::async_nats::jetstream::consumer::{PullConsumer, pull};
use jetstream_handlers::async_nats::{Client, ConnectOptions, jetstream};
use jetstream_handlers::stream::{self, StorageType};
use jetstream_handlers_tests::{Cluster, stream_config};
use serde_json::Value;
use tokio::time::{sleep, timeout};

use crate::ledger::{Period, longest_pause};
use crate::queue::QUEUES;

/// How often each client asks or publishes.
const INTERVAL: Duration = Duration::from_millis(100);
/// A request that takes longer is repeated.
const PATIENCE: Duration = Duration::from_millis(500);

type Times = Arc<Mutex<BTreeMap<String, Vec<Instant>>>>;

/// Clients that ask the leaders, and a rival on each node that publishes and reads with async-nats alone.
#[derive(Debug)]
pub(crate) struct Observers {
    times: Times,
    tasks: tokio::task::JoinSet<()>,
}

impl Observers {
    /// Starts the clients; the streams and consumers of the workers must exist.
    pub(crate) async fn start(cluster: &Cluster, storage: StorageType) -> Self {
        let mut observers = Self { times: Times::default(), tasks: tokio::task::JoinSet::new() };
        let clients = join_all((0..3).map(|node| connect(cluster, node))).await;
        let consumers = QUEUES.map(|queue| format!("$JS.API.CONSUMER.INFO.WORK.{}", queue.name()));
        for subject in consumers.into_iter().chain(["$JS.API.STREAM.INFO.WORK".to_owned()]) {
            observers.tasks.spawn(ask(clients.clone(), subject, observers.times.clone()));
        }
        let config = stream::Config { num_replicas: 3, storage, ..stream_config("RIVAL", &["rival.>"]) };
        let jetstream = jetstream::new(clients[0].clone());
        jetstream.create_stream(config).await.expect("the cluster creates a stream");
        for node in 0..3 {
            // As the workers, each has one connection.
            let jetstream = jetstream::new(connect(cluster, node).await);
            observers.tasks.spawn(publish(jetstream.clone(), node));
            observers.tasks.spawn(read(jetstream, node, observers.times.clone()));
        }
        observers
    }

    /// Returns the longest time for which one of the clients got nothing.
    pub(crate) fn longest_pause(&self, within: Period) -> (Duration, String) {
        let times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        let pauses = times.iter().map(|(what, times)| (longest_pause(times, within, &[]), what.clone()));
        pauses.max().unwrap_or_default()
    }
}

/// Connects to a node, and later to any.
async fn connect(cluster: &Cluster, node: usize) -> Client {
    let mut urls = cluster.urls();
    urls.rotate_left(node);
    let options = ConnectOptions::with_user_and_password("app".into(), "app".into());
    let options = options.retain_servers_order().reconnect_delay_callback(|_| Duration::from_millis(50));
    options.connect(urls).await.expect("the node accepts connections")
}

fn note(times: &Times, what: &str) {
    let mut times = times.lock().unwrap_or_else(PoisonError::into_inner);
    times.entry(what.to_owned()).or_default().push(Instant::now());
}

/// Asks a leader through each node, again and again.
async fn ask(clients: Vec<Client>, subject: String, times: Times) {
    loop {
        let ask = |client: Client| {
            let subject = subject.clone();
            Box::pin(async move {
                let reply = timeout(PATIENCE, client.request(subject, "".into())).await.map_err(drop)?.map_err(drop)?;
                let reply: Value = serde_json::from_slice(&reply.payload).map_err(drop)?;
                // What was deleted by a fault has no leader, and that is not the fault of the cluster.
                let is_missing = matches!(reply["error"]["err_code"].as_u64(), Some(10014 | 10059));
                let has_leader = reply["cluster"]["leader"].is_string();
                (is_missing || has_leader).then_some(()).ok_or(())
            })
        };
        if select_ok(clients.iter().cloned().map(ask)).await.is_ok() {
            note(&times, &subject);
        }
        sleep(INTERVAL).await;
    }
}

async fn publish(jetstream: jetstream::Context, node: usize) {
    loop {
        let publish = async { jetstream.publish(format!("rival.{node}"), "".into()).await?.await };
        // The next one follows in any case.
        let _ = timeout(PATIENCE, publish).await;
        sleep(INTERVAL).await;
    }
}

async fn read(jetstream: jetstream::Context, node: usize, times: Times) {
    let what = format!("rival {node}");
    loop {
        if let Some(consumer) = consumer(&jetstream, node).await
            && let Ok(mut messages) = consumer.messages().await
        {
            while let Some(Ok(message)) = messages.next().await {
                note(&times, &what);
                let _ = message.ack().await;
            }
        }
        sleep(INTERVAL).await;
    }
}

async fn consumer(jetstream: &jetstream::Context, node: usize) -> Option<PullConsumer> {
    let name = format!("rival-{node}");
    let config = pull::Config {
        durable_name: Some(name.clone()),
        filter_subject: format!("rival.{node}"),
        ..Default::default()
    };
    jetstream.get_stream("RIVAL").await.ok()?.get_or_create_consumer(&name, config).await.ok()
}
