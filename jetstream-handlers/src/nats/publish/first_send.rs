//! The outcome of a publish whose answer was lost, read from its stream.

use async_nats::header;
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::stream;

use super::super::Connection;
use crate::error::Error;
use crate::message::{FirstSend, Outgoing};

/// Reads the message after the expected last sequence, which is either the message that was sent or another one.
pub(crate) async fn first_send(connection: &Connection, message: &Outgoing) -> Result<FirstSend, Error> {
    let expected = |name| message.header(name).and_then(|value| value.parse::<u64>().ok());
    let of_stream = expected(header::NATS_EXPECTED_LAST_SEQUENCE);
    let of_subject = expected(header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE);
    let stream = stream_of(connection, message).await?;
    let (Some(stream), Some(last)) = (stream, of_stream.max(of_subject)) else { return Ok(FirstSend::Unknown) };
    let stored = match of_stream {
        Some(_) => connection.stored(&stream, last + 1).await?,
        None => connection.next_stored_on(&stream, last + 1, &message.subject).await?,
    };
    let Some(stored) = stored else { return Ok(FirstSend::Unknown) };
    let id = stored.headers.get(header::NATS_MESSAGE_ID);
    if id.is_some() && id == message.headers.get(header::NATS_MESSAGE_ID) {
        return Ok(FirstSend::Stored(ack_of_stored(connection, stream, stored.sequence)));
    }
    if of_stream.is_some() {
        return Ok(FirstSend::NotStored);
    }
    // A stream that removes messages for other reasons than their age may have removed the one that was sent.
    let config = connection.stream(&stream).await;
    let config = config.map_err(|error| error.into_error(&format!("reading stream `{stream}`")))?;
    let keeps_messages = config.is_some_and(|config| {
        config.retention == stream::RetentionPolicy::Limits && config.max_messages_per_subject <= 0
    });
    Ok(if keeps_messages { FirstSend::NotStored } else { FirstSend::Unknown })
}

/// Returns the name of the stream that stores a message.
pub(super) async fn stream_of(connection: &Connection, message: &Outgoing) -> Result<Option<String>, Error> {
    if let Some(stream) = message.header(header::NATS_EXPECTED_STREAM) {
        return Ok(Some(stream.to_owned()));
    }
    let names = connection.stream_names(&message.subject).await;
    let names = names.map_err(|error| error.into_error(&format!("looking up the stream of `{}`", message.subject)))?;
    Ok(names.into_iter().next())
}

/// Returns the ack that the stream sent when it stored this message, and that was lost.
pub(super) fn ack_of_stored(connection: &Connection, stream: String, sequence: u64) -> PublishAck {
    let domain = connection.settings.domain.clone().unwrap_or_default();
    PublishAck { stream, sequence, domain, duplicate: false, value: None, batch_id: None, batch_size: None }
}
