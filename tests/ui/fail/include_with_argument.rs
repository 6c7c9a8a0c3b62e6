use jetstream_handlers::prelude::*;

#[subscriber(subject = "orders.created", queue = "order-processor")]
async fn process_order(order: String) {
    drop(order);
}

fn start(broker: &Broker) {
    broker.include(process_order);
}

fn main() {}
