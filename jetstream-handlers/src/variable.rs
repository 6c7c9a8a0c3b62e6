//! Settings of a handler whose value is an environment variable.

use std::env::{self, VarError};

use crate::duration;
use crate::rules::{self, Accepts, KEYS, Setting};

/// The environment variable that has the value of a key.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Variable {
    pub(crate) key: &'static str,
    pub(crate) variable: &'static str,
    /// The value if the variable is not set, as it would be written in the variable.
    pub(crate) default: Option<&'static str>,
}

/// Reads the value of a key; the error names the variable and the value found.
pub(crate) fn read(Variable { key, variable, default }: Variable) -> Result<Setting<'static>, String> {
    let text = match (env::var(variable), default) {
        (Ok(text), _) => text,
        (Err(VarError::NotPresent), Some(default)) => default.to_owned(),
        (Err(VarError::NotPresent), None) => {
            return Err(format!(
                "`{key}` is the environment variable `{variable}`, which is not set; set it, or add a default, as in `{key} = env(\"{variable}\", ..)`"
            ));
        }
        (Err(VarError::NotUnicode(_)), _) => {
            return Err(format!("`{key}` is the environment variable `{variable}`, whose value is not valid UTF-8"));
        }
    };
    let setting = KEYS.iter().find(|known| known.name == key).map(|known| setting(known, text));
    let setting = setting.unwrap_or_else(|| Err(format!("`{key}` is not a key")));
    setting.map_err(|problem| format!("{problem} (from the environment variable `{variable}`)"))
}

/// Parses and checks a value as the attribute does.
fn setting(key: &rules::Key, text: String) -> Result<Setting<'static>, String> {
    let setting = match &key.accepts {
        Accepts::Number(range) => {
            Setting::Number(text.parse().map_err(|_| rules::out_of_range(key.name, format!("`{text}`"), range))?)
        }
        Accepts::Duration(_) => {
            Setting::Duration(duration::parse(&text).map_err(|problem| format!("`{}`: {problem}", key.name))?)
        }
        Accepts::Delays => {
            let steps = duration::parse_list(&text).map_err(|problem| format!("`{}`: {problem}", key.name))?;
            Setting::Steps(steps.into())
        }
        _ => Setting::Text(text.into()),
    };
    match rules::value_problem(key, &setting) {
        Some(problem) => Err(problem),
        None => Ok(setting),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::plan::{Backoff, Plan};

    /// Variables that cargo sets for a test.
    const NAME: &str = "CARGO_PKG_NAME";
    const MINOR: &str = "CARGO_PKG_VERSION_MINOR";

    #[test]
    fn variable_has_precedence_over_the_default() {
        let plan = Plan::new("orders.created", "")
            .with_variable("queue", NAME, Some("billing"))
            .with_variable("concurrency", MINOR, None)
            .with_variable("stream", "JETSTREAM_HANDLERS_UNSET", Some("ORDERS"))
            .with_variable("ack_wait", "JETSTREAM_HANDLERS_UNSET", Some("1m30s"))
            .with_variable("backoff", "JETSTREAM_HANDLERS_UNSET", Some("100ms, 5s,1m30s"));
        assert_eq!(plan.unreadable, []);
        assert_eq!((&*plan.queue, plan.stream.as_deref()), (env!("CARGO_PKG_NAME"), Some("ORDERS")));
        assert_eq!(plan.concurrency.map(|calls| calls.to_string()).as_deref(), Some(env!("CARGO_PKG_VERSION_MINOR")));
        assert_eq!(plan.ack_wait, Some(Duration::from_secs(90)));
        let delays = [100, 5_000, 90_000].map(Duration::from_millis);
        assert_eq!(plan.backoff, Some(Backoff::Steps(delays.to_vec().into())));
    }

    #[test]
    fn unusable_value_is_reported_with_its_variable() {
        let plan = Plan::new("orders.created", "")
            .with_variable("queue", "JETSTREAM_HANDLERS_UNSET", None)
            .with_variable("concurrency", NAME, Some("4"))
            .with_variable("ack_wait", MINOR, None)
            .with_variable("stream", "CARGO_PKG_VERSION", None)
            .with_variable("backoff", "JETSTREAM_HANDLERS_UNSET", Some("1s,,5s"))
            .with_variable("backoff", "JETSTREAM_HANDLERS_UNSET", Some("1s, 0s"));
        let name = env!("CARGO_PKG_NAME");
        let (minor, version) = (env!("CARGO_PKG_VERSION_MINOR"), env!("CARGO_PKG_VERSION"));
        let expected = [
            (
                "queue",
                "`queue` is the environment variable `JETSTREAM_HANDLERS_UNSET`, which is not set; set it, or add a default, as in `queue = env(\"JETSTREAM_HANDLERS_UNSET\", ..)`".to_owned(),
            ),
            (
                "concurrency",
                format!("`concurrency` is `{name}`; expected 1 to 10000 (from the environment variable `{NAME}`)"),
            ),
            (
                "ack_wait",
                format!("`ack_wait`: `{minor}` has no unit; write `\"{minor}s\"` for seconds (from the environment variable `{MINOR}`)"),
            ),
            (
                "stream",
                format!("name `{version}` contains `.`; use letters, digits, `-` and `_` (from the environment variable `CARGO_PKG_VERSION`)"),
            ),
            (
                "backoff",
                "`backoff`: the duration is empty; write a number with a unit, as in `\"30s\"` (from the environment variable `JETSTREAM_HANDLERS_UNSET`)".to_owned(),
            ),
            (
                "backoff",
                "`backoff` has a delay of 0s; expected 1ms to 8760h (from the environment variable `JETSTREAM_HANDLERS_UNSET`)".to_owned(),
            ),
        ];
        assert_eq!(plan.unreadable, expected);
        // The start reports each key once.
        assert!(crate::rules::problems(&plan.settings()).is_empty());
    }
}
