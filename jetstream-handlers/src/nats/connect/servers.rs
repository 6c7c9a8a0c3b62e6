//! The addresses of servers, and the credentials in them.

use crate::error::printable::printable;
use crate::error::{Error, ErrorKind};

/// The addresses of servers without their credentials, which are kept apart so that nothing can print them.
///
/// async-nats does not take credentials from an address.
pub(crate) struct Servers {
    pub(in crate::nats) addresses: Vec<String>,
    credentials: Option<String>,
}

/// The credentials of an address.
pub(super) enum Credentials {
    Token(String),
    Password { user: String, password: String },
}

impl Servers {
    /// Parses addresses, each of which may be a list that is separated by commas.
    pub(crate) fn parse(given: &[String]) -> Result<Self, Error> {
        let all: Vec<&str> = given.iter().flat_map(|list| split(list)).collect();
        let credentials = all.iter().find_map(|url| userinfo(url)).map(|(userinfo, _)| userinfo.to_owned());
        let servers = Self { addresses: all.iter().map(|url| redacted(url)).collect(), credentials };
        if servers.addresses.is_empty() {
            let text = "no server address is given; use for example `nats://localhost:4222`";
            return Err(Error::new(ErrorKind::Config, text));
        }
        match servers.addresses.iter().find(|address| is_websocket(address)) {
            None => Ok(servers),
            Some(address) => Err(Error::new(
                ErrorKind::Config,
                format!(
                    "`{address}` is a websocket address, which is not supported; use the client port of the server, as in `nats://host:4222` or `tls://host:4222`"
                ),
            )),
        }
    }

    /// Returns the credentials of the first address that has some.
    pub(super) fn credentials(&self) -> Result<Option<Credentials>, Error> {
        let Some(userinfo) = &self.credentials else { return Ok(None) };
        Ok(Some(match userinfo.split_once(':') {
            None | Some((_, "")) => Credentials::Token(percent_decoded(userinfo.trim_end_matches(':'))?),
            Some((user, password)) => {
                Credentials::Password { user: percent_decoded(user)?, password: percent_decoded(password)? }
            }
        }))
    }

    /// Returns the addresses for an error text.
    pub(crate) fn shown(&self) -> String {
        let each: Vec<_> = self.addresses.iter().map(|address| format!("`{address}`")).collect();
        each.join(", ")
    }
}

/// Returns these addresses without their credentials, for `Debug`.
pub(crate) fn without_credentials(given: &[String]) -> Vec<String> {
    given.iter().flat_map(|list| split(list)).map(redacted).collect()
}

/// Returns the addresses of a list, which commas separate.
///
/// A comma before the last `@` can be part of a password, unless an address with a scheme follows.
fn split(list: &str) -> Vec<&str> {
    let mut addresses = Vec::new();
    let mut rest = list;
    let mut from = 0;
    while let Some(comma) = rest[from..].find(',').map(|at| from + at) {
        let following = &rest[comma + 1..];
        let is_separator = !following.contains('@') || has_scheme(following.trim_start());
        if is_separator {
            addresses.push(&rest[..comma]);
            (rest, from) = (following, 0);
        } else {
            from = comma + 1;
        }
    }
    addresses.push(rest);
    addresses.into_iter().map(str::trim).filter(|address| !address.is_empty()).collect()
}

fn has_scheme(address: &str) -> bool {
    let scheme = address.split_once("://").map(|(scheme, _)| scheme);
    scheme.is_some_and(|scheme| !scheme.is_empty() && scheme.chars().all(|char| char.is_ascii_alphanumeric()))
}

fn is_websocket(address: &str) -> bool {
    let scheme = address.split_once("://").map_or("", |(scheme, _)| scheme);
    scheme.eq_ignore_ascii_case("ws") || scheme.eq_ignore_ascii_case("wss")
}

/// Returns the userinfo of an address, which ends at the last `@`, and its start.
fn userinfo(url: &str) -> Option<(&str, usize)> {
    let start = url.find("://").map_or(0, |scheme| scheme + 3);
    let at = url.rfind('@').filter(|at| *at > start)?;
    Some((&url[start..at], start))
}

/// Returns an address without its credentials.
fn redacted(url: &str) -> String {
    let shown = match userinfo(url) {
        Some((userinfo, start)) => format!("{}{}", &url[..start], &url[start + userinfo.len() + 1..]),
        None => url.to_owned(),
    };
    // A query is no part of an address of a server, but may be meant as a credential.
    let shown = shown.split_once('?').map_or(&*shown, |(address, _)| address);
    printable(shown).into_owned()
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

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(given: &str) -> Vec<String> {
        without_credentials(&[given.to_owned()])
    }

    #[test]
    fn passwords_are_redacted() {
        let given = ["nats://ada:p@ss@localhost:4222".into(), "token@host".into(), "tls://host:4222".into()];
        assert_eq!(Servers::parse(&given).unwrap().shown(), "`nats://localhost:4222`, `host`, `tls://host:4222`");
        assert_eq!(addresses("nats://host?token=secret"), ["nats://host"]);
    }

    #[test]
    fn commas_separate_addresses_but_not_passwords() {
        assert_eq!(addresses("nats://a:1, nats://b:2,"), ["nats://a:1", "nats://b:2"]);
        assert_eq!(addresses("a,b:2"), ["a", "b:2"]);
        assert_eq!(addresses("nats://ada:pa,ss@a,b"), ["nats://a", "b"]);
        assert_eq!(addresses("nats://ada:pa,ss@a,nats://bob:p,q,r@b"), ["nats://a", "nats://b"]);
        assert!(addresses(" , ").is_empty());
        assert!(Servers::parse(&[String::new()]).is_err());
    }

    #[test]
    fn credentials_in_an_address_are_percent_decoded() {
        assert_eq!(percent_decoded("p%40ss%3aword").unwrap(), "p@ss:word");
        assert_eq!(percent_decoded("100%").unwrap(), "100%");
    }
}
