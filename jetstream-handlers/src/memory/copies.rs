//! The copies that mirrors and sourced streams make of other streams.

use std::collections::BTreeMap;

use async_nats::jetstream::stream::{Config, Source};

use super::stream::Stream;
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
        for (sequence, message) in messages {
            any = true;
            stream.copied[index] = sequence;
            if let Some(subject) = copied_subject(source, &message.subject) {
                stream.insert_copy(sequence, subject, message);
            }
        }
    }
    any
}
