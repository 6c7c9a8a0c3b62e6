//! The number of dead letters of a handler.

use crate::delivery::Binding;
use crate::error::Error;
use crate::transport::Transport;

/// Returns the number of stored dead letters of a queue; `None` if the handler has none.
///
/// `stream` is the stream that has them, if it is known; it is looked up otherwise.
pub(super) async fn count_letters(
    transport: &Transport,
    binding: &Binding,
    stream: &mut Option<String>,
) -> Result<Option<u64>, Error> {
    let Some(subject) = &binding.dead_letter else { return Ok(None) };
    if stream.is_none() {
        let names = transport.stream_names(subject).await;
        let names = names.map_err(|error| error.into_error(&format!("looking up the stream of `{subject}`")))?;
        *stream = names.into_iter().next();
    }
    let Some(name) = stream else { return Ok(Some(0)) };
    let count = transport.count_messages(name, subject).await?;
    if count.is_none() {
        *stream = None;
    }
    Ok(Some(count.unwrap_or_default()))
}
