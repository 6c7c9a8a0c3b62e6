//! The attribute as it is written: keys and values that nobody has judged yet.

use proc_macro2::{Span, TokenStream, TokenTree};
use syn::ext::IdentExt;
use syn::parse::{ParseStream, Parser};
use syn::{Ident, Lit, Token, braced, bracketed, token};

use crate::errors::Errors;

/// `key = value`, or the key alone.
pub(crate) struct Entry {
    pub(crate) key: Ident,
    pub(crate) value: Option<Value>,
}

pub(crate) enum Value {
    Literal(Lit),
    /// `[value, …]`
    List(Vec<Value>, Span),
    /// `{ key = value, … }`
    Table(Vec<Entry>, Span),
    /// Anything else, kept to point at it.
    Other(TokenStream),
    /// Not there, and that mistake is on the list already.
    Missing,
}

/// Reads all entries, and goes on behind each mistake.
pub(crate) fn parse(attribute: TokenStream, errors: &mut Errors) -> Vec<Entry> {
    let parsed = (|input: ParseStream<'_>| entries(input, errors)).parse2(attribute);
    parsed.unwrap_or_else(|error| {
        errors.push(error.span(), &error);
        Vec::new()
    })
}

fn entries(input: ParseStream<'_>, errors: &mut Errors) -> syn::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    while !input.is_empty() {
        if input.peek(Ident::peek_any) {
            entries.push(entry(input, errors)?);
        } else {
            errors.push_spanned(rest_of_entry(input)?, "expected a key, as in `subject = \"orders.created\"`");
        }
        end_of_entry(input, errors)?;
    }
    Ok(entries)
}

fn entry(input: ParseStream<'_>, errors: &mut Errors) -> syn::Result<Entry> {
    let key = input.call(Ident::parse_any)?;
    if input.is_empty() || input.peek(Token![,]) || starts_entry(input) {
        return Ok(Entry { key, value: None });
    }
    if !input.peek(Token![=]) {
        errors.push_spanned(rest_of_entry(input)?, format!("expected `=` and a value behind `{}`", key.unraw()));
        return Ok(Entry { key, value: Some(Value::Missing) });
    }
    let equals: Token![=] = input.parse()?;
    let value = if input.is_empty() || input.peek(Token![,]) {
        errors.push(equals.span, format!("expected a value for `{}` behind `=`", key.unraw()));
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
        return Ok(Value::Table(entries(&content, errors)?, brace.span.join()));
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

/// Consumes the comma behind an entry, or says that it is not there.
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

/// Everything up to the next comma.
fn rest_of_entry(input: ParseStream<'_>) -> syn::Result<TokenStream> {
    let mut rest = TokenStream::new();
    while !input.is_empty() && !input.peek(Token![,]) {
        rest.extend([input.parse::<TokenTree>()?]);
    }
    Ok(rest)
}
