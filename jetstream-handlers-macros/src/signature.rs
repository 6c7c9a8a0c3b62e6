//! The function under the attribute: what the expansion takes from it, and which functions cannot be handlers.

use proc_macro2::{Ident, Span, TokenStream, TokenTree};
use quote::{ToTokens, quote_spanned};
use syn::ext::IdentExt;
use syn::parse::{ParseStream, Parser};
use syn::{Attribute, FnArg, GenericParam, Receiver, ReturnType, Safety, Signature, Type, Visibility};

use crate::errors::Errors;

/// A function that wants to be a handler. Its body does not matter here.
pub(crate) struct Function {
    attributes: Vec<Attribute>,
    pub(crate) visibility: Visibility,
    signature: Signature,
}

/// Reads the item, or says that it is not a function.
pub(crate) fn parse(item: &TokenStream, errors: &mut Errors) -> Option<Function> {
    let parser = |input: ParseStream<'_>| {
        let attributes = input.call(Attribute::parse_outer)?;
        let visibility = input.parse()?;
        let next = input.fork().parse::<TokenTree>()?;
        let signature = input.parse::<Signature>().map_err(|_| {
            let message = "a handler is an `async fn`; put the attribute on one";
            syn::Error::new(next.span(), message)
        })?;
        // The item goes out as it came in, so its body may be written in a newer Rust than `syn` knows.
        input.parse::<TokenStream>()?;
        Ok(Function { attributes, visibility, signature })
    };
    match parser.parse2(item.clone()) {
        Ok(function) => Some(function),
        Err(error) => {
            errors.push(error.span(), &error);
            None
        }
    }
}

impl Function {
    pub(crate) fn name(&self) -> &Ident {
        &self.signature.ident
    }

    /// The name without `r#`, as people and logs use it.
    pub(crate) fn plain_name(&self) -> String {
        self.signature.ident.unraw().to_string()
    }

    pub(crate) fn is_async(&self) -> bool {
        self.signature.asyncness.is_some()
    }

    /// The place of the word `fn`.
    pub(crate) fn keyword(&self) -> Span {
        self.signature.fn_token.span
    }

    /// The types of the parameters, in their order.
    pub(crate) fn parameters(&self) -> Vec<&Type> {
        self.signature
            .inputs
            .iter()
            .filter_map(|input| match input {
                FnArg::Typed(parameter) => Some(&*parameter.ty),
                FnArg::Receiver(_) => None,
            })
            .collect()
    }

    /// The type that the function returns, as an expression may name it.
    pub(crate) fn output(&self) -> TokenStream {
        match &self.signature.output {
            ReturnType::Default => quote_spanned!(Span::mixed_site()=> ()),
            // `impl Trait` cannot be named, so the compiler shall find it out.
            ReturnType::Type(_, output) => match impl_keyword(output.to_token_stream()) {
                Some(span) => quote_spanned!(span=> _),
                None => output.to_token_stream(),
            },
        }
    }

    /// Whether types may stand beside the function: not inside an `impl`, where methods are, and not when another attribute adds them.
    pub(crate) fn takes_company(&self) -> bool {
        self.signature.receiver().is_none() && self.second_attribute().is_none()
    }

    /// Says what keeps the function from being a handler.
    pub(crate) fn check(&self, errors: &mut Errors) {
        let name = self.plain_name();
        if let Some(second) = self.second_attribute() {
            errors.push_spanned(second, format!("handler `{name}` has the attribute twice; write a function for each"));
        }
        self.check_keywords(&name, errors);
        self.check_generics(&name, errors);
        self.check_inputs(&name, errors);
    }

    fn check_keywords(&self, name: &str, errors: &mut Errors) {
        let signature = &self.signature;
        if let Some(constness) = &signature.constness {
            errors.push(constness.span, format!("handler `{name}` is `const`; remove the keyword"));
        }
        let safety = match &signature.safety {
            Safety::Unsafe(keyword) => Some(keyword.span),
            Safety::Safe(keyword) => Some(keyword.span),
            Safety::Default => None,
        };
        if let Some(span) = safety {
            errors.push(
                span,
                format!("handler `{name}` is `unsafe`; remove the keyword, and call unsafe code in an `unsafe` block"),
            );
        }
        if let Some(abi) = &signature.abi {
            errors.push_spanned(abi, format!("handler `{name}` has an ABI; remove `extern`, it is called from Rust"));
        }
    }

    fn check_generics(&self, name: &str, errors: &mut Errors) {
        for parameter in &self.signature.generics.params {
            let (what, instead) = match parameter {
                GenericParam::Lifetime(lifetime) => {
                    (format!("the lifetime parameter `{}`", lifetime.lifetime), "write `'_` in its place")
                }
                GenericParam::Type(parameter) => (
                    format!("the type parameter `{}`", parameter.ident),
                    "write a concrete type, and a handler for each",
                ),
                GenericParam::Const(parameter) => (
                    format!("the const parameter `{}`", parameter.ident),
                    "write a concrete value, and a handler for each",
                ),
            };
            errors
                .push_spanned(parameter, format!("handler `{name}` has {what}, and nobody could choose it; {instead}"));
        }
        if let Some(clause) = &self.signature.generics.where_clause {
            errors.push(
                clause.where_token.span,
                format!("handler `{name}` has a `where` clause; a handler is not generic, remove it"),
            );
        }
    }

    fn check_inputs(&self, name: &str, errors: &mut Errors) {
        for input in &self.signature.inputs {
            let attributes = match input {
                FnArg::Receiver(receiver) => {
                    check_receiver(receiver, name, errors);
                    &receiver.attrs
                }
                FnArg::Typed(parameter) => {
                    if let Some(span) = impl_keyword(parameter.ty.to_token_stream()) {
                        errors.push(span, format!("handler `{name}` takes an `impl Trait`; write a concrete type"));
                    }
                    &parameter.attrs
                }
            };
            // It is evaluated after this attribute, so that nobody knows yet whether the parameter is there.
            let condition = attributes.iter().find(|it| it.path().is_ident("cfg"));
            if let Some(condition) = condition {
                errors.push_spanned(
                    condition,
                    format!(
                        "handler `{name}` has a conditional parameter; put `#[cfg]` on the function, and write one for each case"
                    ),
                );
            }
        }
        if let Some(variadic) = &self.signature.variadic {
            errors.push_spanned(
                variadic,
                format!("handler `{name}` takes any number of arguments; write each parameter"),
            );
        }
    }

    fn second_attribute(&self) -> Option<&Attribute> {
        self.attributes.iter().find(|attribute| {
            let last = attribute.path().segments.last();
            last.is_some_and(|segment| segment.ident == "subscriber")
        })
    }
}

fn check_receiver(receiver: &Receiver, name: &str, errors: &mut Errors) {
    errors.push(
        receiver.self_token.span,
        format!("handler `{name}` takes `self`; a handler is a free function, and what it shares comes as `State<T>`"),
    );
}

/// Where `impl` is written in a type, at any depth.
fn impl_keyword(tokens: TokenStream) -> Option<Span> {
    tokens.into_iter().find_map(|token| match token {
        TokenTree::Ident(ident) if ident == "impl" => Some(ident.span()),
        TokenTree::Group(group) => impl_keyword(group.stream()),
        _ => None,
    })
}
