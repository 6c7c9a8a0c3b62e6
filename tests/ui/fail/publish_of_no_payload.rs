use jetstream_handlers::prelude::*;

struct Confirmation {
    order: u64,
}

#[subscriber(subject = "orders.created", queue = "confirmer", publish = "orders.confirmed")]
async fn confirm(order: u64) -> HandlerResult<Confirmation> {
    Ok(Confirmation { order })
}

fn main() {}
