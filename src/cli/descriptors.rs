//! As many descriptors as the connections need that the guards let in.
//!
//! Systems give a process a low limit at first, for programs that cannot do with
//! more, and a high one that it may raise it to.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::accept::Guards;

/// For all that is no caller's connection: the upstream's, the admin address's,
/// data files.
const OTHERS: usize = 1_024;

/// Raises this process's limit as far as `listeners` with these `guards` need,
/// and says so if that is further than it may.
pub(super) fn provide_for(listeners: usize, guards: &Guards) {
    let needed = guards.max_connections.saturating_mul(listeners);
    let needed = u64::try_from(needed.saturating_add(OTHERS)).unwrap_or(u64::MAX);
    let limit = getrlimit(Resource::Nofile);
    let Some(more) = raised(limit, needed) else {
        return;
    };
    let set = setrlimit(Resource::Nofile, more);
    let now = if set.is_ok() { more } else { limit };
    if let Some(now) = now.current.filter(|now| *now < needed) {
        tracing::warn!(
            "{now} files may be open, and guards.max_connections needs {needed} with what else \
             is open; raise the limit (ulimit -n, LimitNOFILE) or lower the guard"
        );
    }
}

/// The limit in the place of one that is too low for `needed`.
fn raised(limit: Rlimit, needed: u64) -> Option<Rlimit> {
    limit.current.filter(|now| *now < needed)?;
    let most = limit.maximum.unwrap_or(needed);
    Some(Rlimit {
        current: Some(needed.min(most)),
        maximum: limit.maximum,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_raised_as_far_as_is_needed_and_allowed_and_never_lowered() {
        let raised = |current, maximum| {
            let more = raised(Rlimit { current, maximum }, 10_000)?;
            assert_eq!(more.maximum, maximum);
            more.current
        };
        assert_eq!(raised(Some(1_024), Some(500_000)), Some(10_000));
        assert_eq!(raised(Some(1_024), None), Some(10_000));
        assert_eq!(raised(Some(1_024), Some(4_096)), Some(4_096));
        assert_eq!(raised(Some(10_000), Some(500_000)), None);
        assert_eq!(raised(None, None), None);
    }
}
