//! The validation of the attribute's entries; valid settings are expanded without further checks.

use proc_macro2::Span;
use syn::Lit;
use syn::ext::IdentExt;

use crate::attribute::{Attribute, Entry};
use crate::errors::Errors;
use crate::keys;
use crate::rules::{self, Key, Setting};
use crate::signature::Function;
use crate::value::{Given, Reader, known_once};

/// The settings of a handler, in the order of the attribute.
pub(crate) type Settings = Vec<(&'static Key, Given)>;

/// The keys without a default.
pub(crate) const REQUIRED: [&str; 2] = ["subject", "queue"];

/// Returns the settings of a handler, which are complete only if no errors were reported.
pub(crate) fn settings(attribute: &Attribute, function: Option<&Function>, errors: &mut Errors) -> Settings {
    let entries = &attribute.entries;
    require(attribute, function, errors);
    let known = known_once(entries, keys::OF_ATTRIBUTE, errors);
    let mut reader = Reader { errors };
    let settings: Settings = known.iter().filter_map(|(key, entry)| Some((*key, reader.read(key, entry)?))).collect();
    contradictions(&settings, entries, &known, errors);
    check_async(&settings, entries, function, errors);
    check_batch(entries, function, errors);
    with_event(settings)
}

/// Returns the settings with the subjects of an event in place of it.
fn with_event(settings: Settings) -> Settings {
    let subject = keys::OF_ATTRIBUTE.find("subject");
    settings.into_iter().map(|(key, given)| (subject.filter(|_| key.name == "event").unwrap_or(key), given)).collect()
}

/// Reports keys that exclude one another.
fn contradictions(settings: &Settings, entries: &[Entry], known: &[(&Key, &Entry)], errors: &mut Errors) {
    let literal = settings.iter().filter_map(|(key, given)| Some((key.name, given.setting()?.clone())));
    let mut settings: Vec<_> = literal.collect();
    // A misspelt `ordered` is reported once, and satisfies the keys that require it.
    if is_meant("ordered", entries) && !known.iter().any(|(key, _)| key.name == "ordered") {
        settings.push(("ordered", Setting::Flag(true)));
    }
    // So does a `key` that is not known before the start, or that was reported.
    if is_meant("key", entries) && !settings.iter().any(|(key, _)| *key == "key") {
        settings.push(("key", Setting::Text("".into())));
    }
    let event = known.iter().find(|(key, _)| key.name == "event");
    if let Some((_, entry)) = event.filter(|_| is_meant("subject", entries)) {
        let message = "`event` excludes `subject`, because an event has its own; remove one of them";
        errors.push(entry.key.span(), message);
    }
    for (name, problem) in rules::contradictions(&settings) {
        if let Some((_, entry)) = known.iter().find(|(key, _)| key.name == name) {
            errors.push(entry.key.span(), problem);
        }
    }
}

/// Reports a plain function that is not blocking: without an `await` it would block a thread of the runtime.
fn check_async(settings: &Settings, entries: &[Entry], function: Option<&Function>, errors: &mut Errors) {
    let Some(function) = function else { return };
    let is_off =
        settings.iter().any(|(key, given)| key.name == "blocking" && given.setting() == Some(&Setting::Flag(false)));
    let is_blocking = is_meant("threads", entries) || (is_meant("blocking", entries) && !is_off);
    if !function.is_async() && !is_blocking {
        let name = function.plain_name();
        let message = format!(
            "handler `{name}` is not async; write `async fn {name}`, or add `blocking` if it computes or blocks"
        );
        errors.push(function.keyword(), message);
    }
}

/// Reports a batch without its key, the key without a batch, and parameters that cannot stand beside a batch.
fn check_batch(entries: &[Entry], function: Option<&Function>, errors: &mut Errors) {
    let Some(function) = function else { return };
    let name = function.plain_name();
    let key = entries.iter().find(|entry| keys::OF_ATTRIBUTE.means(&entry.key.unraw().to_string(), "batch"));
    match (key, function.batch()) {
        (None, Some(batch)) => {
            let message = format!(
                "handler `{name}` takes a `Batch`, but has no `batch`; add the maximum number of its messages, as in `batch = 100`"
            );
            errors.push_spanned(batch, message);
        }
        (Some(entry), None) => {
            let message = format!(
                "handler `{name}` has `batch`, but takes no `Batch`; take the payload as `Batch<T>`, or remove `batch`"
            );
            errors.push(entry.key.span(), message);
        }
        (Some(_), Some(_)) => function.check_beside_batch(errors),
        (None, None) => {}
    }
}

/// Returns `true` if the key is present, even if misspelt.
fn is_meant(key: &str, entries: &[Entry]) -> bool {
    entries.iter().any(|entry| keys::OF_ATTRIBUTE.means(&entry.key.unraw().to_string(), key))
}

/// Reports required keys that are missing; a value without a key is taken for the value of the first of them.
fn require(attribute: &Attribute, function: Option<&Function>, errors: &mut Errors) {
    let handler = function.map_or("the handler".to_owned(), |function| format!("handler `{}`", function.plain_name()));
    let has_event = is_meant("event", &attribute.entries);
    let mut missing =
        REQUIRED.into_iter().filter(|key| !(is_meant(key, &attribute.entries) || *key == "subject" && has_event));
    for value in &attribute.without_key {
        let text = syn::parse2(value.clone()).ok().filter(|literal| matches!(literal, Lit::Str(_)));
        let message = match (text, missing.next()) {
            (Some(_), Some(key)) => format!("expected a key; write `{key} = {value}`"),
            _ => "expected a key, as in `subject = \"orders.created\"`".to_owned(),
        };
        errors.push_spanned(value, message);
    }
    for key in missing {
        let example = keys::OF_ATTRIBUTE.find(key).map(Key::in_use).unwrap_or_default();
        errors.push(Span::call_site(), format!("{handler} has no `{key}`; add it, as in `{example}`"));
    }
}
