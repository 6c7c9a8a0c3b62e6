//! TLS and a password: `cargo run --example tls_auth`.
//!
//! It starts a server with generated certificates, and shows the errors for wrong credentials and certificates.
//! With `NATS_URL` it connects with the settings of the environment: `NATS_CA`, `NATS_CERT`, `NATS_KEY`, `NATS_USER`, `NATS_PASSWORD` and so on.

use std::path::{Path, PathBuf};

use jetstream_handlers::prelude::*;
use jetstream_handlers::{Builder, Error};
use jetstream_handlers_tests::Server;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    if std::env::var("NATS_URL").is_ok_and(|url| !url.is_empty()) {
        return Ok(publish_one(Broker::from_env()).await?);
    }

    let directory = tempfile::tempdir()?;
    let ca = certificates(directory.path())?;
    let server = server(directory.path()).await;
    println!("Started a nats-server at {}; set NATS_URL to use another one.\n", server.url());

    println!("With the certificate authority and the password:");
    publish_one(broker(&server, Some(&ca), "lovelace")).await?;
    println!("\nWith a wrong password:");
    refused(broker(&server, Some(&ca), "byron")).await;
    println!("\nWithout the certificate authority:");
    refused(broker(&server, None, "lovelace")).await;
    Ok(())
}

/// Returns the settings of a service.
fn broker(server: &Server, ca: Option<&Path>, password: &str) -> Builder {
    let (ca, password) = (ca.map(PathBuf::from), password.to_owned());
    Broker::builder().servers([server.url()]).connect_options(move |options| {
        let options = options.require_tls(true).user_and_password("ada".into(), password);
        match ca {
            Some(ca) => options.add_root_certificates(ca),
            None => options,
        }
    })
}

async fn publish_one(builder: Builder) -> Result<(), Error> {
    let broker = builder.connect().await?;
    let ack = broker.publish("secrets.shared", "the engine weaves algebraic patterns").await?;
    println!("  connected, stored message {} in {}", ack.sequence, ack.stream);
    broker.disconnect().await
}

async fn refused(builder: Builder) {
    match builder.connect().await {
        Ok(_) => println!("  connected, which was not expected"),
        Err(error) => println!("  {error:?}"),
    }
}

async fn server(directory: &Path) -> Server {
    let (cert, key) = (directory.join("server.pem"), directory.join("server-key.pem"));
    let config =
        format!("tls {{ cert_file: {cert:?}, key_file: {key:?} }}\nauthorization {{ user: ada, password: lovelace }}");
    Server::builder().config(&config).start().await
}

/// Writes a certificate authority and a server certificate; returns the path of the authority.
fn certificates(directory: &Path) -> anyhow::Result<PathBuf> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    let key = KeyPair::generate()?;
    let server = CertificateParams::new(["localhost".into(), "127.0.0.1".into()])?.signed_by(&key, &ca)?;

    let path = directory.join("ca.pem");
    std::fs::write(&path, ca.pem())?;
    std::fs::write(directory.join("server.pem"), server.pem())?;
    std::fs::write(directory.join("server-key.pem"), key.serialize_pem())?;
    Ok(path)
}
