//! The policy file as it is written: names, text, and nothing resolved.
//!
//! One type a section, keys exactly as documented, everything optional that
//! has a default. [`super::read`] fills it; what the values may be is
//! [`super::rules`]' business.

use std::time::Duration;

use tonic::Code;

use super::{
    client_tls::ClientTlsFile, fault::Position, read_form::FormFile, section::At,
    telemetry::Telemetry,
};
use crate::{accept::Guards, batch::Close, limit::Algorithm};

/// A whole policy file.
#[derive(Debug, Default)]
pub(super) struct File {
    pub(super) listen: Option<Vec<ListenFile>>,
    pub(super) guards: Guards,
    pub(super) health: Option<At<super::Health>>,
    pub(super) admin: Option<At<AdminFile>>,
    pub(super) admin_token: Option<At<String>>,
    pub(super) upstream: Option<UpstreamFile>,
    pub(super) shed_status: Option<At<super::ShedStatus>>,
    pub(super) shed_pushback: Option<At<bool>>,
    pub(super) metadata: MetadataFile,
    pub(super) telemetry: Telemetry,
    pub(super) descriptors: Vec<At<String>>,
    pub(super) methods: Vec<MethodFile>,
}

/// One of `listen`.
#[derive(Debug)]
pub(super) struct ListenFile {
    pub(super) address: Option<At<String>>,
    pub(super) unix: Option<At<String>>,
    pub(super) tls: Option<ServerTlsFile>,
}

/// The `tls` key of a listener.
#[derive(Debug)]
pub(super) struct ServerTlsFile {
    pub(super) cert: At<String>,
    pub(super) key: At<String>,
    pub(super) client_ca: Option<At<String>>,
}

/// The `admin` key: an address, or `off`.
#[derive(Debug)]
pub(super) enum AdminFile {
    Address(String),
    Off,
}

/// The `upstream` key.
#[derive(Debug)]
pub(super) struct UpstreamFile {
    pub(super) target: TargetFile,
    pub(super) tls: ClientTlsFile,
    pub(super) limit: LimitFile,
    pub(super) batch_timeout: Option<At<Duration>>,
    pub(super) leader_hint: Option<At<String>>,
}

/// Where batches go.
#[derive(Debug)]
pub(super) enum TargetFile {
    Embedded {
        data_dir: Option<At<String>>,
        groups: Option<At<u64>>,
        pipeline: Option<At<super::Pipeline>>,
        runtime: Option<At<super::Runtime>>,
        log_max: Option<At<u64>>,
    },
    Endpoints(Vec<At<String>>),
}

/// The `upstream.limit` key.
#[derive(Debug, Default)]
pub(super) struct LimitFile {
    pub(super) algorithm: Option<At<Algorithm>>,
    pub(super) min: Option<At<u64>>,
    pub(super) max: Option<At<u64>>,
}

/// The `metadata` key.
#[derive(Debug, Default)]
pub(super) struct MetadataFile {
    pub(super) identity: Option<Vec<At<String>>>,
    pub(super) ignore: Vec<At<String>>,
    pub(super) other: Option<At<super::OtherMetadata>>,
}

/// One of `methods`.
#[derive(Debug)]
pub(super) struct MethodFile {
    pub(super) path: String,
    pub(super) selector: At<String>,
    pub(super) mode: Option<At<super::Mode>>,
    pub(super) batched_field: At<String>,
    pub(super) lift: Option<LiftFile>,
    pub(super) form: FormFile,
    pub(super) entry_key: Vec<At<String>>,
    pub(super) require: Vec<At<String>>,
    pub(super) barrier: Vec<At<String>>,
    /// Its keys have to be known, for a barrier.
    pub(super) ordered: bool,
    pub(super) max_message_bytes: Option<At<u64>>,
    pub(super) on_error: OnErrorFile,
    pub(super) window: WindowFile,
    pub(super) queue: QueueFile,
}

/// The `lift` key: the single form and where its fields go.
#[derive(Debug)]
pub(super) struct LiftFile {
    pub(super) from: At<String>,
    pub(super) fields: Vec<(At<String>, At<String>)>,
}

/// The `on_error` key.
#[derive(Debug, Default)]
pub(super) struct OnErrorFile {
    pub(super) atomic: Option<At<bool>>,
    pub(super) bisect: Vec<At<Code>>,
    pub(super) retry: Option<RetryFile>,
}

/// The `on_error.retry` key.
#[derive(Debug)]
pub(super) struct RetryFile {
    pub(super) at: Position,
    pub(super) attempts: Option<At<u64>>,
    pub(super) on: Vec<At<Code>>,
    pub(super) idempotent: Option<At<bool>>,
    pub(super) backoff: Option<At<Duration>>,
    pub(super) attempt_timeout: Option<At<Duration>>,
}

/// The `window` key.
#[derive(Debug, Default)]
pub(super) struct WindowFile {
    pub(super) max_entries: Option<At<u64>>,
    pub(super) max_bytes: Option<At<u64>>,
    pub(super) linger: Option<At<Duration>>,
    pub(super) close: Option<At<Close>>,
}

/// The `queue` key.
#[derive(Debug, Default)]
pub(super) struct QueueFile {
    pub(super) max_wait: Option<At<Duration>>,
    pub(super) max_bytes: Option<At<u64>>,
    pub(super) max_partitions: Option<At<u64>>,
}
