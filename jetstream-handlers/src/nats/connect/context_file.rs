//! The context files of the `nats` command-line tool.

use std::path::PathBuf;

use serde::{Deserialize, Deserializer};

use crate::error::{Error, ErrorKind};

/// The fields of a context that a connection needs; the tool writes unused ones as empty strings.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ContextFile {
    #[serde(deserialize_with = "filled")]
    pub(super) url: Option<String>,
    #[serde(deserialize_with = "filled")]
    pub(super) user: Option<String>,
    #[serde(deserialize_with = "filled")]
    pub(super) password: Option<String>,
    #[serde(deserialize_with = "filled")]
    pub(super) token: Option<String>,
    #[serde(deserialize_with = "filled")]
    pub(super) creds: Option<String>,
    #[serde(deserialize_with = "filled")]
    pub(super) nkey: Option<String>,
    #[serde(deserialize_with = "filled")]
    pub(super) ca: Option<String>,
    #[serde(deserialize_with = "filled")]
    pub(super) cert: Option<String>,
    #[serde(deserialize_with = "filled")]
    pub(super) key: Option<String>,
    #[serde(deserialize_with = "filled")]
    pub(super) inbox_prefix: Option<String>,
    #[serde(deserialize_with = "filled")]
    pub(super) jetstream_domain: Option<String>,
    #[serde(deserialize_with = "filled")]
    pub(super) jetstream_api_prefix: Option<String>,
    pub(super) tls_first: bool,
    // Without these the connection would be another one than the tool makes, so they are refused.
    #[serde(deserialize_with = "filled")]
    nsc: Option<String>,
    #[serde(deserialize_with = "filled")]
    user_jwt: Option<String>,
    #[serde(deserialize_with = "filled")]
    socks_proxy: Option<String>,
}

fn filled<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.filter(|text| !text.is_empty()))
}

impl ContextFile {
    /// Reads `nats/context/NAME.json` below the configuration folder.
    pub(super) fn read(name: &str, variable: &impl Fn(&str) -> Option<String>) -> Result<Self, Error> {
        let wrong = |why: String| Error::new(ErrorKind::Config, format!("NATS_CONTEXT is `{name}`, {why}"));
        if name.contains(['/', '\\']) || name.starts_with('.') {
            return Err(wrong("which is a path; give the name that `nats context ls` shows".to_owned()));
        }
        let folder = match (variable("XDG_CONFIG_HOME"), variable("HOME")) {
            (Some(folder), _) => PathBuf::from(folder),
            (None, Some(home)) => PathBuf::from(home).join(".config"),
            (None, None) => {
                return Err(wrong("but neither XDG_CONFIG_HOME nor HOME says where contexts are".to_owned()));
            }
        };
        let path = folder.join("nats").join("context").join(format!("{name}.json"));
        let text = std::fs::read_to_string(&path).map_err(|error| {
            wrong(format!("but `{}` cannot be read; `nats context ls` lists those there are", path.display()))
                .with_source(error)
        })?;
        let file: Self = serde_json::from_str(&text)
            .map_err(|error| wrong(format!("but `{}` is no context", path.display())).with_source(error))?;
        let refused = [("nsc", &file.nsc), ("user_jwt", &file.user_jwt), ("socks_proxy", &file.socks_proxy)];
        if let Some((field, _)) = refused.iter().find(|(_, value)| value.is_some()) {
            return Err(wrong(format!(
                "which has `{field}`, and that is not supported; use a context without, or variables"
            )));
        }
        Ok(file)
    }
}
