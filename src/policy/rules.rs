//! The checked policy: whatever holds one may rely on all of it.
//!
//! Bounds and defaults live here, one place each. The plan of a method is
//! made by [`super::method`]; this file has the rest.

use std::{
    fs,
    net::SocketAddr,
    num::NonZeroU32,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use super::{
    descriptors::Descriptors,
    fault::{Fault, Faults, Found, Position},
    file::{AdminFile, File, LimitFile, TargetFile, UpstreamFile},
    metadata::{MetadataRules, OtherMetadata},
    method,
    section::At,
    tree,
    units::show_duration,
};
use crate::{
    batch::{QueueSettings, WindowSettings},
    limit::{Algorithm, LimitSettings},
    wire::Plan,
};

const EMBEDDED: &str = include_str!("../../policies/embedded.yaml");
const LISTEN: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1229);
const ADMIN: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9901);
const DATA_DIR: &str = "ferry-data";
const IDENTITY: [&str; 2] = ["authorization", "token"];
const BATCH_TIMEOUT: Duration = Duration::from_secs(10);
const LIMIT_MIN: u64 = 1;
const LIMIT_MAX: u64 = 256;
/// Past this many batches in flight no upstream gains; far past it, memory does not suffice.
const LIMIT_BOUND: u64 = 65_536;

/// The whole policy, every name resolved and every bound kept.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Where calls arrive; at least one.
    pub listen: Vec<Listen>,
    /// Where metrics and probes are answered, unless switched off.
    pub admin: Option<SocketAddr>,
    /// Where batches go.
    pub upstream: Upstream,
    /// How many batches may be in flight at the upstream.
    pub limit: LimitSettings,
    /// A batch without an earlier deadline ends after this.
    pub batch_timeout: Duration,
    /// What a caller is told who is shed.
    pub shed: Shed,
    /// What metadata means for batching.
    pub metadata: MetadataRules,
    /// The methods that batch, each path once.
    pub methods: Vec<Method>,
}

/// Where calls arrive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// A TCP socket.
    Tcp(SocketAddr),
}

/// Where batches go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Upstream {
    /// A Raft group within this process.
    Embedded {
        /// Its directory; relative to where ferry runs, not to the policy.
        data_dir: PathBuf,
        /// How it proposes.
        pipeline: Pipeline,
        /// How many groups there are.
        groups: NonZeroU32,
    },
    /// A gRPC service elsewhere.
    Remote {
        /// Its addresses, scheme and authority only; at least one.
        endpoints: Vec<http::Uri>,
    },
}

/// How the embedded group's core proposes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pipeline {
    /// As many proposals at once as there are permits.
    Full,
    /// One proposal at a time, each awaiting its sync.
    Serial,
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
    /// It is forwarded as if it were not listed.
    Off,
}

/// One method that has a batch form.
#[derive(Clone, Debug)]
pub struct Method {
    /// The path of its calls: `/package.Service/Method`.
    pub path: String,
    /// Whether it batches.
    pub mode: Mode,
    /// How its messages are scanned and merged.
    pub plan: Arc<Plan>,
    /// Bounds of its windows.
    pub window: WindowSettings,
    /// Bounds of what waits for them.
    pub queue: QueueSettings,
    /// Most bytes that one call's message may have, decompressed.
    pub max_message_bytes: usize,
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
        let file = File::read(&root, &mut found);
        let folder = origin.parent().unwrap_or(Path::new(""));
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
        // Looked at before it is read, so that a mistaken path costs no memory.
        let size = fs::metadata(path)
            .map_err(|error| one(format!("cannot be read: {error}")))?
            .len();
        if size > tree::MAX_BYTES as u64 {
            return Err(one(tree::too_large(size)));
        }
        let yaml =
            fs::read_to_string(path).map_err(|error| one(format!("cannot be read: {error}")))?;
        Self::load(&yaml, path)
    }

    /// The built-in policy: `policies/embedded.yaml`, word for word.
    #[must_use]
    pub fn embedded() -> Self {
        Self::load(EMBEDDED, Path::new("embedded.yaml")).expect("a test loads the built-in policy")
    }
}

/// Everything is checked before anything is given up, so that all faults show.
fn check(file: File, folder: &Path, found: &mut Found) -> Option<Policy> {
    let listen = listen(file.listen, found);
    let admin = admin(file.admin.as_ref(), &listen, found);
    let upstream = file
        .upstream
        .map(|upstream| self::upstream(upstream, found));
    let metadata = metadata(file.metadata, found);
    let descriptors = Descriptors::open(&file.descriptors, folder, found);
    let embedded = matches!(upstream, Some((Some(Upstream::Embedded { .. }), ..)));
    let methods = method::check_all(file.methods, &descriptors, embedded, found);
    let (upstream, limit, batch_timeout) = upstream?;
    Some(Policy {
        listen: listen
            .into_iter()
            .map(|address| Listen::Tcp(address.value))
            .collect(),
        admin: admin?,
        upstream: upstream?,
        limit: limit?,
        batch_timeout,
        shed: Shed {
            status: file
                .shed_status
                .map_or(ShedStatus::ResourceExhausted, |status| status.value),
            pushback: file.shed_pushback.is_none_or(|pushback| pushback.value),
        },
        metadata,
        methods,
    })
}

fn listen(file: Option<Vec<At<String>>>, found: &mut Found) -> Vec<At<SocketAddr>> {
    let Some(addresses) = file else {
        let at = Position { line: 1, column: 1 };
        return vec![At { value: LISTEN, at }];
    };
    let mut listen: Vec<At<SocketAddr>> = Vec::with_capacity(addresses.len());
    for (i, text) in addresses.iter().enumerate() {
        let Some(address) = address(text, &format!("listen[{i}].address"), found) else {
            continue;
        };
        if address.port() != 0 && listen.iter().any(|held| held.value == address) {
            let what = format!("listen[{i}].address: {address}: stands twice; keep one of them");
            found.add::<()>(text.at, what);
        }
        listen.push(At {
            value: address,
            at: text.at,
        });
    }
    listen
}

/// `None` where it is at fault, `Some(None)` where it is switched off.
fn admin(
    file: Option<&At<AdminFile>>,
    listen: &[At<SocketAddr>],
    found: &mut Found,
) -> Option<Option<SocketAddr>> {
    let Some(At { value, at }) = file else {
        return Some(Some(ADMIN));
    };
    let AdminFile::Address(text) = value else {
        return Some(None);
    };
    let text = At {
        value: text.clone(),
        at: *at,
    };
    let address = address(&text, "admin.address", found)?;
    if address.port() != 0 && listen.iter().any(|held| held.value == address) {
        return found.add(
            *at,
            format!("admin.address: {address}: calls arrive there; choose another port"),
        );
    }
    Some(Some(address))
}

fn address(text: &At<String>, path: &str, found: &mut Found) -> Option<SocketAddr> {
    match text.value.parse() {
        Ok(address) => Some(address),
        Err(_) => {
            let value = &text.value;
            found.add(
                text.at,
                format!("{path}: {value}: must be IP:port, such as 127.0.0.1:1229 or [::1]:1229"),
            )
        }
    }
}

fn upstream(
    file: UpstreamFile,
    found: &mut Found,
) -> (Option<Upstream>, Option<LimitSettings>, Duration) {
    let target = match file.target {
        TargetFile::Embedded {
            data_dir,
            groups,
            pipeline,
        } => {
            if let Some(groups) = groups.filter(|groups| groups.value != 1) {
                let what = "must be 1; several groups are not supported yet";
                found.add::<()>(
                    groups.at,
                    format!("upstream.embedded.groups: {}: {what}", groups.value),
                );
            }
            let data_dir = match data_dir {
                Some(text) if text.value.is_empty() => {
                    let what =
                        format!("is empty; name a directory, or leave the key out for {DATA_DIR}");
                    found.add(text.at, format!("upstream.embedded.data_dir: {what}"))
                }
                Some(text) => Some(text.value.into()),
                None => Some(PathBuf::from(DATA_DIR)),
            };
            let pipeline = pipeline.map_or(Pipeline::Full, |pipeline| pipeline.value);
            data_dir.map(|data_dir| Upstream::Embedded {
                data_dir,
                pipeline,
                groups: NonZeroU32::MIN,
            })
        }
        TargetFile::Endpoints(endpoints) => endpoints
            .iter()
            .enumerate()
            .map(|(i, text)| endpoint(text, i, found))
            .collect::<Vec<_>>()
            .into_iter()
            .collect::<Option<_>>()
            .map(|endpoints| Upstream::Remote { endpoints }),
    };
    let limits = limit(&file.limit, found);
    let bounds = (Duration::from_millis(10), Duration::from_secs(3_600));
    let timeout = span(file.batch_timeout, "upstream.batch_timeout", bounds, found);
    (target, limits, timeout.unwrap_or(BATCH_TIMEOUT))
}

fn endpoint(text: &At<String>, i: usize, found: &mut Found) -> Option<http::Uri> {
    let value = &text.value;
    let mut fault =
        |what: &str| found.add(text.at, format!("upstream.endpoints[{i}]: {value}: {what}"));
    let Ok(uri) = value.parse::<http::Uri>() else {
        return fault("must be a URL, such as http://127.0.0.1:1228");
    };
    match uri.scheme_str() {
        Some("http") => {}
        Some("https") => return fault("TLS to an upstream is not supported yet; use http"),
        _ => return fault("must begin with http://"),
    }
    if uri.port_u16().is_none_or(|port| port == 0) {
        return fault("must name a port from 1 to 65535, such as :1228");
    }
    if uri.path() != "/" || uri.query().is_some() || value.contains('@') {
        return fault("must have nothing but host and port");
    }
    Some(uri)
}

fn limit(file: &LimitFile, found: &mut Found) -> Option<LimitSettings> {
    let algorithm = file
        .algorithm
        .as_ref()
        .map_or(Algorithm::Little, |algorithm| algorithm.value);
    let min = count(file.min.as_ref(), "upstream.limit.min", LIMIT_BOUND, found);
    let max = count(file.max.as_ref(), "upstream.limit.max", LIMIT_BOUND, found);
    let place = file
        .max
        .as_ref()
        .or(file.min.as_ref())
        .map(|bound| bound.at);
    let (min, max) = match (algorithm, min, max) {
        (Algorithm::Little, min, max) => (
            min.unwrap_or(LIMIT_MIN),
            max.unwrap_or_else(|| LIMIT_MAX.max(min.unwrap_or(0))),
        ),
        (Algorithm::Fixed, Some(one), None) | (Algorithm::Fixed, None, Some(one)) => (one, one),
        (Algorithm::Fixed, Some(min), Some(max)) if min == max => (min, max),
        (Algorithm::Fixed, Some(min), Some(max)) => {
            let what = format!(
                "upstream.limit: min {min}, max {max}: must be equal; a fixed limit never moves"
            );
            return place.and_then(|at| found.add(at, what));
        }
        (Algorithm::Fixed, None, None) => {
            let at = file.algorithm.as_ref()?.at;
            return found.add(
                at,
                "upstream.limit: fixed: must have a value; write max: 20 or so",
            );
        }
    };
    if min > max {
        let what =
            format!("upstream.limit: min {min}: must be at most max, which is {max}; swap them");
        return place.and_then(|at| found.add(at, what));
    }
    let bounded = |bound| u32::try_from(bound).expect("a limit is at most LIMIT_BOUND");
    Some(LimitSettings {
        algorithm,
        min: bounded(min),
        max: bounded(max),
    })
}

fn metadata(file: super::file::MetadataFile, found: &mut Found) -> MetadataRules {
    let names = |list: &[At<String>], key: &str, star: bool, found: &mut Found| -> Vec<String> {
        for (i, name) in list.iter().enumerate() {
            let plain = if star {
                name.value.strip_suffix('*').unwrap_or(&name.value)
            } else {
                &name.value
            };
            if http::HeaderName::from_bytes(plain.as_bytes()).is_err() {
                let (value, what) = (
                    &name.value,
                    "must be a metadata key: letters, digits, - _ .",
                );
                found.add::<()>(name.at, format!("metadata.{key}[{i}]: \"{value}\": {what}"));
            }
        }
        list.iter()
            .map(|name| name.value.to_ascii_lowercase())
            .collect()
    };
    let identity = match &file.identity {
        Some(list) => names(list, "identity", false, found),
        None => IDENTITY.map(str::to_owned).to_vec(),
    };
    let ignore = names(&file.ignore, "ignore", true, found);
    for (name, written) in ignore.iter().zip(&file.ignore) {
        if identity.contains(name) {
            let what = "is identity too, which separates calls by it; keep it in one list";
            found.add::<()>(written.at, format!("metadata.ignore: {name}: {what}"));
        }
    }
    let other = file.other.map_or(OtherMetadata::Alone, |other| other.value);
    MetadataRules::new(&identity, &ignore, other)
}

/// A number from 1 to `most`; `None` where it is absent or at fault.
pub(super) fn count(
    file: Option<&At<u64>>,
    path: &str,
    most: u64,
    found: &mut Found,
) -> Option<u64> {
    let At { value, at } = file?;
    match *value {
        0 => found.add(
            *at,
            format!("{path}: 0: must be at least 1; leave the key out for the default"),
        ),
        value if value > most => found.add(
            *at,
            format!("{path}: {value}: must be at most {most}; lower it"),
        ),
        value => Some(value),
    }
}

/// A duration within `(least, most)`; `None` where it is absent or at fault.
pub(super) fn span(
    file: Option<At<Duration>>,
    path: &str,
    (least, most): (Duration, Duration),
    found: &mut Found,
) -> Option<Duration> {
    let At { value, at } = file?;
    let show = show_duration;
    if value < least {
        let what = format!(
            "must be at least {}; leave the key out for the default",
            show(least)
        );
        return found.add(at, format!("{path}: {}: {what}", show(value)));
    }
    if value > most {
        return found.add(
            at,
            format!(
                "{path}: {}: must be at most {}; shorten it",
                show(value),
                show(most)
            ),
        );
    }
    Some(value)
}
