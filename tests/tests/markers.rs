//! Messages without a body: the tombstones of key-value buckets, and the delete markers of the server.
//!
//! `contract/markers.rs` has those that the memory transport stores too.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

use async_nats::HeaderMap;
use async_nats::jetstream::Context;
use jetstream_handlers::prelude::*;
use jetstream_handlers::stream;
use jetstream_handlers_tests::{Recorder, Server, connect, stream_config};

/// Writes to a key of the bucket `CONF`, as a client of key-value buckets does (ADR-8).
async fn write(jetstream: &Context, key: &str, value: &'static str, headers: &[(&str, &str)]) {
    let mut map = HeaderMap::new();
    headers.iter().for_each(|(name, value)| map.append(*name, *value));
    let published = jetstream.publish_with_headers(format!("$KV.CONF.{key}"), map, value.into()).await.unwrap();
    published.await.unwrap();
}

/// Creates the bucket `CONF`, and a stream of its changes on `conf.>`.
async fn bucket(jetstream: &Context) {
    let (source, destination) = ("$KV.CONF.>".to_owned(), "conf.>".to_owned());
    jetstream.create_stream(stream_config("CONF", &["conf.>"])).await.unwrap();
    jetstream
        .create_stream(stream::Config {
            max_messages_per_subject: 1,
            republish: Some(stream::Republish { source, destination, headers_only: false }),
            ..stream_config("KV_CONF", &["$KV.CONF.>"])
        })
        .await
        .unwrap();
}

#[tokio::test]
async fn tombstones_of_a_bucket_are_acked_without_a_call() {
    let server = Server::start().await;
    let jetstream = server.jetstream().await;
    bucket(&jetstream).await;
    let broker = connect(&server).await;
    let (plain, ordered, raw) = (Recorder::new(), Recorder::new(), Recorder::<String>::default());
    let _plain = broker.subscribe("conf.>", "plain", plain.handler()).concurrency(2).await.unwrap();
    let _ordered = broker.subscribe("conf.>", "ordered", ordered.handler()).ordered().await.unwrap();
    let recorder = raw.clone();
    let handler = move |message: Message| {
        recorder.add(format!("{} {:?}", message.subject(), message.header("KV-Operation")));
        std::future::ready(())
    };
    let _raw = broker.subscribe("conf.>", "raw", handler).await.unwrap();

    write(&jetstream, "a", "1", &[]).await;
    write(&jetstream, "a", "", &[("KV-Operation", "DEL")]).await;
    write(&jetstream, "b", "", &[("KV-Operation", "PURGE")]).await;
    write(&jetstream, "c", "", &[("Nats-Marker-Reason", "MaxAge")]).await;
    write(&jetstream, "b", "2", &[]).await;
    raw.until_len(5).await;
    for consumer in ["plain", "ordered", "raw"] {
        server.all_acked("CONF", consumer).await;
    }
    let mut plain = plain.items();
    plain.sort_unstable();
    assert_eq!((plain, ordered.items()), (vec![1, 2], vec![1, 2]));
    assert_eq!(
        raw.items(),
        ["conf.a None", "conf.a Some(\"DEL\")", "conf.b Some(\"PURGE\")", "conf.c None", "conf.b None"]
    );
    assert!(broker.dead_letters().list(10).await.unwrap().is_empty());
}

#[tokio::test]
async fn empty_body_that_is_no_marker_is_still_undecodable() {
    let server = Server::start().await;
    let jetstream = server.jetstream().await;
    bucket(&jetstream).await;
    let broker = connect(&server).await;
    let (values, options) = (Recorder::<u64>::new(), Recorder::<Option<u64>>::default());
    let _values = broker.subscribe("conf.>", "values", values.handler()).await.unwrap();
    let _options = broker.subscribe("conf.>", "options", options.handler()).await.unwrap();
    write(&jetstream, "a", "", &[("Tenant", "acme")]).await;
    write(&jetstream, "b", "", &[("KV-Operation", "PUT")]).await;
    write(&jetstream, "c", "3", &[("KV-Operation", "DEL")]).await;
    write(&jetstream, "d", "", &[("KV-Operation", "DEL")]).await;
    options.until_len(4).await;
    for consumer in ["values", "options"] {
        server.all_acked("CONF", consumer).await;
    }
    assert_eq!((values.items(), options.items()), (vec![3], vec![None, None, Some(3), None]));
    let letters = broker.dead_letters().for_handler("values").list(10).await.unwrap();
    let subjects: Vec<_> = letters.iter().map(|letter| letter.subject.as_str()).collect();
    assert_eq!(subjects, ["conf.a", "conf.b"]);
    assert_eq!(broker.dead_letters().list(10).await.unwrap().len(), 2);
}
