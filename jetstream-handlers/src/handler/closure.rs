//! Closures as handlers.

use futures::FutureExt as _;

use super::CallFuture;
use crate::extract::{Argument, Context, Problems};
use crate::message::Message;
use crate::outcome::{HandlerResult, IntoSettle, Settle};

/// A closure that [`Broker::subscribe`](crate::Broker::subscribe) takes as a handler.
///
/// It is implemented for every closure of up to eight parameters that an annotated function could have as well,
/// as long as none of them borrows from the message.
/// It returns `()`, [`Settle`] or a [`HandlerResult`], and no other `Result`:
/// so the compiler knows the error of a plain `Ok(())` and of every `?`.
#[diagnostic::on_unimplemented(
    message = "this closure is not a handler",
    label = "not a handler",
    note = "write `|order: OrderCreated| async move {{ Ok(()) }}`: each parameter a payload or something to extract, the result `()`, `HandlerResult` or `Settle`"
)]
pub trait Closure<Arguments>: Send + Sync + 'static {
    #[doc(hidden)]
    fn call(&self, slot: &mut CallFuture, message: &Message, context: &Context);

    #[doc(hidden)]
    fn check(context: &Context, problems: &mut Problems);
}

/// What a closure returns; that there is one `Result` among them lets its error be inferred.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not say how a message ends",
    label = "not a result of a closure",
    note = "return `()`, `Settle` or a `HandlerResult`; the `?` operator makes a `HandlerError` of any error"
)]
pub trait ClosureResult: IntoSettle {}

impl ClosureResult for () {}
impl ClosureResult for Settle {}
impl ClosureResult for HandlerResult {}

macro_rules! closure {
    ($($argument:ident $via:ident),*) => {
        #[allow(non_snake_case, unused_variables)]
        impl<F, Answer, $($argument, $via),*> Closure<($(($argument, $via),)*)> for F
        where
            F: Fn($($argument),*) -> Answer + Send + Sync + 'static,
            Answer: Future<Output: ClosureResult> + Send + 'static,
            $($argument: for<'m> Argument<'m, $via> + Send + 'static,)*
        {
            fn call(&self, slot: &mut CallFuture, message: &Message, context: &Context) {
                $(
                    let $argument = match $argument::extract(message, context) {
                        Ok(argument) => argument,
                        Err(rejection) => return slot.run(std::future::ready(crate::__private::rejected(rejection))),
                    };
                )*
                slot.run(self($($argument),*).map(IntoSettle::into_outcome));
            }

            fn check(context: &Context, problems: &mut Problems) {
                $(problems.check::<$argument, $via>(context);)*
                let payloads: &[bool] = &[$(<$argument as Argument<'_, $via>>::IS_PAYLOAD),*];
                problems.check_payloads(payloads.iter().filter(|is_payload| **is_payload).count());
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
