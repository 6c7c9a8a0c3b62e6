//! Context files of the `nats` CLI.

use std::path::PathBuf;

use serde::{Deserialize, Deserializer};

use crate::error::{Error, ErrorKind};

/// The fields of a context that affect a connection; the `nats` CLI writes unset ones as empty strings.
///
/// It has no `Debug`, because it holds secrets.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct ContextFile {
    #[serde(deserialize_with = "non_empty")]
    pub(super) url: Option<String>,
    #[serde(deserialize_with = "non_empty")]
    pub(super) user: Option<String>,
    #[serde(deserialize_with = "non_empty")]
    pub(super) password: Option<String>,
    #[serde(deserialize_with = "non_empty")]
    pub(super) token: Option<String>,
    #[serde(deserialize_with = "non_empty")]
    pub(super) creds: Option<String>,
    #[serde(deserialize_with = "non_empty")]
    pub(super) nkey: Option<String>,
    #[serde(deserialize_with = "non_empty")]
    pub(super) ca: Option<String>,
    #[serde(deserialize_with = "non_empty")]
    pub(super) cert: Option<String>,
    #[serde(deserialize_with = "non_empty")]
    pub(super) key: Option<String>,
    #[serde(deserialize_with = "non_empty")]
    pub(super) inbox_prefix: Option<String>,
    #[serde(deserialize_with = "non_empty")]
    pub(super) jetstream_domain: Option<String>,
    #[serde(deserialize_with = "non_empty")]
    pub(super) jetstream_api_prefix: Option<String>,
    pub(super) tls_first: bool,
    // Not supported, and refused, because a connection that ignores them would differ from that of the `nats` CLI.
    #[serde(deserialize_with = "non_empty")]
    nsc: Option<String>,
    #[serde(deserialize_with = "non_empty")]
    user_jwt: Option<String>,
    #[serde(deserialize_with = "non_empty")]
    socks_proxy: Option<String>,
}

fn non_empty<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.filter(|text| !text.is_empty()))
}

impl ContextFile {
    /// Reads `nats/context/NAME.json` below the configuration directory; `setting` is where the name comes from.
    pub(super) fn read(setting: &str, name: &str, variable: &impl Fn(&str) -> Option<String>) -> Result<Self, Error> {
        let invalid = |why: String| Error::new(ErrorKind::Config, format!("{setting} is `{name}`, {why}"));
        if name.contains(['/', '\\']) || name.starts_with('.') {
            return Err(invalid("which is a path; use a name listed by `nats context ls`".to_owned()));
        }
        let directory = match (variable("XDG_CONFIG_HOME"), variable("HOME")) {
            (Some(directory), _) => PathBuf::from(directory),
            (None, Some(home)) => PathBuf::from(home).join(".config"),
            (None, None) => {
                return Err(invalid("but neither XDG_CONFIG_HOME nor HOME is set to find it".to_owned()));
            }
        };
        let path = directory.join("nats").join("context").join(format!("{name}.json"));
        let text = std::fs::read_to_string(&path).map_err(|error| {
            invalid(format!("but `{}` cannot be read; `nats context ls` lists the existing ones", path.display()))
                .with_source(error)
        })?;
        let file: Self = serde_json::from_str(&text).map_err(|error| {
            // The error itself shows values, which may be secrets.
            let (path, line, column) = (path.display(), error.line(), error.column());
            invalid(format!("but `{path}` is not a valid context at line {line}, column {column}"))
        })?;
        let unsupported = [("nsc", &file.nsc), ("user_jwt", &file.user_jwt), ("socks_proxy", &file.socks_proxy)];
        if let Some((field, _)) = unsupported.iter().find(|(_, value)| value.is_some()) {
            return Err(invalid(format!(
                "which sets `{field}`, and that is not supported; use a context without it, or environment variables"
            )));
        }
        Ok(file)
    }
}
