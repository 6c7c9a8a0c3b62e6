use jetstream_handlers::prelude::*;

#[derive(serde::Deserialize)]
struct OrderView<'a> {
    id: &'a str,
}

async fn start(broker: Broker) {
    let _ = broker.subscribe("orders.created", "billing", |order: OrderView<'_>| async move { drop(order) }).await;
}

fn main() {}
