//! The headers of a message.

use std::str::FromStr as _;
use std::sync::Arc;

use async_nats::{HeaderMap, HeaderName, HeaderValue};

use super::{Context, FromMessage, Rejection};
use crate::message::{Message, reserved};

/// The headers of the message; empty if it has none.
///
/// The header `Nats-Pin-Id`, with which the server names the active instance of an `ordered` handler, is not part of
/// the message and is left out.
///
/// # Examples
///
/// ```
/// use jetstream_handlers::prelude::*;
///
/// #[subscriber(subject = "orders.created", queue = "billing")]
/// async fn bill(headers: Headers) {
///     println!("{:?}", headers.get("Tenant"));
/// }
///
/// # async fn test() {
/// // In a unit test:
/// bill(Headers::from_iter([("Tenant", "acme")])).await;
/// # }
/// ```
#[derive(Debug, Clone, Default)]
pub struct Headers(Option<Arc<HeaderMap>>);

impl Headers {
    /// Returns the first value of a header; names are case-sensitive.
    pub fn get(&self, name: &str) -> Option<&str> {
        if reserved::is_of_delivery(name) {
            return None;
        }
        self.0.as_ref()?.get(name).map(|value| value.as_str())
    }

    /// Returns an iterator over all headers, with an item for each value.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let all = self.0.iter().flat_map(|headers| headers.iter());
        all.filter(|(name, _)| !reserved::is_of_delivery(name.as_ref())).flat_map(|(name, values)| {
            let name: &str = name.as_ref();
            values.iter().map(move |value| (name, value.as_str()))
        })
    }
}

impl<N: AsRef<str>, V: AsRef<str>> FromIterator<(N, V)> for Headers {
    /// Collects names and values, to call a handler in a unit test; a repeated name has several values.
    ///
    /// # Panics
    ///
    /// Panics if a name or a value is not valid in a message.
    fn from_iter<I: IntoIterator<Item = (N, V)>>(headers: I) -> Self {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let (name, value) = (name.as_ref(), value.as_ref());
            let parsed = (HeaderName::from_str(name), HeaderValue::from_str(value));
            let (Ok(parsed_name), Ok(parsed_value)) = parsed else {
                panic!("`{name}: {value}` is not a valid header");
            };
            map.append(parsed_name, parsed_value);
        }
        Self((!map.is_empty()).then(|| Arc::new(map)))
    }
}

impl FromMessage for Headers {
    fn from_message(message: &Message, _: &Context) -> Result<Self, Rejection> {
        Ok(Self(message.headers.clone()))
    }

    fn is_of_one_message() -> bool {
        true
    }
}
