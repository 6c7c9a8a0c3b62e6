//! The message of all benchmarks.

use serde::{Deserialize, Serialize};

/// About 190 bytes of JSON, most of them in strings that the handler owns.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Order {
    pub(crate) id: u64,
    pub(crate) customer: String,
    pub(crate) email: String,
    pub(crate) article: String,
    pub(crate) quantity: u32,
    pub(crate) cents: u64,
    pub(crate) currency: String,
    pub(crate) address: String,
    /// The time of publishing, in nanoseconds since an epoch in this process.
    pub(crate) placed: u64,
}

impl Order {
    pub(crate) fn new(id: u64) -> Self {
        Self {
            id,
            customer: "Ada Lovelace".into(),
            email: "ada@analytical.example".into(),
            article: "Sketch of the engine".into(),
            quantity: 2,
            cents: 129_900,
            currency: "EUR".into(),
            address: "12 St James's Square, London".into(),
            placed: 0,
        }
    }

    pub(crate) fn json(&self) -> bytes::Bytes {
        serde_json::to_vec(self).expect("an order is JSON").into()
    }
}
