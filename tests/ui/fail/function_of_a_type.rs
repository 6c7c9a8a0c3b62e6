use jetstream_handlers::prelude::*;

struct Orders;

impl Orders {
    #[subscriber(subject = "orders.created", queue = "order-processor")]
    async fn process(order: String) {
        drop(order);
    }
}

fn main() {}
