//! An attribute-macro handler framework for NATS JetStream.

mod backoff;
mod broker;
mod builder;
mod dead_letter;
mod dead_letters;
mod error;
mod extract;
mod health;
mod message;
mod names;
mod nats;
mod pattern;
mod publish;
mod settle;
mod subscriber;
mod transport;
mod worker;

pub use async_nats;
pub use async_nats::jetstream::publish::PublishAck;
pub use async_nats::jetstream::stream;

pub use broker::{Broker, Running, Subscribe, Subscription};
pub use builder::Builder;
pub use dead_letters::{DeadLetter, DeadLetters};
pub use error::{Error, ErrorKind};
pub use extract::{Argument, Context, FromMessage, Headers, Rejection, Shutdown, State, Subject};
pub use health::{HandlerHealth, Health, Status};
pub use jetstream_handlers_macros::subscriber;
pub use message::{Info, Message};
pub use publish::{PublishMessage, Publisher};
pub use settle::{HandlerError, HandlerResult, IntoSettle, Outcome, Settle};
pub use subscriber::{Closure, Subscriber};

/// What a service needs in scope: `use jetstream_handlers::prelude::*;`.
pub mod prelude {
    pub use crate::{
        Broker, Context, FromMessage, HandlerError, HandlerResult, Headers, Info, Message, Publisher, Rejection,
        Settle, Shutdown, State, Subject, subscriber,
    };

    /// So many seconds, for `fetch_wait(secs(5))` and the like.
    pub const fn secs(seconds: u64) -> std::time::Duration {
        std::time::Duration::from_secs(seconds)
    }
}

/// What the attribute's expansion names; not for use by hand, and free to change.
#[doc(hidden)]
pub mod __private {
    pub use std::borrow::Cow;

    pub use inventory;

    pub use crate::extract::{Argument, Context, Problems, Rejection};
    pub use crate::message::Message;
    pub use crate::settle::{IntoSettle, Outcome};
    pub use crate::subscriber::{Ack, Backoff, DeadLetter, Entry, Registration, Slot, StaticPlan, Subscriber};

    use crate::settle::{Reason, Settle};

    /// Makes one parameter.
    pub fn extract<'m, T: Argument<'m, Via>, Via>(message: &'m Message, context: &Context) -> Result<T, Rejection> {
        T::extract(message, context)
    }

    /// Says what one parameter misses at start-up.
    pub fn check<'m, T: Argument<'m, Via>, Via>(context: &Context, problems: &mut Problems) {
        if let Err(rejection) = T::check(context) {
            problems.add(&rejection);
        }
    }

    /// What becomes of a call whose parameters could not be made.
    #[allow(clippy::needless_pass_by_value)] // it is the error of a `Result`, written by the expansion
    pub fn rejected(rejection: Rejection) -> Outcome {
        Outcome::failed(Settle::Terminate, Reason::Undecodable, rejection.to_string())
    }

    /// What became of a call.
    pub fn outcome<T: IntoSettle>(returned: T) -> Outcome {
        returned.into_outcome()
    }
}
