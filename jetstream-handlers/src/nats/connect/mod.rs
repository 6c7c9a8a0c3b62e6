//! Making the connection.

use std::error::Error as StdError;
use std::path::PathBuf;
use std::time::Duration;

use async_nats::{Client, ConnectError, ConnectErrorKind, ConnectOptions};
use tokio::time::Instant;

mod context_file;

use crate::backoff::ExponentialBackoff;
use crate::error::{Error, ErrorKind};
use context_file::ContextFile;

/// How soon a server that has gone silent counts as lost: after two of these without an answer.
const PING_INTERVAL: Duration = Duration::from_secs(10);

/// How many messages one subscription can hold; beyond it the client library drops them without a word.
///
/// Handlers never ask for more than half of it together.
pub(super) const CAPACITY: usize = 1 << 18;

/// The options that we begin with, before the application adjusts them.
///
/// The client library takes no credentials from an address, so they are taken out here.
pub(crate) fn options(client_name: &str, urls: &[String]) -> Result<ConnectOptions, Error> {
    let options = ConnectOptions::new().name(client_name).ping_interval(PING_INTERVAL);
    let mut credentials = urls.iter().filter_map(|url| Some(authority(url)?.0));
    Ok(match credentials.next().map(|userinfo| userinfo.split_once(':').unwrap_or((userinfo, ""))) {
        None => options,
        Some((token, "")) => options.token(decoded(token)?),
        Some((user, password)) => options.user_and_password(decoded(user)?, decoded(password)?),
    })
}

/// The part before the last `@` of an address, and where that part begins.
fn authority(url: &str) -> Option<(&str, usize)> {
    let start = url.find("://").map_or(0, |scheme| scheme + 3);
    let at = url.rfind('@').filter(|at| *at > start)?;
    Some((&url[start..at], start))
}

/// Text of an address with its `%40` and the like replaced.
fn decoded(text: &str) -> Result<String, Error> {
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

/// Adds the credentials of a file.
pub(crate) async fn credentials_file(options: ConnectOptions, path: &std::path::Path) -> Result<ConnectOptions, Error> {
    let result = options.credentials_file(path).await;
    result.map_err(|error| {
        Error::new(ErrorKind::Config, format!("cannot read the credentials file `{}`", path.display()))
            .with_source(error)
    })
}

/// Connects; while no server can be reached, tries again until `wait` is over.
pub(crate) async fn connect(servers: &[String], options: ConnectOptions, wait: Duration) -> Result<Client, Error> {
    let options = options.subscription_capacity(CAPACITY);
    let deadline = Instant::now() + wait;
    let mut backoff = ExponentialBackoff::new(Duration::from_millis(100), Duration::from_secs(4));
    loop {
        let error = match async_nats::connect_with_options(servers, options.clone()).await {
            Ok(client) => return Ok(client),
            Err(error) => error,
        };
        // The last attempt is at the deadline, not some time before it.
        let pause = backoff.next().min(deadline.saturating_duration_since(Instant::now()));
        if !is_transient(&error) || pause.is_zero() {
            return Err(explained(servers, wait, error));
        }
        tracing::warn!("no server at {}; trying again in {pause:.1?}", shown(servers));
        tokio::time::sleep(pause).await;
    }
}

fn is_transient(error: &ConnectError) -> bool {
    matches!(error.kind(), ConnectErrorKind::Io | ConnectErrorKind::TimedOut | ConnectErrorKind::Dns)
        && !is_about_tls(error)
}

/// A certificate that is not trusted comes as an I/O error, of the kind that means data which makes no sense.
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

fn explained(servers: &[String], wait: Duration, error: ConnectError) -> Error {
    let shown = shown(servers);
    let (kind, message) = match error.kind() {
        ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication => (
            ErrorKind::Authorization,
            format!(
                "the server at {shown} refused the credentials; check user, password, token, nkey or credentials file"
            ),
        ),
        ConnectErrorKind::ServerParse => (
            ErrorKind::Config,
            format!("{shown} is no list of servers; write for example `nats://localhost:4222` or `tls://host:4222`"),
        ),
        _ if is_about_tls(&error) => (
            ErrorKind::Connect,
            format!(
                "no TLS with the server at {shown}; check the certificate authority (`NATS_CA`, `add_root_certificates`), the client certificate and the host name"
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

/// The addresses without the passwords that may stand in them.
fn shown(servers: &[String]) -> String {
    let each: Vec<_> = servers.iter().map(|url| format!("`{}`", without_secrets(url))).collect();
    each.join(", ")
}

fn without_secrets(url: &str) -> String {
    match authority(url) {
        Some((userinfo, start)) => format!("{}{}", &url[..start], &url[start + userinfo.len() + 1..]),
        None => url.to_owned(),
    }
}

/// The variables that `Broker::from_env` reads, and the context file that one of them names.
#[derive(Debug, Default)]
pub(crate) struct Environment {
    url: Option<String>,
    creds: Option<String>,
    nkey: Option<String>,
    user: Option<String>,
    password: Option<String>,
    token: Option<String>,
    ca: Option<String>,
    cert: Option<String>,
    key: Option<String>,
    file: ContextFile,
}

impl Environment {
    /// Reads the process's environment; an empty variable counts as not set.
    pub(crate) fn read() -> Result<Self, Error> {
        Self::from(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    }

    fn from(variable: impl Fn(&str) -> Option<String>) -> Result<Self, Error> {
        let file = match variable("NATS_CONTEXT") {
            Some(name) => ContextFile::read(&name, &variable)?,
            None => ContextFile::default(),
        };
        Ok(Self {
            url: variable("NATS_URL"),
            creds: variable("NATS_CREDS"),
            nkey: variable("NATS_NKEY"),
            user: variable("NATS_USER"),
            password: variable("NATS_PASSWORD"),
            token: variable("NATS_TOKEN"),
            ca: variable("NATS_CA"),
            cert: variable("NATS_CERT"),
            key: variable("NATS_KEY"),
            file,
        })
    }

    /// The addresses, separated by commas in the variable.
    pub(crate) fn urls(&self) -> Option<Vec<String>> {
        let urls = self.url.as_ref().or(self.file.url.as_ref())?;
        Some(urls.split(',').map(|url| url.trim().to_owned()).collect())
    }

    pub(crate) fn domain(&self) -> Option<String> {
        self.file.jetstream_domain.clone()
    }

    pub(crate) fn api_prefix(&self) -> Option<String> {
        self.file.jetstream_api_prefix.clone()
    }

    /// Adds the credentials to the options; a variable goes before the context file.
    pub(crate) async fn apply(&self, mut options: ConnectOptions) -> Result<ConnectOptions, Error> {
        let file = &self.file;
        // One way to authenticate: the first that the variables name, else the first that the file names.
        let from_variables = self.creds.is_some() || self.nkey.is_some() || self.user.is_some() || self.token.is_some();
        let (creds, nkey, user, password, token) = match from_variables {
            true => (&self.creds, &self.nkey, &self.user, &self.password, &self.token),
            false => (&file.creds, &file.nkey, &file.user, &file.password, &file.token),
        };
        if let Some(path) = creds {
            options = credentials_file(options, expanded(path).as_ref()).await?;
        } else if let Some(nkey) = nkey {
            options = options.nkey(seed(nkey)?);
        } else if let Some(user) = user {
            options = options.user_and_password(user.clone(), password.clone().unwrap_or_default());
        } else if let Some(token) = token {
            options = options.token(token.clone());
        }
        if let Some(path) = self.ca.as_ref().or(file.ca.as_ref()) {
            options = options.add_root_certificates(readable("certificate authority", path)?);
        }
        match (self.cert.as_ref().or(file.cert.as_ref()), self.key.as_ref().or(file.key.as_ref())) {
            (Some(cert), Some(key)) => {
                let (cert, key) = (readable("client certificate", cert)?, readable("client key", key)?);
                options = options.add_client_certificate(cert, key);
            }
            (None, None) => {}
            (Some(_), None) => {
                return Err(Error::new(
                    ErrorKind::Config,
                    "NATS_CERT (or `cert` of the context) is set without NATS_KEY (or `key`); a client certificate needs both",
                ));
            }
            (None, Some(_)) => {
                return Err(Error::new(
                    ErrorKind::Config,
                    "NATS_KEY (or `key` of the context) is set without NATS_CERT (or `cert`); a client certificate needs both",
                ));
            }
        }
        if file.tls_first {
            options = options.tls_first();
        }
        if let Some(prefix) = &file.inbox_prefix {
            options = options.custom_inbox_prefix(prefix);
        }
        Ok(options)
    }
}

/// The seed itself, or the first line of a file that is one.
fn seed(nkey: &str) -> Result<String, Error> {
    let is_seed =
        |text: &str| text.starts_with('S') && text.len() >= 58 && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if is_seed(nkey) {
        return Ok(nkey.to_owned());
    }
    let text =
        std::fs::read_to_string(expanded(nkey)).map_err(|error| unreadable("NATS_NKEY", "nkey seed", nkey, error))?;
    let seed = text.lines().map(str::trim).find(|line| is_seed(line)).map(str::to_owned);
    seed.ok_or_else(|| Error::new(ErrorKind::Config, format!("NATS_NKEY: `{nkey}` has no line with a seed (`SU..`)")))
}

/// The path of a file, which the client library would only call missing, without its name.
fn readable(what: &str, path: &str) -> Result<PathBuf, Error> {
    let expanded = PathBuf::from(expanded(path));
    match std::fs::File::open(&expanded) {
        Ok(_) => Ok(expanded),
        Err(error) => {
            Err(Error::new(ErrorKind::Config, format!("cannot read the {what} file `{path}`")).with_source(error))
        }
    }
}

fn unreadable(variable: &str, what: &str, path: &str, error: std::io::Error) -> Error {
    Error::new(ErrorKind::Config, format!("{variable}: cannot read the {what} file `{path}`")).with_source(error)
}

/// A path as the `nats` CLI takes it, with `~` for the home folder.
fn expanded(path: &str) -> String {
    match (path.strip_prefix("~/"), std::env::var("HOME")) {
        (Some(rest), Ok(home)) => format!("{home}/{rest}"),
        _ => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_shown_without_its_password() {
        let servers = ["nats://ada:p@ss@localhost:4222".into(), "token@host".into(), "tls://host:4222".into()];
        assert_eq!(shown(&servers), "`nats://localhost:4222`, `host`, `tls://host:4222`");
    }

    #[test]
    fn credentials_in_an_address_are_decoded() {
        assert_eq!(decoded("p%40ss%3aword").unwrap(), "p@ss:word");
        assert_eq!(decoded("100%").unwrap(), "100%");
    }

    #[test]
    fn the_url_variable_holds_several_servers() {
        let environment =
            Environment::from(|name| (name == "NATS_URL").then(|| "nats://a:1, nats://b:2".to_owned())).unwrap();
        assert_eq!(environment.urls().unwrap(), ["nats://a:1", "nats://b:2"]);
    }
}
