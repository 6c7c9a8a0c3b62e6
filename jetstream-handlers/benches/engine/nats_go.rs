//! The Go client, in a program that is built with Debian's packages `golang-go` and `golang-github-nats-io-go-nats-dev`.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::Bench;
use crate::consume::{Observer, STREAM, SUBJECT, consumer};
use crate::measure::{Meter, Sample};

/// The folder in which Debian installs the sources of Go libraries.
const LIBRARIES: &str = "/usr/share/gocode";

/// Returns `true` if the program can be built here.
pub(crate) fn is_available() -> bool {
    let nats = PathBuf::from(LIBRARIES).join("src/github.com/nats-io/nats.go");
    nats.is_dir() && Command::new("go").arg("version").stdout(Stdio::null()).status().is_ok_and(|it| it.success())
}

pub(crate) fn run(bench: &Bench) -> Sample {
    let program = build();
    bench.block_on(async {
        let (observer, durable) = (Observer::of(bench, STREAM).await, &*bench.durable);
        consumer(bench, durable).await;
        let messages = bench.messages.to_string();
        let arguments = [&*bench.url, STREAM, SUBJECT, durable, &messages];
        let mut process = Process::start(Command::new(program).args(arguments));
        let meter = Meter::start(process.child.id(), bench.server);
        process.consume();
        observer.acked(durable, bench.messages).await;
        let sample = meter.stop(bench.messages);
        process.end();
        observer.delete(durable).await;
        sample
    })
}

/// Builds the program beside this one; Go builds again only if it has changed.
fn build() -> PathBuf {
    let program = std::env::current_exe().expect("the path of this program is known").with_file_name("nats-go");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/rivals/main.go");
    let built = Command::new("go")
        .args(["build", "-o"])
        .arg(&program)
        .arg(source)
        .envs([("GO111MODULE", "off"), ("GOPATH", LIBRARIES)])
        .status()
        .expect("Go is installed");
    assert!(built.success(), "{source} cannot be built");
    program
}

/// A process that waits for a line to begin, and for the end of its input to end.
struct Process {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Process {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it can be started");
        let input = child.stdin.take().expect("it is piped");
        let output = BufReader::new(child.stdout.take().expect("it is piped"));
        Self { child, input, output }
    }

    /// Returns when the process has acked all messages.
    fn consume(&mut self) {
        self.input.write_all(b"\n").expect("the process runs");
        let mut line = String::new();
        self.output.read_line(&mut line).expect("the process runs");
        assert_eq!(line, "acked\n", "the process has failed");
    }

    fn end(mut self) {
        drop(self.input);
        assert!(self.child.wait().expect("it was started").success(), "the process has failed");
    }
}
