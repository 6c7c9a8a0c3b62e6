//! Credentials are shown nowhere, not even if they are in the wrong place.

use std::fs;

use jetstream_handlers::prelude::*;
use jetstream_handlers::{ErrorKind, async_nats};
use jetstream_handlers_tests::{SOON, Server, assert_error};
use nkeys::KeyPair;

use crate::environment::{assert_failed, in_environment, user_in_environment};
use crate::{Certificates, Operator, assert_works, stopped_server, with_nkey, with_password};

#[test]
fn debug_of_a_builder_shows_no_credentials() {
    let builder = Broker::builder()
        .servers(["nats://ada:s3cret@one:4222, nats://ada:s3c,ret@two:4222", "t0ken@three"])
        .credentials_file("s3cret")
        .connect_options(|options: async_nats::ConnectOptions| options.token("s3cret".into()));
    let text = format!("{builder:?}");
    assert!(text.contains(r#"["nats://one:4222", "nats://two:4222", "three"]"#), "{text}");
    assert!(!text.contains("s3c") && !text.contains("ret@") && !text.contains("t0ken"), "{text}");
}

#[tokio::test]
async fn address_can_be_a_list() {
    let server = with_password("right").await;
    let list = format!("{}, {}", stopped_server().await, server.url().replace("://", "://ada:right@"));
    assert_works(&Broker::connect(list).await.unwrap()).await;
    let list = format!("{}, nats://ada:s3cret@localhost:1,", stopped_server().await);
    let error = Broker::connect(list).await.unwrap_err();
    assert!(error.to_string().contains("`nats://localhost:1`"), "{error}");
    assert!(!format!("{error:?}").contains("s3cret"), "{error:?}");
    assert_error(Broker::connect("").await, ErrorKind::Config, &["no server address"]);
}

#[tokio::test]
async fn websocket_address_is_refused_at_once() {
    for address in ["ws://ada:s3cret@localhost:8080", "WSS://localhost:443", "nats://localhost:1,ws://localhost:8080"] {
        let builder = Broker::builder().servers([address]).wait_for_server(secs(600));
        let result = tokio::time::timeout(SOON, builder.connect()).await.expect("it is not tried");
        let error = result.unwrap_err();
        assert!(!format!("{error:?}").contains("s3cret"), "{error:?}");
        assert_error(Err::<(), _>(error), ErrorKind::Config, &["websocket", "not supported", "nats://host:4222"]);
    }
}

#[tokio::test]
async fn seed_with_a_line_break_is_a_seed() {
    let user = KeyPair::new_user();
    let server = Server::builder().config(&with_nkey(&user)).start().await;
    let url = ("NATS_URL", &*server.url());
    for seed in [format!("{}\n", user.seed().unwrap()), format!(" {}\r\n", user.seed().unwrap())] {
        let known = user_in_environment(&server, &[url, ("NATS_NKEY", &seed)]).await;
        assert!(known.contains(&user.public_key()), "{known}");
    }
}

#[tokio::test]
async fn secret_in_place_of_a_path_is_not_shown() {
    let (operator, certificates, user) = (Operator::new(), Certificates::new(), KeyPair::new_user());
    let creds = fs::read_to_string(&operator.creds).unwrap();
    let key = fs::read_to_string(certificates.path("client.key")).unwrap();
    let seed = user.seed().unwrap();
    let cut = &seed[..50];
    let one_line = key.replace('\n', " ");
    let ca = certificates.text("ca.pem");
    let token = creds.lines().nth(1).unwrap();
    for (variables, what) in [
        (&[("NATS_CREDS", &*creds)][..], "credentials file: the value is a text of"),
        (&[("NATS_CREDS", token)], "credentials file: the value is a token of"),
        (&[("NATS_CREDS", &seed)], "credentials file: the value is a text of 58 characters without"),
        (&[("NATS_NKEY", cut)], "NATS_NKEY file: the value is a text of 50 characters without"),
        (&[("NATS_NKEY", &creds)], "NATS_NKEY file: the value is a text of"),
        (&[("NATS_CERT", &ca), ("NATS_KEY", &key)], "client key file: the value is a text of"),
        (&[("NATS_CERT", &ca), ("NATS_KEY", &one_line)], "with `-----BEGIN`"),
        (&[("NATS_CERT", &key), ("NATS_KEY", &key)], "client certificate file: the value is a text of"),
        (&[("NATS_CA", &key)], "certificate authority file: the value is a text of"),
    ] {
        let (_program, output) = in_environment(variables).await;
        assert_failed(&output, &[what, "(Config)"]);
        let secrets = creds.lines().chain(key.lines()).chain([cut]);
        for secret in secrets.filter(|line| line.len() > 10 && !line.contains("---")) {
            assert!(!output.contains(secret), "{output}");
        }
    }
    // A path is shown, so that it can be corrected.
    let result = Broker::builder().credentials_file(&creds).connect().await;
    let error = result.unwrap_err();
    assert!(error.to_string().contains("the value is a text") && !error.to_string().contains(token), "{error}");
}

#[tokio::test]
async fn seed_with_a_typing_error_is_not_shown() {
    let server = Server::start().await;
    let mut seed = KeyPair::new_user().seed().unwrap();
    let last = if seed.ends_with('A') { "B" } else { "A" };
    seed.replace_range(57.., last);
    let (_program, output) = in_environment(&[("NATS_URL", &server.url()), ("NATS_NKEY", &seed)]).await;
    assert!(!output.contains(&seed[..20]), "{output}");
}

#[tokio::test]
async fn password_without_a_user_is_an_error() {
    let server = with_password("right").await;
    let url = ("NATS_URL", &*server.url());
    let (_program, output) = in_environment(&[url, ("NATS_PASSWORD", "right")]).await;
    assert_failed(&output, &["NATS_PASSWORD", "is set without NATS_USER", "(Config)"]);
    assert!(!output.contains("right"), "{output}");
}

#[tokio::test]
async fn invalid_context_does_not_show_its_values() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nats/context/prod.json");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let variables = [("NATS_CONTEXT", "prod"), ("XDG_CONFIG_HOME", folder.path().to_str().unwrap())];
    for (text, position) in [
        (r#"{ "user": "ada", "password": 13572468 }"#, "line 1, column 37"),
        ("{\n\"tls_first\": \"13572468\" }", "line 2"),
        (r#"{ "password": "13572468", }"#, "line 1"),
    ] {
        fs::write(&path, text).unwrap();
        let (_program, output) = in_environment(&variables).await;
        assert_failed(&output, &["NATS_CONTEXT is `prod`", "is not a valid context at", position, "(Config)"]);
        assert!(!output.contains("13572468"), "{output}");
    }
    fs::write(&path, r#"{ "url": "nats://localhost:1", "password": "13572468" }"#).unwrap();
    let (_program, output) = in_environment(&variables).await;
    assert_failed(&output, &["`password` of the context", "without NATS_USER"]);
    assert!(!output.contains("13572468"), "{output}");
}
