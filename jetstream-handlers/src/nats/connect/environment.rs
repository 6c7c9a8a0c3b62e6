//! Connection settings from environment variables.

use async_nats::ConnectOptions;

use super::context_file::ContextFile;
use super::credentials_file;
use super::file::File;
use crate::error::{Error, ErrorKind};

/// The environment variables that [`Broker::from_env`](crate::Broker::from_env) reads, and the context file named by one of them.
///
/// It has no `Debug`, because it holds secrets.
#[derive(Default)]
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
    inbox_prefix: Option<String>,
    file: ContextFile,
}

impl Environment {
    /// Reads the environment of the process; an empty variable counts as not set.
    pub(crate) fn read() -> Result<Self, Error> {
        Self::from_variables(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    }

    /// Reads a context of the `nats` CLI instead of the variables.
    pub(crate) fn of_context(name: &str) -> Result<Self, Error> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        Ok(Self { file: ContextFile::read("the context", name, &variable)?, ..Self::default() })
    }

    fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Result<Self, Error> {
        let file = match variable("NATS_CONTEXT") {
            Some(name) => ContextFile::read("NATS_CONTEXT", &name, &variable)?,
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
            inbox_prefix: variable("NATS_INBOX_PREFIX"),
            file,
        })
    }

    /// Returns the addresses of the servers, separated by commas.
    pub(crate) fn urls(&self) -> Option<String> {
        self.url.as_ref().or(self.file.url.as_ref()).cloned()
    }

    pub(crate) fn domain(&self) -> Option<String> {
        self.file.jetstream_domain.clone()
    }

    pub(crate) fn api_prefix(&self) -> Option<String> {
        self.file.jetstream_api_prefix.clone()
    }

    /// Returns the first tokens of the subjects on which answers arrive.
    pub(crate) fn inbox_prefix(&self) -> Option<String> {
        self.inbox_prefix.as_ref().or(self.file.inbox_prefix.as_ref()).cloned()
    }

    /// Adds the credentials to the options; variables take precedence over the context file.
    pub(crate) async fn apply(&self, mut options: ConnectOptions) -> Result<ConnectOptions, Error> {
        let file = &self.file;
        // Only the first method that is set counts, and the two sources are not combined.
        let has_variables = self.creds.is_some() || self.nkey.is_some() || self.user.is_some() || self.token.is_some();
        let (creds, nkey, user, password, token) = if has_variables {
            (&self.creds, &self.nkey, &self.user, &self.password, &self.token)
        } else {
            (&file.creds, &file.nkey, &file.user, &file.password, &file.token)
        };
        if let Some(path) = creds {
            let file = File { what: "credentials", path };
            options = credentials_file(options, &file.readable()?).await?;
        } else if let Some(nkey) = nkey {
            options = options.nkey(seed(nkey)?);
        } else if let Some(user) = user {
            options = options.user_and_password(user.clone(), password.clone().unwrap_or_default());
        } else if let Some(token) = token {
            options = options.token(token.clone());
        } else if self.password.is_some() || file.password.is_some() {
            return Err(Error::new(
                ErrorKind::Config,
                "NATS_PASSWORD (or `password` of the context) is set without NATS_USER (or `user`); set both, or NATS_TOKEN for a token",
            ));
        }
        let file = |what, path: &str| File { what, path }.readable();
        if let Some(path) = self.ca.as_ref().or(self.file.ca.as_ref()) {
            options = options.add_root_certificates(file("certificate authority", path)?);
        }
        match (self.cert.as_ref().or(self.file.cert.as_ref()), self.key.as_ref().or(self.file.key.as_ref())) {
            (Some(cert), Some(key)) => {
                let (cert, key) = (file("client certificate", cert)?, file("client key", key)?);
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
        if self.file.tls_first {
            options = options.tls_first();
        }
        Ok(options)
    }
}

/// Returns `nkey` if it is a seed, else the first seed in the file of this name.
fn seed(nkey: &str) -> Result<String, Error> {
    let is_seed =
        |text: &str| text.starts_with('S') && text.len() >= 58 && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
    // A seed that was read from a file often ends with a line break.
    if is_seed(nkey.trim()) {
        return Ok(nkey.trim().to_owned());
    }
    let file = File { what: "NATS_NKEY", path: nkey };
    let text = file.text()?;
    let seed = text.lines().map(str::trim).find(|line| is_seed(line)).map(str::to_owned);
    let missing =
        || Error::new(ErrorKind::Config, format!("NATS_NKEY: {} has no line with a seed (`SU..`)", file.shown()));
    seed.ok_or_else(missing)
}
