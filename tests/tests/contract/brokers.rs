//! Several brokers in one program, each with the handlers that name it.

use jetstream_handlers::ErrorKind;
use jetstream_handlers::prelude::*;
use jetstream_handlers::testing::TestBroker;
use jetstream_handlers_tests::Recorder;

use crate::Transport;

contract![
    handlers_run_on_the_broker_that_they_name,
    broker_without_handlers_names_the_others,
    test_broker_has_a_name,
    test_broker_has_a_prefix,
];

#[subscriber(subject = "mirrored.orders", queue = "eu", broker = "eu", group = "mirror")]
async fn eu(id: u64, calls: Option<State<Recorder<(&'static str, u64)>>>) {
    // The other tests start every handler, without this state.
    calls.iter().for_each(|calls| calls.add(("eu", id)));
}

#[subscriber(subject = "mirrored.orders", queue = "us", broker = "us")]
async fn us(id: u64, calls: Option<State<Recorder<(&'static str, u64)>>>) {
    // The other tests start every handler, without this state.
    calls.iter().for_each(|calls| calls.add(("us", id)));
}

async fn connect(transport: &Transport, name: &str, calls: &Recorder<(&'static str, u64)>) -> Broker {
    let builder = Broker::builder().name(name).state(calls.clone());
    match transport {
        Transport::Memory => builder.connect_in_memory(),
        Transport::Live(server) => builder.servers([server.url()]).connect().await.unwrap(),
    }
}

async fn handlers_run_on_the_broker_that_they_name(transport: &Transport) {
    let calls = Recorder::default();
    let (eu_broker, us_broker) = (connect(transport, "eu", &calls).await, connect(transport, "us", &calls).await);
    let running = [eu_broker.start_groups(["mirror"]).await.unwrap(), us_broker.start_all().await.unwrap()];
    let handlers = |broker: &Broker| {
        broker.health().handlers.iter().map(|it| it.handler.rsplit("::").next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!((handlers(&eu_broker), handlers(&us_broker)), (vec!["eu".to_owned()], vec!["us".to_owned()]));
    eu_broker.publish("mirrored.orders", &7).await.unwrap();
    calls.until(("eu", 7)).await;
    assert_eq!(us_broker.start_groups(["mirror"]).await.unwrap_err().kind(), ErrorKind::NoHandlers);
    for running in running {
        running.shutdown().await.unwrap();
    }
    let included = connect(transport, "us", &calls).await;
    let error = included.include::<eu>().start_all().await.unwrap_err();
    let text = error.to_string();
    let expected = "eu`: broker: is `eu`, but the broker that includes the handler has the name `us`;";
    assert!(text.contains(expected), "{text}");
}

async fn broker_without_handlers_names_the_others(transport: &Transport) {
    let error = connect(transport, "asia", &Recorder::default()).await.start_all().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoHandlers);
    let text = error.to_string();
    assert!(
        text.starts_with("no handler has `broker = \"asia\"`; the existing names are: {\"eu\", \"plan\", \"us\"}"),
        "{text}"
    );
}

async fn test_broker_has_a_name(transport: &Transport) {
    let calls = Recorder::<(&'static str, u64)>::default();
    let broker = transport.start(TestBroker::builder().name("eu").state(calls.clone())).await;
    broker.publish("mirrored.orders", &7).await;
    broker.handled::<eu>().once().with(&7);
    broker.handled::<us>().never();
    assert_eq!(calls.items(), [("eu", 7)]);
    let refused = TestBroker::builder().name("eu").include::<us>().try_start().await.unwrap_err();
    let text = refused.to_string();
    assert!(
        text.contains("us`: broker: is `us`, but the broker that includes the handler has the name `eu`"),
        "{text}"
    );
}

async fn test_broker_has_a_prefix(transport: &Transport) {
    let declared = crate::stream_config("MIRRORED", &["mirrored.>"]);
    let builder = TestBroker::builder().subject_prefix("acme.staging").stream(declared).name("eu").group("mirror");
    let broker = transport.start(builder).await;
    let ack = broker.publish("mirrored.orders", &7).await;
    assert_eq!(ack.stream, "ACME_STAGING_MIRRORED");
    broker.handled::<eu>().once().with(&7);
    let messages = broker.published_messages("mirrored.>").await;
    assert_eq!(messages.iter().map(|it| it.subject()).collect::<Vec<_>>(), ["acme.staging.mirrored.orders"]);
    broker.publish("mirrored.orders", "no number").await;
    let letters = broker.dead_letters().await;
    assert_eq!((letters.len(), &*letters[0].subject), (1, "acme.staging.mirrored.orders"), "{letters:?}");
    let second = broker.second_instance().await;
    let running = second.start_all().await.unwrap();
    assert_eq!(second.publish("mirrored.orders", &8).await.unwrap().stream, "ACME_STAGING_MIRRORED");
    running.shutdown().await.unwrap();
    transport.delete_message(&broker, "ACME_STAGING_MIRRORED", 1).await;
    assert_eq!(broker.published_messages("mirrored.>").await.len(), 2);
}
