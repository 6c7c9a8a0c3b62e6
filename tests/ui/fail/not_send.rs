use jetstream_handlers::prelude::*;

async fn store() {}

#[subscriber(subject = "orders.created", queue = "order-processor")]
async fn process_order(order: String) {
    let shared = std::rc::Rc::new(order);
    store().await;
    println!("{shared}");
}

fn main() {}
