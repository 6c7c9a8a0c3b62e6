//! Making the connection: who, where, how, and what is said when it fails.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall say where")]

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use base64::Engine;
use jetstream_handlers::prelude::*;
use jetstream_handlers::{ErrorKind, async_nats};
use jetstream_handlers_tests::{Program, Server, assert_says, eventually};
use nkeys::KeyPair;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyUsagePurpose};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const SOON: Duration = Duration::from_secs(10);

/// A line of a server's configuration: its monitoring endpoint, on a free port.
const MONITORED: &str = "http: \"127.0.0.1:-1\"";

/// A round trip through JetStream.
async fn assert_works(broker: &Broker) {
    broker.publish("connect.works", &1).await.unwrap();
}

/// What the server says of the connection with this name.
async fn connection(server: &Server, name: &str) -> Value {
    eventually(&format!("a connection named {name}"), SOON, async || {
        let connections = monitor(server, "/connz?auth=1").await["connections"].take();
        let connections = connections.as_array().cloned().unwrap_or_default();
        connections.into_iter().find(|connection| connection["name"] == name)
    })
    .await
}

async fn monitor(server: &Server, path: &str) -> Value {
    let ports = fs::read_dir(server.folder().join("ports")).unwrap().next().unwrap().unwrap().path();
    let ports: Value = serde_json::from_slice(&fs::read(ports).unwrap()).unwrap();
    let address = ports["monitoring"][0].as_str().unwrap().strip_prefix("http://").unwrap().to_owned();
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
}

fn host() -> String {
    let output = std::process::Command::new("uname").arg("-n").output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// The address of a server that does not run any more.
async fn nobody() -> String {
    Server::start().await.url()
}

#[tokio::test]
async fn a_server_that_is_down_is_an_error_that_says_what_to_do() {
    let url = nobody().await;
    let begun = Instant::now();
    let told = [&*format!("no server at `{url}`"), "nats-server -js", "wait_for_server", "caused by"];
    assert_says(Broker::connect(&url).await, ErrorKind::Connect, &told);
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_server_that_says_nothing_is_an_error_when_the_time_is_over() {
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let url = format!("nats://{}", silent.local_addr().unwrap());
    let builder = Broker::builder().servers([&url]);
    let connect = builder.connect_options(|options| options.connection_timeout(Duration::from_millis(200))).connect();
    let result = tokio::time::timeout(SOON, connect).await.unwrap();
    assert_says(result, ErrorKind::Connect, &[&url, "timed out"]);
}

#[tokio::test]
async fn an_address_that_is_none_is_an_error_with_an_example() {
    for address in ["nats://localhost:port", "http://localhost:4222"] {
        let told = [address, "`nats://localhost:4222`"];
        assert_says(Broker::connect(address).await, ErrorKind::Config, &told);
    }
}

#[tokio::test]
async fn the_password_in_an_address_is_not_shown() {
    let url = nobody().await.replace("nats://", "nats://ada:s3cret@");
    let error = Broker::connect(url).await.unwrap_err();
    assert!(!format!("{error:?}").contains("s3cret"), "{error:?}");
}

#[tokio::test]
async fn a_server_that_comes_later_is_waited_for() {
    let mut server = Server::start().await;
    server.kill();
    assert_says(Broker::connect(server.url()).await, ErrorKind::Connect, &[]);
    let connect = Broker::builder().servers([server.url()]).wait_for_server(Duration::from_secs(30)).connect();
    let connect = tokio::spawn(connect);
    server.restart().await;
    assert_works(&connect.await.unwrap().unwrap()).await;
}

#[tokio::test]
async fn the_wait_for_a_server_has_an_end() {
    let url = nobody().await;
    let wait = Duration::from_millis(300);
    let begun = Instant::now();
    let result = Broker::builder().servers([&url]).wait_for_server(wait).connect().await;
    assert_says(result, ErrorKind::Connect, &[&url, "within 300ms"]);
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    assert!(begun.elapsed() > Duration::from_millis(90), "it tried again: {:?}", begun.elapsed());
}

#[tokio::test]
async fn the_first_server_that_is_up_is_taken() {
    let server = Server::start().await;
    let urls = [nobody().await, server.url(), nobody().await];
    let broker = Broker::builder().servers(urls.clone()).connect().await.unwrap();
    assert_works(&broker).await;
    drop(server);
    let told: Vec<_> = urls.iter().map(String::as_str).collect();
    assert_says(Broker::builder().servers(urls.clone()).connect().await, ErrorKind::Connect, &told);
}

#[tokio::test]
async fn the_name_of_the_connection_is_program_and_host_unless_given() {
    let server = Server::builder().config(MONITORED).start().await;
    let variables = [("NATS_URL", &*server.url())];
    let mut program = Program::start(env!("CARGO_BIN_EXE_connect_from_env"), &[], &variables);
    program.until("stored").await;
    connection(&server, &format!("connect_from_env-{}", host())).await;
    let builder = Broker::builder().servers([server.url()]).client_name("my-service");
    let _broker = builder.connect().await.unwrap();
    connection(&server, "my-service").await;
}

/// A server that knows `ada` by her password.
async fn with_password(password: &str) -> Server {
    let config = format!("{MONITORED}\nauthorization {{ users: [{{ user: ada, password: {password:?} }}] }}");
    Server::builder().config(&config).start().await
}

#[tokio::test]
async fn wrong_credentials_are_told_at_once_and_only_once() {
    let server = with_password("right").await;
    let builder = |password: &'static str| {
        Broker::builder()
            .servers([server.url()])
            .wait_for_server(Duration::from_secs(60))
            .connect_options(|options| options.user_and_password("ada".into(), password.into()))
    };
    let told = ["refused the credentials", &server.url(), "check user, password, token, nkey or credentials file"];
    let result = tokio::time::timeout(SOON, builder("wrong").connect()).await.unwrap();
    assert_says(result, ErrorKind::Authorization, &told);
    assert_eq!(server.log().matches("authentication error").count(), 1, "{}", server.log());
    assert_says(Broker::connect(server.url()).await, ErrorKind::Authorization, &told);
    assert_works(&builder("right").connect().await.unwrap()).await;
}

#[tokio::test]
async fn user_and_password_are_options_or_a_part_of_the_address() {
    let server = with_password("p@ss: word/100%").await;
    let builder = Broker::builder().servers([server.url()]).client_name("by-options");
    let options =
        |options: async_nats::ConnectOptions| options.user_and_password("ada".into(), "p@ss: word/100%".into());
    let _by_options = builder.connect_options(options).connect().await.unwrap();
    let url = server.url().replace("://", "://ada:p%40ss%3A%20word%2F100%25@");
    let by_address = Broker::builder().servers([url]).client_name("by-address").connect().await.unwrap();
    assert_works(&by_address).await;
    for name in ["by-options", "by-address"] {
        assert_eq!(connection(&server, name).await["authorized_user"], "ada");
    }
}

#[tokio::test]
async fn a_token_is_an_option_or_a_part_of_the_address() {
    let server = Server::builder().config("authorization { token: \"t0k/en\" }").start().await;
    let builder = Broker::builder().servers([server.url()]);
    assert_works(&builder.connect_options(|options| options.token("t0k/en".into())).connect().await.unwrap()).await;
    assert_works(&Broker::connect(server.url().replace("://", "://t0k%2Fen@")).await.unwrap()).await;
    assert_says(Broker::connect(server.url()).await, ErrorKind::Authorization, &[]);
}

fn with_nkey(user: &KeyPair) -> String {
    format!("{MONITORED}\nauthorization {{ users: [{{ nkey: {} }}] }}", user.public_key())
}

#[tokio::test]
async fn an_nkey_signs_the_connection() {
    let user = KeyPair::new_user();
    let server = Server::builder().config(&with_nkey(&user)).start().await;
    let builder = |seed: String| {
        let builder = Broker::builder().servers([server.url()]).client_name("signed");
        builder.connect_options(|options| options.nkey(seed))
    };
    let broker = builder(user.seed().unwrap()).connect().await.unwrap();
    assert_works(&broker).await;
    let authorized = connection(&server, "signed").await["authorized_user"].to_string();
    assert!(authorized.contains(&user.public_key()), "{authorized}");
    let stranger = KeyPair::new_user().seed().unwrap();
    assert_says(builder(stranger).connect().await, ErrorKind::Authorization, &[]);
}

/// A decentralised account with JetStream, and a credentials file of one of its users.
struct Operator {
    config: String,
    creds: PathBuf,
    user: String,
    _folder: TempDir,
}

impl Operator {
    fn new() -> Self {
        let (operator, system, account) = (KeyPair::new_operator(), KeyPair::new_account(), KeyPair::new_account());
        let user = KeyPair::new_user();
        let limits = json!({
            "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1,
            "leaf": -1, "mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1
        });
        let without_jetstream = json!({
            "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1,
            "leaf": -1
        });
        let claims = json!({ "type": "operator", "version": 2, "system_account": system.public_key() });
        let operator_jwt = jwt(&operator, &operator, "operator", &claims);
        let claims = json!({ "type": "account", "version": 2, "limits": without_jetstream });
        let system_jwt = jwt(&operator, &system, "SYS", &claims);
        let claims = json!({ "type": "account", "version": 2, "limits": limits });
        let account_jwt = jwt(&operator, &account, "APP", &claims);
        let claims =
            json!({ "type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1, "pub": {}, "sub": {} });
        let user_jwt = jwt(&account, &user, "ada", &claims);
        let config = format!(
            "{MONITORED}\noperator: {operator_jwt}\nsystem_account: {system}\nresolver: MEMORY\n\
             resolver_preload: {{ {system}: {system_jwt}, {account}: {account_jwt} }}",
            system = system.public_key(),
            account = account.public_key(),
        );
        let folder = tempfile::tempdir().unwrap();
        let creds = folder.path().join("ada.creds");
        let text = format!(
            "-----BEGIN NATS USER JWT-----\n{user_jwt}\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
            user.seed().unwrap()
        );
        fs::write(&creds, text).unwrap();
        Self { config, creds, user: user.public_key(), _folder: folder }
    }
}

/// What `issuer` says about `subject`, signed.
fn jwt(issuer: &KeyPair, subject: &KeyPair, name: &str, claims: &Value) -> String {
    let encode = |bytes: &[u8]| base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(bytes);
    let header = json!({ "typ": "JWT", "alg": "ed25519-nkey" });
    let body = json!({
        "jti": name, "iat": 1_700_000_000, "iss": issuer.public_key(), "sub": subject.public_key(), "name": name,
        "nats": claims
    });
    let signed = format!("{}.{}", encode(header.to_string().as_bytes()), encode(body.to_string().as_bytes()));
    let signature = issuer.sign(signed.as_bytes()).unwrap();
    format!("{signed}.{}", encode(&signature))
}

#[tokio::test]
async fn a_credentials_file_is_read_when_connecting() {
    let operator = Operator::new();
    let server = Server::builder().config(&operator.config).start().await;
    let builder = || Broker::builder().servers([server.url()]).client_name("with-creds");
    let broker = builder().credentials_file(&operator.creds).connect().await.unwrap();
    assert_works(&broker).await;
    let authorized = connection(&server, "with-creds").await["authorized_user"].to_string();
    assert!(authorized.contains(&operator.user), "{authorized}");
    let text = fs::read_to_string(&operator.creds).unwrap();
    let by_options = builder().connect_options(move |options| options.credentials(&text).unwrap());
    assert_works(&by_options.connect().await.unwrap()).await;
    assert_says(builder().connect().await, ErrorKind::Authorization, &[]);
    let result = builder().credentials_file("/nowhere/ada.creds").connect().await;
    assert_says(result, ErrorKind::Config, &["credentials file `/nowhere/ada.creds`", "caused by"]);
}

/// A certificate authority, and certificates of a server and of a client.
struct Certificates(TempDir);

impl Certificates {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: String| fs::write(folder.path().join(name), text).unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let key = rcgen::KeyPair::generate().unwrap();
        write("ca.pem", params.self_signed(&key).unwrap().pem());
        let issuer = Issuer::new(params, key);
        for (name, usage) in
            [("server", ExtendedKeyUsagePurpose::ServerAuth), ("client", ExtendedKeyUsagePurpose::ClientAuth)]
        {
            let mut params = CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
            params.extended_key_usages = vec![usage];
            let key = rcgen::KeyPair::generate().unwrap();
            write(&format!("{name}.pem"), params.signed_by(&key, &issuer).unwrap().pem());
            write(&format!("{name}.key"), key.serialize_pem());
        }
        Self(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// A server that shows its certificate, with these lines more in its `tls` block.
    async fn server(&self, more: &str) -> Server {
        let config = format!(
            "{MONITORED}\ntls {{ cert_file: {:?}, key_file: {:?}, ca_file: {:?}\n{more} }}",
            self.path("server.pem"),
            self.path("server.key"),
            self.path("ca.pem")
        );
        Server::builder().config(&config).start().await
    }
}

#[tokio::test]
async fn tls_needs_an_authority_that_the_client_knows() {
    let certificates = Certificates::new();
    let server = certificates.server("").await;
    let ca = certificates.path("ca.pem");
    let builder = Broker::builder().servers([server.url()]).client_name("encrypted");
    let broker = builder.connect_options(|options| options.add_root_certificates(ca)).connect().await.unwrap();
    assert_works(&broker).await;
    assert!(connection(&server, "encrypted").await["tls_version"].is_string());
    // Nor is there any use in waiting for it.
    let builder = Broker::builder().servers([server.url()]).wait_for_server(Duration::from_secs(60));
    let result = tokio::time::timeout(SOON, builder.connect()).await.unwrap();
    assert_says(result, ErrorKind::Connect, &["TLS handshake failed with the server", "certificate authority"]);
}

#[tokio::test]
async fn a_server_that_wants_a_certificate_is_shown_one() {
    let certificates = Certificates::new();
    let server = certificates.server("verify: true").await;
    let builder = || {
        let ca = certificates.path("ca.pem");
        let builder = Broker::builder().servers([server.url()]).client_name("certified");
        builder.connect_options(|options| options.add_root_certificates(ca))
    };
    let (certificate, key) = (certificates.path("client.pem"), certificates.path("client.key"));
    let with_certificate = builder().connect_options(|options| options.add_client_certificate(certificate, key));
    assert_works(&with_certificate.connect().await.unwrap()).await;
    let without = builder().wait_for_server(Duration::from_secs(60)).connect();
    let result = tokio::time::timeout(SOON, without).await.unwrap();
    assert_says(result, ErrorKind::Connect, &["TLS handshake failed with the server", "client certificate"]);
}

#[tokio::test]
async fn a_server_without_jetstream_is_told_of() {
    let server = Server::builder().without_jetstream().start().await;
    let builder = Broker::builder().servers([server.url()]).publish_timeout(Duration::from_millis(500));
    let broker = builder.connect().await.unwrap();
    let result = broker.subscribe("orders.created", "order-processor", async |_: u64| {}).await;
    let told = ["JetStream does not answer", "nats-server -js"];
    assert_says(result, ErrorKind::Server, &told);
    assert_says(broker.publish("orders.created", &1).await, ErrorKind::Timeout, &told);
}

#[tokio::test]
async fn a_domain_is_asked_under_its_prefix() {
    let config = "jetstream { domain: hub }";
    let server = Server::builder().config(config).start().await;
    let builder = || {
        let timeouts = Duration::from_millis(500);
        Broker::builder().servers([server.url()]).publish_timeout(timeouts)
    };
    for builder in [builder().domain("hub"), builder().api_prefix("$JS.hub.API")] {
        let broker = builder.connect().await.unwrap();
        let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
        let closure = move |id: u64| {
            let sent = sender.send(id);
            async move { Ok(sent?) }
        };
        let subscription = broker.subscribe("orders.created", "order-processor", closure).await.unwrap();
        let ack = broker.publish("orders.created", &7).await.unwrap();
        assert_eq!(ack.domain, "hub");
        assert_eq!(receiver.recv().await, Some(7));
        subscription.unsubscribe().await.unwrap();
    }
    for builder in [builder().domain("elsewhere"), builder().api_prefix("NO.API")] {
        let broker = builder.connect().await.unwrap();
        let result = broker.subscribe("payments.received", "payments", async |_: u64| {}).await;
        assert_says(result, ErrorKind::Server, &["JetStream does not answer"]);
    }
}

#[tokio::test]
async fn an_account_may_import_the_api_under_a_prefix() {
    let config = "
        accounts {
            HUB {
                jetstream: enabled
                users: [{ user: hub, password: hub }]
                exports: [
                    { service: \"$JS.API.>\", response_type: stream }
                    { service: \"$JS.ACK.>\" }
                    { service: \"orders.>\" }
                    { service: \"dlq.>\" }
                ]
            }
            SPOKE {
                users: [{ user: spoke, password: spoke }]
                imports: [
                    { service: { account: HUB, subject: \"$JS.API.>\" }, to: \"hub.API.>\" }
                    { service: { account: HUB, subject: \"$JS.ACK.>\" } }
                    { service: { account: HUB, subject: \"orders.>\" } }
                    { service: { account: HUB, subject: \"dlq.>\" } }
                ]
            }
        }";
    let server = Server::builder().config(config).user("spoke", "spoke").start().await;
    let broker = Broker::builder().servers([server.url()]).api_prefix("hub.API").connect().await.unwrap();
    let ack = broker.publish("orders.created", &7).await.unwrap();
    assert_eq!((ack.stream.as_str(), ack.sequence), ("ORDERS", 1));
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
    let closure = move |id: u64| {
        let sent = sender.send(id);
        async move { Ok(sent?) }
    };
    let subscription = broker.subscribe("orders.created", "order-processor", closure).await.unwrap();
    assert_eq!(receiver.recv().await, Some(7));
    subscription.unsubscribe().await.unwrap();
    let hub = async_nats::ConnectOptions::with_user_and_password("hub".into(), "hub".into());
    let hub = async_nats::jetstream::new(server.client_with(hub).await);
    let info = hub.get_stream("ORDERS").await.unwrap().consumer_info("order-processor").await.unwrap();
    assert_eq!((info.ack_floor.stream_sequence, info.num_ack_pending), (1, 0));
}

/// The helper program in an environment of these variables alone, and what it says.
async fn in_environment(variables: &[(&str, &str)]) -> (Program, String) {
    let mut program = Program::start(env!("CARGO_BIN_EXE_connect_from_env"), &[], variables);
    let said = eventually("it has connected or failed", Duration::from_secs(30), async || {
        let connected = program.lines("stored").into_iter().next().map(|rest| format!("stored{rest}"));
        connected.or_else(|| program.lines("failed").into_iter().next().map(|rest| format!("failed{rest}")))
    })
    .await;
    if said.starts_with("failed") {
        program.ended().await;
    }
    (program, said)
}

/// The connection of the helper program, which has stored a message.
async fn connection_in_environment(server: &Server, variables: &[(&str, &str)]) -> Value {
    let (_program, said) = in_environment(variables).await;
    assert!(said.starts_with("stored ENVIRONMENT "), "{variables:?}: {said}");
    connection(server, &format!("connect_from_env-{}", host())).await
}

/// Whom the server takes the helper program for.
async fn user_in_environment(server: &Server, variables: &[(&str, &str)]) -> String {
    let connection = connection_in_environment(server, variables).await;
    connection["authorized_user"].as_str().unwrap_or_default().to_owned()
}

#[track_caller]
fn assert_failed(said: &str, parts: &[&str]) {
    for part in [&["failed"], parts].concat() {
        assert!(said.contains(part), "no {part:?} in {said:?}");
    }
}

/// A file of one line in a folder that lasts as long.
fn file(name: &str, text: &str) -> (TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, text).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (folder, path)
}

#[tokio::test]
async fn the_environment_names_servers() {
    let server = Server::start().await;
    let several = format!("{}, {}", nobody().await, server.url());
    for urls in [server.url(), several] {
        let (_program, said) = in_environment(&[("NATS_URL", &urls), ("NATS_USER", ""), ("NATS_CONTEXT", "")]).await;
        assert!(said.starts_with("stored ENVIRONMENT "), "{said}");
    }
    let url = nobody().await;
    let (_program, said) = in_environment(&[("NATS_URL", &url)]).await;
    assert_failed(&said, &[&format!("no server at `{url}`"), "(Connect)"]);
}

#[tokio::test]
async fn the_environment_has_user_and_password() {
    let server = with_password("right").await;
    let url = ("NATS_URL", &*server.url());
    let user = ("NATS_USER", "ada");
    assert_eq!(user_in_environment(&server, &[url, user, ("NATS_PASSWORD", "right")]).await, "ada");
    let (_program, said) = in_environment(&[url, user, ("NATS_PASSWORD", "wrong")]).await;
    assert_failed(&said, &["refused the credentials", "(Authorization)"]);
    assert!(!said.contains("wrong"), "{said}");
}

#[tokio::test]
async fn the_environment_has_a_token() {
    let server = Server::builder().config("authorization { token: secret }").start().await;
    let url = ("NATS_URL", &*server.url());
    let (_program, said) = in_environment(&[url, ("NATS_TOKEN", "secret")]).await;
    assert!(said.starts_with("stored ENVIRONMENT "), "{said}");
    let (_program, said) = in_environment(&[url]).await;
    assert_failed(&said, &["(Authorization)"]);
}

#[tokio::test]
async fn the_environment_has_an_nkey_or_a_file_of_one() {
    let user = KeyPair::new_user();
    let server = Server::builder().config(&with_nkey(&user)).start().await;
    let url = ("NATS_URL", &*server.url());
    let seed = user.seed().unwrap();
    let (_folder, path) = file("ada.nk", &format!("# ada's key\n{seed}\n"));
    for nkey in [&seed, &path] {
        let known = user_in_environment(&server, &[url, ("NATS_NKEY", nkey)]).await;
        assert!(known.contains(&user.public_key()), "{known}");
    }
    let (_program, said) = in_environment(&[url, ("NATS_NKEY", "/nowhere/ada.nk")]).await;
    assert_failed(&said, &["NATS_NKEY", "`/nowhere/ada.nk`", "(Config)"]);
    let (_other, path) = file("empty.nk", "nothing\n");
    let (_program, said) = in_environment(&[url, ("NATS_NKEY", &path)]).await;
    assert_failed(&said, &["NATS_NKEY", &path, "no line with a seed", "(Config)"]);
}

#[tokio::test]
async fn the_environment_has_a_credentials_file() {
    let operator = Operator::new();
    let server = Server::builder().config(&operator.config).start().await;
    let url = ("NATS_URL", &*server.url());
    let home = ("HOME", operator.creds.parent().unwrap().to_str().unwrap());
    for path in [operator.creds.to_str().unwrap(), "~/ada.creds"] {
        let known = user_in_environment(&server, &[url, home, ("NATS_CREDS", path)]).await;
        assert!(known.contains(&operator.user), "{known}");
    }
    let (_program, said) = in_environment(&[url, ("NATS_CREDS", "/nowhere/ada.creds")]).await;
    assert_failed(&said, &["credentials file `/nowhere/ada.creds`", "(Config)"]);
}

#[tokio::test]
async fn of_several_ways_to_authenticate_the_first_is_used() {
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
async fn the_environment_names_certificates() {
    let certificates = Certificates::new();
    let server = certificates.server("verify: true").await;
    let url = ("NATS_URL", &*server.url());
    let (ca, cert, key) =
        (certificates.text("ca.pem"), certificates.text("client.pem"), certificates.text("client.key"));
    let (ca, cert, key) = (("NATS_CA", &*ca), ("NATS_CERT", &*cert), ("NATS_KEY", &*key));
    let connection = connection_in_environment(&server, &[url, ca, cert, key]).await;
    assert!(connection["tls_version"].is_string(), "{connection}");
    let (_program, said) = in_environment(&[url, ca, cert]).await;
    assert_failed(&said, &["NATS_CERT", "is set without NATS_KEY", "needs both", "(Config)"]);
    let (_program, said) = in_environment(&[url, ca, key]).await;
    assert_failed(&said, &["NATS_KEY", "is set without NATS_CERT", "needs both", "(Config)"]);
    let (_program, said) = in_environment(&[url, cert, key]).await;
    assert_failed(&said, &["TLS handshake failed with the server", "(Connect)"]);
    let (_program, said) = in_environment(&[url, ("NATS_CA", "/nowhere/ca.pem")]).await;
    assert_failed(&said, &["certificate authority file `/nowhere/ca.pem`", "(Config)"]);
}

/// A context as the `nats` tool writes it, unused fields empty.
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

/// Writes the context `prod`, and gives the variables that lead to it.
fn write_context(folder: &Path, text: &str) {
    let path = folder.join("nats/context/prod.json");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

#[tokio::test]
async fn a_context_of_the_command_line_tool_says_where_and_as_whom() {
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
async fn a_variable_goes_before_the_context() {
    let config =
        format!("{MONITORED}\nauthorization {{ users: [{{ user: ada, password: a }}, {{ user: bob, password: b }}] }}");
    let server = Server::builder().config(&config).start().await;
    let folder = tempfile::tempdir().unwrap();
    let fields = json!({ "url": nobody().await, "user": "ada", "password": "a" });
    write_context(folder.path(), &context(&fields));
    let home = ("XDG_CONFIG_HOME", folder.path().to_str().unwrap());
    let (prod, url) = (("NATS_CONTEXT", "prod"), ("NATS_URL", &*server.url()));
    assert_eq!(user_in_environment(&server, &[prod, home, url]).await, "ada");
    let bob = [("NATS_USER", "bob"), ("NATS_PASSWORD", "b")];
    assert_eq!(user_in_environment(&server, &[prod, home, url, bob[0], bob[1]]).await, "bob");
    // A way to authenticate is never half the one and half the other.
    let (_program, said) = in_environment(&[prod, home, url, bob[0]]).await;
    assert_failed(&said, &["(Authorization)"]);
}

#[tokio::test]
async fn a_context_may_hold_each_way_to_authenticate() {
    let folder = tempfile::tempdir().unwrap();
    let variables = [("NATS_CONTEXT", "prod"), ("XDG_CONFIG_HOME", folder.path().to_str().unwrap())];

    let server = Server::builder().config("authorization { token: secret }").start().await;
    write_context(folder.path(), &context(&json!({ "url": server.url(), "token": "secret" })));
    let (_program, said) = in_environment(&variables).await;
    assert!(said.starts_with("stored"), "{said}");

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
async fn a_context_may_hold_domain_and_inbox() {
    let config = "
        jetstream { domain: hub }
        authorization { users: [{
            user: ada, password: right, permissions: { publish: \">\", subscribe: \"_MINE.>\" }
        }] }";
    let server = Server::builder().config(config).start().await;
    let folder = tempfile::tempdir().unwrap();
    let variables = [("NATS_CONTEXT", "prod"), ("XDG_CONFIG_HOME", folder.path().to_str().unwrap())];
    let say = async |fields: Value| {
        let mut all = json!({ "url": server.url(), "user": "ada", "password": "right", "inbox_prefix": "_MINE" });
        for (name, value) in fields.as_object().unwrap() {
            all[name] = value.clone();
        }
        write_context(folder.path(), &context(&all));
        in_environment(&variables).await.1
    };
    // Before there is a stream the first publish asks the API.
    assert_failed(&say(json!({ "jetstream_domain": "elsewhere" })).await, &["JetStream does not answer"]);
    assert_failed(&say(json!({ "jetstream_api_prefix": "NO.API" })).await, &["JetStream does not answer"]);
    assert_failed(&say(json!({ "inbox_prefix": "_OTHER" })).await, &["(Timeout)"]);
    assert_eq!(say(json!({ "jetstream_domain": "hub" })).await, "stored ENVIRONMENT 1 hub");
}

#[tokio::test]
async fn a_context_that_cannot_be_used_is_an_error_that_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let home = ("XDG_CONFIG_HOME", folder.path().to_str().unwrap());
    let prod = ("NATS_CONTEXT", "prod");
    let (_program, said) = in_environment(&[prod, home]).await;
    assert_failed(&said, &["NATS_CONTEXT is `prod`", "nats/context/prod.json", "nats context ls", "(Config)"]);
    let (_program, said) = in_environment(&[prod]).await;
    assert_failed(&said, &["NATS_CONTEXT is `prod`", "XDG_CONFIG_HOME", "HOME", "(Config)"]);
    let (_program, said) = in_environment(&[("NATS_CONTEXT", "../prod"), home]).await;
    assert_failed(&said, &["NATS_CONTEXT is `../prod`", "nats context ls", "(Config)"]);
    write_context(folder.path(), "no json");
    let (_program, said) = in_environment(&[prod, home]).await;
    assert_failed(&said, &["NATS_CONTEXT is `prod`", "is not a valid context", "(Config)"]);
    // What we do not understand is not left out in silence.
    for field in ["nsc", "user_jwt", "socks_proxy"] {
        write_context(folder.path(), &context(&json!({ "url": "nats://localhost:1", field: "something" })));
        let (_program, said) = in_environment(&[prod, home]).await;
        assert_failed(&said, &["NATS_CONTEXT is `prod`", &format!("`{field}`"), "not supported", "(Config)"]);
    }
    let fields = json!({ "url": "nats://localhost:1", "cert": "client.pem" });
    write_context(folder.path(), &context(&fields));
    let (_program, said) = in_environment(&[prod, home]).await;
    assert_failed(&said, &["certificate", "needs both", "(Config)"]);
}

#[tokio::test]
async fn the_default_is_a_server_on_this_host() {
    const DEFAULT: &str = "`nats://localhost:4222`";
    // Another program of this host may well listen there.
    let taken = TcpStream::connect((Ipv4Addr::LOCALHOST, 4222)).await.is_ok();
    match Broker::builder().client_name("by-default").connect().await {
        Ok(_) => assert!(taken),
        Err(error) => assert!(error.to_string().contains(DEFAULT), "{error:?}"),
    }
}
