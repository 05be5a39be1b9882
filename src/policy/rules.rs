//! The checked policy: whatever holds one may rely on all of it.
//!
//! Here are its types and the order of the checks. Bounds and defaults stand
//! with what they bound: [`super::upstream`], [`super::bounds`],
//! [`super::metadata`], [`super::method`].

use std::{
    fs,
    net::SocketAddr,
    num::NonZeroU32,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use regex::Regex;

use super::{
    descriptors::Descriptors,
    fault::{Fault, Faults, Found},
    file::File,
    listen::{self, Listen},
    metadata::{self, MetadataRules},
    method,
    on_error::OnError,
    regular,
    secret::Secret,
    section::At,
    telemetry::Telemetry,
    tree, upstream,
    watch::Stamp,
};
use crate::{
    accept::Guards,
    batch::{QueueSettings, WindowSettings},
    limit::LimitSettings,
    transport::{ClientFiles, Endpoint},
    wire::Plan,
};

const EMBEDDED: &str = include_str!("../../policies/embedded.yaml");
/// The whole policy, every name resolved and every bound kept.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Where calls arrive; at least one.
    pub listen: Vec<Listen>,
    /// What one client may have of it.
    pub guards: Guards,
    /// Where metrics and probes are answered, unless switched off.
    pub admin: Option<SocketAddr>,
    /// What who is not on this machine must know to change anything there.
    pub admin_token: Option<Secret>,
    /// Where batches go.
    pub upstream: Upstream,
    /// How many batches may be in flight at the upstream.
    pub limit: LimitSettings,
    /// A batch without an earlier deadline ends after this.
    pub batch_timeout: Duration,
    /// Matches the text of an upstream's error that says who leads; its first
    /// group is the leader's address.
    pub leader_hint: Option<Regex>,
    /// Who tells `grpc.health.v1`.
    pub health: Health,
    /// What a caller is told who is shed.
    pub shed: Shed,
    /// What metadata means for batching.
    pub metadata: MetadataRules,
    /// What is told of single calls and batches.
    pub telemetry: Telemetry,
    /// The methods that batch, each path once.
    pub methods: Vec<Method>,
    /// The files that it was made of, as they looked then; none for one that
    /// was not read from a file.
    pub files: Vec<Stamp>,
}

/// Where batches go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Upstream {
    /// Raft groups within this process.
    Embedded {
        /// Their directory; relative to where ferry runs, not to the policy.
        data_dir: PathBuf,
        /// How they propose.
        pipeline: Pipeline,
        /// How many groups there are.
        groups: NonZeroU32,
        /// Which threads their cores run on.
        runtime: Runtime,
        /// Bytes of log, a group, at which a snapshot lets the log go.
        log_max: u64,
    },
    /// A gRPC service elsewhere.
    Remote {
        /// Where it is; at least one.
        endpoints: Vec<Endpoint>,
        /// What TLS to it goes by, for those of `https`.
        tls: ClientFiles,
    },
}

impl Upstream {
    /// Whether it is told whom its callers addressed. One that proves its name
    /// is called by that.
    fn is_told_authority(&self) -> bool {
        match self {
            Self::Embedded { .. } => false,
            Self::Remote { endpoints, .. } => endpoints.iter().any(|to| !to.is_secure()),
        }
    }
}

/// How the embedded group's core proposes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pipeline {
    /// As many proposals at once as there are permits.
    Full,
    /// One proposal at a time, each awaiting its sync.
    Serial,
}

/// Which threads the embedded groups' cores run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runtime {
    /// Those that serve the calls.
    Shared,
    /// One for each group, of its own.
    Dedicated,
}

/// Who tells `grpc.health.v1` of the calls that arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// ferry, of itself.
    Own,
    /// The upstream: its health service is passed through like any other.
    Forward,
}

/// What a caller is told who is shed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shed {
    /// The gRPC status.
    pub status: ShedStatus,
    /// Whether a hint says when to come again.
    pub pushback: bool,
}

/// The gRPC status of a call that is shed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShedStatus {
    /// What gRPC says of exhausted resources.
    ResourceExhausted,
    /// For clients that retry nothing else.
    Unavailable,
}

/// Whether a listed method batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It does.
    Enforce,
    /// It is forwarded, and looked at for what batches there would be.
    Observe,
    /// It is forwarded as if it were not listed.
    Off,
}

impl Mode {
    /// All of them, by the names that they have in a policy.
    pub const ALL: [(&'static str, Self); 3] = [
        ("enforce", Self::Enforce),
        ("observe", Self::Observe),
        ("off", Self::Off),
    ];

    /// The mode of this name.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        let named = Self::ALL.iter().find(|(known, _)| *known == name);
        named.map(|(_, mode)| *mode)
    }

    /// Its name in a policy.
    #[must_use]
    pub fn name(self) -> &'static str {
        let named = Self::ALL.iter().find(|(_, mode)| *mode == self);
        named.expect("every mode has a name").0
    }
}

/// One method that has a batch form.
#[derive(Clone, Debug)]
pub struct Method {
    /// The path of its calls: `/package.Service/Method`.
    pub path: String,
    /// The path that its batches call: the same, or another method's.
    pub target: String,
    /// Whether it batches.
    pub mode: Mode,
    /// How its messages are scanned and merged.
    pub plan: Arc<Plan>,
    /// Bounds of its windows.
    pub window: WindowSettings,
    /// Bounds of what waits for them.
    pub queue: QueueSettings,
    /// Most partitions of it that may wait at once; past it calls go alone.
    pub max_partitions: usize,
    /// Most bytes that one call's message may have, decompressed.
    pub max_message_bytes: usize,
    /// Most bytes that the reply to one of its batches may have.
    pub max_reply_bytes: usize,
    /// The paths of methods whose earlier calls on its keys its calls wait for.
    pub barrier: Vec<String>,
    /// What becomes of its batches that fail.
    pub on_error: OnError,
}

impl Policy {
    /// Checks the policy in `yaml`. `origin` is its path, which faults show
    /// and which the files that it names are relative to.
    ///
    /// # Errors
    /// Every fault of the file at once.
    pub fn load(yaml: &str, origin: &Path) -> Result<Self, Faults> {
        let name = origin.display().to_string();
        let root = match tree::parse(yaml) {
            Ok(root) => root,
            Err(fault) => {
                return Err(Faults {
                    origin: name,
                    faults: vec![fault],
                });
            }
        };
        let mut found = Found::default();
        let folder = origin.parent().unwrap_or(Path::new(""));
        let file = File::read(&root, folder, &mut found);
        let policy = file.and_then(|file| check(file, folder, &mut found));
        found.finish(&name, policy)
    }

    /// Reads and checks the policy file at `path`.
    ///
    /// # Errors
    /// Every fault of the file at once, or the one that it cannot be read.
    pub fn read(path: &Path) -> Result<Self, Faults> {
        let one = |what| Faults {
            origin: path.display().to_string(),
            faults: vec![Fault { at: None, what }],
        };
        let stamp = Stamp::of(path);
        // Looked at before it is read, so that a mistaken path costs no memory.
        let size = regular::size(path).map_err(|error| one(format!("cannot be read: {error}")))?;
        if size > tree::MAX_BYTES as u64 {
            return Err(one(tree::too_large(size)));
        }
        let yaml =
            fs::read_to_string(path).map_err(|error| one(format!("cannot be read: {error}")))?;
        let mut policy = Self::load(&yaml, path)?;
        policy.files.push(stamp);
        Ok(policy)
    }

    /// The built-in policy: `policies/embedded.yaml`, word for word.
    #[must_use]
    pub fn embedded() -> Self {
        Self::load(EMBEDDED, Path::new("embedded.yaml")).expect("a test loads the built-in policy")
    }
}

/// Everything is checked before anything is given up, so that all faults show.
fn check(file: File, folder: &Path, found: &mut Found) -> Option<Policy> {
    let listen = listen::check(file.listen, folder, found);
    let admin = listen::admin(file.admin.as_ref(), &listen, found);
    let token_file = file.admin_token.as_ref();
    let token_file = token_file.map(|file| folder.join(&file.value));
    // Looked at before it is read: what comes later is another one.
    let token_file = token_file.map(|file| Stamp::of(&file));
    let admin_token = match file.admin_token {
        Some(file) => Some(Secret::read(&file, folder, "admin.token_file", found)?),
        None => None,
    };
    let leader_hint = file.upstream.as_ref().and_then(|upstream| {
        upstream::leader_hint(upstream.leader_hint.as_ref()?, &upstream.target, found)
    });
    let upstream = file
        .upstream
        .map(|upstream| upstream::check(upstream, &listen, folder, found));
    let to = upstream
        .as_ref()
        .and_then(|(upstream, ..)| upstream.as_ref());
    let metadata = metadata::check(
        &file.metadata,
        to.is_some_and(Upstream::is_told_authority),
        found,
    );
    let descriptions = file.descriptors.iter();
    let descriptions = descriptions.map(|file| folder.join(&file.value));
    let traces = file.telemetry.traces.iter();
    let secrets = traces.flat_map(|to| to.headers.iter().map(|header| header.file.clone()));
    let files = descriptions.chain(secrets);
    let files = files.map(|file| Stamp::of(&file));
    let mut files: Vec<_> = files.chain(token_file).collect();
    let descriptors = Descriptors::open(&file.descriptors, folder, found);
    // Which these are is known only once they have been read.
    files.extend(descriptors.imported.iter().map(|file| Stamp::of(file)));
    let embedded = matches!(upstream, Some((Some(Upstream::Embedded { .. }), ..)));
    let methods = method::check_all(file.methods, &descriptors, embedded, found);
    let health = health(file.health, embedded, found);
    let (upstream, limit, batch_timeout) = upstream?;
    Some(Policy {
        listen: listen.into_iter().map(|listen| listen.value).collect(),
        guards: file.guards,
        admin: admin?,
        admin_token,
        upstream: upstream?,
        limit: limit?,
        batch_timeout,
        leader_hint,
        health,
        shed: Shed {
            status: file
                .shed_status
                .map_or(ShedStatus::ResourceExhausted, |status| status.value),
            pushback: file.shed_pushback.is_none_or(|pushback| pushback.value),
        },
        metadata,
        telemetry: file.telemetry,
        methods,
        files,
    })
}

/// Within this process there is nobody else to ask.
fn health(file: Option<At<Health>>, embedded: bool, found: &mut Found) -> Health {
    if let Some(At { at, .. }) = file
        .as_ref()
        .filter(|file| embedded && file.value == Health::Forward)
    {
        let what = "health: forward: the embedded groups have no health service; leave the key out";
        found.add::<()>(*at, what);
    }
    match (file, embedded) {
        (Some(file), _) => file.value,
        (None, true) => Health::Own,
        (None, false) => Health::Forward,
    }
}
