//! A child process that does not outlive us.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};

/// Starts the program in the place of the shell, so that its pid is the one we know.
///
/// Beside it stays a watcher whose standard input is a pipe from us.
/// A line in it says that all is well; its end without a line says that we died, in whichever
/// way, and then the watcher kills the program and removes its folder.
/// It ignores the signals that a terminal or the end of our process group may bring.
/// The second `rm` is for what the program wrote while it was dying.
const LEASH: &str = r#"
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
    leash: Option<ChildStdin>,
}

impl Process {
    /// Starts `program`; `folder` is removed if we die before it, and `output` takes what it
    /// prints.
    pub(crate) fn start(program: &Path, arguments: &[String], folder: &Path, output: File) -> io::Result<Self> {
        let mut child = Command::new("sh")
            .args(["-c", LEASH, "leash"])
            .arg(folder)
            .arg(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(output.try_clone()?)
            .stderr(output)
            // Whoever signals our whole group leaves the end of the server to the watcher.
            .process_group(0)
            .spawn()?;
        let leash = child.stdin.take();
        Ok(Self { child, leash })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How the process ended, or `None` while it runs.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        let ended = self.child.try_wait().expect("the process is our child, which can be waited for");
        if ended.is_some() {
            self.release();
        }
        ended
    }

    /// Sends a signal, named as `kill -s` names it.
    pub(crate) fn signal(&self, name: &str) {
        // The pid cannot belong to another process: nobody but us waits for our child.
        let pid = self.pid().to_string();
        let done = Command::new("sh")
            .args(["-c", r#"kill -s "$1" "$2""#, "kill", name, &pid])
            .output()
            .expect("a shell can be started");
        assert!(done.status.success(), "cannot send {name} to {pid}: {}", String::from_utf8_lossy(&done.stderr));
    }

    /// Kills the process, also a stopped one, and waits for its end.
    pub(crate) fn kill(&mut self) {
        // Both fail only when the process is gone, which is what we want.
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.release();
    }

    /// Tells the watcher that there is nothing left to do.
    ///
    /// It comes after the end of the process, so that at no time an unwatched one runs.
    fn release(&mut self) {
        if let Some(mut leash) = self.leash.take() {
            // A watcher that cannot be told is gone already.
            let _ = leash.write_all(b"done\n");
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
