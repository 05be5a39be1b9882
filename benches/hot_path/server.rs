//! A server's process, as the bench sees it.

use std::{
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

use super::serve::{Counted, Side};

/// Pauses until the last batch is counted, which is a moment after its callers
/// have their answers; and until a server has ended.
const COUNT_PATIENCE: u32 = 100;
const END_PATIENCE: u32 = 2_000;
const PAUSE: Duration = Duration::from_millis(10);

/// Where a server's process may run.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place {
    /// On this core alone, on one thread.
    Core(usize),
    /// Wherever the system puts its threads; a runtime of two.
    Anywhere,
}

/// A running server; dropped, it is killed.
pub(crate) struct Served {
    process: Child,
    /// Until the server is to end.
    ask: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    pub(crate) address: SocketAddr,
}

impl Served {
    pub(crate) fn start(side: Side, place: Place, data_dir: &Path) -> Result<Self> {
        let itself = std::env::current_exe()?;
        let (mut command, threads) = match place {
            Place::Core(core) => (on_core(core, &itself), "1"),
            Place::Anywhere => (Command::new(&itself), "2"),
        };
        let mut process = command
            .arg("serve")
            .arg(side.to_string())
            .args(["--threads", threads])
            .arg("--data-dir")
            .arg(data_dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("the {side} server does not start"))?;
        let output = process.stdout.take().expect("its output is piped");
        let mut served = Self {
            ask: process.stdin.take(),
            process,
            answers: BufReader::new(output),
            address: SocketAddr::from(([0, 0, 0, 0], 0)),
        };
        let line = served
            .line()
            .with_context(|| format!("the {side} server"))?;
        served.address = line.trim().parse()?;
        Ok(served)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        ensure!(
            self.answers.read_line(&mut line)? > 0,
            "it ended before its time; see its message above"
        );
        Ok(line)
    }

    /// What the server has counted by now.
    pub(crate) fn counted(&mut self) -> Result<Counted> {
        let mut ask = self.ask.as_ref().expect("a server that was ended is gone");
        writeln!(ask)?;
        Ok(serde_json::from_str(&self.line()?)?)
    }

    /// What the server has counted once it has answered exactly `calls` more
    /// than `before`.
    pub(crate) fn counted_after(&mut self, before: Counted, calls: u64) -> Result<Counted> {
        for _ in 0..COUNT_PATIENCE {
            let counted = self.counted()?;
            if counted.answered - before.answered >= calls {
                break;
            }
            thread::sleep(PAUSE);
        }
        let counted = self.counted()?;
        let answered = counted.answered - before.answered;
        if answered != calls {
            bail!(
                "the load generator was answered {calls} times and the server answered OK \
                 {answered} times: the rest were errors; no figure is taken from this run"
            );
        }
        Ok(counted)
    }

    /// Lets the server end by itself.
    pub(crate) fn end(mut self) -> Result<()> {
        drop(self.ask.take());
        for _ in 0..END_PATIENCE {
            if let Some(status) = self.process.try_wait()? {
                ensure!(status.success(), "a server ended with {status}");
                return Ok(());
            }
            thread::sleep(PAUSE);
        }
        bail!("a server whose input ended goes on running")
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// `program` on one core.
pub(crate) fn on_core(core: usize, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("taskset");
    command.arg("--cpu-list").arg(core.to_string()).arg(program);
    command
}
