use jetstream_handlers::prelude::*;
use serde::Deserialize;

#[derive(Deserialize)]
struct Tenant(String);

impl FromMessage for Tenant {
    fn from_message(message: &Message, context: &jetstream_handlers::Context) -> Result<Self, Rejection> {
        let subject = Subject::from_message(message, context)?;
        Ok(Self(subject.to_string()))
    }
}

#[subscriber(subject = "orders.created", queue = "order-processor")]
async fn process_order(tenant: Tenant) {
    println!("{}", tenant.0);
}

fn main() {}
