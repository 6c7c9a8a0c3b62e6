//! The pause of a consumer, which an operator begins and ends on the server.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::Worker;
use crate::delivery::{Binding, Pause};
use crate::observe::status_cell::Condition;

impl Worker {
    /// Reports that the consumer was paused, or resumed.
    pub(super) fn paused(&self, pause: Option<Pause>) {
        let Binding { stream, consumer, .. } = &*self.binding;
        let handler = &self.handler.declaration.name;
        let Some(Pause { until, remaining }) = pause else {
            self.status.condition_ended(Condition::Paused);
            tracing::info!(handler, "the consumer is no longer paused");
            return;
        };
        let until = until.map(OffsetDateTime::from).and_then(|until| until.replace_nanosecond(0).ok());
        let until =
            until.and_then(|until| until.format(&Rfc3339).ok()).map_or(String::new(), |end| format!(" until {end}"));
        let reason = format!(
            "consumer `{consumer}` of stream `{stream}` is paused{until}; `nats consumer resume {stream} {consumer}` ends the pause"
        );
        tracing::warn!(handler, "the handler receives no messages: {reason}");
        self.status.report(Condition::Paused, reason, remaining);
    }
}
