use jetstream_handlers::prelude::*;

#[subscriber(subject = "orders.{region}", queue = "order-processor")]
async fn process_order(Path(region): Path<&str>) -> HandlerResult {
    println!("{region}");
    Ok(())
}

fn main() {}
