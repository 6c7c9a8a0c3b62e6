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
        self.subject.strip_suffix('.').unwrap_or_default()
    }

    /// Returns the subject in the environment; those of the server are the same in all environments.
    pub(crate) fn subject<'a>(&self, subject: &'a str) -> Cow<'a, str> {
        if subject.starts_with('$') {
            return Cow::Borrowed(subject);
        }
        Cow::Owned(format!("{}{subject}", self.subject))
    }

    /// Returns the name of a stream in the environment.
    pub(crate) fn stream<'a>(&self, name: &'a str) -> Cow<'a, str> {
        if name.starts_with("KV_") || name.starts_with("OBJ_") {
            return Cow::Borrowed(name);
        }
        Cow::Owned(format!("{}{name}", self.stream))
    }

    /// Returns the name of a stream in the environment, also for a name that has the prefix already, such as that of a
    /// message.
    pub(crate) fn known_stream<'a>(&self, name: &'a str) -> Cow<'a, str> {
        if name.starts_with(&self.stream) { Cow::Borrowed(name) } else { self.stream(name) }
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
    fn prefix_is_added() {
        let prefix = Prefix::new("acme.staging");
        assert_eq!(prefix.as_str(), "acme.staging");
        assert_eq!(prefix.subject("orders.created"), "acme.staging.orders.created");
        assert_eq!(prefix.subject("acme.staging.orders"), "acme.staging.acme.staging.orders");
        assert_eq!(prefix.subject("$KV.sessions.>"), "$KV.sessions.>");
        assert_eq!(prefix.stream("ORDERS"), "ACME_STAGING_ORDERS");
        assert_eq!(prefix.known_stream("ACME_STAGING_ORDERS"), "ACME_STAGING_ORDERS");
        assert_eq!(prefix.known_stream("ORDERS"), "ACME_STAGING_ORDERS");
        assert_eq!(prefix.stream("KV_sessions"), "KV_sessions");
        assert_eq!(prefix.without("acme.staging.orders.created"), "orders.created");
        assert_eq!(prefix.without("$KV.sessions.a"), "$KV.sessions.a");
    }
}
