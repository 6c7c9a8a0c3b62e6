//! Brokers for tests, and the streams that they use.

use jetstream_handlers::prelude::*;
use jetstream_handlers::{Builder, DeadLetter, Health, stream};
use serde::Serialize;

use crate::{Cluster, Proxy, SOON, Server, eventually};

/// Something with addresses to connect to.
pub trait Urls {
    /// Returns the addresses.
    fn urls(&self) -> Vec<String>;
}

impl Urls for Server {
    fn urls(&self) -> Vec<String> {
        vec![self.url()]
    }
}

impl Urls for Proxy {
    fn urls(&self) -> Vec<String> {
        vec![self.url()]
    }
}

impl Urls for Cluster {
    fn urls(&self) -> Vec<String> {
        Cluster::urls(self)
    }
}

impl Urls for String {
    fn urls(&self) -> Vec<String> {
        vec![self.clone()]
    }
}

/// Returns the settings of a broker under test.
///
/// Its pulls last a second, so that it soon notices what is done to its consumers.
/// It ignores the servers that its server announces, which would lead it round a [`Proxy`].
pub fn builder(target: &impl Urls) -> Builder {
    Broker::builder()
        .servers(target.urls())
        .fetch_wait(secs(1))
        .connect_options(|options| options.ignore_discovered_servers())
}

/// Connects a broker with the settings of [`builder`].
///
/// # Panics
///
/// When the connection cannot be made.
pub async fn connect(target: &impl Urls) -> Broker {
    builder(target).connect().await.unwrap_or_else(|error| panic!("{error:?}"))
}

/// Connects a broker with the settings of [`builder`] and a state for its handlers.
///
/// # Panics
///
/// When the connection cannot be made.
pub async fn connect_with<S: Clone + Send + Sync + 'static>(target: &impl Urls, state: &S) -> Broker {
    builder(target).state(state.clone()).connect().await.unwrap_or_else(|error| panic!("{error:?}"))
}

/// Publishes the messages one after the other.
///
/// # Panics
///
/// When one of them is not stored.
pub async fn publish<T: Serialize>(broker: &Broker, subject: &str, messages: impl IntoIterator<Item = T>) {
    for message in messages {
        broker.publish(subject, &message).await.unwrap_or_else(|error| panic!("{error:?}"));
    }
}

/// Returns the configuration of a stream with these subjects, and defaults for the rest.
pub fn stream_config(name: &str, subjects: &[&str]) -> stream::Config {
    let subjects = subjects.iter().map(|subject| (*subject).to_owned()).collect();
    stream::Config { name: name.to_owned(), subjects, ..Default::default() }
}

/// Waits until there are at least this many dead letters, and returns them.
///
/// # Panics
///
/// When they cannot be listed.
pub async fn dead_letters(broker: &Broker, count: usize) -> Vec<DeadLetter> {
    eventually(&format!("{count} dead letters"), SOON, async || {
        let letters = broker.dead_letters().list(100).await.unwrap_or_else(|error| panic!("{error:?}"));
        (letters.len() >= count).then_some(letters)
    })
    .await
}

/// Waits until there are exactly this many dead letters of a handler, and returns them.
///
/// # Panics
///
/// When they cannot be listed.
pub async fn dead_letters_of(broker: &Broker, handler: &str, count: usize) -> Vec<DeadLetter> {
    let letters = broker.dead_letters().for_handler(handler);
    eventually(&format!("{count} dead letters of {handler}"), SOON, async || {
        let letters = letters.list(100).await.unwrap_or_else(|error| panic!("{error:?}"));
        (letters.len() == count).then_some(letters)
    })
    .await
}

/// Returns the number that is the payload of a dead letter.
///
/// # Panics
///
/// When it is not a number.
pub fn payload_of(letter: &DeadLetter) -> u64 {
    serde_json::from_slice(&letter.payload).expect("the payload is a number")
}

/// Waits until the health of a broker passes a check, and returns it as text.
pub async fn until_health(broker: &Broker, what: &str, check: impl Fn(&Health) -> bool) -> String {
    eventually(what, SOON, async || {
        let health = broker.health();
        check(&health).then(|| health.to_string())
    })
    .await
}

/// Returns a server configuration with the users `admin`, and `worker` with these permissions; both have the password
/// `secret`.
pub fn users(permissions: &str) -> String {
    format!(
        "accounts {{ APP {{ jetstream: enabled, users: [
            {{ user: admin, password: secret }},
            {{ user: worker, password: secret, permissions: {{ {permissions} }} }} ] }} }}"
    )
}

/// Returns a builder that connects as the user `worker` of [`users`].
pub fn worker(server: &Server) -> Builder {
    Broker::builder()
        .servers([server.url()])
        .connect_options(|options| options.user_and_password("worker".into(), "secret".into()))
}
