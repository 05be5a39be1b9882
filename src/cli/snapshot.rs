//! `ferry snapshot`: backups of what a node holds, and new beginnings from them.
//!
//! A running node is asked by its admin address, a stopped one that is by itself
//! is read from its directory. A backup gets its name only when it is whole and
//! was read back, and no file is ever written over.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::{Request, body::Incoming, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use tempfile::NamedTempFile;
use tokio::{io::AsyncWriteExt as _, net::TcpStream, time::timeout};

use crate::{
    policy::NodeFile,
    raft::{
        DirectoryError, Identity, OpenError,
        backup::{self, Contents, Heir, SaveError},
    },
};

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(3);
/// How long a node may be silent: a few elections, or a slow disk.
const SILENCE: Duration = Duration::from_secs(60);

/// Backups.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Snapshot {
    /// Save what a node holds, every write that was acknowledged before included
    Save(Save),
    /// Lay out an empty data directory with what was saved
    Restore(Restore),
    /// Read a backup to its end and tell what it holds
    Check {
        /// The backup
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct Save {
    /// Ask the node or sidecar that runs with this admin address
    #[arg(
        long,
        value_name = "HOST:PORT",
        required_unless_present = "data_dir",
        conflicts_with = "data_dir"
    )]
    admin: Option<String>,
    /// Read the directory of one that is stopped, and is no node of a cluster
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Where to; never written over
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
    /// Save what this one node has applied, also where no majority runs
    #[arg(long, requires = "admin")]
    stale: bool,
    /// The admin address's token, for one that is not on this machine
    #[arg(long, value_name = "FILE", requires = "admin")]
    token_file: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(super) struct Restore {
    /// The backup
    #[arg(long, value_name = "FILE")]
    from: PathBuf,
    /// Lay out this directory, for a node or a sidecar by itself
    #[arg(
        long,
        value_name = "DIR",
        required_unless_present = "config",
        conflicts_with = "config"
    )]
    data_dir: Option<PathBuf>,
    /// Lay out the directory of the cluster's node that this file describes, as
    /// the first of a new cluster
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Snapshot {
    pub(super) async fn run(self) -> Result<ExitCode> {
        match self {
            Self::Save(save) => save.run().await?,
            Self::Restore(restore) => restore.run().await?,
            Self::Check { file } => {
                let contents = read(&file).await?;
                println!("{}: whole, {}", file.display(), told(&contents));
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Save {
    async fn run(self) -> Result<()> {
        let to = &self.to;
        if to.exists() {
            bail!("{}", taken(to));
        }
        // Beside its name, for its owner alone, and gone if this does not end well.
        let folder = match to.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let file = NamedTempFile::new_in(folder);
        let file = file.with_context(|| format!("{}: cannot be written", folder.display()))?;
        let written = file.as_file().try_clone();
        let written = written.with_context(|| format!("{}: cannot be written", to.display()))?;
        match (&self.admin, &self.data_dir) {
            (Some(admin), _) => self.fetch(admin, written).await?,
            (None, Some(data_dir)) => save_stopped(data_dir, written).await?,
            (None, None) => bail!("--admin or --data-dir: must be given; see --help"),
        }
        let contents = read(file.path()).await?;
        file.as_file()
            .sync_all()
            .with_context(|| format!("{}: cannot be written", to.display()))?;
        let kept = file.persist_noclobber(to);
        kept.map_err(|error| match error.error.kind() {
            io::ErrorKind::AlreadyExists => anyhow!("{}", taken(to)),
            _ => anyhow!("{}: cannot be written: {}", to.display(), error.error),
        })?;
        let synced = File::open(folder).and_then(|folder| folder.sync_all());
        synced.with_context(|| format!("{}: cannot be synced", folder.display()))?;
        println!("saved {} to {}", told(&contents), to.display());
        Ok(())
    }

    /// Asks a running node, and writes what it answers.
    async fn fetch(&self, admin: &str, file: File) -> Result<()> {
        let silent = || format!("{admin}: no answer within {SILENCE:?}");
        let broken = || format!("{admin}: the backup broke off; see that node's log");
        let stream = timeout(CONNECT, TcpStream::connect(admin)).await;
        let stream = stream.with_context(|| format!("{admin}: no connection in {CONNECT:?}"))?;
        let stream = stream.with_context(|| {
            format!(
                "{admin}: nobody listens there; name the admin address of a process that runs, or \
                 save a stopped one with --data-dir"
            )
        })?;
        let (mut asked, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let request = self.request(admin)?;
        let answer = timeout(SILENCE, asked.send_request(request)).await;
        let answer = answer.with_context(silent)?.with_context(broken)?;
        let status = answer.status();
        let mut body: Incoming = answer.into_body();
        if !status.is_success() {
            let why = timeout(SILENCE, body.collect())
                .await
                .with_context(silent)?;
            let why = why.with_context(broken)?.to_bytes();
            let why = String::from_utf8_lossy(&why);
            let why = match why.trim() {
                "" => "it keeps nothing that could be saved: it is no node, and embeds no group",
                told => told,
            };
            bail!("{admin}: {status}: {why}");
        }
        let mut file = tokio::fs::File::from_std(file);
        while let Some(frame) = timeout(SILENCE, body.frame()).await.with_context(silent)? {
            if let Ok(bytes) = frame.with_context(broken)?.into_data() {
                file.write_all(&bytes).await?;
            }
        }
        file.flush().await?;
        Ok(())
    }

    fn request(&self, admin: &str) -> Result<Request<Empty<Bytes>>> {
        let path = match self.stale {
            true => "/snapshot?stale=true",
            false => "/snapshot",
        };
        let mut request = Request::post(path).header(header::HOST, admin);
        if let Some(path) = &self.token_file {
            let token = std::fs::read_to_string(path);
            let token = token.with_context(|| format!("{}: cannot be read", path.display()))?;
            request = request.header(header::AUTHORIZATION, format!("Bearer {}", token.trim()));
        }
        request
            .body(Empty::new())
            .with_context(|| format!("{admin}: must be HOST:PORT"))
    }
}

async fn save_stopped(data_dir: &Path, file: File) -> Result<()> {
    match backup::save_stopped(data_dir, file).await {
        Ok(_) => Ok(()),
        Err(SaveError::Open(OpenError::Directory(error @ DirectoryError::InUse { .. }))) => {
            Err(anyhow!(
                "{error}; or save from that process while it runs, with --admin and its admin \
                 address"
            ))
        }
        Err(error) => Err(error.into()),
    }
}

impl Restore {
    async fn run(self) -> Result<()> {
        let (data_dir, heir) = match (self.config, self.data_dir) {
            (Some(path), _) => of_node(NodeFile::read(&path)?),
            (None, Some(data_dir)) => {
                let identity = Identity {
                    groups: read(&self.from).await?.origin.identity.groups,
                    ..Identity::alone()
                };
                let heir = Heir {
                    identity,
                    peer: None,
                };
                (data_dir, heir)
            }
            (None, None) => bail!("--data-dir or --config: must be given; see --help"),
        };
        let (from, into, of) = (self.from.clone(), data_dir.clone(), heir.clone());
        let restoring = move || backup::restore(&from, &into, &of);
        let contents = tokio::task::spawn_blocking(restoring).await??;
        println!("restored {} into {}", told(&contents), data_dir.display());
        if heir.peer.is_some() {
            println!(
                "node {} is the only member of a new cluster; start it, then add the others, \
                 with empty directories, with `ferry cluster add`",
                heir.identity.node
            );
        }
        Ok(())
    }
}

fn of_node(file: NodeFile) -> (PathBuf, Heir) {
    let own = file.members.get(&file.node).cloned();
    let heir = Heir {
        identity: Identity {
            cluster: file.cluster,
            node: file.node,
            groups: file.groups.get(),
        },
        peer: Some(own.unwrap_or_else(|| file.peer.to_string())),
    };
    (file.data_dir, heir)
}

async fn read(file: &Path) -> Result<Contents> {
    let file = file.to_owned();
    Ok(tokio::task::spawn_blocking(move || backup::read(&file)).await??)
}

fn taken(file: &Path) -> String {
    format!(
        "{}: it exists, and no file is written over; choose another name, or remove it",
        file.display()
    )
}

fn told(contents: &Contents) -> String {
    let Identity {
        cluster,
        node,
        groups,
    } = &contents.origin.identity;
    let records: u64 = contents.records.iter().sum();
    let groups = match groups {
        1 => "1 group".to_owned(),
        groups => format!("{groups} groups"),
    };
    format!("{records} records of {groups}, of node {node} of cluster {cluster:?}")
}
