//! The calls of a handler, and assertions on them.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::Value;

use crate::codec::{DefaultCodec, Payload};
use crate::observe::recorder::Call;
use crate::outcome::Settle;

/// The calls of a handler, for assertions.
///
/// Each assertion returns the value for the next assertion. If it fails, it panics and lists all calls of the handler.
#[derive(Debug, Clone)]
pub struct Handled {
    name: String,
    calls: Vec<Call>,
    codec: DefaultCodec,
}

impl Handled {
    pub(super) fn new(name: &str, calls: Vec<Call>, codec: DefaultCodec) -> Self {
        Self { name: name.to_owned(), calls, codec }
    }

    /// Asserts that exactly one message was handled, in any number of attempts.
    #[track_caller]
    pub fn once(self) -> Self {
        self.times(1)
    }

    /// Asserts that no message was handled.
    #[track_caller]
    pub fn never(self) -> Self {
        self.times(0)
    }

    /// Asserts that exactly `count` messages were handled, each in any number of attempts.
    #[track_caller]
    pub fn times(self, count: usize) -> Self {
        let found = self.by_message().len();
        assert!(found == count, "expected {}, found {found}; {}", counted(count, "message"), self.describe());
        self
    }

    /// Asserts that one of the messages has this payload.
    #[track_caller]
    pub fn with<T: Payload + ?Sized>(self, payload: &T) -> Self {
        let expected = payload.encode_payload(&self.codec).expect("a payload can be encoded").payload;
        // JSON of another publisher may have spaces, and its fields in another order.
        let json = |payload: &[u8]| serde_json::from_slice::<Value>(payload).ok();
        let as_json = json(&expected);
        let is_expected =
            |call: &Call| call.payload == expected || (as_json.is_some() && json(&call.payload) == as_json);
        let found = self.calls.iter().any(is_expected);
        assert!(found, "expected a message with {}; {}", expected.escape_ascii(), self.describe());
        self
    }

    /// Asserts that the last attempt of every message was settled with `settle`.
    #[track_caller]
    pub fn settled(self, settle: Settle) -> Self {
        let ends: Vec<_> =
            self.by_message().values().filter_map(|calls| calls.last()).map(|call| call.settle).collect();
        let same = !ends.is_empty() && ends.iter().all(|end| *end == settle);
        assert!(same, "expected every message to end with {settle:?}; {}", self.describe());
        self
    }

    /// Asserts that every message was retried `count` times after its first attempt.
    #[track_caller]
    pub fn retried(self, count: usize) -> Self {
        let messages = self.by_message();
        let same = !messages.is_empty() && messages.values().all(|calls| calls.len() == count + 1);
        assert!(same, "expected every message to be retried {}; {}", counted(count, "time"), self.describe());
        self
    }

    fn by_message(&self) -> BTreeMap<(&str, u64), Vec<&Call>> {
        let mut messages = BTreeMap::<_, Vec<_>>::new();
        for call in &self.calls {
            messages.entry((call.subject.as_str(), call.sequence)).or_default().push(call);
        }
        messages
    }

    /// Formats all calls of the handler in their order.
    fn describe(&self) -> String {
        let mut text = format!("`{}` was called {}", self.name, counted(self.calls.len(), "time"));
        for Call { subject, sequence, payload, settle, error, outputs, .. } in &self.calls {
            let payload = String::from_utf8_lossy(payload);
            let error = error.as_ref().map_or(String::new(), |error| format!(": {error}"));
            let _ = write!(text, "\n  message {sequence} on {subject} with {payload} -> {settle:?}{error}");
            for output in outputs {
                let (subject, payload) = (output.subject(), String::from_utf8_lossy(output.payload()));
                let _ = write!(text, "\n    published {payload} on {}", subject.unwrap_or("the subject of `publish`"));
            }
        }
        text
    }
}

fn counted(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}
