//! Creation of the streams and the consumers that a plan found missing.

use async_nats::jetstream::ErrorCode;
use futures::{StreamExt as _, stream};

use super::consumers::{Compared, create_consumer, update_consumer};
use super::inspect::{Inspection, MAX_REQUESTS};
use super::stored::{any_covers, listened};
use super::streams::{KnownStream, overlap_on_server, read_stream};
use super::unfit::created_otherwise;
use super::{drift, notices, ownership};
use crate::declaration::Declaration;
use crate::delivery::{Binding, Origin};
use crate::error::Error;
use crate::error::problem::{Few, Problem};
use crate::plan::Manage;
use crate::transport::Transport;

/// Creates what is missing, and returns the binding of every handler.
pub(super) async fn apply(transport: &Transport, plan: Inspection<'_>) -> Result<Vec<Binding>, Error> {
    let missing: Vec<_> = plan.missing_streams().collect();
    let created = create_streams(transport, &missing).await?;
    for known in plan.streams.values() {
        update_stream(transport, known).await.map_err(|problem| Error::of(vec![problem]))?;
    }
    let Inspection { mut bindings, missing_consumers, found, .. } = plan;
    let updated = update_consumers(transport, &mut bindings, &found).await;
    Error::all(updated.err().into_iter().collect())?;
    for (_, binding) in bindings.iter_mut().filter(|(_, binding)| created.contains(&binding.stream)) {
        binding.stream_origin = Origin::Created;
    }
    let creations: Vec<_> = missing_consumers
        .iter()
        .map(|index| {
            let (handler, binding) = &bindings[*index];
            create_consumer(transport, handler, binding)
        })
        .collect();
    let created: Vec<_> = stream::iter(creations).buffered(MAX_REQUESTS).collect().await;
    let mut problems = Vec::new();
    for (result, index) in created.into_iter().zip(missing_consumers) {
        match result {
            Ok((consumer, origin)) => {
                let binding = &mut bindings[index].1;
                binding.adopt(consumer);
                binding.consumer_origin = origin;
            }
            Err(problem) => problems.push(problem),
        }
    }
    Error::all(problems)?;
    Ok(bindings.into_iter().map(|(_, binding)| binding).collect())
}

/// Updates the consumers that differ, where the handler permits it.
async fn update_consumers(
    transport: &Transport,
    bindings: &mut [(&Declaration, Binding)],
    found: &[(usize, Compared)],
) -> Result<(), Problem> {
    for (index, compared) in found.iter().filter(|(_, compared)| !compared.differences.is_empty()) {
        let (handler, binding) = &mut bindings[*index];
        let manage = handler.plan.manage.unwrap_or(transport.settings().manage);
        // Otherwise the configuration was adopted, since it would be a problem.
        if manage != Manage::Update {
            continue;
        }
        if let Some(since) = compared.replaced_since(handler) {
            notices::adopted_consumer(handler, binding, &compared.differences, since);
            continue;
        }
        let updated = update_consumer(transport, handler, binding, compared).await?;
        binding.adopt(updated);
    }
    Ok(())
}

/// Updates a stream whose configuration is to be replaced, and records that it was.
pub(super) async fn update_stream(transport: &Transport, stream: &KnownStream) -> Result<(), Problem> {
    let KnownStream { config, replaces, purpose, .. } = stream;
    let Some(found) = replaces else { return Ok(()) };
    let mut wanted = config.clone();
    ownership::record(&mut wanted.metadata, &ownership::of_stream(found), &ownership::of_stream(config));
    let name = &config.name;
    transport
        .update_stream(found, &wanted)
        .await
        .map_err(|error| Problem::failed(purpose, error.into_error(&format!("updating stream `{name}`"))))?;
    tracing::info!(stream = name, "updated the stream");
    Ok(())
}

/// Creates streams in order, until one fails; returns the names of those that no other process has created meanwhile.
pub(super) async fn create_streams(transport: &Transport, missing: &[&KnownStream]) -> Result<Vec<String>, Error> {
    let mut created = Vec::new();
    for stream in missing {
        let origin = create_stream(transport, stream).await.map_err(|problem| Error::of(vec![problem]))?;
        if origin == Origin::Created {
            created.push(stream.config.name.clone());
        }
    }
    Ok(created)
}

async fn create_stream(transport: &Transport, stream: &KnownStream) -> Result<Origin, Problem> {
    let KnownStream { config, purpose, .. } = stream;
    let (name, subjects) = (&config.name, &config.subjects);
    let error = match transport.create_stream(config).await {
        Ok(()) => {
            tracing::info!(stream = name, ?subjects, "created the stream");
            return Ok(Origin::Created);
        }
        Err(error) => error,
    };
    // Another process created the stream at the same time; it is used if it covers the same subjects.
    if error.is(ErrorCode::STREAM_NAME_EXIST) {
        let Some(found) = read_stream(transport, purpose, name).await? else { return Ok(Origin::Found) };
        if transport.settings().streams.iter().any(|declared| declared.name == *name) {
            drift::check_stream(&found, config)?;
        }
        return match subjects.iter().find(|subject| !any_covers(&listened(&found), subject)) {
            Some(subject) => Err(created_otherwise(transport.settings(), purpose, subject, &found)),
            None => Ok(Origin::Found),
        };
    }
    if error.is(ErrorCode::STREAM_SUBJECT_OVERLAP)
        && let Some(problem) = overlap_on_server(transport, stream).await
    {
        return Err(problem);
    }
    let doing = format!("{purpose}: creating stream `{name}` with subjects {}", Few(subjects));
    Err(Problem::failed(purpose, error.into_error(&doing)))
}
