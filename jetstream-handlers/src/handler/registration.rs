//! Registrations of annotated functions, collected at link time.

use super::CallFuture;
use crate::extract::{Context, Problems};
use crate::message::Message;
use crate::plan::StaticPlan;

/// One annotated function, as the attribute registers it at link time.
#[derive(Debug)]
#[allow(missing_docs)] // written by the attribute alone
pub struct Registration {
    pub name: &'static str,
    pub location: &'static str,
    pub plan: StaticPlan,
    pub call: fn(&mut CallFuture, &Message, &Context),
    pub check: fn(&Context, &mut Problems),
}

/// The entry of the link-time collection.
#[derive(Debug)]
pub struct Entry(pub &'static Registration);

inventory::collect!(Entry);

/// A name that stands for an annotated function, in [`Broker::include`](crate::Broker::include).
///
/// The attribute implements it for the type that it puts beside the function.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a handler",
    label = "has no `#[subscriber(..)]`",
    note = "name a function that is annotated with `#[subscriber(subject = \"..\", queue = \"..\")]`"
)]
pub trait Subscriber {
    #[doc(hidden)]
    fn registration() -> &'static Registration;
}
