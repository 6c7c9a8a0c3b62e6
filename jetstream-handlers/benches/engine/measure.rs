//! The cost of a run: time, CPU and memory, as accounted by the kernel.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

/// A measured figure of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Figure {
    Rate,
    ClientCpu,
    ServerCpu,
    PeakMemory,
    /// The percentage of the theoretical maximum.
    OfIdeal,
    MedianLatency,
    LateLatency,
    MemoryPerHandler,
    IdleCpu,
    Threads,
    /// The time from the connection until all handlers have started.
    StartTime,
    /// The messages of the replica with the fewest, as a percentage of an equal share.
    LeastShare,
    /// Messages that were delivered again.
    Redelivered,
    /// Connections after the first one, as after the server has ended one as a slow consumer.
    Reconnects,
}

impl Figure {
    const ALL: [Self; 14] = [
        Self::Rate,
        Self::ClientCpu,
        Self::ServerCpu,
        Self::PeakMemory,
        Self::OfIdeal,
        Self::MedianLatency,
        Self::LateLatency,
        Self::MemoryPerHandler,
        Self::IdleCpu,
        Self::Threads,
        Self::StartTime,
        Self::LeastShare,
        Self::Redelivered,
        Self::Reconnects,
    ];

    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Rate => "messages/s",
            Self::ClientCpu => "client µs",
            Self::ServerCpu => "server µs",
            Self::PeakMemory => "peak MiB",
            Self::OfIdeal => "% of ideal",
            Self::MedianLatency => "p50 µs",
            Self::LateLatency => "p99 µs",
            Self::MemoryPerHandler => "KiB/handler",
            Self::IdleCpu => "idle CPU %",
            Self::Threads => "more threads",
            Self::StartTime => "start ms/handler",
            Self::LeastShare => "least share %",
            Self::Redelivered => "redelivered",
            Self::Reconnects => "reconnects",
        }
    }
}

pub(crate) type Sample = BTreeMap<Figure, f64>;

/// Encodes a sample for the parent process.
pub(crate) fn write(sample: &Sample) -> String {
    sample.iter().map(|(figure, value)| format!("{}={value}\n", figure.label())).collect()
}

/// Decodes a sample from the process of a run.
pub(crate) fn read(text: &str) -> Sample {
    let figure = |label| Figure::ALL.into_iter().find(|figure| figure.label() == label);
    let lines = text.lines().filter_map(|line| line.split_once('='));
    lines.filter_map(|(label, value)| Some((figure(label)?, value.parse().ok()?))).collect()
}

/// Measures from its start to its stop.
#[derive(Debug)]
pub(crate) struct Meter {
    client: u32,
    server: u32,
    server_cpu: Duration,
    client_cpu: Duration,
    started: Instant,
}

impl Meter {
    /// Starts to measure two processes.
    pub(crate) fn start(client: u32, server: u32) -> Self {
        Self { client, server, server_cpu: cpu(server), client_cpu: cpu(client), started: Instant::now() }
    }

    pub(crate) fn stop(self, messages: u64) -> Sample {
        let took = self.started.elapsed();
        let per_message = |cpu: Duration| cpu.as_secs_f64() * 1e6 / messages as f64;
        Sample::from([
            (Figure::Rate, messages as f64 / took.as_secs_f64()),
            (Figure::ClientCpu, per_message(cpu(self.client) - self.client_cpu)),
            (Figure::ServerCpu, per_message(cpu(self.server) - self.server_cpu)),
            (Figure::PeakMemory, status(self.client, "VmHWM") / 1024.0),
        ])
    }
}

/// Returns the CPU time of the threads of a process, which all live as long as a run.
pub(crate) fn cpu(process: u32) -> Duration {
    // The kernel updates the account of the running thread when it yields.
    std::thread::yield_now();
    let tasks = fs::read_dir(format!("/proc/{process}/task")).expect("the process runs");
    let nanos = tasks.filter_map(|task| {
        let account = fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        account.split(' ').next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanos.sum())
}

/// Returns a number of the status of a process, in KiB for memory.
pub(crate) fn status(process: u32, key: &str) -> f64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).expect("the process runs");
    let line =
        status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).expect("the kernel reports it");
    line.trim().trim_end_matches(" kB").parse().expect("it is a number")
}
