//! Registrations of annotated functions, collected at link time.

use super::CallFuture;
use crate::extract::{Context, Problems};
use crate::message::Message;
use crate::plan::Plan;

/// An annotated function, as the attribute registers it at link time.
#[derive(Debug)]
#[allow(missing_docs)] // written by the attribute alone
pub struct Registration {
    pub name: &'static str,
    pub location: &'static str,
    /// A function, because a `Plan` that is updated from another cannot be evaluated in a static.
    pub plan: fn() -> Plan,
    pub call: fn(&mut CallFuture, &Message, &Context),
    pub check: fn(&Context, &mut Problems),
}

/// The entry of the link-time collection.
#[derive(Debug)]
pub struct Entry(pub &'static Registration);

inventory::collect!(Entry);

/// The type of the same name that the attribute adds for each annotated function, for [`Broker::include`](crate::Broker::include).
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a handler",
    label = "has no `#[subscriber(..)]`",
    note = "name a function that is annotated with `#[subscriber(subject = \"..\", queue = \"..\")]`"
)]
pub trait Subscriber {
    #[doc(hidden)]
    fn registration() -> &'static Registration;
}
