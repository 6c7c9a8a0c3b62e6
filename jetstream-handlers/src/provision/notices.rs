//! The log lines of a start about consumers and streams whose settings have unexpected consequences.

use std::time::{Duration, SystemTime};

use async_nats::jetstream::consumer;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::declaration::Declaration;
use crate::delivery::{Binding, OutputStream};
use crate::error::difference::{Difference, Listed};

/// The number of pull requests below which instances of a service may not all be served.
pub(crate) const FEW_REQUESTS: i64 = 8;

/// Logs what an operator should know about the consumer and the outputs of a handler.
pub(super) fn log(declaration: &Declaration, binding: &Binding) {
    let handler = &declaration.name;
    let Binding { stream, consumer, config, .. } = binding;
    for outputs in &binding.outputs {
        log_window(declaration, outputs);
    }
    if let Some(until) = paused_until(config) {
        tracing::warn!(
            handler,
            stream,
            consumer,
            "the consumer is paused until {until}, and no message is delivered before; `nats consumer resume {stream} {consumer}` ends the pause"
        );
    }
    if let Some(threshold) = deleted_after(config).filter(|_| declaration.member.is_none()) {
        tracing::warn!(
            handler,
            stream,
            consumer,
            "the server deletes the consumer, and with it the position in the stream, {threshold:?} after the last instance has stopped (`inactive_threshold`); to keep it, set `inactive_threshold` of the consumer to 0, or, if the stream has `consumer_limits.inactive_threshold`, raise first that (before nats-server 2.14, only while the stream has no consumers) and then the consumer's to at least 30 days"
        );
    }
    if (1..FEW_REQUESTS).contains(&config.max_waiting) {
        let requests = config.max_waiting;
        tracing::warn!(
            handler,
            stream,
            consumer,
            "the consumer serves at most {requests} pull requests at a time (`max_waiting`), and any further instance receives no messages; the server's default is 512, and only a new consumer can have another value"
        );
    }
}

/// Logs that a handler uses a consumer that another version of the program has changed.
pub(super) fn adopted_consumer(
    handler: &Declaration,
    binding: &Binding,
    differences: &[Difference],
    since: SystemTime,
) {
    let Binding { stream, consumer, .. } = binding;
    let (handler, differs) = (&handler.name, Listed(differences));
    tracing::warn!(
        handler,
        stream,
        consumer,
        "another version of this program changed the consumer at {}, and it is used as it is: {differs}; a start later than an hour after that, or `Broker::apply`, applies the settings of this version",
        rfc3339(since)
    );
}

/// Logs that a declared stream is used as another version of the program has changed it.
pub(super) fn adopted_stream(stream: &str, differences: &[Difference], since: SystemTime) {
    let differs = Listed(differences);
    tracing::warn!(
        stream,
        "another version of this program changed the stream at {}, and it is used as it is: {differs}; a start later than an hour after that, or `Broker::apply`, applies the settings of this version",
        rfc3339(since)
    );
}

fn rfc3339(time: SystemTime) -> String {
    OffsetDateTime::from(time).format(&Rfc3339).unwrap_or_default()
}

/// Logs that a retried message may publish an output twice, because its stream does not recognize it for long enough.
fn log_window(handler: &Declaration, outputs: &OutputStream) {
    let OutputStream { stream, duplicate_window } = outputs;
    let (handler, span) = (&handler.name, handler.plan.retry_span().as_secs() + 1);
    if duplicate_window.as_secs() < span {
        tracing::warn!(
            handler,
            stream,
            "the stream recognizes an output that is published again for {duplicate_window:?} (`duplicate_window`), and the attempts of one message can take {span} s, so that an output of an early attempt may be stored twice; raise it (`nats stream edit {stream} --dupe-window={span}s`), or shorten `backoff`"
        );
    }
}

/// Returns the time until which a consumer is paused; `None` if it is not.
fn paused_until(config: &consumer::Config) -> Option<String> {
    let until = config.pause_until.filter(|until| SystemTime::from(*until) > SystemTime::now())?;
    OffsetDateTime::format(until, &Rfc3339).ok()
}

/// Returns the time without an instance after which the server deletes a consumer; `None` if no service stops for so
/// long.
fn deleted_after(config: &consumer::Config) -> Option<Duration> {
    /// The value that the server sets for a consumer that is not durable.
    const DEFAULT: Duration = Duration::from_secs(5);
    const LONG: Duration = Duration::from_secs(30 * 24 * 3600);
    let threshold = match (config.inactive_threshold.is_zero(), &config.durable_name) {
        (false, _) => config.inactive_threshold,
        (true, None) => DEFAULT,
        (true, Some(_)) => return None,
    };
    (threshold < LONG).then_some(threshold)
}
