//! A server's process, as the bench sees it.

use std::{net::SocketAddr, path::Path, process::Command, thread, time::Duration};

use anyhow::{Result, bail};

use super::{
    asked::Asked,
    h2load::on_core,
    serve::{Counted, Side},
};

/// Pauses until the last batch is counted, which is a moment after its callers
/// have their answers.
const COUNT_PATIENCE: u32 = 100;
const PAUSE: Duration = Duration::from_millis(10);

/// Where a server's process may run.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place {
    /// On this core alone, on one thread.
    Core(usize),
    /// Wherever the system puts its threads; a runtime of two.
    Anywhere,
}

/// A running server.
pub(crate) struct Served {
    asked: Asked,
    pub(crate) address: SocketAddr,
}

impl Served {
    pub(crate) fn start(side: Side, place: Place, data_dir: &Path) -> Result<Self> {
        let itself = std::env::current_exe()?;
        let (mut command, threads) = match place {
            Place::Core(core) => (on_core(core, &itself), "1"),
            Place::Anywhere => (Command::new(&itself), "2"),
        };
        command
            .arg("serve")
            .arg(side.to_string())
            .args(["--threads", threads])
            .arg("--data-dir")
            .arg(data_dir);
        let asked = Asked::start(command, &side.to_string())?;
        Ok(Self {
            address: asked.address,
            asked,
        })
    }

    /// What the server has counted by now.
    pub(crate) fn counted(&mut self) -> Result<Counted> {
        self.asked.counted()
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
    pub(crate) fn end(self) -> Result<()> {
        self.asked.end()
    }
}
