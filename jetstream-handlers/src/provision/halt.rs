//! The halt of the copying into a derived stream, while its number of partitions is changed.

use async_nats::jetstream::stream;

use super::drift;
use crate::error::{Error, ErrorKind};
use crate::transport::Transport;

/// The `max_msg_size` of a stream that copies nothing while its number of partitions is changed.
///
/// Each copy has a header that is longer, so that the server refuses it, and tries it again later.
pub(super) const HALTED: i32 = 1;

/// Returns `true` if an update changes what is copied, or ends a halt; without a start position, the server would copy from
/// the beginning.
pub(super) fn changes_copies(found: &stream::Config, wanted: &stream::Config) -> bool {
    drift::is_derived(wanted) && (found.sources != wanted.sources || found.max_message_size == HALTED)
}

/// Returns the configuration without `max_msg_size`, which changes while the number of partitions is changed.
pub(super) fn without_limit(mut config: stream::Config) -> stream::Config {
    if drift::is_derived(&config) {
        config.max_message_size = -1;
    }
    config
}

/// Returns the configuration without what only lasts while the number of partitions is changed.
pub(super) fn unhalted(mut config: stream::Config) -> stream::Config {
    if drift::is_derived(&config) && config.max_message_size == HALTED {
        config.max_message_size = -1;
    }
    config
}

/// Stops the copying, so that the messages of the former partitions end.
pub(super) async fn halt(transport: &Transport, found: &stream::Config) -> Result<(), Error> {
    let halted = halted(found);
    if halted == *found { Ok(()) } else { change(transport, found, &halted).await }
}

/// Continues the copying with the former number of partitions.
pub(super) async fn resume(transport: &Transport, found: &stream::Config) -> Result<(), Error> {
    change(transport, &halted(found), &unhalted(found.clone())).await
}

fn halted(found: &stream::Config) -> stream::Config {
    stream::Config { max_message_size: HALTED, ..found.clone() }
}

async fn change(transport: &Transport, found: &stream::Config, wanted: &stream::Config) -> Result<(), Error> {
    transport.update_stream(found, wanted).await.map_err(|error| {
        let name = &found.name;
        error.into_error(&format!(
            "setting `max_msg_size` of stream `{name}`, which copies nothing while it is {HALTED}"
        ))
    })
}

/// Sets the position from which the server continues to copy after an update; without it, it would copy from the beginning.
///
/// A time is preferred to a sequence: if the origin is deleted and created again, its sequences restart at 1, and messages
/// below a start sequence would not be copied.
pub(super) async fn continue_copying(transport: &Transport, wanted: &mut stream::Config) -> Result<(), Error> {
    let name = &wanted.name;
    let copies = transport.copies(name).await;
    let copies = copies.map_err(|error| error.into_error(&format!("reading the last copy of stream `{name}`")))?;
    let Some(copies) = copies.filter(|copies| copies.last_sequence > 0) else { return Ok(()) };
    let Some(copied) = copies.copied else {
        let text = format!(
            "the server does not tell which message stream `{name}` has copied last, so that it would copy all again; all its servers need nats-server 2.15"
        );
        return Err(Error::new(ErrorKind::Plan, text));
    };
    for source in wanted.sources.iter_mut().flatten() {
        (source.start_sequence, source.start_time) = match transport.time_of(&source.name, copied + 1).await {
            Ok(Some(time)) => (None, Some(time.into())),
            Ok(None) | Err(_) => (Some(copied + 1), None),
        };
    }
    Ok(())
}
