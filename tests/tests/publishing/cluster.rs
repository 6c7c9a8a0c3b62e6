//! Publishing to streams with three replicas whose leader changes.

use std::collections::BTreeSet;

use futures::StreamExt as _;
use futures::future::join;
use jetstream_handlers::prelude::*;
use jetstream_handlers::{ErrorKind, stream};
use jetstream_handlers_tests::{Cluster, Proxy, assert_error, binary, ms};

use crate::{shop, stored};

#[tokio::test]
async fn failed_condition_leaves_a_replicated_stream_intact() {
    let mut cluster = Cluster::start().await;
    let jetstream = cluster.jetstream().await;
    jetstream.create_stream(stream::Config { num_replicas: 3, ..shop() }).await.unwrap();
    let leader = cluster.leader_of_stream("SHOP").await;
    let proxy = Proxy::start(cluster.node(leader).address()).await;
    let options = |options: jetstream_handlers::async_nats::ConnectOptions| options.ignore_discovered_servers();
    let connect = |url: String| Broker::builder().servers([url]).connect_options(options).connect().into_future();
    let broker = connect(proxy.url()).await.unwrap();
    let other = connect(cluster.urls()[leader].clone()).await.unwrap();
    proxy.pause();
    let publishing = broker.publish_message("orders.created", &1).expect_last_subject_sequence(0).into_future();
    let meanwhile = async {
        tokio::time::sleep(ms(200)).await;
        proxy.refuse();
        proxy.cut();
        tokio::time::sleep(ms(20)).await;
        proxy.resume();
        other.publish("orders.created", &2).await.unwrap();
        proxy.accept();
    };
    let (refused, ()) = futures::join!(publishing, meanwhile);
    assert_error(refused, ErrorKind::WrongLastSequence, &["wrong last sequence: 1"]);
    other.publish("orders.created", &3).await.unwrap();
}

/// Runs `work` while the leader of a stream steps down three times.
async fn while_the_leader_steps_down<T>(cluster: &mut Cluster, stream: &str, work: impl Future<Output = T>) -> T {
    let client = cluster.client().await;
    let request = format!("$JS.API.STREAM.LEADER.STEPDOWN.{stream}");
    let step_down = async {
        for _ in 0..3 {
            tokio::time::sleep(ms(400)).await;
            // Without a leader there is no reply.
            client.request(request.clone(), "".into()).await.map(drop).unwrap_or_default();
        }
    };
    join(work, step_down).await.0
}

/// Returns the payloads of a stream of a cluster in order.
async fn stored_in(cluster: &mut Cluster, stream: &str) -> Vec<u64> {
    let leader = cluster.leader_of_stream(stream).await;
    stored(cluster.node(leader), stream).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leader_step_down_loses_and_duplicates_nothing() {
    let mut cluster = Cluster::start().await;
    let jetstream = cluster.jetstream().await;
    let (atomic, ingest) = (binary::version() >= (2, 12, 1), binary::version() >= (2, 14, 0));
    for name in ["ALL", "ATOMIC", "INGEST"] {
        let config = stream::Config {
            name: name.to_owned(),
            subjects: vec![format!("{}.>", name.to_lowercase())],
            num_replicas: 3,
            allow_atomic_publish: atomic,
            allow_batch_publish: ingest,
            ..Default::default()
        };
        jetstream.create_stream(config).await.unwrap();
    }
    let broker = Broker::builder().servers(cluster.urls()).connect().await.unwrap();
    let slow = |id: &u64| {
        if id.is_multiple_of(20) {
            std::thread::sleep(ms(5));
        }
    };

    let messages = (1..=6000_u64).inspect(slow).map(|id| broker.publish_message("all.created", &id));
    let all = broker.publisher().publish_all(messages).collect::<Vec<_>>();
    for result in while_the_leader_steps_down(&mut cluster, "ALL", all).await {
        result.unwrap();
    }
    let payloads = stored_in(&mut cluster, "ALL").await;
    assert_eq!(payloads.len(), 6000, "no message is stored twice");
    assert_eq!(payloads.into_iter().collect::<BTreeSet<_>>(), (1..=6000).collect());

    if atomic {
        let batches = async {
            for batch in 0..30_u64 {
                let ids = batch * 50 + 1..=batch * 50 + 50;
                let messages = ids.inspect(slow).map(|id| broker.publish_message("atomic.created", &id));
                assert_eq!(broker.publisher().publish_atomic(messages).await.unwrap().batch_size, Some(50));
                tokio::time::sleep(ms(30)).await;
            }
        };
        while_the_leader_steps_down(&mut cluster, "ATOMIC", batches).await;
        assert_eq!(stored_in(&mut cluster, "ATOMIC").await, (1..=1500).collect::<Vec<_>>());
    }

    if ingest {
        let messages = (1..=10_000_u64).inspect(slow).map(|id| broker.publish_message("ingest.created", &id));
        let result = while_the_leader_steps_down(&mut cluster, "INGEST", broker.publisher().ingest(messages)).await;
        let known = result.map_or_else(|error| error.stored(), |ack| ack.batch_size.unwrap());
        let payloads = stored_in(&mut cluster, "INGEST").await;
        assert_eq!(payloads, (1..=payloads.len() as u64).collect::<Vec<_>>(), "a prefix without gaps");
        assert!(
            payloads.len() as u64 >= known && payloads.len() as u64 <= known + 1000,
            "{known} of {}",
            payloads.len()
        );
    }
}
