//! The processes of the workers, and the socket on which they report.

use std::net::SocketAddr;

use jetstream_handlers_tests::{Cluster, Program};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::TcpListener;

use crate::ledger::{Handling, Ledger};

/// The workers that run, and what the former ones have printed.
#[derive(Debug)]
pub(crate) struct Workers {
    running: Vec<Program>,
    former: Vec<String>,
    ledger: SocketAddr,
    /// The addresses of the nodes, without credentials.
    nodes: String,
    seed: String,
}

impl Workers {
    /// Starts two workers.
    pub(crate) async fn start(cluster: &Cluster, ledger: &Ledger, seed: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("the loopback interface works");
        let address = listener.local_addr().expect("a bound listener has an address");
        tokio::spawn(receive(listener, ledger.clone()));
        let nodes = cluster.urls().join(",").replace("app:app@", "");
        let mut workers =
            Self { running: Vec::new(), former: Vec::new(), ledger: address, nodes, seed: seed.to_string() };
        for _ in 0..2 {
            workers.add().await;
        }
        workers
    }

    /// Starts a worker, and waits until it runs.
    pub(crate) async fn add(&mut self) {
        let program = std::env::current_exe().expect("the program has a path");
        let level = std::env::var("JSH_TRACE").unwrap_or_else(|_| "info".to_owned());
        let ledger = self.ledger.to_string();
        let variables =
            [("NATS_URL", &*self.nodes), ("NATS_USER", "worker"), ("NATS_PASSWORD", "worker"), ("JSH_TRACE", &level)];
        let program = program.to_str().expect("the path is text");
        let mut worker = Program::start(program, &["worker", &ledger, &self.seed], &variables);
        worker.until("started").await;
        self.running.push(worker);
    }

    /// Sends a signal to the worker that runs longest.
    pub(crate) fn signal(&self, name: &str) {
        self.running[0].signal(name);
    }

    /// Waits for the end of the worker that runs longest.
    pub(crate) async fn ended(&mut self) {
        let mut worker = self.running.remove(0);
        let status = worker.ended().await;
        self.former.push(format!("{}\n{status}\n", worker.output()));
    }

    /// Makes another worker the one that gets signals.
    pub(crate) fn rotate(&mut self) {
        self.running.rotate_left(1);
    }

    /// Stops all workers as a deployment does.
    pub(crate) async fn stop(&mut self) {
        self.running.iter().for_each(|worker| worker.signal("TERM"));
        while !self.running.is_empty() {
            self.ended().await;
        }
    }

    /// Returns what each worker has printed.
    pub(crate) fn outputs(&self) -> Vec<String> {
        self.former.iter().cloned().chain(self.running.iter().map(Program::output)).collect()
    }
}

async fn receive(listener: TcpListener, ledger: Ledger) {
    while let Ok((connection, _)) = listener.accept().await {
        let ledger = ledger.clone();
        tokio::spawn(async move {
            let mut lines = BufReader::new(connection).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                // The last line of a worker that was killed may be incomplete.
                if let Some(handling) = Handling::parse(&line) {
                    ledger.add(handling);
                }
            }
        });
    }
}
