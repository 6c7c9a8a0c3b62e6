//! Storing dead letters.

use super::headers;
use crate::delivery::Binding;
use crate::error::{Error, ErrorKind};
use crate::message::{Message, PublishAck};
use crate::outcome::Failure;
use crate::publish::publish;
use crate::transport::Transport;

/// Stores the dead letter of a message on `subject`, and returns after its stream has acknowledged it.
///
/// A dead letter that is too large for the server is stored without its payload if the stream keeps the original.
pub(crate) async fn store(
    transport: &Transport,
    binding: &Binding,
    subject: &str,
    handler: &str,
    message: &Message,
    failure: &Failure,
) -> Result<PublishAck, Error> {
    let copy = headers::copy(subject, handler, message, failure);
    match publish(transport, copy.clone()).await {
        Err(error) if error.kind() == ErrorKind::PayloadTooLarge && binding.keeps_handled => {
            publish(transport, headers::without_payload(copy)).await
        }
        result => result,
    }
}
