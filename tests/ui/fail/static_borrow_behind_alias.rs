use jetstream_handlers::prelude::*;

#[derive(serde::Deserialize)]
struct OrderView<'a> {
    id: &'a str,
}

/// The attribute cannot see the lifetime behind an alias.
type View = OrderView<'static>;

#[subscriber(subject = "orders.created", queue = "order-processor")]
async fn process_order(order: View) {
    println!("{}", order.id);
}

fn main() {}
