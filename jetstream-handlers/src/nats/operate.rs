//! Requests that pause and reset a consumer.

use std::time::SystemTime;

use serde::Deserialize;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::Connection;
use crate::error::{Error, ErrorKind};

impl Connection {
    /// Pauses a consumer until this time; `None` ends its pause.
    pub(crate) async fn pause_consumer(
        &self,
        stream: &str,
        consumer: &str,
        until: Option<SystemTime>,
    ) -> Result<(), Error> {
        self.require_version((2, 11, 0), "the pause of a consumer", "stop the handler instead")?;
        let until = until.map(|until| OffsetDateTime::from(until).format(&Rfc3339).unwrap_or_default());
        let request = until.map_or_else(|| json!({}), |until| json!({ "pause_until": until }));
        let answer = self.request::<Value>(&format!("CONSUMER.PAUSE.{stream}.{consumer}"), &request).await;
        let doing = format!("pausing consumer `{consumer}` of stream `{stream}`");
        answer.map(drop).map_err(|error| error.into_consumer_error(&doing))
    }

    /// Moves a consumer to this sequence, or to one after its ack floor; returns the first sequence that it delivers.
    ///
    /// See `resetStartingSeqLocked` in `consumer.go` of the server.
    pub(crate) async fn reset_consumer(
        &self,
        stream: &str,
        consumer: &str,
        sequence: Option<u64>,
    ) -> Result<u64, Error> {
        #[derive(Deserialize)]
        struct Reset {
            reset_seq: u64,
        }
        let alternative =
            "stop all instances of the handler, delete its consumer, and start them with another `deliver`";
        self.require_version((2, 14, 0), "the reset of a consumer", alternative)?;
        let doing = format!("resetting consumer `{consumer}` of stream `{stream}`");
        // Only the consumer itself listens to the request.
        if self.consumer(stream, consumer).await.map_err(|error| error.into_error(&doing))?.is_none() {
            let text = format!("{doing}: there is no such consumer; start its handler first");
            return Err(Error::new(ErrorKind::ConsumerMismatch, text));
        }
        let request = sequence.map_or_else(|| json!({}), |sequence| json!({ "seq": sequence }));
        let answer = self.request::<Reset>(&format!("CONSUMER.RESET.{stream}.{consumer}"), &request).await;
        answer.map(|reset| reset.reset_seq).map_err(|error| error.into_consumer_error(&doing))
    }
}
