use jetstream_handlers::prelude::*;

async fn start(broker: Broker) {
    let prefix = String::from("order");
    let _ = broker
        .subscribe("orders.created", "billing", |id: u64| async {
            println!("{prefix} {id}");
        })
        .await;
}

fn main() {}
