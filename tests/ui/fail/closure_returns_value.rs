use jetstream_handlers::prelude::*;

async fn start(broker: Broker) {
    let confirm = |order: u64| async move { Ok(order + 1) };
    let _ = broker.subscribe("orders.created", "confirmer", confirm).publish("orders.confirmed").await;
}

fn main() {}
