//! The choice of a handler by text.

use crate::declaration::is_named;
use crate::error::{Error, ErrorKind};

/// Returns the index of the only handler that the text names, among these names and queues.
pub(super) fn choose<'a>(
    handlers: impl Iterator<Item = (&'a str, &'a str)> + Clone,
    text: &str,
) -> Result<usize, Error> {
    let named = handlers.clone().enumerate().filter(|(_, (name, queue))| is_named(name, queue, text));
    let named: Vec<_> = named.collect();
    let problem = match &*named {
        [(index, _)] => return Ok(*index),
        [] if handlers.clone().next().is_none() => {
            format!("no handler is named `{text}`; the program has no handlers")
        }
        [] => format!("no handler is named `{text}`; the handlers are {}", shown(handlers)),
        several => {
            let several = shown(several.iter().map(|(_, handler)| *handler));
            format!("`{text}` names several handlers: {several}; use more of the path, or the queue")
        }
    };
    Err(Error::new(ErrorKind::NoHandlers, problem))
}

/// Returns the names of handlers, each with its queue.
fn shown<'a>(handlers: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let names = handlers.map(|(name, queue)| format!("`{name}` (queue `{queue}`)"));
    names.collect::<Vec<_>>().join(", ")
}
