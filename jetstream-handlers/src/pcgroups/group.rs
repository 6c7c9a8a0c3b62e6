//! An elastic group: its document in the bucket of all groups, and its stream.

use std::fmt;

use async_nats::HeaderMap;
use async_nats::header;
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::stream::{self, DiscardPolicy, RetentionPolicy, Source, StorageType, SubjectTransform};

use super::document::{Document, MemberMapping, PartitioningFilter, name_problem, transform};
use crate::broker::Broker;
use crate::error::{Error, ErrorKind};
use crate::message::{Message, Outgoing};
use crate::partition::derived_stream;
use crate::publish::{MissingStream, publish_copy};
use crate::transport::Transport;

/// The stream of the key-value bucket with the documents of all elastic groups.
const BUCKET: &str = "KV_elastic-consumer-groups";

/// The beginning of the subject of a document.
const SUBJECT: &str = "$KV.elastic-consumer-groups";

/// The number of times that a document is written again, because another client has changed it meanwhile.
const MAX_TRIES: usize = 10;

/// An elastic group of the format `pcgroups`, which [`Broker::pcgroup`](crate::Broker::pcgroup) returns.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), jetstream_handlers::Error> {
/// # use jetstream_handlers::prelude::*;
/// # let broker = Broker::in_memory();
/// # broker.publish("orders.acme.created", &7).await?;
/// let group = broker.pcgroup("ORDERS", "billing");
/// group.create(12, "orders.*.created", &[1]).await?;
/// group.add_members(&["billing-0", "billing-1"]).await?;
/// assert_eq!(group.members().await?, ["billing-0", "billing-1"]);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Group {
    broker: Broker,
    stream: String,
    name: String,
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group").field("stream", &self.stream).field("name", &self.name).finish_non_exhaustive()
    }
}

/// A document with its revision, by which a change of another client is noticed.
pub(super) struct Revision {
    pub(super) sequence: u64,
    pub(super) document: Document,
}

impl Broker {
    /// Returns the elastic group of this name on a stream, whether it exists or not.
    ///
    /// The prefix of an environment is not added to the names: other clients of the group know nothing of it.
    pub fn pcgroup(&self, stream: impl Into<String>, name: impl Into<String>) -> Group {
        Group { broker: self.clone(), stream: stream.into(), name: name.into() }
    }
}

impl Group {
    /// Creates the group with this number of partitions, from 1, and its stream; the key of a message are the tokens of its
    /// subject for which the wildcards of these numbers in `filter` stand, counted from 1.
    ///
    /// Without any wildcards, the key is the whole subject.
    /// A group that exists with the same settings is no error.
    ///
    /// # Errors
    ///
    /// Returns an error if the stream does not exist, if the group exists with other settings, or if the server refuses the
    /// bucket of the groups, the stream `<stream>-<group>` or the document.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, a part of it may be created; another call creates the rest.
    pub async fn create(&self, partitions: u32, filter: &str, wildcards: &[u32]) -> Result<(), Error> {
        self.check_names()?;
        let filter = PartitioningFilter { filter: filter.to_owned(), partitioning_wildcards: Some(wildcards.to_vec()) };
        let of_filter = filter.filter.split('.').filter(|token| *token == "*").count() as u32;
        if let Some(number) = wildcards.iter().find(|number| !(1..=of_filter).contains(*number)) {
            let text = format!("wildcard {number} of group {self} does not exist; `{}` has {of_filter}", filter.filter);
            return Err(Error::new(ErrorKind::Config, text));
        }
        let document = Document {
            max_members: partitions,
            partitioning_filters: Some(vec![filter.clone()]),
            max_buffered_msg: 0,
            max_buffered_bytes: 0,
            members: Vec::new(),
            member_mappings: Vec::new(),
        };
        document.check(&format!("group {self}"))?;
        let origin = self.origin().await?;
        self.create_bucket(&origin).await?;
        match self.last().await? {
            (revision, None) => self.write(&document, revision).await?,
            (_, Some(found)) if is_alike(&found, &document) => {}
            (_, Some(_)) => {
                let text =
                    format!("group {self} exists with other settings, which cannot be changed; delete it before");
                return Err(Error::new(ErrorKind::StreamMismatch, text));
            }
        }
        let transforms = [&filter].map(|filter| SubjectTransform {
            source: filter.filter.clone(),
            destination: transform(filter, partitions),
        });
        let source = Source { name: self.stream.clone(), subject_transforms: transforms.to_vec(), ..Source::default() };
        let config = stream::Config {
            name: self.group_stream(),
            retention: RetentionPolicy::WorkQueue,
            discard: DiscardPolicy::New,
            storage: origin.storage,
            num_replicas: origin.num_replicas,
            allow_direct: true,
            sources: Some(vec![source]),
            ..stream::Config::default()
        };
        self.create_stream(&config).await
    }

    /// Adds members, which then receive their share of the partitions as soon as they have joined.
    ///
    /// # Errors
    ///
    /// Returns an error if a name is not valid, if the group does not exist or has fixed partitions for each member, or if the
    /// document cannot be read or written.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the members may be added or not.
    pub async fn add_members(&self, members: &[&str]) -> Result<(), Error> {
        if let Some(error) = members.iter().find_map(|member| name_problem("member", member)) {
            return Err(error);
        }
        self.change(|document| {
            document.members.extend(members.iter().map(|member| (*member).to_owned()));
            document.members.sort();
            document.members.dedup();
        })
        .await
    }

    /// Removes members, whose partitions the others receive.
    ///
    /// # Errors
    ///
    /// Returns an error if the group does not exist or has fixed partitions for each member, or if the document cannot be read
    /// or written. To remove what is no member is no error.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the members may be removed or not.
    pub async fn remove_members(&self, members: &[&str]) -> Result<(), Error> {
        self.change(|document| document.members.retain(|member| !members.contains(&&**member))).await
    }

    /// Gives each member fixed partitions, from 0, instead of a share of all; a partition without a member waits for one.
    ///
    /// [`add_members`](Self::add_members) and `remove_members` are refused from then on, until `mappings` is empty, which
    /// leaves the group without members.
    ///
    /// # Errors
    ///
    /// Returns an error if a name is not valid, if a partition does not exist or has two members, if the group does not exist,
    /// or if the document cannot be read or written.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the partitions may be given or not.
    pub async fn map_members(&self, mappings: &[(&str, &[u32])]) -> Result<(), Error> {
        if let Some(error) = mappings.iter().find_map(|(member, _)| name_problem("member", member)) {
            return Err(error);
        }
        let mapping = |(member, partitions): &(&str, &[u32])| MemberMapping {
            member: (*member).to_owned(),
            partitions: partitions.to_vec(),
        };
        self.replace(|document| {
            document.members.clear();
            document.member_mappings = mappings.iter().map(mapping).collect();
            Ok(())
        })
        .await
    }

    /// Returns the members, whether they have joined or not.
    ///
    /// # Errors
    ///
    /// Returns an error if the group does not exist, or if its document cannot be read or is not valid.
    pub async fn members(&self) -> Result<Vec<String>, Error> {
        let Document { members, member_mappings, .. } = self.existing().await?.document;
        Ok(members.into_iter().chain(member_mappings.into_iter().map(|mapping| mapping.member)).collect())
    }

    /// Returns the stream of the group, which has the messages of `stream` with the number of the partition.
    pub(super) fn group_stream(&self) -> String {
        derived_stream(&self.stream, &self.name)
    }

    pub(super) fn broker(&self) -> &Broker {
        &self.broker
    }

    fn transport(&self) -> &Transport {
        self.broker.transport()
    }

    fn subject(&self) -> String {
        format!("{SUBJECT}.{}.{}", self.stream, self.name)
    }

    pub(super) fn check_names(&self) -> Result<(), Error> {
        let problem = name_problem("stream", &self.stream).or_else(|| name_problem("group", &self.name));
        problem.map_or(Ok(()), Err)
    }

    async fn origin(&self) -> Result<stream::Config, Error> {
        let found = self.transport().stream(&self.stream).await;
        let found = found.map_err(|error| error.into_error(&format!("reading stream `{}`", self.stream)))?;
        found.ok_or_else(|| {
            let text =
                format!("stream `{}` does not exist, so that no group can read it; create it before", self.stream);
            Error::new(ErrorKind::StreamNotFound, text)
        })
    }

    async fn create_bucket(&self, origin: &stream::Config) -> Result<(), Error> {
        let found = self.transport().stream(BUCKET).await;
        if found.map_err(|error| error.into_error(&format!("reading stream `{BUCKET}`")))?.is_some() {
            return Ok(());
        }
        let config = stream::Config {
            name: BUCKET.to_owned(),
            subjects: vec![format!("{SUBJECT}.>")],
            storage: StorageType::File,
            num_replicas: origin.num_replicas,
            max_messages_per_subject: 1,
            discard: DiscardPolicy::New,
            allow_rollup: true,
            deny_delete: true,
            allow_direct: true,
            ..stream::Config::default()
        };
        self.create_stream(&config).await
    }

    /// Creates a stream, unless another client has created it meanwhile.
    async fn create_stream(&self, config: &stream::Config) -> Result<(), Error> {
        match self.transport().create_stream(config).await {
            Err(error) if error.is(ErrorCode::STREAM_NAME_EXIST) => Ok(()),
            created => created.map_err(|error| error.into_error(&format!("creating stream `{}`", config.name))),
        }
    }

    /// Reads the document; returns `None` if the group does not exist, or was deleted.
    pub(super) async fn read(&self) -> Result<Option<Revision>, Error> {
        let (sequence, document) = self.last().await?;
        Ok(document.map(|document| Revision { sequence, document }))
    }

    /// Reads the document with its revision: 0 for a group that never existed. A deleted group has no document.
    async fn last(&self) -> Result<(u64, Option<Document>), Error> {
        let (subject, mut last) = (self.subject(), None);
        let mut next = 1;
        loop {
            match self.transport().next_stored_on(BUCKET, next, &subject).await {
                Ok(Some(stored)) => {
                    next = stored.sequence + 1;
                    last = Some(stored);
                }
                Ok(None) => break,
                Err(error) if error.kind() == ErrorKind::StreamNotFound => break,
                Err(error) => return Err(error.about(&format!("the document of group {self} cannot be read"))),
            }
        }
        let Some(stored) = last else { return Ok((0, None)) };
        let sequence = stored.sequence;
        let message = Message::of_stored(BUCKET, stored);
        if message.is_marker() {
            return Ok((sequence, None));
        }
        let document = Document::parse(message.payload(), &format!("the document of group {self}"))?;
        Ok((sequence, Some(document)))
    }

    pub(super) async fn existing(&self) -> Result<Revision, Error> {
        self.read().await?.ok_or_else(|| {
            let text =
                format!("group {self} does not exist; create it with `Group::create`, or another client of `pcgroups`");
            Error::new(ErrorKind::Config, text)
        })
    }

    /// Writes the document if its revision is still this one; 0 for a new group.
    async fn write(&self, document: &Document, revision: u64) -> Result<(), Error> {
        let mut headers = HeaderMap::new();
        headers.insert(header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, revision.to_string());
        let payload = serde_json::to_vec(document).unwrap_or_default().into();
        let message = Outgoing { subject: self.subject().into(), pattern: None, payload, headers };
        publish_copy(self.transport(), message, MissingStream::Awaited).await.map(drop)
    }

    /// Changes the members of a group without fixed partitions.
    async fn change(&self, change: impl Fn(&mut Document)) -> Result<(), Error> {
        self.replace(|document| {
            if !document.member_mappings.is_empty() {
                let text = format!(
                    "group {self} has fixed partitions for each member (`member_mappings`); change these with `Group::map_members`"
                );
                return Err(Error::new(ErrorKind::Config, text));
            }
            change(document);
            Ok(())
        })
        .await
    }

    /// Replaces the document, again if another client has changed it meanwhile.
    async fn replace(&self, change: impl Fn(&mut Document) -> Result<(), Error>) -> Result<(), Error> {
        self.check_names()?;
        for tried in 1.. {
            let Revision { sequence, mut document } = self.existing().await?;
            let before = document.clone();
            change(&mut document)?;
            document.check(&format!("the document of group {self}"))?;
            if document == before {
                return Ok(());
            }
            match self.write(&document, sequence).await {
                Err(error) if error.kind() == ErrorKind::WrongLastSequence && tried < MAX_TRIES => {}
                result => return result,
            }
        }
        Ok(())
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` on stream `{}`", self.name.escape_debug(), self.stream.escape_debug())
    }
}

/// Returns `true` if two documents differ at most in their members.
fn is_alike(one: &Document, other: &Document) -> bool {
    let settings =
        |document: &Document| Document { members: Vec::new(), member_mappings: Vec::new(), ..document.clone() };
    settings(one) == settings(other)
}
