//! Dead letters as the parameter of a handler.

use super::{Context, FromMessage, Rejection};
use crate::dead_letter::DeadLetter;
use crate::message::{Message, Stored};

/// The dead letter, for a handler of the subjects of dead letters, such as one with
/// [`dead_letter_handler`](macro@crate::dead_letter_handler).
///
/// A dead letter that is too large for one message is not [complete](DeadLetter::is_complete);
/// [`DeadLetters::get`](crate::DeadLetters::get) reads it with its parts. The handler is not called for the parts.
impl FromMessage for DeadLetter {
    fn from_message(message: &Message, _: &Context) -> Result<Self, Rejection> {
        let info = message.info();
        let stored = Stored {
            sequence: info.stream_sequence(),
            subject: message.subject.clone(),
            payload: message.payload.clone(),
            headers: message.headers.as_deref().cloned().unwrap_or_default(),
            time: info.stored_at(),
        };
        Self::parse(stored)
            .ok_or_else(|| Rejection::new("the message is not a dead letter: it lacks `Dead-Letter-` headers"))
    }

    fn is_dead_letter() -> bool {
        true
    }

    fn is_of_one_message() -> bool {
        true
    }
}
