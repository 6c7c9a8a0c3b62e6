//! The reading of the attribute's values, as their keys accept them.

use std::borrow::Cow;
use std::fmt::Display;
use std::time::Duration;

use proc_macro2::{Span, TokenStream};
use quote::ToTokens;
use syn::ext::IdentExt;
use syn::spanned::Spanned as _;
use syn::{Expr, Lit, LitStr, Type};

use crate::attribute::{Entry, Value};
use crate::duration;
use crate::errors::Errors;
use crate::keys::{self, Keys};
use crate::rules::{self, Accepts, DEFAULT_FACTOR, Key, Setting};

/// The value of a key.
pub(crate) enum Given {
    /// A literal, which is valid.
    Literal(Setting<'static>),
    /// A constant, which is checked at the start.
    Expression(TokenStream),
    /// An event, which has the subjects.
    Event(Box<Type>),
    /// An environment variable, which is read at the start, with a valid default.
    Variable { name: String, default: Option<Setting<'static>> },
}

impl Given {
    /// Returns the value for the rules, as far as it is known.
    pub(crate) fn setting(&self) -> Option<&Setting<'static>> {
        match self {
            Self::Literal(setting) => Some(setting),
            Self::Variable { default, .. } => default.as_ref(),
            Self::Expression(_) | Self::Event(_) => None,
        }
    }
}

/// The reader of the values of entries, which reports the mistakes in them.
pub(crate) struct Reader<'a> {
    pub(crate) errors: &'a mut Errors,
}

impl Reader<'_> {
    /// Reads the value of an entry, which may be a constant or an environment variable; reports a mistake and returns
    /// `None`.
    pub(crate) fn read(&mut self, key: &'static Key, entry: &Entry) -> Option<Given> {
        match (&entry.value, &key.accepts) {
            (
                Some(Value::Call { function, arguments, span }),
                Accepts::Text(_) | Accepts::Subjects | Accepts::Number(_) | Accepts::Duration(_) | Accepts::Delays,
            ) if function == "env" => self.variable(key, arguments, *span),
            (Some(Value::Call { function, arguments, span }), Accepts::Key) if function == "header" => {
                self.header(key, arguments, *span)
            }
            (Some(Value::Other(tokens)), Accepts::Key) if is_constant(tokens) => {
                let key = generated_at(tokens.span());
                Some(Given::Expression(
                    quote::quote_spanned!(key=> ::jetstream_handlers::__private::Key::from(#tokens)),
                ))
            }
            (Some(Value::Other(tokens)), Accepts::Text(_) | Accepts::Subjects | Accepts::SubjectOrOff)
                if is_constant(tokens) =>
            {
                Some(Given::Expression(tokens.clone()))
            }
            (Some(Value::List(items, _)), Accepts::Subjects)
                if items.iter().any(|item| matches!(item, Value::Other(_))) =>
            {
                self.list_with_constants(key, items)
            }
            (Some(Value::Other(tokens)), Accepts::Event) => match syn::parse2::<Type>(tokens.clone()) {
                Ok(event) => Some(Given::Event(Box::new(event))),
                Err(_) => self.refuse_value(entry.value.as_ref()?, event_expected(key)),
            },
            (Some(Value::Other(tokens)), Accepts::Layer) if syn::parse2::<syn::Path>(tokens.clone()).is_ok() => {
                Some(Given::Expression(tokens.clone()))
            }
            (Some(value), Accepts::Layer) => {
                let message = format!("`{}` takes a function that returns a layer, as in `{}`", key.name, key.in_use());
                self.refuse_value(value, message)
            }
            (Some(value), Accepts::Event) => self.refuse_value(value, event_expected(key)),
            _ => self.setting(key, entry).map(Given::Literal),
        }
    }

    /// Reads `env("NAME")` or `env("NAME", default)`.
    fn variable(&mut self, key: &'static Key, arguments: &[Value], span: Span) -> Option<Given> {
        let (variable, default) = match arguments {
            [Value::Literal(Lit::Str(variable))] if !variable.value().is_empty() => (variable, None),
            [Value::Literal(Lit::Str(variable)), default] if !variable.value().is_empty() => (variable, Some(default)),
            _ => {
                let example = format!("{0} = env(\"{1}\", {2})", key.name, key.name.to_uppercase(), key.example);
                return self.refuse(
                    span,
                    format!("expected the name of an environment variable and a default, as in `{example}`"),
                );
            }
        };
        let default = match default {
            Some(Value::Literal(Lit::Str(delays))) if matches!(key.accepts, Accepts::Delays) => {
                Some(self.delays(key, delays)?)
            }
            Some(Value::Table(_, span)) => {
                let example = format!("{0} = env(\"{1}\", \"1s, 5s\")", key.name, variable.value());
                return self.refuse(*span, format!("a variable is a list of durations; write `{example}`"));
            }
            Some(default) => Some(self.value(key, default)?),
            None => None,
        };
        Some(Given::Variable { name: variable.value(), default })
    }

    /// Reads `header("Tenant")`.
    fn header(&mut self, key: &'static Key, arguments: &[Value], span: Span) -> Option<Given> {
        let (name, setting) = match arguments {
            [Value::Literal(Lit::Str(name))] => (name.span(), Setting::Header(name.value().into())),
            [Value::Other(name)] if is_constant(name) => {
                let here = generated_at(name.span());
                return Some(Given::Expression(
                    quote::quote_spanned!(here=> ::jetstream_handlers::__private::Key::header(#name)),
                ));
            }
            _ => {
                let message = format!("expected the name of a header, as in `{} = header(\"Tenant\")`", key.name);
                return self.refuse(span, message);
            }
        };
        match rules::value_problem(key, &setting) {
            Some(problem) => self.refuse(name, problem),
            None => Some(Given::Literal(setting)),
        }
    }

    /// Reads delays as a variable has them: `"1s, 5s"`.
    fn delays(&mut self, key: &Key, text: &LitStr) -> Option<Setting<'static>> {
        let setting = match duration::parse_list(&text.value()) {
            Ok(steps) => Setting::Steps(steps.into()),
            Err(problem) => return self.refuse(text.span(), problem),
        };
        match rules::value_problem(key, &setting) {
            Some(problem) => self.refuse(text.span(), problem),
            None => Some(setting),
        }
    }

    fn list_with_constants(&mut self, key: &'static Key, items: &[Value]) -> Option<Given> {
        let mut is_valid = true;
        for item in items {
            match item {
                Value::Other(tokens) if is_constant(tokens) => {}
                item => is_valid &= self.value(key, item).is_some(),
            }
        }
        let items = items.iter().map(|item| match item {
            Value::Literal(literal) => literal.to_token_stream(),
            Value::Other(tokens) => tokens.clone(),
            _ => TokenStream::new(),
        });
        is_valid.then(|| Given::Expression(quote::quote!([#(#items),*])))
    }

    /// Reads the value of an entry; reports a mistake and returns `None`.
    pub(crate) fn setting(&mut self, key: &'static Key, entry: &Entry) -> Option<Setting<'static>> {
        if let Accepts::Flag = key.accepts {
            return Some(self.flag(key, entry));
        }
        let value = self.given(key, entry)?;
        self.value(key, value)
    }

    fn value(&mut self, key: &'static Key, value: &Value) -> Option<Setting<'static>> {
        let (span, setting) = match (&key.accepts, value) {
            (
                Accepts::Text(_) | Accepts::Subjects | Accepts::Choice { .. } | Accepts::SubjectOrOff | Accepts::Key,
                Value::Literal(Lit::Str(text)),
            ) => (text.span(), Setting::Text(text.value().into())),
            (Accepts::Subjects, Value::List(subjects, span)) => (*span, Setting::Texts(self.texts(key, subjects)?)),
            (Accepts::Subjects, _) => {
                return self.wrong_kind(key, value, "a string literal, a constant or a list of them");
            }
            (Accepts::Key, _) => {
                return self.wrong_kind(key, value, "a field of the payload, a placeholder of the subject or a header");
            }
            (Accepts::Text(_), _) => return self.wrong_kind(key, value, "a string literal or a constant"),
            (Accepts::Choice { .. }, _) => return self.wrong_kind(key, value, "a string literal"),
            (Accepts::SubjectOrOff, Value::Literal(Lit::Bool(on))) if on.value => {
                let message = format!("`{0}` is on by default; write a subject, or remove `{0}`", key.name);
                return self.refuse(on.span, message);
            }
            (Accepts::SubjectOrOff, Value::Literal(Lit::Bool(off))) => (off.span, Setting::Off),
            (Accepts::SubjectOrOff, _) => return self.wrong_kind(key, value, "a subject or `false`"),
            (Accepts::Number(range), Value::Literal(Lit::Int(literal))) if literal.suffix().is_empty() => {
                match literal.base10_parse() {
                    Ok(number) => (literal.span(), Setting::Number(number)),
                    Err(_) => return self.refuse(literal.span(), rules::out_of_range(key.name, literal, range)),
                }
            }
            (Accepts::Number(_), Value::Literal(Lit::Int(_))) => {
                return self.wrong_kind(key, value, "a whole number without a suffix");
            }
            (Accepts::Number(_), _) => return self.wrong_kind(key, value, "a whole number"),
            (Accepts::Factor, Value::Literal(Lit::Int(literal))) => {
                (literal.span(), Setting::Factor(literal.base10_parse().unwrap_or(f64::NAN)))
            }
            (Accepts::Factor, Value::Literal(Lit::Float(literal))) => {
                (literal.span(), Setting::Factor(literal.base10_parse().unwrap_or(f64::NAN)))
            }
            (Accepts::Factor, _) => return self.wrong_kind(key, value, "a number"),
            (Accepts::Duration(_), _) => {
                let (span, duration) = self.duration(key, value)?;
                (span, Setting::Duration(duration))
            }
            (Accepts::Delays, Value::List(delays, span)) => (*span, Setting::Steps(self.steps(key, delays)?.into())),
            (Accepts::Delays, Value::Table(entries, span)) => return self.exponential(entries, *span),
            (Accepts::Delays, _) => {
                return self.wrong_kind(
                    key,
                    value,
                    "a list of durations or `{ initial = \"1s\", factor = 2, max = \"2m\" }`",
                );
            }
            (Accepts::Flag | Accepts::Event | Accepts::Layer, _) => unreachable!("these are read above"),
        };
        match rules::value_problem(key, &setting) {
            Some(problem) => self.refuse(span, problem),
            None => Some(setting),
        }
    }

    /// Reads a flag; after a mistake it counts as set, so that keys which require it are not reported as well.
    fn flag(&mut self, key: &Key, entry: &Entry) -> Setting<'static> {
        match &entry.value {
            Some(Value::Literal(Lit::Bool(literal))) => return Setting::Flag(literal.value),
            Some(value) => {
                let name = key.name;
                let message = format!("`{name}` is a flag; write `{name}` alone, `{name} = true` or `{name} = false`");
                self.refuse_value::<()>(value, message);
            }
            None => {}
        }
        Setting::Flag(true)
    }

    /// Reads a value that is a duration, without checking its range.
    fn duration(&mut self, key: &Key, value: &Value) -> Option<(Span, Duration)> {
        match value {
            Value::Literal(Lit::Str(text)) => match duration::parse(&text.value()) {
                Ok(duration) => Some((text.span(), duration)),
                Err(problem) => self.refuse(text.span(), problem),
            },
            Value::Literal(Lit::Int(number)) if number.suffix().is_empty() => {
                self.refuse(number.span(), format!("`{number}` has no unit; write `\"{number}s\"` for seconds"))
            }
            Value::Literal(literal @ (Lit::Int(_) | Lit::Float(_))) => {
                let literal = literal.to_token_stream();
                let problem = match duration::parse(&literal.to_string()) {
                    Ok(_) => format!("`{literal}` is not a string; write `\"{literal}\"`"),
                    Err(problem) => problem,
                };
                self.refuse_tokens(&literal, problem)
            }
            _ => self.wrong_kind(key, value, "a duration"),
        }
    }

    fn texts(&mut self, key: &'static Key, values: &[Value]) -> Option<Vec<Cow<'static, str>>> {
        // Collected first, so that every mistake is reported.
        let texts: Vec<_> = values
            .iter()
            .map(|value| match self.value(key, value)? {
                Setting::Text(text) => Some(text),
                _ => self.wrong_kind(key, value, "a string literal, a constant or a list of them"),
            })
            .collect();
        texts.into_iter().collect()
    }

    fn steps(&mut self, key: &Key, delays: &[Value]) -> Option<Vec<Duration>> {
        // Collected first, so that every mistake is reported.
        let steps: Vec<Option<Duration>> = delays
            .iter()
            .map(|value| {
                let (span, delay) = self.duration(key, value)?;
                match rules::step_problem(delay) {
                    Some(problem) => self.refuse(span, problem),
                    None => Some(delay),
                }
            })
            .collect();
        steps.into_iter().collect()
    }

    fn exponential(&mut self, entries: &[Entry], span: Span) -> Option<Setting<'static>> {
        let known = known_once(entries, keys::OF_BACKOFF, self.errors);
        let settings: Vec<_> = known.iter().map(|(key, entry)| (key.name, self.setting(key, entry))).collect();
        let mut find = |name: &str| match settings.iter().find(|(key, _)| *key == name) {
            Some((_, Some(Setting::Duration(duration)))) => Some(*duration),
            Some(_) => None,
            None => {
                let example = keys::OF_BACKOFF.find(name).map(Key::in_use).unwrap_or_default();
                self.refuse(span, format!("`backoff` has no `{name}`; add it, as in `{example}`"))
            }
        };
        let (initial, max) = (find("initial"), find("max"));
        let factor = match settings.iter().find(|(key, _)| *key == "factor") {
            Some((_, Some(Setting::Factor(factor)))) => Some(*factor),
            Some(_) => None,
            None => Some(DEFAULT_FACTOR),
        };
        let (initial, factor, max) = (initial?, factor?, max?);
        if let Some(problem) = rules::exponential_problem(initial, max) {
            let at = known.iter().find(|(key, _)| key.name == "max").map_or(span, |(_, entry)| entry.key.span());
            return self.refuse(at, problem);
        }
        Some(Setting::Exponential { initial, factor, max })
    }

    /// Returns the value of a key that requires one.
    fn given<'e>(&mut self, key: &Key, entry: &'e Entry) -> Option<&'e Value> {
        match &entry.value {
            Some(Value::Missing) => None,
            Some(value) => Some(value),
            None => {
                self.refuse(entry.key.span(), format!("`{}` has no value; add one, as in `{}`", key.name, key.in_use()))
            }
        }
    }

    fn wrong_kind<T>(&mut self, key: &Key, value: &Value, accepted: &str) -> Option<T> {
        self.refuse_value(value, format!("`{}` takes {accepted}, as in `{}`", key.name, key.in_use()))
    }

    fn refuse_value<T>(&mut self, value: &Value, message: String) -> Option<T> {
        match value {
            Value::Literal(literal) => self.refuse_tokens(&literal.to_token_stream(), message),
            Value::List(_, span) | Value::Table(_, span) => self.refuse(*span, message),
            Value::Call { function, span, .. } => self.refuse(function.span().join(*span).unwrap_or(*span), message),
            Value::Other(tokens) => self.refuse_tokens(tokens, message),
            Value::Missing => None,
        }
    }

    fn refuse<T>(&mut self, span: Span, message: impl Display) -> Option<T> {
        self.errors.push(span, message);
        None
    }

    fn refuse_tokens<T>(&mut self, tokens: &TokenStream, message: String) -> Option<T> {
        self.errors.push_spanned(tokens, message);
        None
    }
}

/// Returns the span of generated code that the compiler shows at `place`.
pub(crate) fn generated_at(place: Span) -> Span {
    Span::mixed_site().located_at(place)
}

fn event_expected(key: &Key) -> String {
    format!("`{}` takes a type that derives `Event`, as in `{}`", key.name, key.in_use())
}

/// Returns `true` if these tokens are the path of a constant, or a macro that makes a literal.
///
/// Anything else in lower case is a text without quotes.
fn is_constant(tokens: &TokenStream) -> bool {
    match syn::parse2::<Expr>(tokens.clone()) {
        Ok(Expr::Macro(_)) => true,
        Ok(Expr::Path(path)) => path.path.segments.last().is_some_and(|last| {
            let name = last.ident.unraw().to_string();
            name.chars().any(char::is_uppercase) && !name.chars().any(char::is_lowercase)
        }),
        _ => false,
    }
}

/// Returns the entries with known keys, each once, and reports all others.
pub(crate) fn known_once<'e>(entries: &'e [Entry], keys: Keys, errors: &mut Errors) -> Vec<(&'static Key, &'e Entry)> {
    let mut known: Vec<(&'static Key, &Entry)> = Vec::new();
    for entry in entries {
        let name = entry.key.unraw().to_string();
        match keys.find(&name) {
            None => errors.push(entry.key.span(), keys.unknown(&name)),
            Some(_) if known.iter().any(|(key, _)| key.name == name) => {
                errors.push(entry.key.span(), format!("`{name}` is given twice; remove one of them"));
            }
            Some(key) => known.push((key, entry)),
        }
    }
    known
}
