//! The subject transforms by which streams add the number of the partition to their messages.

use async_nats::jetstream::stream::{self, SubjectTransform};

use super::default_stream::{default_name, default_stream};
use super::derived::key_token;
use super::stored::{any_covers, listened};
use super::streams::Streams;
use crate::declaration::Declaration;
use crate::error::problem::{Problem, Purpose};
use crate::pattern::{filter, is_token_of, tokens};
use crate::rules::PARTITION;
use crate::subject::partitions_of;

/// The transform that a handler needs if the publisher does not compute the number.
pub(super) struct Needed {
    transform: SubjectTransform,
    /// The subjects that the handler receives, of all partitions.
    stored: String,
}

impl Needed {
    /// Returns the transform for a handler whose subject has places for the number and for the key; `None` for any other.
    ///
    /// A handler with several subjects has none, because a stream has only one transform.
    pub(super) fn of(handler: &Declaration) -> Option<Self> {
        let plan = handler.whole_plan();
        let mut subjects = plan.subject.iter();
        let (subject, None) = (subjects.next()?, subjects.next()) else { return None };
        let is_number = |token: &str| is_token_of(token, PARTITION);
        let published: Vec<&str> = tokens(subject).filter(|token| !is_number(token)).collect();
        let number = tokens(subject).find(|token| is_number(token)).and(plan.partitions)?;
        let key = key_token(plan, &published.join("."))?;
        let mut wildcards = 0;
        let destination = tokens(subject).map(|token| match &*filter(token) {
            _ if is_number(token) => format!("{{{{partition({number},{key})}}}}"),
            "*" => {
                wildcards += 1;
                format!("{{{{wildcard({wildcards})}}}}")
            }
            token => token.to_owned(),
        });
        let destination = destination.collect::<Vec<_>>().join(".");
        let source = filter(&published.join(".")).into_owned();
        Some(Self { transform: SubjectTransform { source, destination }, stored: filter(subject).into_owned() })
    }

    /// Returns `true` if a stream listens to what is published without the number, and not to what has it.
    fn is_for(&self, config: &stream::Config) -> bool {
        let listened = listened(config);
        any_covers(&listened, &self.transform.source) && !any_covers(&listened, &self.stored)
    }

    /// Adds the transform to the stream that the application has declared for the messages.
    pub(super) fn add_to(&self, declared: &mut [stream::Config], handler: &Declaration) -> Result<(), Problem> {
        let Some(config) = declared.iter_mut().find(|config| self.is_for(config)) else { return Ok(()) };
        match &config.subject_transform {
            None => config.subject_transform = Some(self.transform.clone()),
            Some(own) if *own == self.transform => {}
            Some(own) => {
                let problem = format!(
                    "needs that stream `{}` stores `{}` as `{}`, but it is declared with another transform, of `{}`, and has only one; change that, or remove `{{partition}}` from the subject, so that the server copies the messages",
                    config.name, self.transform.source, self.transform.destination, own.source
                );
                return Err(Problem::setting(&handler.name, "partitions", &problem));
            }
        }
        Ok(())
    }
}

impl Streams<'_> {
    /// Adds the transforms that handlers need to the declared streams.
    pub(super) fn add_transforms(&mut self, handlers: &[&Declaration]) -> Vec<Problem> {
        let needed = handlers.iter().filter(|handler| handler.is_first());
        let needed = needed.filter_map(|handler| Some((handler, Needed::of(handler)?)));
        needed.filter_map(|(handler, needed)| needed.add_to(&mut self.declared, handler).err()).collect()
    }

    /// Finds or plans the stream whose transform adds the number for a handler; `None` if the publisher may do
    /// it.
    pub(super) async fn find_transformed(
        &mut self,
        handler: &Declaration,
        needed: &Needed,
    ) -> Result<Option<String>, Problem> {
        let is_own = |config: &&stream::Config| config.subject_transform.as_ref() == Some(&needed.transform);
        // A stream on the server that differs from the declared one is a problem already.
        if let Some(config) = self.declared.iter().find(is_own).filter(|it| self.known.contains_key(&it.name)) {
            return Ok(Some(config.name.clone()));
        }
        // No stream listens to subjects that begin with any number.
        if handler.plan.stream.is_some() || default_name(self.transport.settings(), &needed.stored).is_some() {
            return Ok(None);
        }
        let purpose = Purpose::Handler(handler.name.clone());
        match self.find_copy(&purpose, &needed.stored).await? {
            Some(name) => Ok(Some(name)),
            None => self.plan_transformed(handler, needed).await.map(Some),
        }
    }

    /// Plans the default stream of a handler with the transform that it needs, or returns the problem of a stream that
    /// exists without.
    async fn plan_transformed(&mut self, handler: &Declaration, needed: &Needed) -> Result<String, Problem> {
        let purpose = Purpose::Handler(handler.name.clone());
        let SubjectTransform { source, destination } = &needed.transform;
        let listening = self.names(&purpose, source).await?;
        let settings = self.transport.settings();
        match (default_name(settings, source), &*listening) {
            (Some(name), []) if self.creates() => {
                let subject_transform = Some(needed.transform.clone());
                let subjects = vec![source.clone()];
                let config = stream::Config { subjects, subject_transform, ..default_stream(settings, &name, source) };
                self.plan(&purpose, config);
                Ok(name)
            }
            (_, [name, ..]) => {
                let problem = format!(
                    "needs that stream `{name}` stores `{source}` as `{destination}`, but the application does not declare it, so that it is not changed; pass it to `Builder::stream`, and apply the plan, or remove `{{partition}}` from the subject, so that the server copies the messages"
                );
                Err(Problem::setting(&handler.name, "partitions", &problem))
            }
            (_, []) => self.find(&purpose, source, handler.plan.stream.as_deref()).await,
        }
    }

    /// Returns the problem of a handler whose stream computes another number of partitions.
    pub(super) async fn check_number(&mut self, handler: &Declaration, stream: &str) -> Result<(), Problem> {
        let Some(own) = handler.plan.partitions.filter(|_| !handler.is_derived() && !self.is_declared(stream)) else {
            return Ok(());
        };
        let transform = self.config(stream).await.and_then(|config| config.subject_transform);
        let Some(number) = transform.and_then(|it| partitions_of(&it.destination)).filter(|number| *number != own)
        else {
            return Ok(());
        };
        let problem = format!(
            "is {own}, but the subject transform of stream `{stream}` has {number} partitions, so that keys would be in partitions without a handler, or some of these would have none; use the same number"
        );
        Err(Problem::setting(&handler.name, "partitions", &problem))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Key;
    use crate::plan::Plan;
    use crate::subject::covers;

    fn declaration(subject: &str, key: Key) -> Declaration {
        let mut plan = Plan::new(subject, "billing");
        (plan.key, plan.partitions) = (Some(key), Some(12));
        Declaration::for_test("app::bill", plan)
    }

    #[test]
    fn transform_puts_the_number_in_its_place() {
        let needed = |subject: &str| Needed::of(&declaration(subject, Key::placeholder("customer")));
        let found = needed("{partition}.orders.*.{customer}.created").unwrap();
        assert_eq!(found.transform.source, "orders.*.*.created");
        let destination = "{{partition(12,2)}}.orders.{{wildcard(1)}}.{{wildcard(2)}}.created";
        assert_eq!(found.transform.destination, destination);
        assert!(covers(&found.stored, "7.orders.eu.acme.created"));
        let config = |subject: &str| stream::Config { subjects: vec![subject.to_owned()], ..Default::default() };
        assert!(found.is_for(&config("orders.>")) && !found.is_for(&config("parcels.>")));
        // Such a stream has the messages of publishers that compute the number.
        let inside = needed("orders.{partition}.{customer}").unwrap();
        assert!(inside.is_for(&config("orders.*")) && !inside.is_for(&config("orders.>")));
        assert!(needed("orders.{customer}").is_none());
        assert!(Needed::of(&declaration("orders.{partition}.created", Key::field("customer"))).is_none());
    }
}
