//! Connecting: options, retries and errors.

use std::error::Error as StdError;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, ConnectError, ConnectErrorKind, ConnectOptions, Event};
use tokio::time::Instant;

mod context_file;
mod environment;
mod file;
mod servers;

pub(crate) use environment::Environment;
pub(crate) use servers::{Servers, without_credentials};

use super::client_errors::ClientErrors;
use super::violations::Violations;
use crate::backoff::ExponentialBackoff;
use crate::error::{Error, ErrorKind};
use file::File;
use servers::Credentials;

/// The interval of pings; the client reconnects after two unanswered ones.
const PING_INTERVAL: Duration = Duration::from_secs(10);

/// The maximum number of messages that a subscription buffers; async-nats silently drops any beyond it.
///
/// All handlers together request at most half of it.
pub(super) const CAPACITY: usize = 1 << 18;

/// A function of the application that is called with every event of the client.
type OnEvent = Box<dyn Fn(&Event) + Send + Sync>;

/// The functions that receive the events of the client, of which async-nats calls only one function.
#[derive(Default)]
pub(crate) struct ClientEvents(Vec<OnEvent>);

impl ClientEvents {
    pub(crate) fn add(&mut self, on_event: impl Fn(&Event) + Send + Sync + 'static) {
        self.0.push(Box::new(on_event));
    }

    fn call(&self, event: &Event) {
        self.0.iter().for_each(|on_event| on_event(event));
    }
}

/// Returns the default options, with the credentials of the server addresses.
pub(crate) fn options(
    client_name: &str,
    servers: &Servers,
    violations: Arc<Violations>,
    errors: Arc<ClientErrors>,
    events: ClientEvents,
) -> Result<ConnectOptions, Error> {
    let options = ConnectOptions::new().name(client_name).ping_interval(PING_INTERVAL);
    let attempts = errors.clone();
    // Called before each attempt to connect; it leaves the choice of the server to the client.
    let options = options.reconnect_to_server_callback(move |servers, _| {
        attempts.on_attempt(&servers);
        std::future::ready(None)
    });
    let options = options.event_callback(move |event| {
        violations.on_event(&event);
        errors.on_event(&event);
        events.call(&event);
        std::future::ready(())
    });
    Ok(match servers.credentials()? {
        None => options,
        Some(Credentials::Token(token)) => options.token(token),
        Some(Credentials::Password { user, password }) => options.user_and_password(user, password),
    })
}

/// Adds the credentials of a file to the options.
pub(crate) async fn credentials_file(options: ConnectOptions, path: &Path) -> Result<ConnectOptions, Error> {
    let result = options.credentials_file(path).await;
    result.map_err(|error| {
        let path = path.to_string_lossy();
        File { what: "credentials", path: &path }.unreadable().with_source(error)
    })
}

/// Connects; retries with exponential backoff until `wait` has passed while no server can be reached.
pub(super) async fn connect(servers: &Servers, options: ConnectOptions, wait: Duration) -> Result<Client, Error> {
    let options = options.subscription_capacity(CAPACITY);
    let deadline = Instant::now() + wait;
    let mut backoff = ExponentialBackoff::new(Duration::from_millis(100), Duration::from_secs(4));
    loop {
        let error = match async_nats::connect_with_options(&servers.addresses, options.clone()).await {
            Ok(client) => return Ok(client),
            Err(error) => error,
        };
        // The last pause is shortened, so that the last attempt is made at the deadline.
        let pause = backoff.next().min(deadline.saturating_duration_since(Instant::now()));
        if !is_transient(&error) || pause.is_zero() {
            return Err(connect_error(servers, wait, error));
        }
        tracing::warn!("no server at {}; retrying in {pause:.1?}", servers.shown());
        tokio::time::sleep(pause).await;
    }
}

fn is_transient(error: &ConnectError) -> bool {
    matches!(error.kind(), ConnectErrorKind::Io | ConnectErrorKind::TimedOut | ConnectErrorKind::Dns)
        && !is_about_tls(error)
}

/// Returns `true` if TLS failed; an untrusted certificate is reported as an I/O error with `ErrorKind::InvalidData`.
fn is_about_tls(error: &ConnectError) -> bool {
    let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(error) = cause {
        if error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::InvalidData) {
            return true;
        }
        cause = error.source();
    }
    error.kind() == ConnectErrorKind::Tls
}

fn connect_error(servers: &Servers, wait: Duration, error: ConnectError) -> Error {
    let shown = servers.shown();
    let (kind, message) = match error.kind() {
        ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication => (
            ErrorKind::Authorization,
            format!(
                "the server at {shown} refused the credentials; check user, password, token, nkey or credentials file"
            ),
        ),
        ConnectErrorKind::ServerParse => (
            ErrorKind::Config,
            format!("{shown} is not a valid server list; use for example `nats://localhost:4222` or `tls://host:4222`"),
        ),
        _ if is_about_tls(&error) => (
            ErrorKind::Connect,
            format!(
                "TLS handshake failed with the server at {shown}; check the certificate authority (`NATS_CA`, `add_root_certificates`), the client certificate and the host name"
            ),
        ),
        _ if wait.is_zero() => (
            ErrorKind::Connect,
            format!(
                "no server at {shown}; start one (`nats-server -js`), correct the address, or wait for it with `Builder::wait_for_server`"
            ),
        ),
        _ => (
            ErrorKind::Connect,
            format!("no server at {shown} within {wait:?}; start one (`nats-server -js`), or correct the address"),
        ),
    };
    Error::new(kind, message).with_source(error)
}
