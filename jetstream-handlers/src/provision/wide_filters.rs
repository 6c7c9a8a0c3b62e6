//! Filters with wildcards that match many subjects, for which the server searches before every message.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;

use crate::delivery::{Binding, StreamSubjects, filters};
use crate::error::Error;
use crate::subject::has_wildcard;
use crate::transport::Transport;

/// The number of subjects from which a filter with a wildcard is reported.
///
/// For every message, the server compares the subjects of a block of the stream that the filter matches
/// (`filestore.go`, `firstMatching`). On nats-server 2.15, 300 subjects doubled its CPU time for a message, 1000 took
/// four times and 3000 ten times as much. With still more in one block, it scans the messages instead.
const MANY: u64 = 300;

/// The number of subjects of a stream up to which those of a filter are counted; the server collects and sorts them.
const MAX_COUNTED: u64 = 100_000;

/// The change that helps against a [`WideFilter`].
pub(crate) const NARROW_FILTER: &str = "consume literal subjects, with the key in a header or the payload, or store these messages in a stream of their own whose only subject is the filter, or map the keys to few literal subjects (`subject_transform` with `partition`)";

/// A filter with a wildcard that matches many subjects.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct WideFilter {
    pub(crate) stream: String,
    pub(crate) filter: String,
    pub(crate) subjects: u64,
    /// `false` if `subjects` are those of the whole stream, because there are too many to count.
    is_exact: bool,
}

/// Finds wide filters; reads each stream once.
#[derive(Default)]
pub(crate) struct WideFilters {
    streams: BTreeMap<String, Option<StreamSubjects>>,
}

impl WideFilters {
    /// Returns `true` if a filter of a handler's consumer has a wildcard, so that the server has to be asked.
    pub(crate) fn may_be_of(binding: &Binding) -> bool {
        filters(&binding.config).into_iter().any(is_searched)
    }

    /// Returns the wide filters of a handler's consumer.
    pub(crate) async fn of(&mut self, transport: &Transport, binding: &Binding) -> Result<Vec<WideFilter>, Error> {
        let wildcards = filters(&binding.config).into_iter().filter(|filter| is_searched(filter));
        let mut wide = Vec::new();
        for filter in wildcards {
            let Some(stream) = self.stream(transport, &binding.stream).await? else { break };
            // The server passes on every message without a search then.
            let is_whole = matches!(&*stream.declared, [own] if own == filter);
            if is_whole || stream.count <= MANY {
                continue;
            }
            let counted = match stream.count {
                ..=MAX_COUNTED => transport.count_subjects(&binding.stream, filter).await?,
                _ => None,
            };
            let (subjects, is_exact) = (counted.unwrap_or(stream.count), counted.is_some());
            if subjects > MANY {
                wide.push(WideFilter { stream: binding.stream.clone(), filter: filter.to_owned(), subjects, is_exact });
            }
        }
        Ok(wide)
    }

    /// Returns a stream, which counts as absent after an error.
    async fn stream(&mut self, transport: &Transport, name: &str) -> Result<Option<&StreamSubjects>, Error> {
        let known = match self.streams.entry(name.to_owned()) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => match transport.stream_subjects(name).await {
                Ok(found) => unknown.insert(found),
                Err(error) => {
                    unknown.insert(None);
                    return Err(error);
                }
            },
        };
        Ok(known.as_ref())
    }
}

/// Returns `true` for a filter with a wildcard, except for the one of all subjects.
fn is_searched(filter: &str) -> bool {
    filter != ">" && has_wildcard(filter)
}

impl fmt::Display for WideFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { stream, filter, subjects, is_exact } = self;
        let subjects = if *is_exact { format!("{subjects}") } else { format!("up to {subjects}") };
        write!(
            f,
            "the filter `{filter}` matches {subjects} subjects of stream `{stream}`, and the server may search them before every message, which costs a multiple of its CPU time"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_filters_with_a_wildcard_are_searched() {
        for searched in ["orders.*", "orders.>", "*.created"] {
            assert!(is_searched(searched), "{searched}");
        }
        for not_searched in ["orders.created", ">", "orders.a*"] {
            assert!(!is_searched(not_searched), "{not_searched}");
        }
    }
}
