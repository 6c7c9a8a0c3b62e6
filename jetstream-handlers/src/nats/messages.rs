//! Messages of a stream: read and deleted by sequence.

use std::ops::RangeInclusive;
use std::time::{Duration, SystemTime};

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::stream::RawMessage;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as BASE64;
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::Connection;
use crate::error::api::ApiError;
use crate::error::{Error, ErrorKind};
use crate::message::{Stored, header_block, nanos};

/// The maximum number of messages that one caller reads at the same time; the total of all is bounded by their size.
const MAX_READS: usize = 32;

/// The size of the payloads after which no more messages of a range are read.
const MAX_RANGE: usize = 8 * 1024 * 1024;

impl Connection {
    /// Returns the messages at these sequences, up to 8 MiB of them, and the last sequence that was read.
    pub(crate) async fn stored_range(
        &self,
        stream: &str,
        sequences: RangeInclusive<u64>,
    ) -> Result<(Vec<Stored>, u64), Error> {
        let (mut found, mut size, mut last) = (Vec::new(), 0, sequences.start().saturating_sub(1));
        let reads = futures::stream::iter(sequences)
            .map(|sequence| async move { Ok::<_, Error>((sequence, self.stored(stream, sequence).await?)) });
        let mut reads = std::pin::pin!(reads.buffered(MAX_READS));
        while size < MAX_RANGE
            && let Some((sequence, stored)) = reads.try_next().await?
        {
            last = sequence;
            size += stored.as_ref().map_or(0, |stored| stored.payload.len());
            found.extend(stored);
        }
        Ok((found, last))
    }

    /// Returns the message at this sequence.
    pub(crate) async fn stored(&self, stream: &str, sequence: u64) -> Result<Option<Stored>, Error> {
        self.read_stored(stream, sequence, &json!({ "seq": sequence })).await
    }

    /// Returns the first message at or after this sequence.
    pub(crate) async fn next_stored(&self, stream: &str, sequence: u64) -> Result<Option<Stored>, Error> {
        self.next_stored_on(stream, sequence, ">").await
    }

    /// Returns the first message at or after this sequence on a subject, which may have wildcards.
    pub(crate) async fn next_stored_on(
        &self,
        stream: &str,
        sequence: u64,
        subject: &str,
    ) -> Result<Option<Stored>, Error> {
        self.read_stored(stream, sequence, &json!({ "seq": sequence, "next_by_subj": subject })).await
    }

    /// Returns the first message at or after this sequence on a subject, with its header block.
    pub(super) async fn next_raw(
        &self,
        stream: &str,
        sequence: u64,
        subject: &str,
    ) -> Result<Option<(Stored, Bytes)>, Error> {
        self.read_raw(stream, sequence, &json!({ "seq": sequence, "next_by_subj": subject })).await
    }

    async fn read_stored(&self, stream: &str, sequence: u64, request: &Value) -> Result<Option<Stored>, Error> {
        Ok(self.read_raw(stream, sequence, request).await?.map(|(stored, _)| stored))
    }

    /// Reads a message, whose size is not known before.
    async fn get_message<T: DeserializeOwned>(&self, stream: &str, request: &Value) -> Result<T, ApiError> {
        // Handlers that look for lost messages all read at the same time, and the server ends the connection with too much
        // that waits. In JSON, the headers and the payload are encoded as base64.
        let max_size = self.present().max_payload() / 3 * 4;
        let _reservation = self.reads.reserve(max_size).await;
        self.request(&format!("STREAM.MSG.GET.{stream}"), request).await
    }

    /// Reads a message as JSON, which the client library can decode whatever the headers contain.
    async fn read_raw(&self, stream: &str, sequence: u64, request: &Value) -> Result<Option<(Stored, Bytes)>, Error> {
        #[derive(Deserialize)]
        struct Found {
            message: RawMessage,
        }
        let found: Found = match self.get_message(stream, request).await {
            Ok(found) => found,
            Err(error) if error.is(ErrorCode::NO_MESSAGE_FOUND) => return Ok(None),
            Err(error) => return Err(error.into_error(&format!("reading message {sequence} of stream `{stream}`"))),
        };
        let unreadable = |why: &dyn std::fmt::Display| {
            Error::new(ErrorKind::Server, format!("message {sequence} of stream `{stream}` cannot be decoded: {why}"))
        };
        let RawMessage { subject, sequence, payload, headers, time } = found.message;
        let payload = BASE64.decode(payload).map_err(|error| unreadable(&error))?;
        let headers = BASE64.decode(headers.unwrap_or_default()).map_err(|error| unreadable(&error))?;
        let stored = Stored {
            sequence,
            subject: subject.into(),
            payload: payload.into(),
            headers: header_block::parse(&headers),
            time: SystemTime::from(time),
        };
        Ok(Some((stored, headers.into())))
    }

    /// Returns the time at which the message at this sequence was stored, in nanoseconds since 1970.
    pub(super) async fn stored_at(&self, stream: &str, sequence: u64) -> Result<Option<u64>, ApiError> {
        #[derive(Deserialize)]
        struct Found {
            message: RawMessage,
        }
        match self.get_message::<Found>(stream, &json!({ "seq": sequence })).await {
            Ok(found) => Ok(Some(nanos(SystemTime::from(found.message.time)))),
            Err(error) if error.is(ErrorCode::NO_MESSAGE_FOUND) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Returns a time at which the messages from this sequence on were stored, and no earlier one; `None` if the stream
    /// has never had a message.
    pub(crate) async fn time_of(&self, stream: &str, sequence: u64) -> Result<Option<SystemTime>, Error> {
        // In this order, a message that is stored meanwhile is not missed.
        let last = self.stream_info(stream).await?.state;
        let next = self.next_stored(stream, sequence).await?;
        let after_last = || SystemTime::from(last.last_timestamp) + Duration::from_nanos(1);
        Ok(next.map(|next| next.time).or_else(|| (last.last_sequence > 0).then(after_last)))
    }

    /// Returns the sequence of the last message on a subject, which may have wildcards; 0 if there is none.
    pub(crate) async fn last_sequence(&self, stream: &str, subject: &str) -> Result<u64, Error> {
        #[derive(Deserialize)]
        struct Found {
            message: Sequence,
        }
        #[derive(Deserialize)]
        struct Sequence {
            seq: u64,
        }
        match self.get_message::<Found>(stream, &json!({ "last_by_subj": subject })).await {
            Ok(found) => Ok(found.message.seq),
            Err(error) if error.is(ErrorCode::NO_MESSAGE_FOUND) => Ok(0),
            Err(error) => Err(error.into_error(&format!("reading the last message of stream `{stream}`"))),
        }
    }

    /// Returns the last sequence that a stream has assigned, even if that message was deleted.
    ///
    /// For a deleted message, [`last_sequence`](Self::last_sequence) on `>` finds none (observed on nats-server
    /// 2.15.1).
    pub(crate) async fn last_assigned_sequence(&self, stream: &str) -> Result<u64, Error> {
        Ok(self.stream_info(stream).await?.state.last_sequence)
    }

    /// Deletes one message; returns `false` if it did not exist.
    pub(crate) async fn delete(&self, stream: &str, sequence: u64) -> Result<bool, Error> {
        let request = json!({ "seq": sequence, "no_erase": true });
        match self.request::<Value>(&format!("STREAM.MSG.DELETE.{stream}"), &request).await {
            Ok(_) => Ok(true),
            Err(error) if error.is(ErrorCode::NO_MESSAGE_FOUND) || error.is(ErrorCode::SEQUENCE_NOT_FOUND) => Ok(false),
            Err(error) => Err(error.into_error(&format!("deleting message {sequence} of stream `{stream}`"))),
        }
    }
}
