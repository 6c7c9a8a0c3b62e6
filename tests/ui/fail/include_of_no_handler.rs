use jetstream_handlers::prelude::*;

struct NotAHandler;

fn start(broker: &Broker) {
    broker.include::<NotAHandler>();
}

fn main() {}
