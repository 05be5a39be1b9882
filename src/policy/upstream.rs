//! Where batches go, and how many at once.

use std::{
    num::NonZeroU32,
    path::{Path, PathBuf},
    time::Duration,
};

use regex::Regex;

use super::{
    bounds::{count, span},
    client_tls,
    fault::Found,
    file::{LimitFile, TargetFile, UpstreamFile},
    listen::Listen,
    rules::{Pipeline, Runtime, Upstream},
    section::At,
    units::show_size,
};
use crate::{
    limit::{Algorithm, LimitSettings},
    raft::GROUPS_MAX,
    transport::Endpoint,
};

const DATA_DIR: &str = "ferry-data";
const LOG_MAX: u64 = 1 << 30;
/// Smaller, and snapshots would be all that it does.
const LOG_MAX_LEAST: u64 = 1 << 20;
const BATCH_TIMEOUT: Duration = Duration::from_secs(10);
const LIMIT_MIN: u64 = 1;
const LIMIT_MAX: u64 = 256;
/// Past this many batches in flight no upstream gains; far past it, memory does not suffice.
const LIMIT_BOUND: u64 = 65_536;
const TIMEOUT_BOUNDS: (Duration, Duration) =
    (Duration::from_millis(10), Duration::from_secs(3_600));

/// The upstream, its limiter's bounds and the time a batch may take; `None`
/// for what is at fault.
pub(super) fn check(
    file: UpstreamFile,
    listen: &[At<Listen>],
    folder: &Path,
    found: &mut Found,
) -> (Option<Upstream>, Option<LimitSettings>, Duration) {
    let target = match file.target {
        TargetFile::Embedded {
            data_dir,
            groups,
            pipeline,
            runtime,
            log_max,
        } => {
            let bound = u64::from(GROUPS_MAX);
            let groups = count(groups.as_ref(), "upstream.embedded.groups", bound, found);
            let groups = u32::try_from(groups.unwrap_or(1))
                .ok()
                .and_then(NonZeroU32::new);
            let data_dir = match data_dir {
                Some(text) if text.value.is_empty() => {
                    let what =
                        format!("is empty; name a directory, or leave the key out for {DATA_DIR}");
                    found.add(text.at, format!("upstream.embedded.data_dir: {what}"))
                }
                Some(text) => Some(text.value.into()),
                None => Some(PathBuf::from(DATA_DIR)),
            };
            let log_max = log_max_of(log_max.as_ref(), found);
            let pipeline = pipeline.map_or(Pipeline::Full, |pipeline| pipeline.value);
            data_dir.map(|data_dir| Upstream::Embedded {
                data_dir,
                pipeline,
                groups: groups.expect("a count is 1 to GROUPS_MAX"),
                runtime: runtime.map_or(Runtime::Shared, |runtime| runtime.value),
                log_max,
            })
        }
        TargetFile::Endpoints(endpoints) => endpoints
            .iter()
            .enumerate()
            .map(|(i, text)| endpoint(text, i, listen, found))
            .collect::<Vec<_>>()
            .into_iter()
            .collect::<Option<Vec<_>>>()
            .map(|endpoints| {
                let secret = |to: &Endpoint| to.to_string().starts_with("https://");
                if let Some(at) = file.tls.at.filter(|_| !endpoints.iter().any(secret)) {
                    let what = "upstream.tls: has no place where no endpoint begins with \
                                https://: calls would go in the clear; write https://, or leave \
                                it out";
                    found.add::<()>(at, what);
                }
                Upstream::Remote {
                    endpoints,
                    tls: client_tls::check(file.tls, folder, found),
                }
            }),
    };
    let limits = limit(&file.limit, found);
    let timeout = span(
        file.batch_timeout,
        "upstream.batch_timeout",
        TIMEOUT_BOUNDS,
        found,
    );
    (target, limits, timeout.unwrap_or(BATCH_TIMEOUT))
}

/// The expression by which the leader is found among endpoints.
pub(super) fn leader_hint(
    text: &At<String>,
    target: &TargetFile,
    found: &mut Found,
) -> Option<Regex> {
    let mut fault = |what: &str| found.add(text.at, format!("upstream.leader_hint: {what}"));
    if matches!(target, TargetFile::Embedded { .. }) {
        return fault("has no meaning beside embedded, which knows its leader; leave it out");
    }
    match Regex::new(&text.value) {
        Ok(hint) if hint.captures_len() < 2 => {
            fault("must have a group in parentheses, which is the leader's HOST:PORT; add one")
        }
        Ok(hint) => Some(hint),
        Err(error) => {
            let told = error.to_string();
            let last = told.lines().last().unwrap_or_default();
            fault(&format!("must be a regular expression: {last}"))
        }
    }
}

fn log_max_of(file: Option<&At<u64>>, found: &mut Found) -> u64 {
    let Some(file) = file else { return LOG_MAX };
    if file.value < LOG_MAX_LEAST {
        let (value, least) = (show_size(file.value), show_size(LOG_MAX_LEAST));
        let what =
            format!("upstream.embedded.log_max: {value}: must be at least {least}; raise it");
        found.add::<()>(file.at, what);
    }
    file.value
}

fn endpoint(
    text: &At<String>,
    i: usize,
    listen: &[At<Listen>],
    found: &mut Found,
) -> Option<Endpoint> {
    let value = &text.value;
    let mut fault =
        |what: &str| found.add(text.at, format!("upstream.endpoints[{i}]: {value}: {what}"));
    if listen.iter().any(|own| own.value.is_at(value)) {
        return fault("is where ferry itself listens: calls would go round for ever");
    }
    if let Some(path) = value.strip_prefix("unix:") {
        return match path {
            "" => fault("must name a socket, such as unix:/run/service.sock"),
            path => Some(Endpoint::Unix(path.into())),
        };
    }
    let Ok(uri) = value.parse::<http::Uri>() else {
        return fault("must be a URL, such as http://127.0.0.1:1228");
    };
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return fault("must begin with http://, https:// or unix:");
    }
    if uri.port_u16().is_none_or(|port| port == 0) {
        return fault("must name a port from 1 to 65535, such as :1228");
    }
    if uri.path() != "/" || uri.query().is_some() || value.contains('@') {
        return fault("must have nothing but host and port");
    }
    Some(Endpoint::Url(uri))
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
        (_, min, max) => (
            min.unwrap_or(LIMIT_MIN),
            max.unwrap_or_else(|| LIMIT_MAX.max(min.unwrap_or(0))),
        ),
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
