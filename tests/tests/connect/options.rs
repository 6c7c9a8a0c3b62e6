//! Connecting with the settings of the builder.

use std::fs;
use std::net::Ipv4Addr;
use std::time::Instant;

use jetstream_handlers::prelude::*;
use jetstream_handlers::{ErrorKind, async_nats};
use jetstream_handlers_tests::{Program, SOON, Server, assert_error, ms};
use nkeys::KeyPair;
use tokio::net::TcpListener;

use crate::{
    Certificates, MONITORED, Operator, assert_works, connection, host, stopped_server, with_nkey, with_password,
};

#[tokio::test]
async fn unreachable_server_is_an_error_with_advice() {
    let url = stopped_server().await;
    let started = Instant::now();
    let parts = [&*format!("no server at `{url}`"), "nats-server -js", "wait_for_server", "caused by"];
    assert_error(Broker::connect(&url).await, ErrorKind::Connect, &parts);
    assert!(started.elapsed() < SOON, "{:?}", started.elapsed());
}

#[tokio::test]
async fn silent_server_times_out() {
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let url = format!("nats://{}", silent.local_addr().unwrap());
    let builder = Broker::builder().servers([&url]);
    let connect = builder.connect_options(|options| options.connection_timeout(ms(200))).connect();
    let result = tokio::time::timeout(SOON, connect).await.unwrap();
    assert_error(result, ErrorKind::Connect, &[&url, "timed out"]);
}

#[tokio::test]
async fn invalid_address_is_an_error_with_an_example() {
    for address in ["nats://localhost:port", "http://localhost:4222"] {
        let parts = [address, "`nats://localhost:4222`"];
        assert_error(Broker::connect(address).await, ErrorKind::Config, &parts);
    }
}

#[tokio::test]
async fn password_in_an_address_is_not_shown() {
    let url = stopped_server().await.replace("nats://", "nats://ada:s3cret@");
    let error = Broker::connect(url).await.unwrap_err();
    assert!(!format!("{error:?}").contains("s3cret"), "{error:?}");
}

#[tokio::test]
async fn waits_for_a_server_that_starts_later() {
    let mut server = Server::start().await;
    server.kill();
    assert_error(Broker::connect(server.url()).await, ErrorKind::Connect, &[]);
    let connect = Broker::builder().servers([server.url()]).wait_for_server(secs(30)).connect();
    let connect = tokio::spawn(connect);
    server.restart().await;
    assert_works(&connect.await.unwrap().unwrap()).await;
}

#[tokio::test]
async fn wait_for_server_times_out() {
    let url = stopped_server().await;
    let wait = ms(300);
    let started = Instant::now();
    let result = Broker::builder().servers([&url]).wait_for_server(wait).connect().await;
    assert_error(result, ErrorKind::Connect, &[&url, "within 300ms"]);
    assert!(started.elapsed() < SOON, "{:?}", started.elapsed());
    assert!(started.elapsed() > ms(90), "not repeated: {:?}", started.elapsed());
}

#[tokio::test]
async fn first_available_server_is_used() {
    let server = Server::start().await;
    let urls = [stopped_server().await, server.url(), stopped_server().await];
    let broker = Broker::builder().servers(urls.clone()).connect().await.unwrap();
    assert_works(&broker).await;
    drop(server);
    let parts: Vec<_> = urls.iter().map(String::as_str).collect();
    assert_error(Broker::builder().servers(urls.clone()).connect().await, ErrorKind::Connect, &parts);
}

#[tokio::test]
async fn client_name_defaults_to_program_and_host() {
    let server = Server::builder().config(MONITORED).start().await;
    let variables = [("NATS_URL", &*server.url())];
    let mut program = Program::start(env!("CARGO_BIN_EXE_connect_from_env"), &[], &variables);
    program.until("stored").await;
    connection(&server, &format!("connect_from_env-{}", host())).await;
    let builder = Broker::builder().servers([server.url()]).client_name("my-service");
    let _broker = builder.connect().await.unwrap();
    connection(&server, "my-service").await;
}

#[tokio::test]
async fn wrong_credentials_are_reported_after_one_attempt() {
    let server = with_password("right").await;
    let builder = |password: &'static str| {
        Broker::builder()
            .servers([server.url()])
            .wait_for_server(secs(60))
            .connect_options(|options| options.user_and_password("ada".into(), password.into()))
    };
    let parts = ["refused the credentials", &server.url(), "check user, password, token, nkey or credentials file"];
    let result = tokio::time::timeout(SOON, builder("wrong").connect()).await.unwrap();
    assert_error(result, ErrorKind::Authorization, &parts);
    assert_eq!(server.log().matches("authentication error").count(), 1, "{}", server.log());
    assert_error(Broker::connect(server.url()).await, ErrorKind::Authorization, &parts);
    assert_works(&builder("right").connect().await.unwrap()).await;
}

#[tokio::test]
async fn user_and_password_come_from_options_or_the_address() {
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
async fn token_comes_from_options_or_the_address() {
    let server = Server::builder().config("authorization { token: \"t0k/en\" }").start().await;
    let builder = Broker::builder().servers([server.url()]);
    assert_works(&builder.connect_options(|options| options.token("t0k/en".into())).connect().await.unwrap()).await;
    assert_works(&Broker::connect(server.url().replace("://", "://t0k%2Fen@")).await.unwrap()).await;
    assert_error(Broker::connect(server.url()).await, ErrorKind::Authorization, &[]);
}

#[tokio::test]
async fn nkey_authenticates() {
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
    assert_error(builder(stranger).connect().await, ErrorKind::Authorization, &[]);
}

#[tokio::test]
async fn credentials_file_authenticates() {
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
    assert_error(builder().connect().await, ErrorKind::Authorization, &[]);
    let result = builder().credentials_file("/nowhere/ada.creds").connect().await;
    assert_error(result, ErrorKind::Config, &["credentials file `/nowhere/ada.creds`", "caused by"]);
}

#[tokio::test]
async fn tls_needs_a_known_certificate_authority() {
    let certificates = Certificates::new();
    let server = certificates.server("").await;
    let ca = certificates.path("ca.pem");
    let builder = Broker::builder().servers([server.url()]).client_name("encrypted");
    let broker = builder.connect_options(|options| options.add_root_certificates(ca)).connect().await.unwrap();
    assert_works(&broker).await;
    assert!(connection(&server, "encrypted").await["tls_version"].is_string());
    // The error ends `wait_for_server` as well.
    let builder = Broker::builder().servers([server.url()]).wait_for_server(secs(60));
    let result = tokio::time::timeout(SOON, builder.connect()).await.unwrap();
    assert_error(result, ErrorKind::Connect, &["TLS handshake failed with the server", "certificate authority"]);
}

#[tokio::test]
async fn client_certificate_is_presented() {
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
    let without = builder().wait_for_server(secs(60)).connect();
    let result = tokio::time::timeout(SOON, without).await.unwrap();
    assert_error(result, ErrorKind::Connect, &["TLS handshake failed with the server", "client certificate"]);
}

#[tokio::test]
async fn server_without_jetstream_is_reported() {
    let server = Server::builder().without_jetstream().start().await;
    let builder = Broker::builder().servers([server.url()]).publish_timeout(ms(500));
    let broker = builder.connect().await.unwrap();
    let result = broker.subscribe("orders.created", "order-processor", async |_: u64| {}).await;
    let parts = ["JetStream does not answer", "nats-server -js"];
    assert_error(result, ErrorKind::Server, &parts);
    assert_error(broker.publish("orders.created", &1).await, ErrorKind::Timeout, &parts);
}

#[tokio::test]
async fn domain_sets_the_api_prefix() {
    let config = "jetstream { domain: hub }";
    let server = Server::builder().config(config).start().await;
    let builder = || {
        let timeouts = ms(500);
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
        assert_error(result, ErrorKind::Server, &["JetStream does not answer"]);
    }
}

#[tokio::test]
async fn imported_api_prefix_works() {
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
