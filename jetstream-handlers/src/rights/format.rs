//! The formats in which rights are written.

use std::fmt::{self, Write as _};
use std::str::FromStr;

use serde_json::json;

use super::{Permission, Permissions};
use crate::error::permission::config_string;
use crate::error::printable::printable;
use crate::error::{Error, ErrorKind};
use crate::text::shell_word;

/// The format in which [`Permissions::format`] writes rights.
///
/// `Display` and `FromStr` use the names `server`, `nsc`, `nats` or `jwt`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PermissionFormat {
    /// A block of the server's configuration file, to be put into an entry of `users`, with a comment for each line.
    Server,
    /// A command of `nsc`, which expects the account in the variable `ACCOUNT` of the shell.
    Nsc,
    /// A command of `nats`, which expects the account in the variable `ACCOUNT` of the shell.
    Nats,
    /// The claims of a user JWT, as JSON.
    Jwt,
}

impl PermissionFormat {
    /// All formats.
    pub const ALL: [Self; 4] = [Self::Server, Self::Nsc, Self::Nats, Self::Jwt];

    fn as_str(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Nsc => "nsc",
            Self::Nats => "nats",
            Self::Jwt => "jwt",
        }
    }
}

impl fmt::Display for PermissionFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for PermissionFormat {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::ALL.into_iter().find(|format| format.as_str() == text).ok_or_else(|| {
            let known = Self::ALL.map(|format| format!("`{format}`")).join(", ");
            Error::new(ErrorKind::Config, format!("`{}` is no format of permissions; use {known}", printable(text)))
        })
    }
}

pub(super) fn write(permissions: &Permissions, format: PermissionFormat, user: &str) -> String {
    let lists = Lists { publish: permissions.publish().collect(), subscribe: permissions.subscribe().collect() };
    match format {
        PermissionFormat::Server => lists.server(permissions, user),
        PermissionFormat::Nsc => lists.nsc(user),
        PermissionFormat::Nats => lists.nats(user),
        PermissionFormat::Jwt => lists.jwt(user),
    }
}

/// Both lists, because a user with only one of them may do everything that the other one would list.
struct Lists<'a> {
    publish: Vec<&'a Permission>,
    subscribe: Vec<&'a Permission>,
}

impl Lists<'_> {
    fn server(&self, permissions: &Permissions, user: &str) -> String {
        let user = printable(user);
        let mut text = format!("# level {} of user {user}; for an entry of `users`\n", permissions.level());
        for note in permissions.notes() {
            writeln!(text, "# {}", printable(&note)).ok();
        }
        text.push_str("permissions: {\n");
        for (operation, rights) in [("publish", &self.publish), ("subscribe", &self.subscribe)] {
            writeln!(text, "  {operation}: {{").ok();
            if rights.is_empty() {
                // To the server, an empty list of `allow` permits everything.
                text.push_str("    deny: [\">\"]\n");
            } else {
                text.push_str("    allow: [\n");
                for right in rights {
                    writeln!(text, "      # {}\n      {}", right.comment(), config_string(&right.subject)).ok();
                }
                text.push_str("    ]\n");
            }
            text.push_str("  }\n");
        }
        text.push_str("}\n");
        text
    }

    /// `nsc` reads each value as a line of CSV.
    fn nsc(&self, user: &str) -> String {
        let mut text = format!("nsc add user --account \"$ACCOUNT\" --name {}", shell_word(user));
        for (operation, rights) in [("pub", &self.publish), ("sub", &self.subscribe)] {
            for right in rights {
                write!(text, " \\\n  --allow-{operation} {}", shell_word(&csv_field(&right.subject))).ok();
            }
            if rights.is_empty() {
                write!(text, " \\\n  --deny-{operation} '>'").ok();
            }
        }
        text + "\n"
    }

    fn nats(&self, user: &str) -> String {
        let mut text = format!("nats auth user add {} \"$ACCOUNT\"", shell_word(user));
        for (operation, rights) in [("pub", &self.publish), ("sub", &self.subscribe)] {
            for right in rights {
                // In one word, so that no subject is taken for a flag.
                write!(text, " \\\n  --{operation}-allow={}", shell_word(&right.subject)).ok();
            }
            if rights.is_empty() {
                write!(text, " \\\n  --{operation}-deny='>'").ok();
            }
        }
        text + "\n"
    }

    fn jwt(&self, user: &str) -> String {
        let list = |rights: &[&Permission]| match rights {
            [] => json!({ "deny": [">"] }),
            rights => json!({ "allow": rights.iter().map(|right| &right.subject).collect::<Vec<_>>() }),
        };
        let claims = json!({
            "name": user,
            "nats": { "pub": list(&self.publish), "sub": list(&self.subscribe), "type": "user", "version": 2 },
        });
        format!("{claims:#}\n")
    }
}

/// Returns one field of a line of CSV.
fn csv_field(text: &str) -> String {
    if text.contains([',', '"']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::super::{Operation, PermissionLevel};
    use super::*;

    #[test]
    fn hostile_texts_stay_one_string() {
        for (text, config, word) in [
            ("$JS.API.>", r#""$JS.API.>""#, "'$JS.API.>'"),
            ("a\"b\\c", r#""a\"b\\c""#, "'a\"b\\c'"),
            ("it's", "\"it's\"", r"'it'\''s'"),
            ("a\nb\u{1}", r#""a\nb\x01""#, "'a\nb\u{1}'"),
            ("$(rm -rf /)`x`", r#""$(rm -rf /)`x`""#, "'$(rm -rf /)`x`'"),
        ] {
            assert_eq!((config_string(text).as_str(), shell_word(text).as_str()), (config, word));
        }
        assert_eq!(csv_field("a,\"b"), "\"a,\"\"b\"");
    }

    fn permissions() -> Permissions {
        let mut permissions = Permissions::new(PermissionLevel::Run, "_INBOX_orders".to_owned());
        let subject = "$JS.ACK.ORDERS.bill'ing.>".to_owned();
        permissions.add(Operation::Ack, subject.clone(), &["app::bill\n}"], "acknowledges messages");
        permissions.add(Operation::Ack, subject, &["app::ship"], "acknowledges messages");
        permissions
    }

    #[test]
    fn both_lists_are_always_written() {
        let permissions = permissions();
        let format = |format| permissions.format(format, "o'rders");
        assert_eq!(
            format(PermissionFormat::Server),
            r#"# level run of user o'rders; for an entry of `users`
permissions: {
  publish: {
    allow: [
      # app::bill\n}, app::ship: acknowledges messages
      "$JS.ACK.ORDERS.bill'ing.>"
    ]
  }
  subscribe: {
    deny: [">"]
  }
}
"#
        );
        assert_eq!(
            format(PermissionFormat::Nsc),
            r#"nsc add user --account "$ACCOUNT" --name 'o'\''rders' \
  --allow-pub '$JS.ACK.ORDERS.bill'\''ing.>' \
  --deny-sub '>'
"#
        );
        assert_eq!(
            format(PermissionFormat::Nats),
            r#"nats auth user add 'o'\''rders' "$ACCOUNT" \
  --pub-allow='$JS.ACK.ORDERS.bill'\''ing.>' \
  --sub-deny='>'
"#
        );
        let claims: serde_json::Value = serde_json::from_str(&format(PermissionFormat::Jwt)).unwrap();
        assert_eq!(claims["nats"]["pub"]["allow"][0], "$JS.ACK.ORDERS.bill'ing.>");
        assert_eq!(claims["nats"]["sub"]["deny"][0], ">");
    }
}
