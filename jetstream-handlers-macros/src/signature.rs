//! The function under the attribute: its parts that the expansion uses, and the functions that cannot be handlers.

use proc_macro2::{Ident, Span, TokenStream, TokenTree};
use quote::{ToTokens, quote_spanned};
use syn::ext::IdentExt;
use syn::parse::{ParseStream, Parser};
use syn::{
    Attribute, Expr, FnArg, GenericArgument, GenericParam, Lifetime, Lit, Meta, MetaNameValue, PathArguments,
    ReturnType, Safety, Signature, Type, TypePath, TypeReference, Visibility,
};

use crate::enclosing;
use crate::errors::Errors;

/// The signature of an annotated function.
pub(crate) struct Function {
    attributes: Vec<Attribute>,
    pub(crate) visibility: Visibility,
    signature: Signature,
    /// The place at which the signature or the source file shows that the function belongs to a type.
    of_a_type: Option<Span>,
}

/// Parses the item, or reports that it is not a function.
pub(crate) fn parse(item: &TokenStream, errors: &mut Errors) -> Option<Function> {
    let parser = |input: ParseStream<'_>| {
        let attributes = input.call(Attribute::parse_outer)?;
        let visibility = input.parse()?;
        let next = input.fork().parse::<TokenTree>()?;
        let signature = input.parse::<Signature>().map_err(|_| {
            let message = "expected a function; a handler is a free `async fn`";
            syn::Error::new(next.span(), message)
        })?;
        // The item is emitted unchanged, so its body may use syntax that `syn` does not know.
        input.parse::<TokenStream>()?;
        let of_a_type = place_in_impl(&signature);
        Ok(Function { attributes, visibility, signature, of_a_type })
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

    /// Returns the name without `r#`.
    pub(crate) fn plain_name(&self) -> String {
        self.signature.ident.unraw().to_string()
    }

    /// Returns the documentation of the function, without the space with which each line begins.
    pub(crate) fn description(&self) -> String {
        let lines =
            self.attributes.iter().filter(|attribute| attribute.path().is_ident("doc")).filter_map(|attribute| {
                let Meta::NameValue(MetaNameValue { value: Expr::Lit(literal), .. }) = &attribute.meta else {
                    return None;
                };
                let Lit::Str(text) = &literal.lit else { return None };
                let text = text.value();
                Some(text.strip_prefix(' ').unwrap_or(&text).to_owned())
            });
        lines.collect::<Vec<_>>().join("\n").trim().to_owned()
    }

    pub(crate) fn is_async(&self) -> bool {
        self.signature.asyncness.is_some()
    }

    /// Returns the span of the keyword `fn`.
    pub(crate) fn keyword(&self) -> Span {
        self.signature.fn_token.span
    }

    /// Returns the types of the parameters in order.
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

    /// Returns the first parameter that is a batch.
    pub(crate) fn batch(&self) -> Option<&Type> {
        self.parameters().into_iter().find(|parameter| is_named(parameter, &["Batch"]))
    }

    /// Reports parameters that describe one message, beside a batch.
    pub(crate) fn check_beside_batch(&self, errors: &mut Errors) {
        const OF_ONE_MESSAGE: [&str; 5] = ["Subject", "Headers", "Info", "Message", "Path"];
        let name = self.plain_name();
        for parameter in self.parameters().into_iter().filter(|parameter| is_named(parameter, &OF_ONE_MESSAGE)) {
            let message = format!(
                "handler `{name}` takes a `Batch` and a parameter that describes one message; remove this parameter, and read `messages()` of the batch"
            );
            errors.push_spanned(parameter, message);
        }
    }

    /// Returns the return type in a form that an expression can name.
    pub(crate) fn output(&self) -> TokenStream {
        match &self.signature.output {
            ReturnType::Default => quote_spanned!(Span::mixed_site()=> ()),
            // `impl Trait` cannot be named and is left to inference.
            ReturnType::Type(_, output) => match find_ident(output.to_token_stream(), "impl") {
                Some(span) => quote_spanned!(span=> _),
                None => output.to_token_stream(),
            },
        }
    }

    /// Returns the return type; `None` if it is an `impl Trait`, or nothing.
    pub(crate) fn named_output(&self) -> Option<TokenStream> {
        let ReturnType::Type(_, output) = &self.signature.output else { return None };
        let output = output.to_token_stream();
        find_ident(output.clone(), "impl").is_none().then_some(output)
    }

    /// Returns `true` if a type can be added after the function: it is not inside an `impl`, and no second attribute
    /// adds the type.
    pub(crate) fn is_free(&self) -> bool {
        self.of_a_type.is_none() && self.second_attribute().is_none()
    }

    /// Reports everything that prevents the function from being a handler.
    pub(crate) fn check(&self, errors: &mut Errors) {
        let name = self.plain_name();
        if let Some(second) = self.second_attribute() {
            errors.push_spanned(
                second,
                format!("handler `{name}` has two `subscriber` attributes; write a function for each"),
            );
        }
        if let Some(place) = self.of_a_type {
            let message = format!(
                "handler `{name}` belongs to a type; move it out of the `impl`, because a handler is a free function, and take what it shares as `State<T>`"
            );
            errors.push(place, message);
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
            errors.push_spanned(abi, format!("handler `{name}` has an ABI; remove `extern`"));
        }
    }

    fn check_generics(&self, name: &str, errors: &mut Errors) {
        for parameter in &self.signature.generics.params {
            let (what, instead) = match parameter {
                GenericParam::Lifetime(lifetime) => {
                    (format!("the lifetime parameter `{}`", lifetime.lifetime), "write `'_` instead")
                }
                GenericParam::Type(parameter) => {
                    (format!("the type parameter `{}`", parameter.ident), "write a handler for each concrete type")
                }
                GenericParam::Const(parameter) => {
                    (format!("the const parameter `{}`", parameter.ident), "write a handler for each value")
                }
            };
            let message = format!("handler `{name}` has {what}, but handlers cannot be generic; {instead}");
            errors.push_spanned(parameter, message);
        }
        if let Some(clause) = &self.signature.generics.where_clause {
            errors.push(
                clause.where_token.span,
                format!("handler `{name}` has a `where` clause, but handlers cannot be generic; remove it"),
            );
        }
    }

    fn check_inputs(&self, name: &str, errors: &mut Errors) {
        for input in &self.signature.inputs {
            let attributes = match input {
                FnArg::Receiver(receiver) => &receiver.attrs,
                FnArg::Typed(parameter) => {
                    if let Some(span) = find_ident(parameter.ty.to_token_stream(), "impl") {
                        errors.push(span, format!("handler `{name}` takes an `impl Trait`, but handlers cannot be generic; write a concrete type"));
                    }
                    check_borrow(&parameter.ty, name, errors);
                    &parameter.attrs
                }
            };
            // `cfg` is evaluated after this attribute, so that the expansion would name a parameter that may not exist.
            let condition = attributes.iter().find(|it| it.path().is_ident("cfg"));
            if let Some(condition) = condition {
                errors.push_spanned(
                    condition,
                    format!(
                        "handler `{name}` has a conditional parameter; write a function for each case, with `#[cfg]` on the function"
                    ),
                );
            }
        }
        if let Some(variadic) = &self.signature.variadic {
            errors.push_spanned(variadic, format!("handler `{name}` has variadic arguments; write out each parameter"));
        }
    }

    fn second_attribute(&self) -> Option<&Attribute> {
        self.attributes.iter().find(|attribute| {
            let last = attribute.path().segments.last();
            last.is_some_and(|segment| segment.ident == "subscriber")
        })
    }
}

/// Returns the place to report a function inside an `impl` or a `trait`, the only places that can name `self` or `Self`.
fn place_in_impl(signature: &Signature) -> Option<Span> {
    let receiver = signature.receiver().map(|receiver| receiver.self_token.span);
    let keyword = receiver.or_else(|| find_ident(signature.to_token_stream(), "Self"));
    keyword.or_else(|| enclosing::is_in_impl(signature.fn_token.span).then(|| signature.ident.span()))
}

/// Reports a parameter that borrows in a way that no message can satisfy.
fn check_borrow(parameter: &Type, name: &str, errors: &mut Errors) {
    if let Type::Path(path) = parameter
        && let Some(Type::Reference(reference)) = argument_of(path, "Path")
    {
        let message =
            format!("handler `{name}` takes a `Path` of a reference, which has tokens of its own; take a `String`");
        return errors.push_spanned(reference, message);
    }
    if let Some(text) = borrowed_text(parameter) {
        let message = match &*text.elem {
            Type::Slice(_) => format!(
                "handler `{name}` takes a slice, which JSON cannot be decoded to; take `Raw<&[u8]>` for the payload as it is, or a `Vec`"
            ),
            _ => format!(
                "handler `{name}` takes a `&str`, which cannot hold a JSON string with escapes; take a `String`, or `Raw<&str>` for the payload as it is"
            ),
        };
        return errors.push_spanned(text, message);
    }
    match parameter {
        Type::Reference(reference) if reference.lifetime.as_ref().is_some_and(is_static) => errors.push_spanned(
            reference,
            format!("handler `{name}` takes a `'static` reference, but the message ends with the call; write `&` without `'static`"),
        ),
        Type::Path(path) => {
            let Some(segment) = path.path.segments.last() else { return };
            let PathArguments::AngleBracketed(arguments) = &segment.arguments else { return };
            let lifetime = arguments.args.iter().find_map(|argument| match argument {
                GenericArgument::Lifetime(lifetime) if is_static(lifetime) => Some(lifetime),
                _ => None,
            });
            if let Some(lifetime) = lifetime {
                let ty = &segment.ident;
                errors.push(
                    lifetime.span(),
                    format!(
                        "handler `{name}` takes a `{ty}<'static>`, but what it borrows from the message ends with the call; write `{ty}<'_>`, or an alias (`type Owned{ty} = {ty}<'static>;`) if it borrows nothing"
                    ),
                );
            }
        }
        _ => {}
    }
}

/// Returns the first generic argument of a type of this name.
fn argument_of<'t>(path: &'t TypePath, name: &str) -> Option<&'t Type> {
    let segment = path.path.segments.last().filter(|last| last.ident == name)?;
    let PathArguments::AngleBracketed(arguments) = &segment.arguments else { return None };
    arguments.args.iter().find_map(|argument| match argument {
        GenericArgument::Type(ty) => Some(ty),
        _ => None,
    })
}

/// Returns `true` if a type has one of these names, which it may have in a module.
fn is_named(ty: &Type, names: &[&str]) -> bool {
    let Type::Path(path) = ty else { return false };
    path.path.segments.last().is_some_and(|last| names.iter().any(|name| last.ident == name))
}

fn is_static(lifetime: &Lifetime) -> bool {
    lifetime.ident == "static"
}

/// Returns the `&str` or the slice that a payload of this type contains: the type itself, a part of a tuple or an array,
/// or an argument of a type of the standard library.
///
/// Any other type may use its argument in another way, as `State` does.
fn borrowed_text(ty: &Type) -> Option<&TypeReference> {
    const CONTAINERS: [&str; 9] =
        ["Option", "Vec", "VecDeque", "Box", "HashMap", "BTreeMap", "HashSet", "BTreeSet", "Result"];
    match ty {
        Type::Reference(reference) => match &*reference.elem {
            Type::Slice(_) => Some(reference),
            Type::Path(path) if path.path.is_ident("str") => Some(reference),
            _ => None,
        },
        Type::Tuple(tuple) => tuple.elems.iter().find_map(borrowed_text),
        Type::Array(array) => borrowed_text(&array.elem),
        Type::Paren(inner) => borrowed_text(&inner.elem),
        Type::Group(inner) => borrowed_text(&inner.elem),
        Type::Path(path) => {
            let segment = path.path.segments.last().filter(|last| CONTAINERS.iter().any(|name| last.ident == name))?;
            let PathArguments::AngleBracketed(arguments) = &segment.arguments else { return None };
            arguments.args.iter().find_map(|argument| match argument {
                GenericArgument::Type(ty) => borrowed_text(ty),
                _ => None,
            })
        }
        _ => None,
    }
}

/// Returns the span of `ident` in the tokens, at any depth.
fn find_ident(tokens: TokenStream, ident: &str) -> Option<Span> {
    tokens.into_iter().find_map(|token| match token {
        TokenTree::Ident(found) if found == ident => Some(found.span()),
        TokenTree::Group(group) => find_ident(group.stream(), ident),
        _ => None,
    })
}
