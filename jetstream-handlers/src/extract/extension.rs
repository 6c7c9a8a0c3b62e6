//! Values that a layer inserts for the handler.

use std::any::type_name;
use std::ops::Deref;

use super::{Context, FromMessage, Rejection};
use crate::message::Message;

/// A value that a [layer](crate::layer) has inserted into its [`Request`](crate::layer::Request), cloned for the handler;
/// behind the feature `tower`.
///
/// There is one value of a type in a call; that of an inner layer replaces that of an outer one.
/// In a call with a batch, it belongs to the whole batch.
///
/// If no layer has inserted a value, the message becomes a dead letter, and `Option<Extension<T>>` is `None`.
/// A handler without a layer cannot have one, and fails the start.
///
/// # Examples
///
/// ```
/// use std::task::{Context, Poll};
///
/// use jetstream_handlers::layer::{HandlerService, Request};
/// use jetstream_handlers::prelude::*;
/// use jetstream_handlers::Extension;
/// use tower::{Layer, Service};
///
/// #[derive(Clone)]
/// struct Tenant(String);
///
/// /// A service that inserts the tenant of a message.
/// struct WithTenant(HandlerService);
///
/// impl Service<Request> for WithTenant {
///     type Response = <HandlerService as Service<Request>>::Response;
///     type Error = <HandlerService as Service<Request>>::Error;
///     type Future = <HandlerService as Service<Request>>::Future;
///
///     fn poll_ready(&mut self, task: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
///         self.0.poll_ready(task)
///     }
///
///     fn call(&mut self, mut request: Request) -> Self::Future {
///         let tenant = request.message().header("Tenant").unwrap_or("none").to_owned();
///         request.insert_extension(Tenant(tenant));
///         self.0.call(request)
///     }
/// }
///
/// fn tenants() -> impl Layer<HandlerService, Service = WithTenant> {
///     tower::layer::layer_fn(WithTenant)
/// }
///
/// #[subscriber(subject = "orders.created", queue = "billing", layer = tenants)]
/// async fn bill(order: u64, Extension(tenant): Extension<Tenant>) {
///     println!("order {order} of {}", tenant.0);
/// }
///
/// # async fn test() {
/// // In a unit test:
/// bill(7, Extension(Tenant("acme".to_owned()))).await;
/// # }
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Extension<T>(pub T);

impl<T> Deref for Extension<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: Clone + Send + Sync + 'static> FromMessage for Extension<T> {
    fn from_message(_: &Message, context: &Context) -> Result<Self, Rejection> {
        context.extension::<T>().cloned().map(Extension).ok_or_else(|| {
            let (name, handler) = (type_name::<T>(), context.handler());
            Rejection::missing(format!(
                "`{handler}` takes an `Extension<{name}>`, which no layer has inserted; call `Request::insert_extension` in a layer of the handler"
            ))
        })
    }

    fn check(context: &Context) -> Result<(), Rejection> {
        if context.is_layered() {
            return Ok(());
        }
        let name = type_name::<T>();
        Err(Rejection::missing(format!(
            "takes an `Extension<{name}>`, which a layer inserts, but the handler has no layer; add `layer = ..` to it, or call `layer` of the builder"
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn value_of_a_type_is_extracted() {
        let message = Message::new("orders.created", "");
        let context = Context::for_test();
        let rejection = Extension::<u64>::from_message(&message, &context).unwrap_err();
        assert!(rejection.is_missing());
        let text = "`test` takes an `Extension<u64>`, which no layer has inserted; call `Request::insert_extension`";
        assert!(rejection.to_string().starts_with(text), "{rejection}");
        let missing = Option::<Extension<u64>>::from_message(&message, &context);
        assert!(missing.is_ok_and(|extension| extension.is_none()));

        let context = context.with_extension(7_u64).with_extension("text").with_extension(8_u64);
        assert_eq!(*Extension::<u64>::from_message(&message, &context).unwrap(), 8);
        assert_eq!(*Extension::<&str>::from_message(&message, &context).unwrap(), "text");
        assert!(Extension::<u8>::from_message(&message, &context).is_err());
    }

    #[test]
    fn handler_without_a_layer_fails_the_start() {
        let context = Context::for_test();
        let text = Extension::<u64>::check(&context).unwrap_err().to_string();
        assert!(text.starts_with("takes an `Extension<u64>`, which a layer inserts, but the handler has no"), "{text}");
        assert!(Option::<Extension<u64>>::check(&context).is_ok());
        assert!(Extension::<u64>::check(&context.with_layers()).is_ok());
    }
}
