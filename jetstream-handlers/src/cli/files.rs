//! The files that arguments name; `-` is the standard input.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::output::{Output, StandardOutput};
use crate::error::{Error, ErrorKind};

/// The number of lines that are read ahead.
const LINES_AHEAD: usize = 64;

/// Reads a file.
pub(super) async fn read(path: &Path) -> Result<Vec<u8>, Error> {
    let own = path.to_owned();
    // A standard input that nothing is written to would otherwise stop all tasks of the thread, also the connection.
    let read = spawn_blocking(move || {
        let mut bytes = Vec::new();
        open(&own)?.read_to_end(&mut bytes).map(|_| bytes)
    });
    read.await.unwrap_or_else(|error| Err(error.into())).map_err(|error| failed(path, "read", error))
}

/// Reads a file with text.
pub(super) async fn read_text(path: &Path) -> Result<String, Error> {
    let text = String::from_utf8(read(path).await?);
    text.map_err(|error| failed(path, "read", io::Error::new(io::ErrorKind::InvalidData, error)))
}

/// Reads a file with a payload, without the line break at the end of a text, which editors and `echo` add.
pub(super) async fn read_payload(path: &Path) -> Result<Vec<u8>, Error> {
    let mut payload = read(path).await?;
    if payload.ends_with(b"\n") && std::str::from_utf8(&payload).is_ok() {
        payload.pop();
        payload.pop_if(|last| *last == b'\r');
    }
    Ok(payload)
}

/// Returns the lines of a file, as they are read.
pub(super) async fn lines(path: &Path) -> Result<mpsc::Receiver<Result<Vec<u8>, Error>>, Error> {
    let own: PathBuf = path.to_owned();
    let opened = spawn_blocking(move || open(&own)).await.unwrap_or_else(|error| Err(error.into()));
    let mut reader = opened.map_err(|error| failed(path, "read", error))?;
    let (sender, receiver) = mpsc::channel(LINES_AHEAD);
    let path = path.to_owned();
    spawn_blocking(move || {
        loop {
            let mut line = Vec::new();
            let line = match reader.read_until(b'\n', &mut line) {
                Ok(0) => return,
                Ok(_) => Ok(line),
                Err(error) => Err(failed(&path, "read", error)),
            };
            let is_last = line.is_err();
            if sender.blocking_send(line).is_err() || is_last {
                return;
            }
        }
    });
    Ok(receiver)
}

/// Writes a text to a file, which is replaced, or to the standard output.
pub(super) fn write(path: Option<&Path>, text: &str, output: &Output) -> Result<(), Error> {
    match path {
        Some(path) => std::fs::write(path, text).map_err(|error| failed(path, "written", error)),
        None => output.text(text),
    }
}

/// Opens a file to be written, which is replaced, or the standard output.
pub(super) fn create(path: Option<&Path>) -> Result<Box<dyn Write + Send>, Error> {
    Ok(match path {
        Some(path) => Box::new(BufWriter::new(File::create(path).map_err(|error| failed(path, "written", error))?)),
        None => Box::new(BufWriter::new(StandardOutput)),
    })
}

fn open(path: &Path) -> io::Result<Box<dyn BufRead + Send>> {
    Ok(match path == Path::new("-") {
        true => Box::new(BufReader::new(io::stdin())),
        false => Box::new(BufReader::new(File::open(path)?)),
    })
}

fn failed(path: &Path, what: &str, error: io::Error) -> Error {
    Error::new(ErrorKind::Config, format!("`{}` cannot be {what}", path.display())).with_source(error)
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::fd::AsRawFd as _;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;
    use std::time::{Duration, Instant};

    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn other_tasks_run_while_a_file_is_awaited() {
        let (reader, mut writer) = io::pipe().expect("a pipe is opened");
        let path = PathBuf::from(format!("/dev/fd/{}", reader.as_raw_fd()));
        let has_run = Arc::new(AtomicBool::new(false));
        let seen = has_run.clone();
        let writing = thread::spawn(move || {
            let begin = Instant::now();
            while !seen.load(Ordering::Relaxed) && begin.elapsed() < Duration::from_secs(10) {
                thread::yield_now();
            }
            writer.write_all(b"7\r\n").expect("the pipe is open");
            seen.load(Ordering::Relaxed)
        });
        let reading = tokio::spawn(async move { read_payload(&path).await });
        let other = tokio::spawn(async move { has_run.store(true, Ordering::Relaxed) });
        assert_eq!(reading.await.expect("it does not panic").expect("it is read"), b"7");
        other.await.expect("it does not panic");
        assert!(writing.join().expect("it does not panic"), "the other task did not run");
    }
}
