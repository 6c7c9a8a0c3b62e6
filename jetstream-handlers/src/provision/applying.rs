//! The application of a plan.

use std::time::Duration;

use async_nats::jetstream::{ErrorCode, consumer, stream};
use serde::de::DeserializeOwned;
use tokio::time::sleep;

use super::consumers::restored_position;
use super::drain::Renumbered;
use super::plan::{Change, ChangeAction, ChangeObject, ProvisionPlan};
use super::planning::{fingerprint_of_consumer, fingerprint_of_stream, rank};
use super::{commands, drift, halt, ownership};
use crate::backoff::ExponentialBackoff;
use crate::delivery::FoundConsumer;
use crate::error::api::ApiError;
use crate::error::{Error, ErrorKind};
use crate::transport::{ACCOUNT, Transport};

/// The maximum number of times that a consumer is deleted, because a running worker has restored it meanwhile.
const MAX_DELETIONS: usize = 5;

/// The maximum number of times that a deleted consumer is tried to be created.
const MAX_CREATIONS: usize = 6;

/// The time between the first two of these tries, which doubles.
const CREATE_INTERVAL: Duration = Duration::from_millis(100);

/// The maximum time between two of these tries.
const MAX_CREATE_INTERVAL: Duration = Duration::from_secs(2);

/// Applies the changes of a plan in their order.
pub(crate) async fn apply_plan(transport: &Transport, plan: &ProvisionPlan) -> Result<(), Error> {
    let server = transport.identity().await;
    if is_another(&plan.server, &server) {
        let text = format!(
            "the plan was made for {}, and this is {server}; make a plan for this server, also after a server without a cluster has started again",
            plan.server
        );
        return Err(Error::new(ErrorKind::Plan, text));
    }
    plan.require_unblocked()?;
    let mut pending: Vec<_> = plan.pending().collect();
    pending.sort_by_key(|change| rank(change));
    let mut changed = Renumbered::default();
    // All of them before the first change, so that a plan which is out of date changes nothing.
    for change in &pending {
        match Target::read(transport, change, "nothing was changed").await? {
            Target::Consumer(found) => changed.add_consumer(change, &found),
            Target::Stream(found) => changed.add_stream(*found, &config(change)?),
            Target::Missing => {}
        }
    }
    changed.drain(transport).await?;
    let applied = apply_changes(transport, &pending, &mut changed).await;
    if applied.is_err() {
        changed.resume(transport).await?;
    }
    applied
}

async fn apply_changes(transport: &Transport, pending: &[&Change], changed: &mut Renumbered) -> Result<(), Error> {
    for (done, change) in pending.iter().enumerate() {
        let made = format!("{done} of {} changes were made", pending.len());
        let target = Target::read(transport, change, &made).await?;
        apply_change(transport, change, target).await.map_err(|error| error.about(&made))?;
        if change.object == ChangeObject::Stream {
            changed.applied(change);
        }
        tracing::info!("applied: {change}");
    }
    Ok(())
}

/// Returns `true` if two identities are those of different servers or accounts.
fn is_another(one: &str, other: &str) -> bool {
    // A user without the right to ask does not know the account.
    let parts = |identity: &'_ str| match identity.rsplit_once(ACCOUNT) {
        Some((server, account)) => (server.to_owned(), Some(account.to_owned())),
        None => (identity.to_owned(), None),
    };
    let ((server, account), (other_server, other_account)) = (parts(one), parts(other));
    server != other_server || (account.is_some() && other_account.is_some() && account != other_account)
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
        let fingerprint = fingerprint_of_stream(transport, &found).await?;
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
            if halt::changes_copies(&found, &wanted) {
                halt::continue_copying(transport, &mut wanted).await?;
            }
            let mut metadata = found.metadata.clone();
            metadata.extend(std::mem::take(&mut wanted.metadata));
            ownership::record(&mut metadata, &ownership::of_stream(&found), &ownership::of_stream(&wanted));
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
    ownership::record(&mut metadata, &ownership::of_consumer(found), &ownership::of_consumer(&wanted));
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
        // Without an ack floor, `deliver` of the handler would skip what is stored and not handled yet.
        wanted.deliver_policy = match start {
            1 => consumer::DeliverPolicy::All,
            _ => restored_position(transport, stream, start).await,
        };
        wanted.metadata.insert(drift::RESTORED.to_owned(), start.to_string());
        let command = commands::add_consumer(stream, &wanted);
        let name = name(change);
        // With the deletion, the server forgets the position, which this process may not survive.
        tracing::info!("deleting {name} to create it again, which `{command}` does if this process is interrupted");
        transport.remove_consumer(stream, found.name()).await.map_err(|error| failed("deleting", change, error))?;
        match create_repeatedly(transport, stream, &wanted).await {
            Ok(()) => return Ok(()),
            // A worker of the former version has restored it.
            Err(error) if exists(&error) => {
                let restored = transport.consumer(stream, found.name()).await;
                let restored = restored.map_err(|error| failed("reading", change, error))?;
                floor = restored.map_or(floor, |restored| restored.ack_floor.max(floor));
            }
            Err(error) => {
                let error = failed("creating", change, error);
                return Err(error.about(&format!(
                    "the consumer was deleted, and the next plan would create it where its handler begins; first create it from stream sequence {start} on (`{command}`)"
                )));
            }
        }
    }
    let text = format!("{} is created again by running replicas of the former version; stop them before", name(change));
    Err(Error::new(ErrorKind::ConsumerMismatch, text))
}

/// Creates a consumer, with several tries, because its position is lost if none succeeds.
async fn create_repeatedly(transport: &Transport, stream: &str, wanted: &consumer::Config) -> Result<(), ApiError> {
    let mut backoff = ExponentialBackoff::new(CREATE_INTERVAL, MAX_CREATE_INTERVAL);
    for _ in 1..MAX_CREATIONS {
        match transport.create_consumer(stream, wanted).await {
            Ok(_) => return Ok(()),
            Err(error) if exists(&error) => return Err(error),
            Err(error) => {
                let error = error.into_error("it is tried again");
                tracing::warn!(stream, consumer = wanted.durable_name, "a deleted consumer cannot be created: {error}");
            }
        }
        sleep(backoff.next()).await;
    }
    transport.create_consumer(stream, wanted).await.map(drop)
}

/// Returns `true` if a consumer of this name exists.
fn exists(error: &ApiError) -> bool {
    error.is(ErrorCode::CONSUMER_ALREADY_EXISTS) || error.is(ErrorCode::CONSUMER_NAME_EXIST)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn account_is_compared_where_both_users_know_it() {
        assert!(!is_another("cluster c, account A", "cluster c, account A"));
        assert!(!is_another("cluster c", "cluster c, account A"));
        assert!(is_another("cluster c, account A", "cluster c, account B"));
        assert!(is_another("cluster c, account A", "cluster d"));
    }
}
