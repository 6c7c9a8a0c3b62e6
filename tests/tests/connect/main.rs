//! Connecting: servers, credentials, TLS, and the errors of a connection that cannot be made.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

use std::fs;
use std::path::PathBuf;

use base64::Engine as _;
use jetstream_handlers::Broker;
use jetstream_handlers_tests::{SOON, Server, eventually};
use nkeys::KeyPair;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyUsagePurpose};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

mod environment;
mod options;
mod secrets;

/// The configuration line of a monitoring endpoint on a free port.
const MONITORED: &str = "http: \"127.0.0.1:-1\"";

/// Checks that a message can be stored.
async fn assert_works(broker: &Broker) {
    broker.publish("connect.works", &1).await.unwrap();
}

/// Returns what the server reports about the connection with this name.
async fn connection(server: &Server, name: &str) -> Value {
    eventually(&format!("a connection named {name}"), SOON, async || {
        let connections = monitor(server, "/connz?auth=1").await["connections"].take();
        let connections = connections.as_array().cloned().unwrap_or_default();
        connections.into_iter().find(|connection| connection["name"] == name)
    })
    .await
}

/// Reads a page of the monitoring endpoint.
async fn monitor(server: &Server, path: &str) -> Value {
    let ports = fs::read_dir(server.folder().join("ports")).unwrap().next().unwrap().unwrap().path();
    let ports: Value = serde_json::from_slice(&fs::read(ports).unwrap()).unwrap();
    let address = ports["monitoring"][0].as_str().unwrap().strip_prefix("http://").unwrap().to_owned();
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await.unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.unwrap();
    serde_json::from_str(reply.split_once("\r\n\r\n").unwrap().1).unwrap()
}

fn host() -> String {
    let output = std::process::Command::new("uname").arg("-n").output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Returns the address of a stopped server.
async fn stopped_server() -> String {
    Server::start().await.url()
}

/// Starts a server with the user `ada`.
async fn with_password(password: &str) -> Server {
    let config = format!("{MONITORED}\nauthorization {{ users: [{{ user: ada, password: {password:?} }}] }}");
    Server::builder().config(&config).start().await
}

/// Returns a configuration with this user.
fn with_nkey(user: &KeyPair) -> String {
    format!("{MONITORED}\nauthorization {{ users: [{{ nkey: {} }}] }}", user.public_key())
}

/// An operator with a JetStream account, and the credentials file of a user.
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

/// Returns the claims of `issuer` about `subject` as a signed token.
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

    /// Starts a server with TLS and these additional lines in its `tls` block.
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
