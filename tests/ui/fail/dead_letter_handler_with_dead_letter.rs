use jetstream_handlers::{DeadLetter, dead_letter_handler};

#[dead_letter_handler(queue = "alerts", dead_letter = "dlq.alerts")]
async fn alert(_letter: DeadLetter) {}

fn main() {}
