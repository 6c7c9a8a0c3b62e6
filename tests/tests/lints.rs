//! The expansion under strict lints, and among names that shadow those it uses.
//!
//! Compiling this file is the test.

#![forbid(unsafe_code)]
#![deny(
    warnings,
    future_incompatible,
    let_underscore,
    nonstandard_style,
    rust_2018_idioms,
    rust_2021_compatibility,
    rust_2024_compatibility,
    unused,
    absolute_paths_not_starting_with_crate,
    elided_lifetimes_in_paths,
    explicit_outlives_requirements,
    keyword_idents,
    let_underscore_drop,
    missing_copy_implementations,
    missing_debug_implementations,
    missing_docs,
    non_ascii_idents,
    redundant_lifetimes,
    single_use_lifetimes,
    trivial_casts,
    trivial_numeric_casts,
    unit_bindings,
    unnameable_types,
    unreachable_pub,
    unused_extern_crates,
    unused_import_braces,
    unused_lifetimes,
    unused_qualifications,
    unused_results,
    variant_size_differences
)]
#![deny(clippy::all, clippy::pedantic, clippy::nursery)]

/// Handlers of every kind.
pub mod handlers {
    use std::time::Duration;

    use jetstream_handlers::prelude::*;
    use serde::Deserialize;

    /// A payload.
    #[derive(Debug, Clone, Copy, Deserialize)]
    pub struct Order {
        /// The number.
        pub id: u64,
    }

    /// A payload that borrows from its message.
    #[derive(Debug, Clone, Copy, Deserialize)]
    pub struct OrderView<'a> {
        /// The number, as text.
        pub id: &'a str,
    }

    async fn rest() {
        tokio::time::sleep(Duration::ZERO).await;
    }

    /// A handler with every key.
    ///
    /// # Errors
    ///
    /// None.
    #[subscriber(
        subject = "lints.every",
        queue = "lints-every",
        stream = "LINTS",
        concurrency = 4,
        batch_size = 10,
        ack_wait = "30s",
        timeout = "1m30s",
        max_deliver = 3,
        backoff = { initial = "1s", factor = 1.5, max = "2m" },
        dead_letter = "dlq.lints",
        ack = "confirmed",
        group = "lints",
    )]
    pub async fn every_key(order: Order, State(database): State<String>) -> HandlerResult {
        rest().await;
        println!("{} {database}", order.id);
        Ok(())
    }

    #[subscriber(subject = "lints.*.steps", queue = "lints-steps", backoff = ["1s", "5s"], dead_letter = false)]
    pub(crate) async fn steps(mut order: Order, _: Subject, Headers { .. }: Headers) -> Settle {
        order.id += 1;
        println!("{order:?}");
        rest().await;
        Settle::Ack
    }

    #[subscriber(subject = "lints.view", queue = "lints-view")]
    pub(super) async fn view(view: OrderView<'_>) -> Result<(), std::io::Error> {
        rest().await;
        println!("{view:?}");
        Ok(())
    }

    #[subscriber(subject = "lints.>", queue = "lints-nothing")]
    async fn nothing() {
        rest().await;
    }

    #[subscriber(subject = "lints.impl", queue = "lints-impl")]
    async fn hidden_error(_: Message) -> Result<(), impl std::error::Error> {
        rest().await;
        Ok::<(), std::fmt::Error>(())
    }

    /// With a value to publish.
    ///
    /// # Errors
    ///
    /// None.
    #[subscriber(subject = "lints.publish", queue = "lints-publish", publish = "lint.published")]
    pub async fn publishing(order: Order) -> HandlerResult<Option<u64>> {
        rest().await;
        Ok(Some(order.id))
    }

    /// With every key of ordered handlers.
    #[subscriber(subject = "lints.ordered", queue = "lints-ordered", ordered, ack_every = 10, single_instance)]
    pub async fn ordered(order: Order) {
        rest().await;
        println!("{order:?}");
    }

    /// With a key of messages.
    #[subscriber(subject = "lints.{region}.keyed", queue = "lints-keyed", key = "{region}", concurrency = 4)]
    pub async fn keyed(order: Order) {
        rest().await;
        println!("{order:?}");
    }

    #[subscriber(subject = "lints.tenants", queue = "lints-tenants", key = header("Tenant"), single_instance)]
    async fn tenants(order: Order) {
        rest().await;
        println!("{order:?}");
    }

    /// A function that is not async.
    ///
    /// # Errors
    ///
    /// None.
    #[subscriber(subject = "lints.blocking", queue = "lints-blocking", blocking = true, concurrency = 2)]
    pub fn blocking(view: OrderView<'_>) -> HandlerResult {
        println!("{view:?}");
        Ok(())
    }

    #[subscriber(subject = "lints.threads", queue = "lints-threads", threads = 2)]
    fn threads(order: Order) {
        println!("{order:?}");
    }

    #[deprecated]
    #[must_use]
    #[subscriber(subject = "lints.old", queue = "lints-old")]
    async fn old_and_important(_: Order) -> Settle {
        rest().await;
        Settle::Ack
    }

    #[subscriber(subject = "lints.raw", queue = "lints-raw")]
    async fn r#type(r#match: Order) {
        rest().await;
        println!("{match:?}");
    }

    #[subscriber(subject = "lints.never", queue = "lints-never")]
    #[cfg(any())]
    async fn never(order: ThisTypeDoesNotExist) {}
}

/// Names of the user that the expansion uses as well.
pub mod shadowed {
    use ::core::result::Result as Answer;

    use ::jetstream_handlers::prelude::{Subject, subscriber};

    use crate::handlers::Order;

    /// Nothing.
    pub mod core {}
    /// Nothing.
    pub mod std {}
    /// Nothing.
    pub mod jetstream_handlers {}
    /// Nothing.
    pub mod inventory {}

    macro_rules! shadows {
        ($($name:ident)*) => {
            $(
                /// Nothing.
                #[derive(Debug, Clone, Copy)]
                pub struct $name;
            )*
        };
    }
    shadows!(Result Option Ok Err Some None Registration Subscriber Entry Message Context Plan Parameter Body);

    #[allow(unused_macros)]
    macro_rules! concat {
        () => {};
    }
    #[allow(unused_macros)]
    macro_rules! line {
        () => {};
    }

    #[subscriber(subject = "shadowed.call", queue = "shadowed-call", concurrency = 2)]
    async fn call(message: Order, context: Subject, slot: Subject, argument0: Subject) -> Answer<(), String> {
        ::tokio::task::yield_now().await;
        println!("{message:?} {context:?} {slot:?} {argument0:?}");
        Answer::Ok(())
    }

    /// A payload with the name of a trait by which the expansion finds out how to decode it.
    #[derive(Debug, Clone, Copy, serde::Deserialize)]
    pub struct Second {
        /// The number.
        pub id: u64,
    }

    /// A payload with the name of a trait by which the expansion finds out how to publish it.
    #[derive(Debug, Clone, Copy, serde::Serialize)]
    pub struct PublishesResult {
        /// The number.
        pub id: u64,
    }

    #[subscriber(subject = "shadowed.traits", queue = "shadowed-traits", publish = "shadow.published")]
    async fn traits(second: Second) -> Answer<PublishesResult, String> {
        ::tokio::task::yield_now().await;
        Answer::Ok(PublishesResult { id: second.id })
    }

    #[subscriber(subject = "shadowed.message", queue = "shadowed-message")]
    async fn message(message: Order) {
        ::tokio::task::yield_now().await;
        println!("{message:?}");
    }
}

#[test]
fn expansion_compiles() {}
