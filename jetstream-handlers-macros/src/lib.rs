//! The attribute macros of the `jetstream-handlers` crate, which re-exports them.

mod attribute;
mod dead_letter;
mod duration;
mod enclosing;
mod errors;
mod event;
mod expand;
mod keys;
mod pattern;
mod rules;
mod signature;
mod spelling;
mod test;
#[cfg(test)]
mod tests;
mod valid;
mod value;

use proc_macro::TokenStream;

#[allow(missing_docs)] // `jetstream-handlers` documents it at the re-export, where the examples can run
#[proc_macro_attribute]
pub fn subscriber(attribute: TokenStream, item: TokenStream) -> TokenStream {
    expand::subscriber(attribute.into(), &item.into()).into()
}

#[allow(missing_docs)] // `jetstream-handlers` documents it at the re-export, where the examples can run
#[proc_macro_attribute]
pub fn dead_letter_handler(attribute: TokenStream, item: TokenStream) -> TokenStream {
    dead_letter::handler(&attribute.into(), &item.into()).into()
}

#[allow(missing_docs)] // `jetstream-handlers` documents it at the re-export, where the examples can run
#[proc_macro_attribute]
pub fn test(attribute: TokenStream, item: TokenStream) -> TokenStream {
    test::test(attribute.into(), &item.into()).into()
}

#[allow(missing_docs)] // `jetstream-handlers` documents it at the trait
#[proc_macro_derive(Event, attributes(event))]
pub fn event(input: TokenStream) -> TokenStream {
    event::derive(input.into()).into()
}
