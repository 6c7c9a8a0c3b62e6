//! Connecting with environment variables, and with contexts of the `nats` command-line tool.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

use jetstream_handlers::prelude::*;
use jetstream_handlers_tests::{Program, Server, eventually};
use nkeys::KeyPair;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::{Certificates, MONITORED, Operator, connection, host, stopped_server, with_nkey, with_password};

/// Starts the helper program with these variables, and returns it with the line that it prints.
pub(crate) async fn in_environment(variables: &[(&str, &str)]) -> (Program, String) {
    let mut program = Program::start(env!("CARGO_BIN_EXE_connect_from_env"), &[], variables);
    let output = eventually("the program connects or fails", secs(30), async || {
        let connected = program.lines("stored").into_iter().next().map(|rest| format!("stored{rest}"));
        connected.or_else(|| program.lines("failed").into_iter().next().map(|rest| format!("failed{rest}")))
    })
    .await;
    if output.starts_with("failed") {
        program.ended().await;
    }
    (program, output)
}

/// Returns what the server reports about the connection of the helper program.
async fn connection_in_environment(server: &Server, variables: &[(&str, &str)]) -> Value {
    let (_program, output) = in_environment(variables).await;
    assert!(output.starts_with("stored ENVIRONMENT "), "{variables:?}: {output}");
    connection(server, &format!("connect_from_env-{}", host())).await
}

/// Returns the user of the connection of the helper program.
pub(crate) async fn user_in_environment(server: &Server, variables: &[(&str, &str)]) -> String {
    let connection = connection_in_environment(server, variables).await;
    connection["authorized_user"].as_str().unwrap_or_default().to_owned()
}

#[track_caller]
pub(crate) fn assert_failed(output: &str, parts: &[&str]) {
    for part in [&["failed"], parts].concat() {
        assert!(output.contains(part), "no {part:?} in {output:?}");
    }
}

/// Creates a file in a temporary folder, which is returned with its path.
fn file(name: &str, text: &str) -> (TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, text).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (folder, path)
}

#[tokio::test]
async fn environment_sets_servers() {
    let server = Server::start().await;
    let several = format!("{}, {}", stopped_server().await, server.url());
    for urls in [server.url(), several] {
        let (_program, output) = in_environment(&[("NATS_URL", &urls), ("NATS_USER", ""), ("NATS_CONTEXT", "")]).await;
        assert!(output.starts_with("stored ENVIRONMENT "), "{output}");
    }
    let url = stopped_server().await;
    let (_program, output) = in_environment(&[("NATS_URL", &url)]).await;
    assert_failed(&output, &[&format!("no server at `{url}`"), "(Connect)"]);
}

#[tokio::test]
async fn environment_sets_user_and_password() {
    let server = with_password("right").await;
    let url = ("NATS_URL", &*server.url());
    let user = ("NATS_USER", "ada");
    assert_eq!(user_in_environment(&server, &[url, user, ("NATS_PASSWORD", "right")]).await, "ada");
    let (_program, output) = in_environment(&[url, user, ("NATS_PASSWORD", "wrong")]).await;
    assert_failed(&output, &["refused the credentials", "(Authorization)"]);
    assert!(!output.contains("wrong"), "{output}");
}

#[tokio::test]
async fn environment_sets_a_token() {
    let server = Server::builder().config("authorization { token: secret }").start().await;
    let url = ("NATS_URL", &*server.url());
    let (_program, output) = in_environment(&[url, ("NATS_TOKEN", "secret")]).await;
    assert!(output.starts_with("stored ENVIRONMENT "), "{output}");
    let (_program, output) = in_environment(&[url]).await;
    assert_failed(&output, &["(Authorization)"]);
}

#[tokio::test]
async fn environment_sets_an_nkey_or_its_file() {
    let user = KeyPair::new_user();
    let server = Server::builder().config(&with_nkey(&user)).start().await;
    let url = ("NATS_URL", &*server.url());
    let seed = user.seed().unwrap();
    let (_folder, path) = file("ada.nk", &format!("# ada's key\n{seed}\n"));
    for nkey in [&seed, &path] {
        let known = user_in_environment(&server, &[url, ("NATS_NKEY", nkey)]).await;
        assert!(known.contains(&user.public_key()), "{known}");
    }
    let (_program, output) = in_environment(&[url, ("NATS_NKEY", "/nowhere/ada.nk")]).await;
    assert_failed(&output, &["NATS_NKEY", "`/nowhere/ada.nk`", "(Config)"]);
    let (_other, path) = file("empty.nk", "nothing\n");
    let (_program, output) = in_environment(&[url, ("NATS_NKEY", &path)]).await;
    assert_failed(&output, &["NATS_NKEY", &path, "no line with a seed", "(Config)"]);
}

#[tokio::test]
async fn environment_sets_a_credentials_file() {
    let operator = Operator::new();
    let server = Server::builder().config(&operator.config).start().await;
    let url = ("NATS_URL", &*server.url());
    let home = ("HOME", operator.creds.parent().unwrap().to_str().unwrap());
    for path in [operator.creds.to_str().unwrap(), "~/ada.creds"] {
        let known = user_in_environment(&server, &[url, home, ("NATS_CREDS", path)]).await;
        assert!(known.contains(&operator.user), "{known}");
    }
    let (_program, output) = in_environment(&[url, ("NATS_CREDS", "/nowhere/ada.creds")]).await;
    assert_failed(&output, &["credentials file `/nowhere/ada.creds`", "(Config)"]);
}

#[tokio::test]
async fn first_listed_authentication_wins() {
    let user = KeyPair::new_user();
    let config = format!(
        "{MONITORED}\nauthorization {{ users: [{{ user: ada, password: right }}, {{ nkey: {} }}] }}",
        user.public_key()
    );
    let server = Server::builder().config(&config).start().await;
    let seed = user.seed().unwrap();
    let (url, nkey) = (("NATS_URL", &*server.url()), ("NATS_NKEY", &*seed));
    let password = [("NATS_USER", "ada"), ("NATS_PASSWORD", "right")];
    let known = user_in_environment(&server, &[url, password[0], password[1], nkey, ("NATS_TOKEN", "no")]).await;
    assert!(known.contains(&user.public_key()), "{known}");
    let known = user_in_environment(&server, &[url, password[0], password[1], ("NATS_TOKEN", "no")]).await;
    assert_eq!(known, "ada");
}

#[tokio::test]
async fn environment_sets_certificates() {
    let certificates = Certificates::new();
    let server = certificates.server("verify: true").await;
    let url = ("NATS_URL", &*server.url());
    let (ca, cert, key) =
        (certificates.text("ca.pem"), certificates.text("client.pem"), certificates.text("client.key"));
    let (ca, cert, key) = (("NATS_CA", &*ca), ("NATS_CERT", &*cert), ("NATS_KEY", &*key));
    let connection = connection_in_environment(&server, &[url, ca, cert, key]).await;
    assert!(connection["tls_version"].is_string(), "{connection}");
    let (_program, output) = in_environment(&[url, ca, cert]).await;
    assert_failed(&output, &["NATS_CERT", "is set without NATS_KEY", "needs both", "(Config)"]);
    let (_program, output) = in_environment(&[url, ca, key]).await;
    assert_failed(&output, &["NATS_KEY", "is set without NATS_CERT", "needs both", "(Config)"]);
    let (_program, output) = in_environment(&[url, cert, key]).await;
    assert_failed(&output, &["TLS handshake failed with the server", "(Connect)"]);
    let (_program, output) = in_environment(&[url, ("NATS_CA", "/nowhere/ca.pem")]).await;
    assert_failed(&output, &["certificate authority file `/nowhere/ca.pem`", "(Config)"]);
}

/// Returns a context as the `nats` tool writes it, with the unused fields empty.
fn context(fields: &Value) -> String {
    let mut all = json!({
        "description": "", "url": "", "socks_proxy": "", "token": "", "user": "", "password": "", "creds": "",
        "nkey": "", "cert": "", "key": "", "ca": "", "nsc": "", "jetstream_domain": "", "jetstream_api_prefix": "",
        "jetstream_event_prefix": "", "inbox_prefix": "", "user_jwt": "", "color_scheme": "", "tls_first": false
    });
    for (name, value) in fields.as_object().unwrap() {
        all[name] = value.clone();
    }
    serde_json::to_string_pretty(&all).unwrap()
}

/// Writes the context `prod` below a configuration folder.
fn write_context(folder: &Path, text: &str) {
    let path = folder.join("nats/context/prod.json");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

#[tokio::test]
async fn context_sets_server_and_user() {
    let server = with_password("right").await;
    let folder = tempfile::tempdir().unwrap();
    let fields = json!({ "url": server.url(), "user": "ada", "password": "right" });
    write_context(folder.path(), &context(&fields));
    write_context(&folder.path().join(".config"), &context(&fields));
    let path = folder.path().to_str().unwrap();
    let prod = ("NATS_CONTEXT", "prod");
    assert_eq!(user_in_environment(&server, &[prod, ("XDG_CONFIG_HOME", path)]).await, "ada");
    assert_eq!(user_in_environment(&server, &[prod, ("HOME", path)]).await, "ada");
    let nowhere = ("HOME", "/nowhere");
    assert_eq!(user_in_environment(&server, &[prod, nowhere, ("XDG_CONFIG_HOME", path)]).await, "ada");
}

#[tokio::test]
async fn variables_take_precedence_over_the_context() {
    let config =
        format!("{MONITORED}\nauthorization {{ users: [{{ user: ada, password: a }}, {{ user: bob, password: b }}] }}");
    let server = Server::builder().config(&config).start().await;
    let folder = tempfile::tempdir().unwrap();
    let fields = json!({ "url": stopped_server().await, "user": "ada", "password": "a" });
    write_context(folder.path(), &context(&fields));
    let home = ("XDG_CONFIG_HOME", folder.path().to_str().unwrap());
    let (prod, url) = (("NATS_CONTEXT", "prod"), ("NATS_URL", &*server.url()));
    assert_eq!(user_in_environment(&server, &[prod, home, url]).await, "ada");
    let bob = [("NATS_USER", "bob"), ("NATS_PASSWORD", "b")];
    assert_eq!(user_in_environment(&server, &[prod, home, url, bob[0], bob[1]]).await, "bob");
    // A user of the environment is not combined with a password of the context.
    let (_program, output) = in_environment(&[prod, home, url, bob[0]]).await;
    assert_failed(&output, &["(Authorization)"]);
}

#[tokio::test]
async fn context_supports_every_authentication() {
    let folder = tempfile::tempdir().unwrap();
    let variables = [("NATS_CONTEXT", "prod"), ("XDG_CONFIG_HOME", folder.path().to_str().unwrap())];

    let server = Server::builder().config("authorization { token: secret }").start().await;
    write_context(folder.path(), &context(&json!({ "url": server.url(), "token": "secret" })));
    let (_program, output) = in_environment(&variables).await;
    assert!(output.starts_with("stored"), "{output}");

    let user = KeyPair::new_user();
    let server = Server::builder().config(&with_nkey(&user)).start().await;
    let (_folder, nkey) = file("ada.nk", &user.seed().unwrap());
    write_context(folder.path(), &context(&json!({ "url": server.url(), "nkey": nkey })));
    let known = user_in_environment(&server, &variables).await;
    assert!(known.contains(&user.public_key()), "{known}");

    let operator = Operator::new();
    let server = Server::builder().config(&operator.config).start().await;
    write_context(folder.path(), &context(&json!({ "url": server.url(), "creds": operator.creds })));
    let known = user_in_environment(&server, &variables).await;
    assert!(known.contains(&operator.user), "{known}");

    let certificates = Certificates::new();
    let server = certificates.server("verify: true, handshake_first: true").await;
    let fields = json!({
        "url": server.url(), "ca": certificates.path("ca.pem"), "cert": certificates.path("client.pem"),
        "key": certificates.path("client.key"), "tls_first": true
    });
    write_context(folder.path(), &context(&fields));
    let connection = connection_in_environment(&server, &variables).await;
    assert!(connection["tls_version"].is_string(), "{connection}");
}

#[tokio::test]
async fn context_sets_domain_and_inbox_prefix() {
    let config = "
        jetstream { domain: hub }
        authorization { users: [{
            user: ada, password: right, permissions: { publish: \">\", subscribe: \"_MINE.>\" }
        }] }";
    let server = Server::builder().config(config).start().await;
    let folder = tempfile::tempdir().unwrap();
    let variables = [("NATS_CONTEXT", "prod"), ("XDG_CONFIG_HOME", folder.path().to_str().unwrap())];
    let output_with = async |fields: Value| {
        let mut all = json!({ "url": server.url(), "user": "ada", "password": "right", "inbox_prefix": "_MINE" });
        for (name, value) in fields.as_object().unwrap() {
            all[name] = value.clone();
        }
        write_context(folder.path(), &context(&all));
        in_environment(&variables).await.1
    };
    // Without a stream, the publish sends an API request.
    assert_failed(&output_with(json!({ "jetstream_domain": "elsewhere" })).await, &["JetStream does not answer"]);
    assert_failed(&output_with(json!({ "jetstream_api_prefix": "NO.API" })).await, &["JetStream does not answer"]);
    assert_failed(&output_with(json!({ "inbox_prefix": "_OTHER" })).await, &["`_OTHER.", "(Authorization)"]);
    assert_eq!(output_with(json!({ "jetstream_domain": "hub" })).await, "stored ENVIRONMENT 1 hub");
}

#[tokio::test]
async fn unusable_context_is_an_error_that_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let home = ("XDG_CONFIG_HOME", folder.path().to_str().unwrap());
    let prod = ("NATS_CONTEXT", "prod");
    let (_program, output) = in_environment(&[prod, home]).await;
    assert_failed(&output, &["NATS_CONTEXT is `prod`", "nats/context/prod.json", "nats context ls", "(Config)"]);
    let (_program, output) = in_environment(&[prod]).await;
    assert_failed(&output, &["NATS_CONTEXT is `prod`", "XDG_CONFIG_HOME", "HOME", "(Config)"]);
    let (_program, output) = in_environment(&[("NATS_CONTEXT", "../prod"), home]).await;
    assert_failed(&output, &["NATS_CONTEXT is `../prod`", "nats context ls", "(Config)"]);
    write_context(folder.path(), "not json");
    let (_program, output) = in_environment(&[prod, home]).await;
    assert_failed(&output, &["NATS_CONTEXT is `prod`", "is not a valid context", "(Config)"]);
    // Unsupported fields are not ignored.
    for field in ["nsc", "user_jwt", "socks_proxy"] {
        write_context(folder.path(), &context(&json!({ "url": "nats://localhost:1", field: "something" })));
        let (_program, output) = in_environment(&[prod, home]).await;
        assert_failed(&output, &["NATS_CONTEXT is `prod`", &format!("`{field}`"), "not supported", "(Config)"]);
    }
    let fields = json!({ "url": "nats://localhost:1", "cert": "client.pem" });
    write_context(folder.path(), &context(&fields));
    let (_program, output) = in_environment(&[prod, home]).await;
    assert_failed(&output, &["certificate", "needs both", "(Config)"]);
}

#[tokio::test]
async fn default_server_is_localhost() {
    const DEFAULT: &str = "`nats://localhost:4222`";
    // Another program of this host may listen there.
    let taken = TcpStream::connect((Ipv4Addr::LOCALHOST, 4222)).await.is_ok();
    match Broker::builder().client_name("by-default").connect().await {
        Ok(_) => assert!(taken),
        Err(error) => assert!(error.to_string().contains(DEFAULT), "{error:?}"),
    }
}
