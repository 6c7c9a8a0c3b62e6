//! The attribute of a test: a paused clock, and an in-memory broker that has started the handlers.

use proc_macro2::TokenStream;
use quote::quote;
use syn::parse::{Parse, ParseStream};
use syn::punctuated::Punctuated;
use syn::{Error, Expr, Ident, ItemFn, LitInt, LitStr, Path, Token, parenthesized};

/// An argument of the attribute.
enum Setting {
    State(Expr),
    Group(LitStr),
    Replicas(LitInt),
    Include(Punctuated<Path, Token![,]>),
    Clock(Clock, Ident),
    Live,
}

/// The clock of a test.
#[derive(Clone, Copy, PartialEq)]
enum Clock {
    Paused,
    Running,
}

impl Clock {
    fn parse(value: &Ident) -> syn::Result<Self> {
        match value.to_string().as_str() {
            "paused" => Ok(Self::Paused),
            "running" => Ok(Self::Running),
            other => {
                let message = format!("unknown clock `{other}`; expected `clock = paused` or `clock = running`");
                Err(Error::new(value.span(), message))
            }
        }
    }
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
            "clock" => {
                input.parse::<Token![=]>()?;
                let value: Ident = input.parse().map_err(|error| {
                    Error::new(error.span(), "expected `clock = paused` or `clock = running`, without quotes")
                })?;
                Clock::parse(&value).map(|clock| Self::Clock(clock, value))
            }
            "group" => {
                input.parse::<Token![=]>()?;
                input.parse().map(Self::Group)
            }
            "replicas" => {
                input.parse::<Token![=]>()?;
                input.parse().map(Self::Replicas)
            }
            "include" => {
                let handlers;
                parenthesized!(handlers in input);
                Punctuated::parse_terminated(&handlers).map(Self::Include)
            }
            other => {
                let message = format!(
                    "unknown key `{other}`; the keys are `live`, `clock = running`, `state = value`, `group = \"name\"`, `replicas = 3` and `include(handler, ..)`"
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

impl Settings {
    fn is_live(&self) -> bool {
        self.0.iter().any(|setting| matches!(setting, Setting::Live))
    }

    /// Returns the clock: the one that is set, otherwise paused in memory and running on a server.
    fn clock(&self) -> syn::Result<Clock> {
        let mut clocks = self.0.iter().filter_map(|setting| match setting {
            Setting::Clock(clock, value) => Some((*clock, value)),
            _ => None,
        });
        let set = clocks.next();
        if let Some((_, value)) = clocks.next() {
            return Err(Error::new(value.span(), "`clock` is given twice"));
        }
        match set {
            Some((Clock::Paused, value)) if self.is_live() => Err(Error::new(
                value.span(),
                "a test on a live server needs a running clock; remove `clock = paused`, or `live`",
            )),
            Some((clock, _)) => Ok(clock),
            None if self.is_live() => Ok(Clock::Running),
            None => Ok(Clock::Paused),
        }
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
    let clock = match settings.clock()? {
        Clock::Paused => quote!((start_paused = true)),
        Clock::Running => quote!(),
    };
    let start = if settings.is_live() { quote!(start_from_env) } else { quote!(start) };
    let calls = settings.0.iter().map(|setting| match setting {
        Setting::Live | Setting::Clock(..) => quote!(),
        Setting::State(value) => quote!(.state(#value)),
        Setting::Group(group) => quote!(.group(#group)),
        Setting::Replicas(replicas) => quote!(.replicas(#replicas)),
        Setting::Include(handlers) => {
            let handlers = handlers.iter();
            quote!(#(.include::<#handlers>())*)
        }
    });
    let attributes = std::mem::take(&mut function.attrs);
    let (name, output) = (&function.sig.ident, &function.sig.output);
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
