use jetstream_handlers::prelude::*;

struct Order {
    id: u64,
}

async fn send(publisher: &Publisher) -> HandlerResult {
    publisher.publish("orders.created", &Order { id: 7 }).await?;
    Ok(())
}

fn main() {}
