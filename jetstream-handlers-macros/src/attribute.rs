//! The attribute as it is written: keys and values before validation.

use proc_macro2::{Span, TokenStream, TokenTree};
use syn::ext::IdentExt;
use syn::parse::{ParseStream, Parser};
use syn::{Ident, Lit, Token, braced, bracketed, parenthesized, token};

use crate::errors::Errors;

/// The arguments of the attribute.
#[derive(Default)]
pub(crate) struct Attribute {
    pub(crate) entries: Vec<Entry>,
    /// The values that stand in the place of an entry.
    pub(crate) without_key: Vec<TokenStream>,
}

/// An entry: `key = value`, or the key alone.
pub(crate) struct Entry {
    pub(crate) key: Ident,
    pub(crate) value: Option<Value>,
}

pub(crate) enum Value {
    Literal(Lit),
    /// A list: `[value, …]`.
    List(Vec<Value>, Span),
    /// A table: `{ key = value, … }`.
    Table(Vec<Entry>, Span),
    /// A call: `env(value, …)` or `header(value)`.
    Call {
        function: Ident,
        arguments: Vec<Value>,
        span: Span,
    },
    /// Other tokens: a constant, or a mistake.
    Other(TokenStream),
    /// A missing value, which is already reported.
    Missing,
}

/// The functions that a value may call.
const CALLS: [&str; 2] = ["env", "header"];

/// Reads all entries, and continues after each mistake.
pub(crate) fn parse(attribute: TokenStream, errors: &mut Errors) -> Attribute {
    let parsed = (|input: ParseStream<'_>| entries(input, errors)).parse2(attribute);
    parsed.unwrap_or_else(|error| {
        errors.push(error.span(), &error);
        Attribute::default()
    })
}

fn entries(input: ParseStream<'_>, errors: &mut Errors) -> syn::Result<Attribute> {
    let mut attribute = Attribute::default();
    while !input.is_empty() {
        if input.peek(Ident::peek_any) {
            attribute.entries.push(entry(input, errors)?);
        } else {
            attribute.without_key.push(rest_of_entry(input)?);
        }
        end_of_entry(input, errors)?;
    }
    Ok(attribute)
}

/// Reads the entries of a table, in which every value needs a key.
fn table(input: ParseStream<'_>, errors: &mut Errors) -> syn::Result<Vec<Entry>> {
    let Attribute { entries, without_key } = entries(input, errors)?;
    for value in without_key {
        errors.push_spanned(value, "expected a key, as in `initial = \"1s\"`");
    }
    Ok(entries)
}

fn entry(input: ParseStream<'_>, errors: &mut Errors) -> syn::Result<Entry> {
    let key = input.call(Ident::parse_any)?;
    if input.is_empty() || input.peek(Token![,]) || starts_entry(input) {
        return Ok(Entry { key, value: None });
    }
    if !input.peek(Token![=]) {
        errors.push_spanned(rest_of_entry(input)?, format!("expected `=` and a value after `{}`", key.unraw()));
        return Ok(Entry { key, value: Some(Value::Missing) });
    }
    let equals: Token![=] = input.parse()?;
    let value = if input.is_empty() || input.peek(Token![,]) {
        errors.push(equals.span, format!("expected a value for `{}` after `=`", key.unraw()));
        Value::Missing
    } else {
        value(input, errors)?
    };
    Ok(Entry { key, value: Some(value) })
}

fn value(input: ParseStream<'_>, errors: &mut Errors) -> syn::Result<Value> {
    let negative_number = input.peek(Token![-]) && input.peek2(Lit);
    if input.peek(Lit) || negative_number {
        return Ok(Value::Literal(input.parse()?));
    }
    if input.peek(token::Bracket) {
        let content;
        let bracket = bracketed!(content in input);
        return Ok(Value::List(list(&content, errors)?, bracket.span.join()));
    }
    if input.peek(token::Brace) {
        let content;
        let brace = braced!(content in input);
        return Ok(Value::Table(table(&content, errors)?, brace.span.join()));
    }
    let is_call = input.peek(Ident) && input.peek2(token::Paren);
    if is_call && CALLS.contains(&input.fork().parse::<Ident>()?.to_string().as_str()) {
        let function = input.parse()?;
        let content;
        let parentheses = parenthesized!(content in input);
        return Ok(Value::Call { function, arguments: list(&content, errors)?, span: parentheses.span.join() });
    }
    Ok(Value::Other(rest_of_entry(input)?))
}

fn list(input: ParseStream<'_>, errors: &mut Errors) -> syn::Result<Vec<Value>> {
    let mut values = Vec::new();
    while !input.is_empty() {
        values.push(value(input, errors)?);
        end_of_entry(input, errors)?;
    }
    Ok(values)
}

/// Consumes the comma after an entry, or reports that it is missing.
fn end_of_entry(input: ParseStream<'_>, errors: &mut Errors) -> syn::Result<()> {
    if input.is_empty() {
        return Ok(());
    }
    if !input.peek(Token![,]) {
        let next: TokenTree = input.fork().parse()?;
        errors.push(next.span(), format!("expected `,` before `{next}`"));
        if starts_entry(input) {
            return Ok(());
        }
        rest_of_entry(input)?;
    }
    input.parse::<Option<Token![,]>>()?;
    Ok(())
}

fn starts_entry(input: ParseStream<'_>) -> bool {
    input.peek(Ident::peek_any) && input.peek2(Token![=])
}

/// Consumes everything up to the next comma.
fn rest_of_entry(input: ParseStream<'_>) -> syn::Result<TokenStream> {
    let mut rest = TokenStream::new();
    while !input.is_empty() && !input.peek(Token![,]) {
        rest.extend([input.parse::<TokenTree>()?]);
    }
    Ok(rest)
}
