use jetstream_handlers::testing::TestBroker;

#[jetstream_handlers::test(clock = stopped)]
async fn waits(broker: TestBroker) {
    broker.idle().await;
}

fn main() {}
