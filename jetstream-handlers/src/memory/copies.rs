//! The copies that mirrors and sourced streams make of other streams.

use std::collections::BTreeMap;
use std::time::SystemTime;

use async_nats::jetstream::stream::{Config, Source, SubjectTransform};

use super::message::Message;
use super::stream::Stream;
use crate::message::origin::STREAM_SOURCE;
use crate::subject::{covers, has_other_functions, transformed};

/// Returns the origins of a stream: the one that it mirrors, or its sources.
fn origins(config: &Config) -> Vec<Source> {
    config.mirror.iter().chain(config.sources.iter().flatten()).cloned().collect()
}

/// Returns `true` if a transform of the stream has a function that depends on more than whole tokens.
pub(super) fn has_unsupported_transform(config: &Config) -> bool {
    let origins = origins(config);
    let of_origins = origins.iter().flat_map(|origin| &origin.subject_transforms);
    config.subject_transform.iter().chain(of_origins).any(|transform| has_other_functions(&transform.destination))
}

/// Returns the subject of a copy; `None` if the message is not copied.
fn copied_subject(source: &Source, subject: &str) -> Option<String> {
    if !source.subject_transforms.is_empty() {
        return source.subject_transforms.iter().find_map(|it| transformed(subject, &it.source, &it.destination));
    }
    let filter = source.filter_subject.as_deref().filter(|filter| !filter.is_empty());
    filter.is_none_or(|filter| covers(filter, subject)).then(|| subject.to_owned())
}

/// Returns `true` if a copy begins with this message or an earlier one.
fn is_copied(source: &Source, sequence: u64, message: &Message) -> bool {
    source.start_sequence.is_none_or(|start| sequence >= start)
        && source.start_time.is_none_or(|start| message.stored_at >= SystemTime::from(start))
}

/// Returns the header by which a copy names its original (`stream.go`, `genSourceHeader`).
fn source_header(source: &Source, sequence: u64, subject: &str) -> String {
    let joined = |of: fn(&SubjectTransform) -> &str| {
        let parts: Vec<&str> = source.subject_transforms.iter().map(of).collect();
        if parts.is_empty() { ">".to_owned() } else { parts.join("\u{c}") }
    };
    let filters = match source.filter_subject.as_deref() {
        Some(filter) if !filter.is_empty() => filter.to_owned(),
        _ => joined(|it| &it.source),
    };
    format!("{} {sequence} {filters} {} {subject}", source.name, joined(|it| &it.destination))
}

/// Copies what the origins of each stream have stored since the last call.
pub(super) fn copy(streams: &mut BTreeMap<String, Stream>) {
    let copying: Vec<(String, Vec<Source>)> = streams
        .iter()
        .map(|(name, stream)| (name.clone(), origins(&stream.config)))
        .filter(|(_, origins)| !origins.is_empty())
        .collect();
    // A copy may be copied in turn.
    let mut has_copied = true;
    while has_copied {
        has_copied = false;
        for (name, origins) in &copying {
            has_copied |= copy_to(streams, name, origins);
        }
    }
}

/// Copies to one stream; returns `false` if there was nothing to copy.
fn copy_to(streams: &mut BTreeMap<String, Stream>, name: &str, origins: &[Source]) -> bool {
    let mut any = false;
    for (index, source) in origins.iter().enumerate().filter(|(_, source)| source.external.is_none()) {
        let copied = streams.get(name).and_then(|stream| stream.copied.get(index)).copied().unwrap_or_default();
        let Some(messages) = streams.get(&source.name).map(|origin| origin.messages_after(copied)) else { continue };
        let Some(stream) = streams.get_mut(name) else { continue };
        stream.copied.resize(origins.len(), 0);
        for (sequence, mut message) in messages {
            if let Some(subject) =
                copied_subject(source, &message.subject).filter(|_| is_copied(source, sequence, &message))
            {
                if stream.config.mirror.is_none() {
                    message.headers.insert(STREAM_SOURCE, source_header(source, sequence, &message.subject));
                }
                if !stream.accepts_copy(&subject, &message) {
                    break;
                }
                stream.insert_copy(sequence, subject, message);
            }
            any = true;
            stream.copied[index] = sequence;
        }
    }
    any
}
