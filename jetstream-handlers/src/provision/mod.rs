//! Streams and consumers: found or, if missing, created; changed only where [`Manage`](crate::plan::Manage) or a plan
//! says so.
//!
//! [`inspect`](inspect::inspect) reads the streams and consumers, and collects every problem. [`apply`](apply::apply)
//! makes the changes of a start, and runs only if there is no problem; [`planning`] and [`applying`] make those that
//! were reviewed before.
#![allow(clippy::result_large_err, reason = "a problem is built at a start, and not while messages flow")]

mod apply;
mod applying;
mod commands;
mod consumers;
mod default_stream;
mod derived;
mod drain;
mod drift;
mod export;
mod halt;
mod inspect;
mod needs;
mod notices;
mod ownership;
mod plan;
mod planning;
mod preflight;
mod risk;
mod snapshot;
mod stored;
mod streams;
mod transforms;
mod uncopied;
mod unfit;
mod wide_filters;

pub(crate) use applying::apply_plan;
pub(crate) use consumers::restore_consumer;
pub use export::ExportFormat;
pub(crate) use export::export;
pub(crate) use inspect::{Inspection, shared_durable, stream_of};
pub(crate) use needs::{HandlerNeeds, Needs, StreamNeeds, needs};
pub(crate) use notices::FEW_REQUESTS;
pub use plan::{Change, ChangeAction, ChangeField, ChangeObject, ProvisionPlan, Risk};
pub(crate) use planning::{Program, plan};
pub(crate) use preflight::has_tiers;
pub(crate) use snapshot::loaded;
pub(crate) use uncopied::next_uncopied;
pub(crate) use wide_filters::{NARROW_FILTER, WideFilters};

use crate::declaration::Declaration;
use crate::delivery::Binding;
use crate::error::Error;
use crate::error::problem::{Problem, Purpose};
use crate::transport::Transport;
use stored::{any_covers, listened};
use streams::{Aim, Streams};

/// Finds or creates the stream and the consumer of every handler; if there are `problems`, fails without changing
/// anything.
///
/// `conflict` returns the problem of a handler that cannot run beside those that run already.
pub(crate) async fn provision(
    transport: &Transport,
    handlers: &[&Declaration],
    mut problems: Vec<Problem>,
    conflict: impl Fn(&Declaration, &Binding) -> Option<Problem>,
) -> Result<Vec<Binding>, Error> {
    let mut plan = inspect::inspect(transport, handlers, Aim::Start).await;
    for (declaration, binding) in &plan.bindings {
        let Some(problem) = conflict(declaration, binding) else { continue };
        // The consumer belongs to the running handler, so it must not be changed to fit this one.
        plan.problems
            .retain(|it| !matches!(it, Problem::ConsumerDiffers { handler, .. } if *handler == declaration.name));
        problems.push(problem);
    }
    problems.append(&mut plan.problems);
    Error::all(problems)?;
    let bindings = apply::apply(transport, plan).await?;
    for (handler, binding) in handlers.iter().zip(&bindings) {
        notices::log(handler, binding);
    }
    Ok(bindings)
}

/// Compares what handlers need with the server, and returns all problems, with `problems` first.
pub(crate) async fn check(
    transport: &Transport,
    handlers: &[&Declaration],
    mut problems: Vec<Problem>,
) -> Result<(), Error> {
    problems.append(&mut inspect::inspect(transport, handlers, Aim::Start).await.problems);
    Error::all(problems)
}

/// Compares what handlers need with the server, as a start does.
pub(crate) async fn inspect<'a>(transport: &Transport, handlers: &[&'a Declaration]) -> Inspection<'a> {
    inspect::inspect(transport, handlers, Aim::Start).await
}

/// Returns the bindings that a start would have, and the configurations of the streams that it would use; if there are
/// problems, returns all of them, with `problems` first.
#[cfg(feature = "asyncapi")]
pub(crate) async fn planned(
    transport: &Transport,
    handlers: &[&Declaration],
    mut problems: Vec<Problem>,
) -> Result<(Vec<Binding>, Vec<async_nats::jetstream::stream::Config>), Error> {
    let mut inspection = inspect(transport, handlers).await;
    problems.append(&mut inspection.problems);
    Error::all(problems)?;
    let bindings = inspection.bindings.into_iter().map(|(_, binding)| binding).collect();
    let streams = inspection.streams.into_values().map(|known| known.config).collect();
    Ok((bindings, streams))
}

/// Finds or creates the stream that covers a subject to publish to; returns `true` if it was created.
pub(crate) async fn ensure_stream(transport: &Transport, subject: &str) -> Result<bool, Error> {
    let mut streams = Streams::new(transport, Aim::Start);
    Error::all(streams.compare_declared(|config| any_covers(&listened(config), subject)).await)?;
    let found = streams.find(&Purpose::Publish(subject.to_owned()), subject, None).await;
    found.map_err(|problem| Error::of(vec![problem]))?;
    let missing: Vec<_> = streams.known.values().filter(|known| !known.exists).collect();
    apply::create_streams(transport, &missing).await?;
    Ok(!missing.is_empty())
}
