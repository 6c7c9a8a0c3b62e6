//! The attribute of a test: a paused clock, and an in-memory broker that has started the handlers.

use proc_macro2::TokenStream;
use quote::quote;
use syn::parse::{Parse, ParseStream};
use syn::punctuated::Punctuated;
use syn::{Error, Expr, Ident, ItemFn, LitStr, Path, Token, parenthesized};

/// An argument of the attribute.
enum Setting {
    State(Expr),
    Group(LitStr),
    Include(Punctuated<Path, Token![,]>),
    Live,
}

impl Parse for Setting {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let key: Ident = input.parse()?;
        match key.to_string().as_str() {
            "state" => {
                input.parse::<Token![=]>()?;
                input.parse().map(Self::State)
            }
            "live" => Ok(Self::Live),
            "group" => {
                input.parse::<Token![=]>()?;
                input.parse().map(Self::Group)
            }
            "include" => {
                let handlers;
                parenthesized!(handlers in input);
                Punctuated::parse_terminated(&handlers).map(Self::Include)
            }
            other => {
                let message = format!(
                    "unknown key `{other}`; the keys are `live`, `state = value`, `group = \"name\"` and `include(handler, ..)`"
                );
                Err(Error::new(key.span(), message))
            }
        }
    }
}

struct Settings(Punctuated<Setting, Token![,]>);

impl Parse for Settings {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        Punctuated::parse_terminated(input).map(Self)
    }
}

/// Expands `#[jetstream_handlers::test]`.
pub(crate) fn test(attribute: TokenStream, item: &TokenStream) -> TokenStream {
    try_test(attribute, item.clone()).unwrap_or_else(|error| {
        let error = error.to_compile_error();
        quote!(#error #item)
    })
}

fn try_test(attribute: TokenStream, item: TokenStream) -> syn::Result<TokenStream> {
    let settings: Settings = syn::parse2(attribute)?;
    let mut function: ItemFn = syn::parse2(item)?;
    let signature = &function.sig;
    if signature.asyncness.is_none() {
        return Err(Error::new_spanned(signature.fn_token, "expected an `async fn`; add `async`"));
    }
    if signature.inputs.len() != 1 {
        let message = "expected one parameter, as in `broker: TestBroker`";
        return Err(Error::new_spanned(&signature.ident, message));
    }
    let calls = settings.0.iter().map(|setting| match setting {
        Setting::Live => quote!(),
        Setting::State(value) => quote!(.state(#value)),
        Setting::Group(group) => quote!(.group(#group)),
        Setting::Include(handlers) => {
            let handlers = handlers.iter();
            quote!(#(.include::<#handlers>())*)
        }
    });
    let attributes = std::mem::take(&mut function.attrs);
    let (name, output) = (&function.sig.ident, &function.sig.output);
    let is_live = settings.0.iter().any(|setting| matches!(setting, Setting::Live));
    let (clock, start) =
        if is_live { (quote!(), quote!(start_on_nats_url)) } else { (quote!((start_paused = true)), quote!(start)) };
    Ok(quote! {
        #[::tokio::test #clock]
        #(#attributes)*
        async fn #name() #output {
            #function
            let broker = ::jetstream_handlers::testing::TestBroker::builder()#(#calls)*.#start().await;
            #name(broker).await
        }
    })
}
