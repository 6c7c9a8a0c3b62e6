//! The streams and consumers that a program needs, in the formats of other tools.

mod fields;
mod nack;
mod terraform;
mod text;

use async_nats::jetstream::stream;

use super::commands;
use super::consumers::consumer_config;
use super::inspect::inspect;
use super::ownership;
use super::planning::json;
use super::snapshot::{ConsumerOf, Snapshot};
use super::streams::Aim;
use crate::declaration::Declaration;
use crate::error::Error;
use crate::error::problem::Problem;
use crate::transport::Transport;

/// A format in which [`Broker::export`](crate::Broker::export) writes streams and consumers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ExportFormat {
    /// A shell script with commands of the `nats` command-line tool.
    Nats,
    /// Manifests of the Kubernetes controller NACK, `jetstream.nats.io/v1beta2`.
    Nack,
    /// Resources of the Terraform provider `nats-io/jetstream`.
    Terraform,
    /// The configurations as the JetStream API takes them, which is the snapshot of
    /// [`Broker::plan_against`](crate::Broker::plan_against).
    Json,
}

/// Returns the streams and consumers that handlers and declared streams need.
pub(crate) async fn export(
    transport: &Transport,
    handlers: &[&Declaration],
    mut problems: Vec<Problem>,
    format: ExportFormat,
) -> Result<String, Error> {
    let mut inspection = inspect(transport, handlers, Aim::Export).await;
    problems.append(&mut inspection.problems);
    Error::all(problems)?;
    let streams = inspection.streams.values().map(|known| {
        let metadata = ownership::lasting(&known.config.metadata);
        stream::Config { metadata, ..known.config.clone() }
    });
    let consumers = inspection
        .bindings
        .iter()
        .map(|(handler, binding)| ConsumerOf { stream_name: binding.stream.clone(), config: consumer_config(handler) });
    let snapshot = Snapshot::new(streams.collect(), consumers.collect());
    Ok(match format {
        ExportFormat::Nats => script(&snapshot),
        ExportFormat::Nack => nack::manifests(&snapshot),
        ExportFormat::Terraform => terraform::resources(&snapshot),
        ExportFormat::Json => format!("{:#}\n", json(&snapshot)),
    })
}

fn script(snapshot: &Snapshot) -> String {
    let streams = snapshot.streams.iter().map(commands::add_stream);
    let consumers = snapshot.consumers.iter().map(|it| commands::add_consumer(&it.stream_name, &it.config));
    let commands: Vec<_> = streams.chain(consumers).map(|command| format!("{command}\n")).collect();
    format!("#!/bin/sh\nset -e\n{}", commands.concat())
}
