//! The headers of a message, for a propagator.

use async_nats::{HeaderMap, HeaderValue};
use opentelemetry::propagation::{Extractor, Injector};

use super::super::trace_context::{first, values};
use super::w3c::{BAGGAGE, TRACESTATE};
use crate::message::{LINE_OVERHEAD, header_block};

/// The headers of a received message, whose names are matched in any letter case.
pub(super) struct Received<'a> {
    headers: &'a HeaderMap,
    /// The headers that may have several lines, in one line each.
    joined: [(&'static str, Option<String>); 2],
}

impl<'a> Received<'a> {
    pub(super) fn new(headers: &'a HeaderMap) -> Self {
        let joined = |name| (name, joined(headers, name));
        Self { headers, joined: [joined(TRACESTATE), joined(BAGGAGE)] }
    }
}

/// Returns the lines of a header joined by commas; `None` if it has at most one line.
fn joined(headers: &HeaderMap, name: &str) -> Option<String> {
    let values = values(headers, name);
    (values.len() > 1).then(|| values.iter().map(HeaderValue::as_str).collect::<Vec<_>>().join(","))
}

impl Extractor for Received<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        let joined = self.joined.iter().find(|(name, _)| name.eq_ignore_ascii_case(key));
        joined.and_then(|(_, value)| value.as_deref()).or_else(|| first(self.headers, key))
    }

    fn keys(&self) -> Vec<&str> {
        self.headers.iter().map(|(name, _)| name.as_ref()).collect()
    }

    fn get_all(&self, key: &str) -> Option<Vec<&str>> {
        let values = values(self.headers, key);
        (!values.is_empty()).then(|| values.iter().map(HeaderValue::as_str).collect())
    }
}

/// The maximum size of a value that is passed on, in bytes: what W3C Baggage requires to be passed on.
const MAX_VALUE: usize = 8192;

/// The headers of a message to be published, of which a propagator replaces none.
pub(super) struct ToPublish<'a> {
    pub(super) headers: &'a mut HeaderMap,
    /// The number of bytes by which they may grow.
    pub(super) space: usize,
}

impl Injector for ToPublish<'_> {
    fn set(&mut self, key: &str, value: String) {
        // A publisher may send any text, and those who read these headers may print them.
        let is_printable = !value.chars().any(char::is_control);
        if value.is_empty() || value.len() > MAX_VALUE || !is_printable || first(self.headers, key).is_some() {
            return;
        }
        let Some(space) = self.space.checked_sub(key.len() + value.len() + LINE_OVERHEAD) else {
            // What follows may mean nothing without it.
            self.space = 0;
            return;
        };
        // Without the header, only the trace ends; with an invalid one, the message could not be sent.
        if let Some((name, value)) = header_block::header(&key.to_ascii_lowercase(), &value) {
            self.headers.insert(name, value);
            self.space = space;
        }
    }
}
