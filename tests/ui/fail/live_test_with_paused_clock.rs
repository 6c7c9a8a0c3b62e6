use jetstream_handlers::testing::TestBroker;

#[jetstream_handlers::test(live, clock = paused)]
async fn waits(broker: TestBroker) {
    broker.idle().await;
}

fn main() {}
