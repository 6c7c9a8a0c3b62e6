//! The names of the brokers of this process, and handlers for brokers that it does not have.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Mutex;

use crate::handler::Handler;
use crate::sync::lock;

/// The names of all brokers that were built, and those of unknown ones that were logged.
static NAMES: Mutex<Names> = Mutex::new(Names { built: BTreeSet::new(), logged: BTreeSet::new() });

#[derive(Debug)]
struct Names {
    built: BTreeSet<String>,
    logged: BTreeSet<String>,
}

/// Notes the name of a broker that is built.
pub(super) fn note(name: &str) {
    lock(&NAMES).built.insert(name.to_owned());
}

/// Logs, once for each name, the handlers that are linked into the program for a broker that was not built.
///
/// It is no error: another process may have that broker, or this one may build it later.
pub(super) fn log_unknown() {
    let mut names = lock(&NAMES);
    for unknown in names.unknown(&Handler::all()) {
        match unknown.meant {
            Some(_) => tracing::warn!("{unknown}"),
            None => tracing::info!("{unknown}"),
        }
        names.logged.insert(unknown.name);
    }
}

/// A broker that handlers name, and that was not built.
#[derive(Debug, PartialEq, Eq)]
struct Unknown {
    name: String,
    handlers: Vec<String>,
    /// The broker that was probably meant.
    meant: Option<String>,
}

impl Names {
    /// Returns the names of the handlers that were neither built nor logged.
    fn unknown(&self, handlers: &[Handler]) -> Vec<Unknown> {
        let mut unknown = BTreeMap::<&str, Vec<String>>::new();
        for handler in handlers {
            let Some(name) = handler.broker() else { continue };
            if !self.built.contains(name) && !self.logged.contains(name) {
                unknown.entry(name).or_default().push(handler.declaration.name.clone());
            }
        }
        let meant = |name: &str| self.built.iter().find(|built| is_misspelt(name, built)).cloned();
        unknown
            .into_iter()
            .map(|(name, handlers)| Unknown { name: name.to_owned(), handlers, meant: meant(name) })
            .collect()
    }
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, handlers, meant } = self;
        let handlers = handlers.join("`, `");
        write!(f, "`{handlers}`: broker: is `{name}`, and this process has built no broker of that name")?;
        match meant {
            Some(meant) => {
                write!(f, "; did you mean `{meant}`? if there are both, build both before the first start")
            }
            None => f.write_str(", so that another process must run it"),
        }
    }
}

/// Returns `true` if one text is the other with one typing error: a character that is missing, added or another one, or two
/// that are exchanged.
///
/// Names that differ only in a number, as those of shards do, and short ones are different on purpose.
fn is_misspelt(name: &str, other: &str) -> bool {
    const SHORT: usize = 4;
    let (name, other): (Vec<char>, Vec<char>) = (name.chars().collect(), other.chars().collect());
    if name.len().min(other.len()) < SHORT {
        return false;
    }
    let start = name.iter().zip(&other).take_while(|(one, other)| one == other).count();
    let (name, other) = (&name[start..], &other[start..]);
    let end = name.iter().rev().zip(other.iter().rev()).take_while(|(one, other)| one == other).count();
    match (&name[..name.len() - end], &other[..other.len() - end]) {
        ([], [one]) | ([one], []) => !one.is_ascii_digit(),
        ([one], [other]) => !(one.is_ascii_digit() && other.is_ascii_digit()),
        ([a, b], [c, d]) => (a, b) == (d, c),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Plan;

    #[test]
    fn typing_errors_are_recognized() {
        for (name, other) in [("ordesr", "orders"), ("order", "orders"), ("orderss", "orders"), ("ordars", "orders")] {
            assert!(is_misspelt(name, other) && is_misspelt(other, name), "{name}");
        }
        for (name, other) in [
            ("orders-eu", "orders-us"),
            ("shard1", "shard2"),
            ("shard", "shard2"),
            ("eu", "us"),
            ("eu", "e"),
            ("payments", "orders"),
            ("orders", "orders"),
        ] {
            assert!(!is_misspelt(name, other), "{name}");
        }
    }

    #[test]
    fn handlers_of_unknown_brokers_are_named() {
        let of = |name: &str, broker: Option<&str>| {
            let plan = Plan { broker: broker.map(|it| it.to_owned().into()), ..Plan::new("a", "b") };
            let mut handler = Handler::closure(plan, "here".to_owned(), || async {});
            handler.declaration.name = name.to_owned();
            handler
        };
        let handlers = [
            of("app::bill", Some("ordesr")),
            of("app::ship", Some("ordesr")),
            of("app::pay", Some("orders")),
            of("app::log", None),
            of("app::count", Some("statistics")),
        ];
        let built = BTreeSet::from(["orders".to_owned()]);
        let mut names = Names { built, logged: BTreeSet::new() };
        let texts = |names: &Names| names.unknown(&handlers).iter().map(Unknown::to_string).collect::<Vec<_>>();
        let statistics = "`app::count`: broker: is `statistics`, and this process has built no broker of that name, so that another process must run it";
        assert_eq!(
            texts(&names),
            [
                "`app::bill`, `app::ship`: broker: is `ordesr`, and this process has built no broker of that name; did you mean `orders`? if there are both, build both before the first start",
                statistics,
            ]
        );
        names.logged.insert("ordesr".to_owned());
        assert_eq!(texts(&names), [statistics]);
        names.built.insert("statistics".to_owned());
        assert_eq!(texts(&names), [""; 0]);
    }

    #[tokio::test]
    async fn built_brokers_are_known() {
        let _broker = crate::Broker::builder().name("names-of-a-test").connect_in_memory();
        assert!(lock(&NAMES).built.contains("names-of-a-test"));
    }
}
