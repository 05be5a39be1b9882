//! The server behind the proxies: which kinds there are, what it counts, and
//! its process as the bench sees it.

use std::{net::SocketAddr, process::ExitCode, thread, time::Duration};

use anyhow::{Result, bail};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use tokio::runtime::Builder;

use super::{asked::Asked, child::cpu_of, h2load::on_core, lean, usual};

/// Pauses until what was answered is counted.
const COUNT_PATIENCE: u32 = 200;
const PAUSE: Duration = Duration::from_millis(5);

/// What kind of server it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// HTTP/2 by hand, for next to nothing a call.
    Lean,
    /// tonic as it comes, which decodes each call.
    Usual,
}

/// The hidden subcommand.
#[derive(Debug, clap::Args)]
pub(crate) struct Serve {
    kind: Kind,
    /// Bytes of each reply's message.
    #[arg(long)]
    reply_bytes: usize,
}

/// What a server has counted since it began.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Counted {
    /// Calls whose request has ended.
    pub(crate) calls: u64,
    pub(crate) messages: u64,
    pub(crate) message_bytes: u64,
    /// Sessions in them; `None` where the server decodes nothing.
    pub(crate) entries: Option<u64>,
}

impl Serve {
    pub(crate) fn run(&self) -> Result<ExitCode> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            match self.kind {
                Kind::Lean => lean::serve(self.reply_bytes).await,
                Kind::Usual => usual::serve(self.reply_bytes).await,
            }
        })?;
        Ok(ExitCode::SUCCESS)
    }
}

/// A message of so many bytes, at least 2: a field that nobody knows, so that
/// whoever decodes it finds it well-formed.
pub(crate) fn reply(bytes: usize) -> Vec<u8> {
    filled(0x7a, bytes)
}

/// A message of exactly `bytes`: one field under `tag` that fills it.
pub(crate) fn filled(tag: u8, bytes: usize) -> Vec<u8> {
    let mut message = vec![tag];
    let mut length = bytes.saturating_sub(2);
    // The length takes bytes itself.
    while 1 + prost::encoding::encoded_len_varint(length as u64) + length > bytes {
        length -= 1;
    }
    prost::encoding::encode_varint(length as u64, &mut message);
    message.resize(message.len() + length, b'r');
    message
}

/// A running upstream.
pub(crate) struct Upstream {
    asked: Asked,
    pub(crate) address: SocketAddr,
}

impl Upstream {
    /// On `core`, or wherever the system puts it.
    pub(crate) fn start(kind: Kind, reply_bytes: usize, core: Option<usize>) -> Result<Self> {
        let itself = std::env::current_exe()?;
        let mut command = match core {
            Some(core) => on_core(core, itself),
            None => std::process::Command::new(itself),
        };
        let name = kind.to_possible_value().expect("no kind is left out");
        command
            .arg("serve")
            .arg(name.get_name())
            .args(["--reply-bytes", &reply_bytes.to_string()]);
        let asked = Asked::start(command, name.get_name())?;
        Ok(Self {
            address: asked.address,
            asked,
        })
    }

    pub(crate) fn counted(&mut self) -> Result<Counted> {
        self.asked.counted()
    }

    /// What it has counted once `whole` of it is true.
    pub(crate) fn counted_when(&mut self, whole: impl Fn(&Counted) -> bool) -> Result<Counted> {
        for _ in 0..COUNT_PATIENCE {
            let counted = self.counted()?;
            if whole(&counted) {
                return Ok(counted);
            }
            thread::sleep(PAUSE);
        }
        bail!(
            "not every call that was answered reached the upstream, or some did twice: it has \
             {:?}; no figure is taken from this",
            self.counted()?
        )
    }

    pub(crate) fn cpu(&self) -> Result<Duration> {
        cpu_of(self.asked.id())
    }

    pub(crate) fn end(self) -> Result<()> {
        self.asked.end()
    }
}
