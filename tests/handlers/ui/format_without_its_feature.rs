use jetstream_handlers::prelude::*;
use jetstream_handlers::{Cbor, MessagePack, MessagePackCodec, Protobuf};

#[subscriber(subject = "orders.created", queue = "order-processor")]
async fn process_order(order: MessagePack<u64>, publisher: Publisher) -> HandlerResult {
    publisher.publish("orders.processed", &Cbor(order.0)).await?;
    Ok(())
}

fn main() {
    let _ = Broker::builder().codec(MessagePackCodec);
}
