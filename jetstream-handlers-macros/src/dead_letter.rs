//! The attribute of a handler of dead letters: `subscriber` with other defaults.

use proc_macro2::{Span, TokenStream};
use quote::quote_spanned;
use syn::ext::IdentExt;

use crate::attribute;
use crate::errors::Errors;
use crate::expand;
use crate::keys;

/// The keys that the attribute excludes, each with the reason.
const EXCLUDED: [(&str, &str); 2] = [
    (
        "dead_letter",
        "`dead_letter_handler` excludes `dead_letter`, because what it handles is a dead letter already; remove `dead_letter`",
    ),
    (
        "event",
        "`dead_letter_handler` excludes `event`, because a dead letter is no event; remove `event`, or choose dead letters by `subject = \"dlq.ORDERS.>\"`",
    ),
];

/// Expands the attribute as `subscriber` with the defaults of a handler of dead letters.
pub(crate) fn handler(attribute: &TokenStream, item: &TokenStream) -> TokenStream {
    let mut errors = Errors::default();
    // The mistakes of the attribute are reported once, by `subscriber`.
    let entries = attribute::parse(attribute.clone(), &mut Errors::default()).entries;
    let find = |key: &str| entries.iter().find(|entry| keys::OF_ATTRIBUTE.means(&entry.key.unraw().to_string(), key));
    for (key, problem) in EXCLUDED {
        if let Some(entry) = find(key) {
            errors.push(entry.key.span(), problem);
        }
    }
    let here = Span::mixed_site();
    let subject =
        (find("subject").is_none() && find("event").is_none()).then(|| quote_spanned!(here=> subject = "dlq.>",));
    let deliver = find("deliver").is_none().then(|| quote_spanned!(here=> deliver = "new",));
    let dead_letter = find("dead_letter").is_none().then(|| quote_spanned!(here=> dead_letter = false,));
    expand::handler(quote_spanned!(here=> #subject #deliver #dead_letter #attribute), item, errors)
}
