//! The prefix of an environment, for subjects and streams.

use std::borrow::Cow;

use async_nats::jetstream::stream;

/// The prefix of the subjects and streams of one environment, such as `staging`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Prefix {
    /// `staging.`
    subject: String,
    /// `STAGING_`
    stream: String,
}

impl Prefix {
    pub(crate) fn new(prefix: &str) -> Self {
        Self { subject: format!("{prefix}."), stream: format!("{}_", prefix.to_uppercase().replace('.', "_")) }
    }

    /// Returns the prefix as it was set.
    pub(crate) fn as_str(&self) -> &str {
        self.subject.trim_end_matches('.')
    }

    /// Returns the subject in the environment.
    ///
    /// A subject that has the prefix already, as one of a received message, is not changed, and neither are those of
    /// the server.
    pub(crate) fn subject<'a>(&self, subject: &'a str) -> Cow<'a, str> {
        if subject.starts_with(&self.subject) || subject.starts_with('$') {
            return Cow::Borrowed(subject);
        }
        Cow::Owned(format!("{}{subject}", self.subject))
    }

    /// Returns the name of a stream in the environment.
    pub(crate) fn stream<'a>(&self, name: &'a str) -> Cow<'a, str> {
        if name.starts_with(&self.stream) || name.starts_with("KV_") || name.starts_with("OBJ_") {
            return Cow::Borrowed(name);
        }
        Cow::Owned(format!("{}{name}", self.stream))
    }

    /// Returns a subject without the prefix.
    pub(crate) fn without<'a>(&self, subject: &'a str) -> &'a str {
        subject.strip_prefix(&self.subject).unwrap_or(subject)
    }

    /// Adds the prefix to a declared stream, and to those that it copies.
    pub(crate) fn declared(&self, config: &mut stream::Config) {
        config.name = self.stream(&config.name).into_owned();
        for subject in &mut config.subjects {
            *subject = self.subject(subject).into_owned();
        }
        for source in config.mirror.iter_mut().chain(config.sources.iter_mut().flatten()) {
            // Those of another account have its names.
            if source.external.is_none() && source.domain.is_none() {
                source.name = self.stream(&source.name).into_owned();
                source.filter_subject = source.filter_subject.as_deref().map(|filter| {
                    if filter.is_empty() { filter.to_owned() } else { self.subject(filter).into_owned() }
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefix_is_added_once() {
        let prefix = Prefix::new("acme.staging");
        assert_eq!(prefix.as_str(), "acme.staging");
        assert_eq!(prefix.subject("orders.created"), "acme.staging.orders.created");
        assert_eq!(prefix.subject("acme.staging.orders.created"), "acme.staging.orders.created");
        assert_eq!(prefix.subject("$KV.sessions.>"), "$KV.sessions.>");
        assert_eq!(prefix.stream("ORDERS"), "ACME_STAGING_ORDERS");
        assert_eq!(prefix.stream("ACME_STAGING_ORDERS"), "ACME_STAGING_ORDERS");
        assert_eq!(prefix.stream("KV_sessions"), "KV_sessions");
        assert_eq!(prefix.without("acme.staging.orders.created"), "orders.created");
        assert_eq!(prefix.without("$KV.sessions.a"), "$KV.sessions.a");
    }
}
