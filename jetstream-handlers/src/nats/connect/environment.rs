//! Connection settings from environment variables.

use std::path::PathBuf;

use async_nats::ConnectOptions;

use super::context_file::ContextFile;
use super::credentials_file;
use crate::error::{Error, ErrorKind};

/// The environment variables that [`Broker::from_env`](crate::Broker::from_env) reads, and the context file named by one of them.
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
    /// Reads the environment of the process; an empty variable counts as not set.
    pub(crate) fn read() -> Result<Self, Error> {
        Self::from_variables(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    }

    fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Result<Self, Error> {
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

    /// Returns the addresses of the servers, which the variable separates by commas.
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

/// Returns `nkey` if it is a seed, else the first seed in the file of this name.
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

/// Returns the expanded path of a file that can be read; otherwise an error with the path, which async-nats omits.
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

/// Expands `~` to the home directory, as the `nats` CLI does.
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
    fn the_url_variable_holds_several_servers() {
        let environment =
            Environment::from_variables(|name| (name == "NATS_URL").then(|| "nats://a:1, nats://b:2".to_owned()))
                .unwrap();
        assert_eq!(environment.urls().unwrap(), ["nats://a:1", "nats://b:2"]);
    }
}
