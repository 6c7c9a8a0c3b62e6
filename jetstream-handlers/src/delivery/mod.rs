//! What a transport and a worker exchange: the binding of a handler and the events of its consumer.

mod binding;
mod event;

pub(crate) use binding::Binding;
pub(crate) use event::DeliveryEvent;
