//! The types that a transport and a worker exchange: the binding of a handler, and the state changes of its deliveries.

mod acked;
mod binding;
mod event;
mod standing;

pub(crate) use acked::AckedSequence;
pub(crate) use binding::Binding;
pub(crate) use event::DeliveryEvent;
pub(crate) use standing::Standing;
