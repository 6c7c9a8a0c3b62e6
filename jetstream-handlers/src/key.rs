//! The place of the key in a message, by which a handler keeps the order.

use std::borrow::Cow;
use std::fmt;

use crate::pattern::Placeholder;
use crate::rules::Setting;

/// The place of the key in a message: messages with the same key are handled one after the other, in the order of the
/// stream.
///
/// It is the value of the key `key` of [`subscriber`](macro@crate::subscriber#key), and of
/// [`Subscribe::key`](crate::Subscribe::key) for a closure.
/// A text without braces is the [field](Self::field) of that path, and one in braces the
/// [placeholder](Self::placeholder) of that name.
///
/// # Examples
///
/// ```
/// use jetstream_handlers::Key;
///
/// assert_eq!(Key::from("order.customer.id"), Key::field("order.customer.id"));
/// assert_eq!(Key::from("{region}"), Key::placeholder("region"));
/// assert_ne!(Key::header("Tenant"), Key::field("Tenant"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key(pub(crate) Place);

/// The place of a key, with its path or its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    Field(String),
    Placeholder(String),
    Header(String),
}

impl Key {
    /// Returns the key in a field of the payload: a text, an integer or a `bool`.
    ///
    /// The path has a dot between the names of nested fields. A number in it is a position in an array, from 0.
    /// A path in braces is the [placeholder](Self::placeholder) of that name.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), jetstream_handlers::Error> {
    /// # use jetstream_handlers::{Key, prelude::*};
    /// # let broker = Broker::in_memory();
    /// #[derive(serde::Deserialize)]
    /// struct Order {
    ///     items: Vec<Item>,
    /// }
    ///
    /// #[derive(serde::Deserialize)]
    /// struct Item {
    ///     sku: String,
    /// }
    ///
    /// let packing = broker
    ///     .subscribe("orders.created", "packing", |order: Order| async move { println!("{}", order.items[0].sku) })
    ///     .key(Key::field("items.0.sku"))
    ///     .await?;
    /// # packing.unsubscribe().await?;
    /// # Ok(()) }
    /// ```
    pub fn field(path: impl Into<String>) -> Self {
        let path = path.into();
        match Placeholder::parse(&path) {
            Some(placeholder) => Self::placeholder(placeholder.name),
            None => Self(Place::Field(path)),
        }
    }

    /// Returns the key in the subject: the tokens that the placeholder of this name stands for.
    ///
    /// The name has no braces. Each subject of the handler must have the placeholder.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), jetstream_handlers::Error> {
    /// # use jetstream_handlers::{Key, prelude::*};
    /// # let broker = Broker::in_memory();
    /// let counting = broker
    ///     .subscribe("orders.{region}.created", "regions", |Path(region): Path<String>| async move { println!("{region}") })
    ///     .key(Key::placeholder("region"))
    ///     .await?;
    /// # counting.unsubscribe().await?;
    /// # Ok(()) }
    /// ```
    pub fn placeholder(name: impl Into<String>) -> Self {
        Self(Place::Placeholder(name.into()))
    }

    /// Returns the key in the header of this name, which is compared by case.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), jetstream_handlers::Error> {
    /// # use jetstream_handlers::{Key, prelude::*};
    /// # let broker = Broker::in_memory();
    /// let billing = broker
    ///     .subscribe("orders.created", "billing", |id: u64| async move { println!("order {id}") })
    ///     .key(Key::header("Tenant"))
    ///     .await?;
    /// # billing.unsubscribe().await?;
    /// # Ok(()) }
    /// ```
    pub fn header(name: impl Into<String>) -> Self {
        Self(Place::Header(name.into()))
    }

    /// Returns the setting, for the rules.
    pub(crate) fn setting(&self) -> Setting<'_> {
        match &self.0 {
            Place::Field(path) => Setting::Text(Cow::Borrowed(path)),
            Place::Placeholder(name) => Setting::Text(Cow::Owned(format!("{{{name}}}"))),
            Place::Header(name) => Setting::Header(Cow::Borrowed(name)),
        }
    }
}

impl fmt::Display for Key {
    /// Writes the key as the attribute spells it, without quotes: `customer.id`, `{tenant}` or `header(Tenant)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Place::Field(path) => f.write_str(path),
            Place::Placeholder(name) => write!(f, "{{{name}}}"),
            Place::Header(name) => write!(f, "header({name})"),
        }
    }
}

impl From<&str> for Key {
    fn from(text: &str) -> Self {
        Self::field(text)
    }
}

impl From<String> for Key {
    fn from(text: String) -> Self {
        Self::field(text)
    }
}
