//! Several brokers in one program, each with the handlers that name it.

use jetstream_handlers::ErrorKind;
use jetstream_handlers::prelude::*;
use jetstream_handlers_tests::Recorder;

use crate::Transport;

contract![handlers_run_on_the_broker_that_they_name, broker_without_handlers_names_the_others,];

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
    assert!(text.starts_with("no handler has `broker = \"asia\"`; the existing names are: {\"eu\", \"us\"}"), "{text}");
}
