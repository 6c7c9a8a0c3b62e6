//! Reads one value of the attribute as what its key asks for, or says what is wrong with it.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

use proc_macro2::{Span, TokenStream};
use quote::ToTokens;
use syn::Lit;
use syn::ext::IdentExt;

use crate::attribute::{Entry, Value};
use crate::duration;
use crate::errors::Errors;
use crate::keys::Keys;

/// Reads the values of one set of keys.
///
/// Every method gives `None` after a mistake, which is on the list by then.
pub(crate) struct Reader<'a> {
    pub(crate) keys: Keys,
    pub(crate) errors: &'a mut Errors,
}

impl Reader<'_> {
    /// A text in which `problem` finds none.
    pub(crate) fn text(&mut self, entry: &Entry, problem: fn(&str) -> Option<String>) -> Option<String> {
        let Value::Literal(Lit::Str(text)) = self.given(entry)? else {
            return self.wrong_kind(entry, "a string literal");
        };
        match problem(&text.value()) {
            None => Some(text.value()),
            Some(problem) => self.refuse(text.span(), problem),
        }
    }

    pub(crate) fn number(&mut self, entry: &Entry, accepted: RangeInclusive<u32>) -> Option<u32> {
        let Value::Literal(Lit::Int(literal)) = self.given(entry)? else {
            return self.wrong_kind(entry, "a whole number");
        };
        if !literal.suffix().is_empty() {
            return self.wrong_kind(entry, "a whole number without a suffix");
        }
        match literal.base10_parse() {
            Ok(number) if accepted.contains(&number) => Some(number),
            _ => self.refuse(
                literal.span(),
                format!(
                    "`{}` is {literal}; accepted are {} to {}",
                    entry.key.unraw(),
                    accepted.start(),
                    accepted.end()
                ),
            ),
        }
    }

    /// A number of at least one, whole or not.
    pub(crate) fn factor(&mut self, entry: &Entry) -> Option<f64> {
        let (span, literal, number) = match self.given(entry)? {
            Value::Literal(Lit::Int(it)) => (it.span(), it.to_string(), it.base10_parse()),
            Value::Literal(Lit::Float(it)) => (it.span(), it.to_string(), it.base10_parse()),
            _ => return self.wrong_kind(entry, "a number"),
        };
        match number {
            Ok(factor) if f64::is_finite(factor) && factor >= 1.0 => Some(factor),
            _ => self.refuse(
                span,
                format!("`{}` is {literal}; accepted is 1 or more, so that delays never shrink", entry.key.unraw()),
            ),
        }
    }

    pub(crate) fn duration(&mut self, entry: &Entry, minimum: Duration) -> Option<Duration> {
        let value = self.given(entry)?;
        let (span, duration) = self.duration_in(entry, value)?;
        if duration < minimum {
            return self.refuse(
                span,
                format!(
                    "`{}` is shorter than {} milliseconds, the least that is accepted",
                    entry.key.unraw(),
                    minimum.as_millis()
                ),
            );
        }
        Some(duration)
    }

    /// `value` as a duration, be it the value of `entry` or an element of it.
    pub(crate) fn duration_in(&mut self, entry: &Entry, value: &Value) -> Option<(Span, Duration)> {
        match value {
            Value::Literal(Lit::Str(text)) => match duration::parse(&text.value()) {
                Ok(duration) => Some((text.span(), duration)),
                Err(problem) => self.refuse(text.span(), problem),
            },
            Value::Literal(Lit::Int(number)) if number.suffix().is_empty() => {
                self.refuse(number.span(), format!("`{number}` has no unit; write `\"{number}s\"`"))
            }
            Value::Literal(literal @ (Lit::Int(_) | Lit::Float(_))) => {
                let literal = literal.to_token_stream();
                match duration::parse(&literal.to_string()) {
                    Ok(_) => {
                        self.refuse_tokens(&literal, format!("`{literal}` is not a string; write `\"{literal}\"`"))
                    }
                    Err(problem) => self.refuse_tokens(&literal, problem),
                }
            }
            _ => self.wrong_kind_of(entry, value, "a duration"),
        }
    }

    /// Whether something is on, as a key says that may stand alone.
    ///
    /// After a mistake it counts as on, so that what depends on it is no mistake of its own.
    pub(crate) fn switch(&mut self, entry: &Entry) -> bool {
        match &entry.value {
            Some(Value::Literal(Lit::Bool(on))) => on.value,
            Some(value) => {
                let key = entry.key.unraw();
                let message = format!("`{key}` is on or off; write `{key}` alone, or `{key} = false`");
                self.refuse_value::<()>(value, message);
                true
            }
            None => true,
        }
    }

    /// The value, where the key may not stand alone.
    pub(crate) fn given<'e>(&mut self, entry: &'e Entry) -> Option<&'e Value> {
        match &entry.value {
            Some(Value::Missing) => None,
            Some(value) => Some(value),
            None => {
                let key = entry.key.unraw().to_string();
                let example = self.keys.example(&key);
                self.refuse(entry.key.span(), format!("`{key}` has no value; write for example `{example}`"))
            }
        }
    }

    /// Says that the value of `entry` is of another kind than its key takes.
    pub(crate) fn wrong_kind<T>(&mut self, entry: &Entry, accepted: &str) -> Option<T> {
        let value = entry.value.as_ref()?;
        self.wrong_kind_of(entry, value, accepted)
    }

    pub(crate) fn refuse<T>(&mut self, span: Span, message: impl Display) -> Option<T> {
        self.errors.push(span, message);
        None
    }

    fn wrong_kind_of<T>(&mut self, entry: &Entry, value: &Value, accepted: &str) -> Option<T> {
        let key = entry.key.unraw().to_string();
        let example = self.keys.example(&key);
        let message = format!("`{key}` takes {accepted}; write for example `{example}`");
        self.refuse_value(value, message)
    }

    fn refuse_value<T>(&mut self, value: &Value, message: String) -> Option<T> {
        match value {
            Value::Literal(literal) => self.refuse_tokens(&literal.to_token_stream(), message),
            Value::List(_, span) | Value::Table(_, span) => self.refuse(*span, message),
            Value::Other(tokens) => self.refuse_tokens(tokens, message),
            Value::Missing => None,
        }
    }

    fn refuse_tokens<T>(&mut self, tokens: &TokenStream, message: String) -> Option<T> {
        self.errors.push_spanned(tokens, message);
        None
    }
}
