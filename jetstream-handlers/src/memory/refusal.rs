//! Refusals with the error codes of nats-server.

use async_nats::jetstream::ErrorCode;
use serde_json::json;

/// A refusal with the error code that nats-server would send.
pub(super) type Refusal = async_nats::jetstream::Error;

/// Builds an error as nats-server sends it.
pub(super) fn refusal(status: u16, code: ErrorCode, description: &str) -> Refusal {
    let error = json!({ "code": status, "err_code": code, "description": description });
    serde_json::from_value(error).expect("these are the fields of the server's errors")
}
