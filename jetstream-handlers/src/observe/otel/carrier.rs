//! The headers of a message, for a propagator.

use async_nats::{HeaderMap, HeaderValue};
use opentelemetry::propagation::{Extractor, Injector};

use super::super::trace_context::{first, values};
use super::w3c::{BAGGAGE, TRACESTATE};
use crate::message::header_block;

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

/// The headers of a message to be published, of which a propagator replaces none.
pub(super) struct ToPublish<'a>(pub(super) &'a mut HeaderMap);

impl Injector for ToPublish<'_> {
    fn set(&mut self, key: &str, value: String) {
        if value.is_empty() || first(self.0, key).is_some() {
            return;
        }
        // Without the header, only the trace ends; with an invalid one, the message could not be sent.
        if let Some((name, value)) = header_block::header(&key.to_ascii_lowercase(), &value) {
            self.0.insert(name, value);
        }
    }
}
