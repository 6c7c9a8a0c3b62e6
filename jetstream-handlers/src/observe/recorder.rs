//! The calls of handlers, recorded for a test.

use std::sync::{Arc, Mutex};

use bytes::Bytes;

use crate::outcome::{Output, Settle};
use crate::sync::lock;

/// One call of a handler.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) handler: String,
    pub(crate) subject: String,
    pub(crate) sequence: u64,
    pub(crate) payload: Bytes,
    pub(crate) settle: Settle,
    pub(crate) error: Option<String>,
    /// The outputs that were published.
    pub(crate) outputs: Vec<Output>,
}

/// The calls of all handlers of a test broker.
#[derive(Debug, Clone, Default)]
pub(crate) struct Recorder(Arc<Mutex<Vec<Call>>>);

impl Recorder {
    pub(crate) fn add(&self, call: Call) {
        lock(&self.0).push(call);
    }

    /// Returns the calls of one handler in their order.
    pub(crate) fn of(&self, handler: &str) -> Vec<Call> {
        let calls = lock(&self.0);
        calls.iter().filter(|call| call.handler == handler).cloned().collect()
    }
}
