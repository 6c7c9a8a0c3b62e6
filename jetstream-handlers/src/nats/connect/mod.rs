//! Connecting: options, retries and errors.

use std::error::Error as StdError;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, ConnectError, ConnectErrorKind, ConnectOptions, Event};
use tokio::time::Instant;

mod context_file;
mod environment;

pub(crate) use environment::Environment;

use super::violations::Violations;
use crate::backoff::ExponentialBackoff;
use crate::error::{Error, ErrorKind};

/// The interval of pings; the client reconnects after two unanswered ones.
const PING_INTERVAL: Duration = Duration::from_secs(10);

/// The maximum number of messages that a subscription buffers; async-nats silently drops any beyond it.
///
/// All handlers together request at most half of it.
pub(super) const CAPACITY: usize = 1 << 18;

/// A function of the application that is called with every event of the client.
type OnEvent = Box<dyn Fn(&Event) + Send + Sync>;

/// What receives the events of the client, of which async-nats calls only one function.
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
///
/// async-nats does not take credentials from an address.
pub(crate) fn options(
    client_name: &str,
    urls: &[String],
    violations: Arc<Violations>,
    events: ClientEvents,
) -> Result<ConnectOptions, Error> {
    let options = ConnectOptions::new().name(client_name).ping_interval(PING_INTERVAL);
    let options = options.event_callback(move |event| {
        violations.on_event(&event);
        events.call(&event);
        std::future::ready(())
    });
    let mut credentials = urls.iter().filter_map(|url| Some(userinfo(url)?.0));
    Ok(match credentials.next().map(|userinfo| userinfo.split_once(':').unwrap_or((userinfo, ""))) {
        None => options,
        Some((token, "")) => options.token(percent_decoded(token)?),
        Some((user, password)) => options.user_and_password(percent_decoded(user)?, percent_decoded(password)?),
    })
}

/// Checks what the client library would refuse without naming it: a missing, an empty or a combined address.
pub(crate) fn check_servers(servers: &[String]) -> Result<(), Error> {
    let invalid = |text: String| Err(Error::new(ErrorKind::Config, text));
    if servers.is_empty() {
        return invalid(
            "there is no server address: the list for `Builder::servers` is empty; pass one, such as `nats://localhost:4222`, or leave `servers` out"
                .to_owned(),
        );
    }
    for (number, server) in (1..).zip(servers) {
        if server.trim().is_empty() {
            let count = servers.len();
            return invalid(format!(
                "server address {number} of {count} is empty; use for example `nats://localhost:4222`"
            ));
        }
        let parts: Vec<_> = server.split(',').map(str::trim).collect();
        // A comma may belong to a password.
        if parts.len() > 1 && (!server.contains('@') || parts[1..].iter().any(|part| part.contains("://"))) {
            let each: Vec<_> = parts.iter().map(|url| format!("\"{}\"", redacted(url))).collect();
            return invalid(format!(
                "server address {number} contains a comma; pass several addresses as a list: `Broker::builder().servers([{}])`",
                each.join(", ")
            ));
        }
    }
    Ok(())
}

/// Returns the userinfo of an address, which ends at the last `@`, and its start.
fn userinfo(url: &str) -> Option<(&str, usize)> {
    let start = url.find("://").map_or(0, |scheme| scheme + 3);
    let at = url.rfind('@').filter(|at| *at > start)?;
    Some((&url[start..at], start))
}

/// Decodes the percent-encoding of an address.
fn percent_decoded(text: &str) -> Result<String, Error> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let hex = (*first == b'%').then(|| tail.get(..2)).flatten();
        let byte = hex.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        bytes.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8(bytes)
        .map_err(|_| Error::new(ErrorKind::Config, "the credentials in the server's address are not UTF-8"))
}

/// Adds the credentials of a file to the options.
pub(crate) async fn credentials_file(options: ConnectOptions, path: &Path) -> Result<ConnectOptions, Error> {
    let result = options.credentials_file(path).await;
    result.map_err(|error| {
        Error::new(ErrorKind::Config, format!("cannot read the credentials file `{}`", path.display()))
            .with_source(error)
    })
}

/// Connects; retries with exponential backoff until `wait` has passed while no server can be reached.
pub(super) async fn connect(servers: &[String], options: ConnectOptions, wait: Duration) -> Result<Client, Error> {
    let options = options.subscription_capacity(CAPACITY);
    let deadline = Instant::now() + wait;
    let mut backoff = ExponentialBackoff::new(Duration::from_millis(100), Duration::from_secs(4));
    loop {
        let error = match async_nats::connect_with_options(servers, options.clone()).await {
            Ok(client) => return Ok(client),
            Err(error) => error,
        };
        // The last pause is shortened, so that the last attempt is made at the deadline.
        let pause = backoff.next().min(deadline.saturating_duration_since(Instant::now()));
        if !is_transient(&error) || pause.is_zero() {
            return Err(connect_error(servers, wait, error));
        }
        tracing::warn!("no server at {}; retrying in {pause:.1?}", redacted_list(servers));
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

fn connect_error(servers: &[String], wait: Duration, error: ConnectError) -> Error {
    let shown = redacted_list(servers);
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

/// Formats the addresses without their credentials.
fn redacted_list(servers: &[String]) -> String {
    let each: Vec<_> = servers.iter().map(|url| format!("`{}`", redacted(url))).collect();
    each.join(", ")
}

fn redacted(url: &str) -> String {
    match userinfo(url) {
        Some((userinfo, start)) => format!("{}{}", &url[..start], &url[start + userinfo.len() + 1..]),
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_redacted() {
        let servers = ["nats://ada:p@ss@localhost:4222".into(), "token@host".into(), "tls://host:4222".into()];
        assert_eq!(redacted_list(&servers), "`nats://localhost:4222`, `host`, `tls://host:4222`");
    }

    #[test]
    fn credentials_in_an_address_are_percent_decoded() {
        assert_eq!(percent_decoded("p%40ss%3aword").unwrap(), "p@ss:word");
        assert_eq!(percent_decoded("100%").unwrap(), "100%");
    }

    #[test]
    fn missing_address_is_named() {
        let text = |servers: &[&str]| {
            let servers: Vec<_> = servers.iter().map(|server| (*server).to_owned()).collect();
            check_servers(&servers).map_err(|error| error.to_string())
        };
        assert_eq!(text(&["nats://one:4222", "two"]), Ok(()));
        assert_eq!(text(&["nats://ada:se,cret@a:1"]), Ok(()));
        assert!(text(&["one:1,two:2"]).is_err());
        assert!(text(&[]).unwrap_err().starts_with("there is no server address: the list for `Builder::servers`"));
        assert!(text(&[""]).unwrap_err().starts_with("server address 1 of 1 is empty; use for example `nats://"));
        assert!(text(&["one", " "]).unwrap_err().starts_with("server address 2 of 2 is empty"));
        let list = text(&["nats://ada:secret@a:1, nats://b"]).unwrap_err();
        assert!(list.ends_with("`Broker::builder().servers([\"nats://a:1\", \"nats://b\"])`"), "{list}");
    }
}
