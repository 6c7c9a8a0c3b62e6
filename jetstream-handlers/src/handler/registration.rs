//! Registrations of annotated functions, collected at link time.

use super::CallFuture;
use crate::extract::{Context, Delivery, Problems};
use crate::plan::Plan;

/// An annotated function, as the attribute registers it at link time.
#[derive(Debug)]
#[allow(missing_docs)] // used only by the expansion of the attribute
pub struct Registration {
    pub name: &'static str,
    pub location: &'static str,
    /// The documentation of the function.
    pub description: &'static str,
    /// The plan, returned by a function because a static cannot evaluate a `Plan` with struct update syntax.
    pub plan: fn() -> Plan,
    pub call: fn(&mut CallFuture, Delivery<'_>, &Context),
    pub check: fn(&Context, &mut Problems),
    /// The layer around the handler.
    pub layer: Option<LayerOf>,
}

/// A function that returns the layer around a handler.
#[cfg(feature = "tower")]
pub(crate) type LayerOf = fn() -> super::Wrapper;

/// A function that returns the layer around a handler, which cannot exist without the feature `tower`.
#[cfg(not(feature = "tower"))]
pub(crate) type LayerOf = std::convert::Infallible;

/// An entry of the link-time collection.
#[derive(Debug)]
pub struct Entry(pub &'static Registration);

inventory::collect!(Entry);

/// A type that names an annotated function for [`Broker::include`](crate::Broker::include).
///
/// The attribute adds it with the name of the function.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a handler",
    label = "has no `#[subscriber(..)]`",
    note = "name a function that is annotated with `#[subscriber(subject = \"..\", queue = \"..\")]`"
)]
pub trait Subscriber {
    #[doc(hidden)]
    fn registration() -> &'static Registration;
}
