//! The attribute of the `jetstream-handlers` crate; use it from there.

mod attribute;
mod duration;
mod errors;
mod expand;
mod keys;
mod names;
mod signature;
#[cfg(test)]
mod tests;
mod valid;
mod value;

use proc_macro::TokenStream;

/// Makes an `async fn` a handler; documented where `jetstream-handlers` re-exports it.
#[proc_macro_attribute]
pub fn subscriber(attribute: TokenStream, item: TokenStream) -> TokenStream {
    expand::subscriber(attribute.into(), &item.into()).into()
}
