//! What a seed runs on: the cluster, the workers, and the records of both.

use std::collections::BTreeSet;
use std::time::{Duration, Instant, SystemTime};

use jetstream_handlers::Broker;
use jetstream_handlers::async_nats::jetstream;
use jetstream_handlers::stream::StorageType;
use jetstream_handlers_tests::{Cluster, SOON, eventually};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use serde_json::Value;

use crate::acks::Acks;
use crate::election::Observers;
use crate::ledger::{Ledger, nanos};
use crate::load::Stored;
use crate::message::{Id, Kind};
use crate::queue::{QUEUES, Queue};
use crate::workers::Workers;
use crate::{rights, streams};

/// The timeout of a request that may be left out.
const PATIENCE: Duration = Duration::from_secs(2);
/// The numbers of the messages that faults publish begin here.
const FIRST_OF_FAULTS: u64 = 1_000_000;

/// A stream that was deleted or lost, as it was shortly before.
#[derive(Debug)]
pub(crate) struct Former {
    /// When it was complete; `None` for the first one.
    pub(crate) since: Option<Instant>,
    pub(crate) at: Instant,
    /// The sequence up to which each queue had acknowledged everything; without those that could not be asked.
    pub(crate) floors: Vec<(Queue, u64)>,
}

#[derive(Debug)]
pub(crate) struct Field {
    pub(crate) cluster: Cluster,
    pub(crate) workers: Workers,
    pub(crate) ledger: Ledger,
    /// Publishes the load; reads the dead letters.
    pub(crate) broker: Broker,
    pub(crate) stored: Stored,
    pub(crate) observers: Observers,
    pub(crate) acks: Acks,
    pub(crate) storage: StorageType,
    pub(crate) random: StdRng,
    /// The last time at which a new stream was complete, and when each was created by the clock of the servers.
    pub(crate) replaced: Option<Instant>,
    pub(crate) created: Vec<u128>,
    pub(crate) former: Vec<Former>,
    next: u64,
}

impl Field {
    pub(crate) async fn start(seed: u64) -> Self {
        let mut cluster = Cluster::start_with(&rights::without(None)).await;
        let storage = streams::storage(seed);
        let broker = streams::declared(Broker::builder().servers(cluster.urls()), storage);
        let broker = broker.connect().await.unwrap_or_else(|error| panic!("{error:?}"));
        let jetstream = cluster.jetstream().await;
        jetstream.create_stream(streams::work(storage)).await.expect("the cluster creates a stream");
        let ledger = Ledger::default();
        let workers = Workers::start(&cluster, &ledger, seed).await;
        let acks = Acks::start(cluster.client().await).await;
        let observers = Observers::start(&cluster, storage).await;
        Self {
            cluster,
            workers,
            ledger,
            broker,
            stored: Stored::default(),
            observers,
            acks,
            storage,
            random: StdRng::seed_from_u64(seed),
            replaced: None,
            created: Vec::new(),
            former: Vec::new(),
            next: FIRST_OF_FAULTS,
        }
    }

    /// Returns the id of a message that is not part of the load.
    pub(crate) fn next_id(&mut self, kind: Kind) -> Id {
        self.next += 1;
        Id { number: self.next, kind }
    }

    /// Sends a request to the JetStream API as an operator.
    ///
    /// A cluster without a leader does not reply, and then this fault is skipped.
    pub(crate) async fn request(&mut self, subject: &str, payload: &str) {
        let client = self.cluster.client().await;
        match client.request(subject.to_owned(), payload.to_owned().into()).await {
            Ok(reply) => {
                let reply: Value = serde_json::from_slice(&reply.payload).unwrap_or_default();
                if reply["error"].is_object() {
                    println!("  {subject}: {}", reply["error"]);
                }
            }
            Err(error) => println!("  {subject}: {error}"),
        }
    }

    /// Returns the sequence up to which a queue has acknowledged everything.
    pub(crate) async fn ack_floor(&mut self, queue: Queue) -> u64 {
        let jetstream = self.cluster.jetstream().await;
        eventually("the state of a consumer", SOON, async || {
            let stream = jetstream.get_stream("WORK").await.ok()?;
            Some(stream.consumer_info(queue.name()).await.ok()?.ack_floor.stream_sequence)
        })
        .await
    }

    /// Records what is acknowledged in the stream that is about to go.
    async fn remember(&mut self) {
        let at = Instant::now();
        let jetstream = self.cluster.jetstream().await;
        let floor = |queue: Queue| {
            let jetstream = jetstream.clone();
            async move {
                let stream = jetstream.get_stream("WORK").await.ok()?;
                Some((queue, stream.consumer_info(queue.name()).await.ok()?.ack_floor.stream_sequence))
            }
        };
        let floors = QUEUES.map(|queue| tokio::time::timeout(PATIENCE, floor(queue)));
        let floors = futures::future::join_all(floors).await.into_iter().filter_map(|floor| floor.ok().flatten());
        self.former.push(Former { since: self.replaced, at, floors: floors.collect() });
    }

    /// Deletes the stream, and creates it again.
    pub(crate) async fn replace_stream(&mut self) {
        self.remember().await;
        let jetstream = self.cluster.jetstream().await;
        eventually("the stream is deleted", SOON, async || {
            match jetstream.delete_stream("WORK").await {
                Ok(_) => Some(()),
                // The deletion that was not confirmed has happened.
                Err(error) => error.to_string().contains("not found").then_some(()),
            }
        })
        .await;
        let created = eventually("the stream is created", SOON, async || create(&jetstream, self.storage).await).await;
        self.created.push(created);
        self.replaced = Some(Instant::now());
    }

    /// Kills all nodes and starts them again, by which a stream in memory loses its messages.
    pub(crate) async fn restart_all(&mut self) {
        if self.storage == StorageType::Memory {
            self.remember().await;
        }
        (0..3).for_each(|node| self.cluster.node(node).kill());
        if self.storage == StorageType::Memory {
            self.created.push(nanos(SystemTime::now()));
        }
        for node in 0..3 {
            self.cluster.node(node).restart().await;
        }
        self.cluster.leader_of_stream("WORK").await;
        if self.storage == StorageType::Memory {
            self.replaced = Some(Instant::now());
        }
    }

    /// Returns the messages in the stream.
    pub(crate) async fn content(&mut self) -> BTreeSet<Id> {
        let jetstream = self.cluster.jetstream().await;
        eventually("the content of the stream", SOON, async || {
            use futures::TryStreamExt as _;
            let stream = jetstream.get_stream("WORK").await.ok()?;
            let info = stream.info_with_subjects("work.>").await.ok()?;
            let subjects: Vec<(String, usize)> = info.try_collect().await.ok()?;
            Some(subjects.iter().filter_map(|(subject, _)| Id::parse(subject)).collect())
        })
        .await
    }

    /// Returns how many messages of a queue are not delivered, and how many not acknowledged.
    pub(crate) async fn pending(&mut self, queue: Queue) -> Option<(u64, u64)> {
        let jetstream = self.cluster.jetstream().await;
        let find = async {
            let stream = jetstream.get_stream("WORK").await.ok()?;
            let info = stream.consumer_info(queue.name()).await.ok()?;
            Some((info.num_pending, info.num_ack_pending as u64))
        };
        tokio::time::timeout(Duration::from_secs(5), find).await.ok()?
    }
}

/// Creates the stream unless the publisher has done so, and returns when it was created.
async fn create(jetstream: &jetstream::Context, storage: StorageType) -> Option<u128> {
    let stream = jetstream.get_or_create_stream(streams::work(storage)).await.ok()?;
    u128::try_from(stream.cached_info().created.unix_timestamp_nanos()).ok()
}
