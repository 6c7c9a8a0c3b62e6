//! The application of a plan.

use async_nats::jetstream::{ErrorCode, consumer, stream};
use serde::de::DeserializeOwned;

use super::consumers::restored_position;
use super::ownership;
use super::plan::{Change, ChangeAction, ChangeObject, ProvisionPlan};
use super::planning::{fingerprint_of_consumer, fingerprint_of_stream, rank};
use crate::delivery::FoundConsumer;
use crate::error::api::ApiError;
use crate::error::{Error, ErrorKind};
use crate::transport::Transport;

/// The maximum number of times that a consumer is deleted, because a running worker has restored it meanwhile.
const MAX_DELETIONS: usize = 5;

/// Applies the changes of a plan in their order.
pub(crate) async fn apply_plan(transport: &Transport, plan: &ProvisionPlan) -> Result<(), Error> {
    let server = transport.identity();
    if plan.server != server {
        let text = format!(
            "the plan was made for {}, and this is {server}; make a plan for this server, also after a server without a cluster has started again",
            plan.server
        );
        return Err(Error::new(ErrorKind::Plan, text));
    }
    let mut pending: Vec<_> = plan.pending().collect();
    let blocked: Vec<_> = pending.iter().filter(|change| change.action == ChangeAction::Blocked).collect();
    if !blocked.is_empty() {
        let texts: Vec<_> =
            blocked.iter().map(|change| format!("\n  - {}", change.problem.as_deref().unwrap_or("?"))).collect();
        let text =
            format!("the plan has problems that have to be solved first, and nothing was changed:{}", texts.concat());
        return Err(Error::new(ErrorKind::Plan, text));
    }
    pending.sort_by_key(|change| rank(change));
    // All of them before the first change, so that a plan which is out of date changes nothing.
    for change in &pending {
        Target::read(transport, change, "nothing was changed").await?;
    }
    for (done, change) in pending.iter().enumerate() {
        let changed = format!("{done} of {} changes were made", pending.len());
        let target = Target::read(transport, change, &changed).await?;
        apply_change(transport, change, target).await.map_err(|error| error.about(&changed))?;
        tracing::info!("applied: {change}");
    }
    Ok(())
}

/// The object of a change, as it is on the server.
enum Target {
    Missing,
    Stream(Box<stream::Config>),
    Consumer(Box<FoundConsumer>),
}

impl Target {
    /// Reads the object of a change, and returns an error if it is not as it was when the plan was made.
    async fn read(transport: &Transport, change: &Change, changed: &str) -> Result<Self, Error> {
        let (target, fingerprint) = match change.object {
            ChangeObject::Consumer => Self::consumer(transport, change).await?,
            ChangeObject::Stream => Self::stream(transport, change).await?,
            ChangeObject::Handler => return Err(invalid(change)),
        };
        if fingerprint == change.found {
            return Ok(target);
        }
        let name = name(change);
        let moved = match (&change.found, fingerprint) {
            (None, _) => "exists now",
            (Some(_), None) => "does not exist any more",
            (Some(_), Some(_)) => "was changed since",
        };
        let text = format!(
            "the server is not as it was when the plan was made: {name} {moved}; {changed}; make the plan again"
        );
        Err(Error::new(ErrorKind::Plan, text))
    }

    async fn stream(transport: &Transport, change: &Change) -> Result<(Self, Option<String>), Error> {
        let stream = change.stream.as_deref().ok_or_else(|| invalid(change))?;
        let found =
            transport.stream(stream).await.map_err(|error| error.into_error(&format!("reading stream `{stream}`")))?;
        let Some(found) = found else { return Ok((Self::Missing, None)) };
        let fingerprint = fingerprint_of_stream(transport, &found).await;
        Ok((Self::Stream(Box::new(found)), fingerprint))
    }

    async fn consumer(transport: &Transport, change: &Change) -> Result<(Self, Option<String>), Error> {
        let (Some(stream), Some(consumer)) = (&change.stream, &change.consumer) else { return Err(invalid(change)) };
        let found = match transport.consumer(stream, consumer).await {
            // It is created before its consumer.
            Err(error) if error.is(ErrorCode::STREAM_NOT_FOUND) => None,
            found => found.map_err(|error| failed("reading", change, error))?,
        };
        let Some(found) = found else { return Ok((Self::Missing, None)) };
        let fingerprint = fingerprint_of_consumer(&found);
        Ok((Self::Consumer(Box::new(found)), Some(fingerprint)))
    }
}

async fn apply_change(transport: &Transport, change: &Change, target: Target) -> Result<(), Error> {
    let stream = change.stream.as_deref().unwrap_or_default();
    match (change.action, target) {
        (ChangeAction::Create, Target::Missing) if change.object == ChangeObject::Stream => {
            transport.create_stream(&config(change)?).await.map_err(|error| failed("creating", change, error))
        }
        (ChangeAction::Create, Target::Missing) => {
            let created = transport.create_consumer(stream, &config(change)?).await;
            created.map(drop).map_err(|error| failed("creating", change, error))
        }
        (ChangeAction::Update, Target::Stream(found)) => {
            let mut wanted: stream::Config = config(change)?;
            let mut metadata = found.metadata.clone();
            metadata.extend(std::mem::take(&mut wanted.metadata));
            ownership::record(&mut metadata, &ownership::of_stream(&found));
            wanted.metadata = metadata;
            transport.update_stream(&found, &wanted).await.map_err(|error| failed("updating", change, error))
        }
        (ChangeAction::Update, Target::Consumer(found)) => {
            let wanted = replacing(&found.config, config(change)?);
            let updated = transport.update_consumer(stream, &found.config, &wanted).await;
            updated.map(drop).map_err(|error| failed("updating", change, error))
        }
        (ChangeAction::Recreate, Target::Consumer(found)) => recreate(transport, change, *found).await,
        (ChangeAction::Delete, Target::Consumer(found)) => {
            let deleted = transport.remove_consumer(stream, found.name()).await;
            deleted.map(drop).map_err(|error| failed("deleting", change, error))
        }
        _ => Err(invalid(change)),
    }
}

/// Returns the configuration of a plan with the metadata on the server, to which the replaced configuration is added.
fn replacing(found: &consumer::Config, mut wanted: consumer::Config) -> consumer::Config {
    let mut metadata = found.metadata.clone();
    metadata.extend(std::mem::take(&mut wanted.metadata));
    let (before, after) = (ownership::of_consumer(found), ownership::of_consumer(&wanted));
    if before != after {
        ownership::record(&mut metadata, &before);
    }
    wanted.metadata = metadata;
    wanted
}

/// Deletes a consumer, and creates it again from behind its ack floor.
async fn recreate(transport: &Transport, change: &Change, found: FoundConsumer) -> Result<(), Error> {
    let stream = change.stream.as_deref().unwrap_or_default();
    let mut wanted: consumer::Config = config(change)?;
    let is_work_queue = transport
        .stream(stream)
        .await
        .map_err(|error| failed("reading", change, error))?
        .is_some_and(|config| config.retention == stream::RetentionPolicy::WorkQueue);
    let mut floor = found.ack_floor;
    for _ in 0..MAX_DELETIONS {
        // A work queue keeps only what is not acknowledged, and accepts no other position.
        let start = if is_work_queue { 1 } else { floor + 1 };
        if start > 1 {
            wanted.deliver_policy = restored_position(transport, stream, start).await;
        }
        wanted.metadata.insert(super::drift::RESTORED.to_owned(), start.to_string());
        transport.remove_consumer(stream, found.name()).await.map_err(|error| failed("deleting", change, error))?;
        match transport.create_consumer(stream, &wanted).await {
            Ok(_) => return Ok(()),
            // A worker of the former version has restored it.
            Err(error) if error.is(ErrorCode::CONSUMER_ALREADY_EXISTS) || error.is(ErrorCode::CONSUMER_NAME_EXIST) => {
                let restored = transport.consumer(stream, found.name()).await;
                let restored = restored.map_err(|error| failed("reading", change, error))?;
                floor = restored.map_or(floor, |restored| restored.ack_floor.max(floor));
            }
            Err(error) => {
                let error = failed("creating", change, error);
                return Err(error.about(&format!(
                    "the consumer was deleted, and has to be created from stream sequence {start} on"
                )));
            }
        }
    }
    let text = format!("{} is created again by running replicas of the former version; stop them before", name(change));
    Err(Error::new(ErrorKind::ConsumerMismatch, text))
}

fn config<T: DeserializeOwned>(change: &Change) -> Result<T, Error> {
    let config = change.config.clone().ok_or_else(|| invalid(change))?;
    serde_json::from_value(config).map_err(|error| {
        Error::new(ErrorKind::Plan, format!("the plan has no valid configuration of {}: {error}", name(change)))
    })
}

fn invalid(change: &Change) -> Error {
    let text = format!("the plan cannot {} {}; make it again with this program", change.action, name(change));
    Error::new(ErrorKind::Plan, text)
}

fn failed(doing: &str, change: &Change, error: ApiError) -> Error {
    error.into_error(&format!("{doing} {}", name(change)))
}

/// Returns the object of a change, for a text.
fn name(change: &Change) -> String {
    match (&change.stream, &change.consumer) {
        (Some(stream), Some(consumer)) => format!("consumer `{consumer}` of stream `{stream}`"),
        (Some(stream), None) => format!("stream `{stream}`"),
        (None, _) => "an object without a name".to_owned(),
    }
}
