use jetstream_handlers::prelude::*;

#[subscriber]
async fn process_order(order: String) -> HandlerResult {
    println!("{order}");
    Ok(())
}

fn main() {}
