use jetstream_handlers::prelude::*;

struct NoPayload;

async fn start(broker: Broker) {
    let _ = broker.subscribe("orders.created", "billing", |_: NoPayload| async {}).await;
}

fn main() {}
