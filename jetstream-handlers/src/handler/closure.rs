//! Closures as handlers.

use futures::FutureExt as _;

use super::CallFuture;
use crate::extract::{Argument, Context, Delivery, Problems, Results};
use crate::outcome::{DeclaredOutputs, Elements, HandlerResult, IntoOutputs, IntoSettle, IntoSettles, Outcome, Settle};

/// A closure that [`Broker::subscribe`](crate::Broker::subscribe) accepts as a handler.
///
/// It is implemented for closures with up to eight parameters.
/// Each parameter must be one that an annotated function can take, and must not borrow from the message.
/// A closure returns `()`, [`Settle`], or a [`HandlerResult`] with `()` or outputs, such as [`Output`](crate::Output); it
/// returns no other `Result`, so that the error type of a plain `Ok(())` and of every `?` can be inferred.
/// A closure that takes a [`Batch`](crate::Batch) returns no outputs of the whole batch, but may return a `Vec` with one
/// of these for each element.
#[diagnostic::on_unimplemented(
    message = "this closure is not a handler",
    label = "not a handler",
    note = "write `|order: OrderCreated| async move {{ Ok(()) }}`, which returns `()`, `HandlerResult` or `Settle`",
    note = "to publish a value, return `Ok(Output::new(&value))` and name its subject with `.publish(\"..\")`, or return `Ok(Output::to(\"..\", &value))`",
    note = "each parameter is a payload that implements `serde::de::DeserializeOwned`, or implements `jetstream_handlers::FromMessage`",
    note = "a closure takes at most eight parameters; it may run in parallel and must be `Fn + Send + Sync + 'static`"
)]
pub trait Closure<Arguments>: Send + Sync + 'static {
    #[doc(hidden)]
    fn call(&self, slot: &mut CallFuture, delivery: Delivery<'_>, context: &Context);

    #[doc(hidden)]
    fn check(context: &Context, problems: &mut Problems);
}

/// A return type of a closure; only one `Result` implements it, so that the error type can be inferred.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a return type of a closure",
    label = "a closure returns `()`, `HandlerResult` or `Settle`",
    note = "to publish a value, return `Ok(Output::new(&value))` and name its subject with `.publish(\"..\")`, or return `Ok(Output::to(\"..\", &value))`",
    note = "the `?` operator converts any error into the `HandlerError` of a `HandlerResult`; end with `Ok(())`"
)]
pub trait ClosureResult {
    /// The results of a call.
    const RESULTS: Results;

    /// Converts the result of a call; a batch has `elements`.
    fn into_outcome_of(self, elements: Option<&Elements>) -> Outcome;

    /// Adds the outputs that are known before a call.
    fn declare_results(_: &mut DeclaredOutputs) {}
}

impl ClosureResult for () {
    const RESULTS: Results = Results::One;

    fn into_outcome_of(self, _: Option<&Elements>) -> Outcome {
        self.into_outcome()
    }
}

impl ClosureResult for Settle {
    const RESULTS: Results = Results::One;

    fn into_outcome_of(self, _: Option<&Elements>) -> Outcome {
        self.into_outcome()
    }
}

impl ClosureResult for HandlerResult {
    const RESULTS: Results = Results::One;

    fn into_outcome_of(self, _: Option<&Elements>) -> Outcome {
        self.into_outcome()
    }
}

#[diagnostic::do_not_recommend]
impl<T: IntoOutputs> ClosureResult for HandlerResult<T> {
    const RESULTS: Results = Results::OneWithOutputs;

    fn into_outcome_of(self, _: Option<&Elements>) -> Outcome {
        self.into_outcome()
    }

    fn declare_results(outputs: &mut DeclaredOutputs) {
        T::declare_outputs(outputs);
    }
}

/// One result for each element of a batch.
#[diagnostic::do_not_recommend]
impl<T: IntoSettle> ClosureResult for Vec<T> {
    const RESULTS: Results = Results::OfElements;

    fn into_outcome_of(self, elements: Option<&Elements>) -> Outcome {
        self.into_settles(elements.unwrap_or(&Elements::default()))
    }

    fn declare_results(outputs: &mut DeclaredOutputs) {
        T::declare(outputs);
    }
}

macro_rules! closure {
    ($($argument:ident $via:ident),*) => {
        #[allow(non_snake_case, unused_variables)]
        impl<F, Answer, $($argument, $via),*> Closure<($(($argument, $via),)*)> for F
        where
            F: Fn($($argument),*) -> Answer + Send + Sync + 'static,
            Answer: Future<Output: ClosureResult> + Send + 'static,
            $($argument: for<'m> Argument<'m, $via> + Send + 'static,)*
        {
            fn call(&self, slot: &mut CallFuture, delivery: Delivery<'_>, context: &Context) {
                $(
                    let $argument = match $argument::extract_from(delivery, context) {
                        Ok(argument) => argument,
                        Err(rejection) => return slot.run(std::future::ready(rejection.into_outcome())),
                    };
                )*
                let elements = delivery.shared_elements();
                slot.run(self($($argument),*).map(move |returned| returned.into_outcome_of(elements.as_deref())));
            }

            fn check(context: &Context, problems: &mut Problems) {
                $(problems.check::<$argument, $via>(context);)*
                let payloads: &[bool] = &[$(<$argument as Argument<'_, $via>>::IS_PAYLOAD),*];
                problems.check_payloads(payloads.iter().filter(|is_payload| **is_payload).count());
                problems.results = Some(<Answer::Output as ClosureResult>::RESULTS);
                <Answer::Output as ClosureResult>::declare_results(&mut problems.outputs);
            }
        }
    };
}

closure!();
closure!(A ViaA);
closure!(A ViaA, B ViaB);
closure!(A ViaA, B ViaB, C ViaC);
closure!(A ViaA, B ViaB, C ViaC, D ViaD);
closure!(A ViaA, B ViaB, C ViaC, D ViaD, E ViaE);
closure!(A ViaA, B ViaB, C ViaC, D ViaD, E ViaE, G ViaG);
closure!(A ViaA, B ViaB, C ViaC, D ViaD, E ViaE, G ViaG, H ViaH);
closure!(A ViaA, B ViaB, C ViaC, D ViaD, E ViaE, G ViaG, H ViaH, I ViaI);

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use crate::Broker;
    use crate::codec::Raw;
    use crate::error::ErrorKind;
    use crate::extract::{Rejection, Subject};

    #[tokio::test]
    async fn bytes_without_raw_are_refused_at_the_start() {
        let broker = Broker::in_memory();
        let error = broker.subscribe("scans.created", "archive", async |_: Bytes| {}).await.unwrap_err();
        let text = "`closure on scans.created` takes `Bytes`, which would be decoded from an array of numbers; take `Raw<Bytes>` for the payload as it is";
        assert_eq!(error.to_string(), text);
        let error = broker.subscribe("scans.created", "archive", async |_: Result<Bytes, Rejection>| {}).await;
        assert_eq!(error.unwrap_err().to_string(), text);
        assert!(broker.subscribe("scans.created", "archive", async |_: Raw<Bytes>| {}).await.is_ok());
    }

    #[tokio::test]
    async fn second_payload_is_refused_at_the_start() {
        let broker = Broker::in_memory();
        let handler = async |_: u64, _: Subject, _: String| {};
        let error = broker.subscribe("orders.created", "billing", handler).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        let text = error.to_string();
        assert!(
            text.starts_with("`closure on orders.created` takes 2 payloads, but a message has one body;"),
            "{text}"
        );
    }
}
