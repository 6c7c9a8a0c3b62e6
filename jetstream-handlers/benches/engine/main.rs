//! End-to-end benchmarks of this crate and of other clients, on a real `nats-server` with a file store.
//!
//! ```sh
//! cargo run --release -p jetstream-handlers-benches
//! cargo run --release -p jetstream-handlers-benches -- consume publish/ours --rounds 9 --messages 300000
//! RUSTFLAGS="--cfg rivals" cargo run --release -p jetstream-handlers-benches -- consume
//! cargo run --release -p jetstream-handlers-benches -- instr
//! ```
//!
//! The arguments are filters on `<group>/<variant>`; without any, all variants run.
//! `--cfg rivals` adds frameworks that need a newer Rust than this crate, and the Go client if it can be built here.
//! `instr` counts the instructions of some variants instead, and compares them with a committed table.
//!
//! The rules are the same for all variants of a group:
//!
//! - A round runs each variant once, every second round in the reverse order. A target is compared with the median of
//!   the rounds' ratios, because runs close in time see similar load.
//! - Each run has its own process, single-threaded runtime, connection and durable consumer, and decodes or encodes the
//!   same order of about 190 bytes with owned strings; only the messages of the `large` groups are bytes.
//! - Time and CPU are measured from before the connection is made until the server has the ack of the last message, or
//!   the publisher has the last acknowledgement.
//! - Nothing records spans or metrics; only the group `observed` compares what doing so costs.
//! - CPU is the kernel's account of the threads of the run's process and of the server's process.

mod codecs;
mod consume;
mod growth;
mod idle;
mod instr;
mod kinds;
mod large;
mod latency;
mod measure;
#[cfg(rivals)]
mod nats_go;
mod observed;
mod order;
mod partitions;
mod publish;
#[cfg(rivals)]
mod rivals;
mod table;

use std::process::{Command, ExitCode, Stdio};

use async_nats::jetstream::{self, stream};
use jetstream_handlers_tests::Server;
use measure::{Meter, Sample};
use table::Claim;

/// The argument of a process that does one run.
const RUN: &str = "--run";

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (mut filters, mut rounds, mut messages) = (Vec::new(), 5, 100_000);
    while let Some(argument) = arguments.next() {
        let mut number = || arguments.next().and_then(|number| number.parse().ok()).expect("a number follows");
        match &*argument {
            "--rounds" => rounds = number(),
            "--messages" => messages = number(),
            RUN => {
                run(&arguments.collect::<Vec<_>>());
                return ExitCode::SUCCESS;
            }
            partitions::WORK => {
                partitions::work(&arguments.collect::<Vec<_>>());
                return ExitCode::SUCCESS;
            }
            "instr" => return instr::instr(&arguments.collect::<Vec<_>>()),
            _ => filters.push(argument),
        }
    }
    let server = start_server();
    let mut bench = Bench { url: server.url(), server: server.pid(), messages, durable: "prepared".to_owned() };
    for group in groups() {
        group.run(&mut bench, rounds, &filters);
    }
    ExitCode::SUCCESS
}

fn start_server() -> Server {
    let max_payload = format!("max_payload: {}", large::MAX_PAYLOAD);
    runtime().block_on(Server::builder().config(&max_payload).start())
}

fn groups() -> impl Iterator<Item = Group> {
    // The consumers of the idle handlers stay on the server, so these are last.
    let consuming = [consume::groups(), observed::groups(), kinds::groups(), growth::groups(), partitions::groups()];
    let others = [large::groups(), codecs::groups(), publish::groups(), latency::groups(), idle::groups()];
    consuming.into_iter().chain(others).flatten()
}

/// Does one run and prints its sample.
fn run(arguments: &[String]) {
    let [group, variant, url, server, messages, durable] = arguments else {
        panic!("only this program starts the process of a run");
    };
    let number = |text: &str| text.parse::<u64>().expect("it is a number");
    let server = u32::try_from(number(server)).expect("it is a process id");
    let bench = Bench { url: url.clone(), server, messages: number(messages), durable: durable.clone() };
    let group = groups().find(|one| one.name == group).expect("the group exists");
    let variant = group.variants.iter().find(|one| one.name == variant).expect("the variant exists");
    print!("{}", measure::write(&(variant.run)(&bench)));
}

/// The parameters of a run.
struct Bench {
    url: String,
    /// The process id of the server.
    server: u32,
    messages: u64,
    /// The name of the durable consumer, unique to the run.
    durable: String,
}

impl Bench {
    fn block_on<T>(&self, run: impl Future<Output = T>) -> T {
        runtime().block_on(run)
    }

    fn meter(&self) -> Meter {
        Meter::start(std::process::id(), self.server)
    }

    async fn jetstream(&self) -> jetstream::Context {
        jetstream::new(async_nats::connect(&self.url).await.expect("the server is running"))
    }

    /// Creates or purges a stream for the subjects below its name.
    async fn empty_stream(&self, name: &str) -> (jetstream::Context, stream::Stream) {
        let jetstream = self.jetstream().await;
        let subjects = vec![format!("{name}.>")];
        let config =
            stream::Config { name: name.to_owned(), subjects, allow_batch_publish: true, ..Default::default() };
        let stream = jetstream.get_or_create_stream(config).await.expect("the stream can be created");
        stream.purge().await.expect("the stream can be purged");
        (jetstream, stream)
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be built")
}

/// One implementation of the work of its group.
struct Variant {
    name: &'static str,
    run: Box<dyn Fn(&Bench) -> Sample>,
}

impl Variant {
    fn new(name: &'static str, run: impl Fn(&Bench) -> Sample + 'static) -> Self {
        Self { name, run: Box::new(run) }
    }
}

/// Variants that do the same work, and the claims about them.
struct Group {
    name: &'static str,
    prepare: fn(&Bench),
    variants: Vec<Variant>,
    claims: Vec<Claim>,
}

impl Group {
    fn run(&self, bench: &mut Bench, rounds: u64, filters: &[String]) {
        let chosen = |variant: &&Variant| {
            let name = format!("{}/{}", self.name, variant.name);
            filters.is_empty() || filters.iter().any(|filter| name.contains(&**filter))
        };
        let mut variants: Vec<_> = self.variants.iter().filter(chosen).collect();
        if variants.is_empty() {
            return;
        }
        (self.prepare)(bench);
        let mut samples: Vec<(&str, Vec<Sample>)> = self.variants.iter().map(|one| (one.name, Vec::new())).collect();
        for round in 0..rounds {
            for variant in &variants {
                bench.durable = format!("{}-{round}", variant.name.replace(|char: char| !char.is_alphanumeric(), "-"));
                let sample = self.run_process(bench, variant);
                let (_, samples) = samples.iter_mut().find(|(name, _)| *name == variant.name).expect("it is listed");
                samples.push(sample);
            }
            variants.reverse();
        }
        samples.retain(|(_, samples)| !samples.is_empty());
        table::print(self.name, &samples, &self.claims);
    }

    /// Does one run in its own process, so that it does not see the memory of the run before.
    fn run_process(&self, bench: &Bench, variant: &Variant) -> Sample {
        let program = std::env::current_exe().expect("the path of this program is known");
        let arguments = self.arguments(variant.name, bench);
        let output =
            Command::new(program).args(arguments).stderr(Stdio::inherit()).output().expect("it can be started");
        assert!(output.status.success(), "{}/{} failed", self.name, variant.name);
        measure::read(&String::from_utf8_lossy(&output.stdout))
    }

    /// Returns the arguments of the process of a run.
    fn arguments(&self, variant: &str, bench: &Bench) -> Vec<String> {
        let (server, messages) = (bench.server.to_string(), bench.messages.to_string());
        [RUN, self.name, variant, &bench.url, &server, &messages, &bench.durable].map(str::to_owned).into()
    }
}
