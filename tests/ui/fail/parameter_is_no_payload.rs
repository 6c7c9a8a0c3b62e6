use jetstream_handlers::prelude::*;

struct OrderCreated {
    id: u64,
}

#[subscriber(subject = "orders.created", queue = "order-processor")]
async fn process_order(order: OrderCreated, subject: Subject) -> HandlerResult {
    println!("{subject} {}", order.id);
    Ok(())
}

fn main() {}
