//! The mistakes of one attribute and its function, in source order.

use std::fmt::Display;

use proc_macro2::{Span, TokenStream};
use quote::ToTokens;

/// The mistakes found so far, collected so that one compilation shows all of them.
#[derive(Default)]
pub(crate) struct Errors {
    all: Vec<syn::Error>,
}

impl Errors {
    pub(crate) fn push(&mut self, span: Span, message: impl Display) {
        self.all.push(syn::Error::new(span, message));
    }

    /// Reports a mistake at all of `tokens`; a single span would cover only the first of them.
    pub(crate) fn push_spanned(&mut self, tokens: impl ToTokens, message: impl Display) {
        self.all.push(syn::Error::new_spanned(tokens, message));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Returns one `compile_error!` for each mistake.
    pub(crate) fn into_compile_errors(mut self) -> TokenStream {
        self.all.sort_by_key(|error| error.span().start());
        let all = self.all.into_iter().reduce(|mut all, error| {
            all.combine(error);
            all
        });
        all.map(syn::Error::into_compile_error).unwrap_or_default()
    }
}
