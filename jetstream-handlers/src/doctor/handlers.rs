//! Checks of the consumers of handlers, and of their dead letters.

use std::collections::BTreeSet;

use super::Diagnosis;
use super::server::check_clock;
use crate::nats::Connection;
use crate::provision::{FEW_REQUESTS, HandlerNeeds, NARROW_FILTER, Needs, WideFilters};
use crate::transport::Transport;

/// Checks the consumer of every handler, and the streams of dead letters.
pub(crate) async fn check_handlers(
    transport: &Transport,
    connection: &Connection,
    needs: &Needs,
    found: &mut Diagnosis,
) {
    let mut filters = WideFilters::default();
    for handler in &needs.handlers {
        check_consumer(connection, handler, found).await;
        check_filters(transport, handler, &mut filters, found).await;
    }
    let letters: BTreeSet<&String> = needs.handlers.iter().filter_map(|it| it.dead_letters.as_ref()).collect();
    for stream in letters {
        check_letters(transport, stream, found).await;
    }
    for stream in needs.streams.keys() {
        if let Ok(Some(_)) = transport.stream(stream).await {
            return check_clock(connection, stream, found).await;
        }
    }
}

async fn check_consumer(connection: &Connection, needs: &HandlerNeeds, found: &mut Diagnosis) {
    let HandlerNeeds { handler, binding, .. } = needs;
    let (stream, consumer) = (&binding.stream, &binding.consumer);
    let of = format!("{handler}: consumer `{consumer}` of stream `{stream}`");
    if needs.consumer_is_missing {
        return found.warn("consumer", format!("{of} does not exist"), "start the service, which creates it");
    }
    let info = match connection.consumer_now(binding).await {
        Ok(info) => info,
        Err(error) => {
            return found.warn("consumer", format!("{of}: {error}"), "look at the rights and at the server");
        }
    };
    if info.paused {
        let left = info.pause_remaining.unwrap_or_default();
        let text = format!("{of} is paused for another {left:.0?}");
        found.warn("consumer", text, format!("`nats consumer resume {stream} {consumer}` ends the pause"));
    }
    let pending = i64::try_from(info.num_ack_pending).unwrap_or(i64::MAX);
    if info.config.max_ack_pending > 0 && pending >= info.config.max_ack_pending {
        let text = format!("{of} delivers nothing, because {pending} messages have no ack (`max_ack_pending`)");
        found.warn("consumer", text, "find out what the instances are waiting for, or start more of them");
    }
    if (1..FEW_REQUESTS).contains(&info.config.max_waiting) {
        let text = format!("{of} serves at most {} pull requests at a time (`max_waiting`)", info.config.max_waiting);
        found.warn("consumer", text, "create it again with the server's default of 512, or start fewer instances");
    }
    let (pending, unacknowledged, waiting) = (info.num_pending, info.num_ack_pending, info.num_waiting);
    let text = format!("{of}: {pending} messages to deliver, {unacknowledged} without an ack, {waiting} requests");
    found.ok("consumer", text);
}

/// Checks that no filter of a consumer makes the server search many subjects.
async fn check_filters(transport: &Transport, needs: &HandlerNeeds, filters: &mut WideFilters, found: &mut Diagnosis) {
    let HandlerNeeds { handler, binding, .. } = needs;
    if !WideFilters::may_be_of(binding) {
        return;
    }
    match filters.of(transport, binding).await {
        Ok(wide) if wide.is_empty() => found.ok("filters", format!("{handler}: no filter matches many subjects")),
        Ok(wide) => wide.iter().for_each(|wide| found.warn("filters", format!("{handler}: {wide}"), NARROW_FILTER)),
        Err(error) => found.warn("filters", format!("{handler}: {error}"), "look at the rights and at the server"),
    }
}

async fn check_letters(transport: &Transport, stream: &str, found: &mut Diagnosis) {
    match transport.stream(stream).await {
        Ok(Some(config)) if config.deny_delete || config.sealed => {
            let text = format!("stream `{stream}` keeps dead letters after a replay, because it denies deletes");
            found.warn("dead_letters", text, "create it without `deny_delete`, or replay each dead letter once");
        }
        Ok(Some(_)) => found.ok("dead_letters", format!("stream `{stream}` stores the dead letters")),
        Ok(None) => {
            let text = format!("stream `{stream}` of the dead letters does not exist");
            found.warn("dead_letters", text, "start the service, which creates it, or create it");
        }
        Err(error) => {
            let text = error.into_error(&format!("reading stream `{stream}`")).to_string();
            found.warn("dead_letters", text, "look at the rights and at the server");
        }
    }
}
