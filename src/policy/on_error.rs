//! What becomes of a batch that failed: who is tried again, and who never is.

use std::time::Duration;

use tonic::Code;

use super::{
    bounds::{count, span},
    fault::Found,
    file::OnErrorFile,
    section::At,
};

const ATTEMPTS: u64 = 3;
const ATTEMPTS_BOUND: u64 = 16;
const BACKOFF: Duration = Duration::from_millis(25);
const BACKOFF_BOUNDS: (Duration, Duration) = (Duration::from_millis(1), Duration::from_secs(10));
const ATTEMPT_BOUNDS: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(600));

/// The statuses by the names that a policy has for them.
pub(super) const CODES: [(&str, Option<Code>); 16] = [
    ("CANCELLED", Some(Code::Cancelled)),
    ("UNKNOWN", Some(Code::Unknown)),
    ("INVALID_ARGUMENT", Some(Code::InvalidArgument)),
    ("DEADLINE_EXCEEDED", Some(Code::DeadlineExceeded)),
    ("NOT_FOUND", Some(Code::NotFound)),
    ("ALREADY_EXISTS", Some(Code::AlreadyExists)),
    ("PERMISSION_DENIED", Some(Code::PermissionDenied)),
    ("RESOURCE_EXHAUSTED", Some(Code::ResourceExhausted)),
    ("FAILED_PRECONDITION", Some(Code::FailedPrecondition)),
    ("ABORTED", Some(Code::Aborted)),
    ("OUT_OF_RANGE", Some(Code::OutOfRange)),
    ("UNIMPLEMENTED", Some(Code::Unimplemented)),
    ("INTERNAL", Some(Code::Internal)),
    ("UNAVAILABLE", Some(Code::Unavailable)),
    ("DATA_LOSS", Some(Code::DataLoss)),
    ("UNAUTHENTICATED", Some(Code::Unauthenticated)),
];

/// Statuses after which a batch may have been applied, or was never looked at:
/// neither says that one of its entries is at fault.
const NO_REJECTION: [Code; 5] = [
    Code::Cancelled,
    Code::Unknown,
    Code::DeadlineExceeded,
    Code::ResourceExhausted,
    Code::Unavailable,
];

/// The checked `on_error` section.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OnError {
    /// Statuses by which the upstream rejects a batch for some of its entries,
    /// none of which was applied: its halves are tried each by itself.
    pub bisect: Vec<Code>,
    /// After which statuses a batch is sent again as it is.
    pub retry: Option<Retry>,
}

/// When a batch is sent again, which is only where that does no harm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// How often it is sent at most, the first time included.
    pub attempts: u32,
    /// After these statuses.
    pub on: Vec<Code>,
    /// The mean wait before the second time; it doubles each time.
    pub backoff: Duration,
    /// How long an answer is waited for before it is sent again. What was sent
    /// first may still take effect, also after a later write of the same key.
    pub attempt_timeout: Option<Duration>,
}

impl OnError {
    /// Whether a batch that failed is never sent again in any way.
    #[must_use]
    pub fn is_final(&self) -> bool {
        self.bisect.is_empty() && self.retry.is_none()
    }
}

/// The rules in `file`; `path` is how faults name it.
pub(super) fn check(file: &OnErrorFile, path: &str, found: &mut Found) -> OnError {
    for code in &file.bisect {
        let name = name(code.value);
        if NO_REJECTION.contains(&code.value) {
            let what = "does not say that an entry is at fault; take it off the list";
            found.add::<()>(code.at, format!("{path}.bisect: {name}: {what}"));
        } else if !file.atomic.as_ref().is_some_and(|atomic| atomic.value) {
            let what = "must have atomic: true beside it, which says that nothing of a rejected \
                        batch was applied; add it, or take the status off the list";
            found.add::<()>(code.at, format!("{path}.bisect: {name}: {what}"));
        }
    }
    let retry = file.retry.as_ref().and_then(|retry| {
        let path = format!("{path}.retry");
        if !retry.idempotent.as_ref().is_some_and(|flag| flag.value) {
            let what = "must have idempotent: true, which says that twice does no harm; add it, \
                        or leave retry out";
            return found.add(retry.at, format!("{path}: {what}"));
        }
        if retry.on.is_empty() {
            let what = "must have at least 1 status under on; write on: [UNAVAILABLE]";
            return found.add(retry.at, format!("{path}: {what}"));
        }
        let both = |code: &&At<Code>| file.bisect.iter().any(|held| held.value == code.value);
        if let Some(code) = retry.on.iter().find(both) {
            let what = "stands under bisect too; keep one of them";
            return found.add(code.at, format!("{path}.on: {}: {what}", name(code.value)));
        }
        let attempts = count(
            retry.attempts.as_ref(),
            &format!("{path}.attempts"),
            ATTEMPTS_BOUND,
            found,
        );
        let backoff = span(
            retry.backoff.clone(),
            &format!("{path}.backoff"),
            BACKOFF_BOUNDS,
            found,
        );
        let attempt_timeout = span(
            retry.attempt_timeout.clone(),
            &format!("{path}.attempt_timeout"),
            ATTEMPT_BOUNDS,
            found,
        );
        Some(Retry {
            attempts: u32::try_from(attempts.unwrap_or(ATTEMPTS)).ok()?,
            on: retry.on.iter().map(|code| code.value).collect(),
            backoff: backoff.unwrap_or(BACKOFF),
            attempt_timeout,
        })
    });
    OnError {
        bisect: file.bisect.iter().map(|code| code.value).collect(),
        retry,
    }
}

/// The name that a policy has for `code`.
pub(super) fn name(code: Code) -> &'static str {
    let known = CODES.iter().find(|(_, known)| *known == Some(code));
    known.map_or("OK", |(name, _)| name)
}
