//! The assertion that handlers are idempotent.

use std::fmt;
use std::pin::Pin;

use super::{Builder, TestBroker};

/// Asserts that handlers are idempotent: that a redelivery of every message does not change the effects.
///
/// The scenario runs twice, each time with a fresh broker: once unchanged, and once with every message redelivered after its ack.
/// The scenario returns the effects to compare.
///
/// # Panics
///
/// Panics if the effects differ.
///
/// # Examples
///
/// ```
/// use jetstream_handlers::prelude::*;
/// use jetstream_handlers::testing::{TestBroker, assert_idempotent};
/// use std::collections::BTreeSet;
/// use std::sync::{Arc, Mutex};
///
/// type Paid = Arc<Mutex<BTreeSet<u64>>>;
///
/// #[subscriber(subject = "invoices.due", queue = "payer")]
/// async fn pay(invoice: u64, State(paid): State<Paid>) {
///     paid.lock().unwrap().insert(invoice);
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// assert_idempotent(async |start| {
///     let paid = Paid::default();
///     let broker = start(TestBroker::builder().include::<pay>().state(paid.clone())).await;
///     broker.publish("invoices.due", &1).await;
///     paid.lock().unwrap().clone()
/// })
/// .await;
/// # }
/// ```
pub async fn assert_idempotent<E, S>(scenario: S)
where
    E: PartialEq + fmt::Debug,
    S: AsyncFn(fn(Builder) -> Pin<Box<dyn Future<Output = TestBroker>>>) -> E,
{
    let once = scenario(|builder| Box::pin(builder.start())).await;
    let twice = scenario(|builder| {
        Box::pin(async move {
            let broker = builder.start().await;
            broker.redeliver_all();
            broker
        })
    })
    .await;
    assert!(
        once == twice,
        "the handlers are not idempotent: the effects are {once:#?} with every message delivered once, and {twice:#?} with every message delivered twice"
    );
}
