use jetstream_handlers::{DeadLetter, dead_letter_handler};

#[dead_letter_handler]
async fn alert(_letter: DeadLetter) {}

fn main() {}
