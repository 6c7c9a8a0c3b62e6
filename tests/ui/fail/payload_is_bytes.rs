use bytes::Bytes;
use jetstream_handlers::prelude::*;

#[subscriber(subject = "scans.created", queue = "archive")]
async fn archive(scan: Bytes) {
    println!("{}", scan.len());
}

fn main() {}
