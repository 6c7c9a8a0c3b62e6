//! The variants of an enum of events, told apart by the subject or by a header.

use super::argument::ViaPayload;
use super::{Argument, Context, Rejection};
use crate::codec::DefaultCodec;
use crate::error::printable::printable;
use crate::message::Message;
use crate::subject::declares;

/// Returns `true` if the message has the subject of an event.
pub fn has_pattern(message: &Message, context: &Context, pattern: &str) -> bool {
    declares(pattern, context.declared(message.subject()))
}

/// Decodes the payload in the format of its event, or in that of the broker.
pub fn decoded<'m, T: Argument<'m, ViaPayload>>(
    message: &'m Message,
    context: &Context,
    codec: Option<DefaultCodec>,
) -> Result<T, Rejection> {
    if message.payload().is_empty() {
        return Err(Rejection::missing("the payload is empty, and an event has one"));
    }
    match codec {
        Some(codec) => T::extract(message, &context.with_codec(codec)),
        None => T::extract(message, context),
    }
}

/// Returns the rejection of a message whose subject belongs to no event.
pub fn unknown_subject(message: &Message, context: &Context, patterns: &[&str]) -> Rejection {
    let subject = printable(context.declared(message.subject()));
    Rejection::new(format!("no event has the subject `{subject}`; the subjects are `{}`", patterns.join("`, `")))
}

/// Returns the rejection of a message whose header names none of the events.
pub fn unknown_header(header: &str, found: Option<&str>, names: &[&str]) -> Rejection {
    let names = names.join("`, `");
    Rejection::new(match found {
        Some(found) => {
            format!("no event has the name `{}` (header `{header}`); the names are `{names}`", printable(found))
        }
        None => format!("header `{header}` is missing, which names the event: `{names}`"),
    })
}
