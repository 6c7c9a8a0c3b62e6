//! Tests of the whole attribute, on token streams as the compiler passes them.

mod attribute_of_tests;
mod refusals;
mod rules;
mod snapshots;

use proc_macro2::{Span, TokenStream, TokenTree};
use syn::LitStr;

use crate::{dead_letter, expand};

/// Expands `#[subscriber(…)] item`, or `#[dead_letter_handler(…)] item`.
fn expand(source: &str) -> TokenStream {
    let source: TokenStream = source.parse().expect("the test's source has balanced brackets");
    let mut tokens = source.into_iter().skip(1);
    let Some(TokenTree::Group(brackets)) = tokens.next() else {
        panic!("the test's source begins with the attribute");
    };
    let attribute = match brackets.stream().into_iter().nth(1) {
        Some(TokenTree::Group(arguments)) => arguments.stream(),
        _ => TokenStream::new(),
    };
    let name = brackets.stream().into_iter().next().map(|name| name.to_string());
    match name.as_deref() {
        Some("dead_letter_handler") => dead_letter::handler(&attribute, &tokens.collect()),
        _ => expand::subscriber(attribute, &tokens.collect()),
    }
}

/// Returns the mistakes in `source`, each as "tokens it points at: message".
fn mistakes(source: &str) -> Vec<String> {
    let tokens: Vec<TokenTree> = expand(source).into_iter().collect();
    // `::core::compile_error! { "message" }` is eight tokens.
    let compile_errors =
        tokens.windows(8).filter(|tokens| matches!(&tokens[5], TokenTree::Ident(name) if name == "compile_error"));
    compile_errors
        .map(|tokens| {
            let TokenTree::Group(argument) = &tokens[7] else {
                panic!("`compile_error!` has an argument");
            };
            let message: LitStr = syn::parse2(argument.stream()).expect("a message is text");
            let place = place(source, tokens[0].span(), message.span());
            format!("{place}: {}", message.value())
        })
        .collect()
}

fn place(source: &str, first: Span, last: Span) -> &str {
    match first.source_text() {
        Some(_) => &source[first.byte_range().start..last.byte_range().end],
        None => "#[subscriber]",
    }
}
