//! A server in a process of its own, as a benchmark sees it: it says where it
//! listens in the first line of its output, answers every line of input with
//! what it has counted, and ends with its input.

use std::{
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use serde::de::DeserializeOwned;

/// Pauses until a server has ended.
const END_PATIENCE: u32 = 2_000;
const PAUSE: Duration = Duration::from_millis(10);

/// A running server; dropped, it is killed.
pub(crate) struct Asked {
    process: Child,
    /// Until the server is to end.
    ask: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    pub(crate) address: SocketAddr,
}

impl Asked {
    /// Starts `command`; returns when it listens.
    pub(crate) fn start(mut command: Command, name: &str) -> Result<Self> {
        let mut process = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("the {name} server does not start"))?;
        let output = process.stdout.take().expect("its output is piped");
        let mut asked = Self {
            ask: process.stdin.take(),
            process,
            answers: BufReader::new(output),
            address: SocketAddr::from(([0, 0, 0, 0], 0)),
        };
        let line = asked.line().with_context(|| format!("the {name} server"))?;
        asked.address = line.trim().parse()?;
        Ok(asked)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        ensure!(
            self.answers.read_line(&mut line)? > 0,
            "it ended before its time; see its message above"
        );
        Ok(line)
    }

    /// Its process.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// What the server has counted by now.
    pub(crate) fn counted<C: DeserializeOwned>(&mut self) -> Result<C> {
        let mut ask = self.ask.as_ref().expect("a server that was ended is gone");
        writeln!(ask)?;
        Ok(serde_json::from_str(&self.line()?)?)
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

impl Drop for Asked {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
