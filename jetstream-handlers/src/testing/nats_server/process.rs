//! A child process that does not outlive its parent.
//!
//! The harness of this crate's own tests contains this file too.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};

/// The script that starts a program and its watcher.
///
/// The program replaces the shell, so that its process id is that of the shell.
/// The watcher reads a pipe from the parent process.
/// A line in the pipe means that the program has ended as intended; the end of the pipe without a
/// line means that the parent has died, and the watcher kills the program and removes its folder.
/// It ignores the signals of a terminal and of the end of the process group of the parent.
/// The second `rm` removes what the program wrote while it was killed.
const WATCHED: &str = r#"
exec 3<&0 </dev/null
(
    trap '' HUP INT TERM
    read -r line <&3 && exit
    kill -KILL $$
    rm -rf -- "$1" || { sleep 1; rm -rf -- "$1"; }
) >/dev/null 2>&1 &
shift
exec "$@" 3<&-
"#;

#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    watcher: Option<ChildStdin>,
}

impl Process {
    /// Starts `program`, which prints into `output`; `folder` is removed if the parent dies first.
    pub(crate) fn start(program: &Path, arguments: &[String], folder: &Path, output: File) -> io::Result<Self> {
        let mut child = Command::new("sh")
            .args(["-c", WATCHED, "watched"])
            .arg(folder)
            .arg(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(output.try_clone()?)
            .stderr(output)
            // A signal to the process group of the parent must not reach the watcher.
            .process_group(0)
            .spawn()?;
        let watcher = child.stdin.take();
        Ok(Self { child, watcher })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns the exit status, or `None` while the process runs.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        let ended = self.child.try_wait().expect("a child process can be waited for");
        if ended.is_some() {
            self.release();
        }
        ended
    }

    /// Kills the process, even if it is stopped, and waits for its end.
    pub(crate) fn kill(&mut self) {
        // Both fail only when the process has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.release();
    }

    /// Ends the watcher.
    ///
    /// This is called after the end of the process, so that the process is watched while it runs.
    fn release(&mut self) {
        if let Some(mut watcher) = self.watcher.take() {
            // The write fails only when the watcher has ended already.
            let _ = watcher.write_all(b"done\n");
        }
    }
}

/// Sends a signal, named as for `kill -s`, to a child process that was not waited for.
pub(crate) fn signal(pid: u32, name: &str) {
    let pid = pid.to_string();
    let done = Command::new("sh")
        .args(["-c", r#"kill -s "$1" "$2""#, "kill", name, &pid])
        .output()
        .expect("a shell can be started");
    assert!(done.status.success(), "cannot send {name} to {pid}: {}", String::from_utf8_lossy(&done.stderr));
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
