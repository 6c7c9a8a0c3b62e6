use jetstream_handlers::prelude::*;

#[derive(Debug)]
struct OutOfStock;

impl std::fmt::Display for OutOfStock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("out of stock")
    }
}

impl std::error::Error for OutOfStock {}

impl From<OutOfStock> for HandlerError {
    fn from(error: OutOfStock) -> Self {
        HandlerError::terminate(error)
    }
}

fn main() {}
