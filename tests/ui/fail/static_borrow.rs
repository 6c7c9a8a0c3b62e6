use jetstream_handlers::prelude::*;

#[derive(serde::Deserialize)]
struct OrderView<'a> {
    id: &'a str,
}

#[subscriber(subject = "orders.created", queue = "order-processor")]
async fn process_order(order: OrderView<'static>) {
    println!("{}", order.id);
}

fn main() {}
