//! How busy the calling thread was, so that a bench can say that it, and not
//! the server, was the limit. Read from `/proc`, since the system call would
//! need unsafe code; where there is no such file the answer is "not known",
//! which is said too, rather than a reassuring silence.

use std::{fs, time::Duration};

/// The state of the calling thread at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ThreadTime {
    /// Time spent on a core.
    pub(super) running: Duration,
    /// Time spent runnable, waiting for a core.
    pub(super) waiting: Duration,
}

impl ThreadTime {
    /// Of the thread that calls; `None` where the system does not tell.
    pub(super) fn now() -> Option<Self> {
        parse(&fs::read_to_string("/proc/thread-self/schedstat").ok()?)
    }

    /// What passed since `earlier`.
    pub(super) fn since(self, earlier: Self) -> Self {
        Self {
            running: self.running.saturating_sub(earlier.running),
            waiting: self.waiting.saturating_sub(earlier.waiting),
        }
    }
}

/// The kernel writes: nanoseconds on a core, nanoseconds waiting, timeslices.
fn parse(line: &str) -> Option<ThreadTime> {
    let mut fields = line.split_ascii_whitespace().map(str::parse);
    let mut next = || fields.next()?.ok().map(Duration::from_nanos);
    Some(ThreadTime {
        running: next()?,
        waiting: next()?,
    })
}

/// The warning that the figures deserve, if any: `spent` of the generator's
/// thread within `wall`.
pub(super) fn verdict(spent: Option<ThreadTime>, wall: Duration) -> Option<String> {
    let Some(ThreadTime { running, waiting }) = spent else {
        return Some(
            "the CPU time of the load generator is not readable here (no \
             /proc/thread-self/schedstat): it may have been the limit"
                .into(),
        );
    };
    let share = |part: Duration| 100.0 * part.as_secs_f64() / wall.as_secs_f64().max(1e-9);
    let (on, off) = (share(running), share(waiting));
    if on >= 90.0 {
        Some(format!(
            "the load generator was the limit: its thread ran {on:.0} % of the time; \
             the server may do more"
        ))
    } else if on + off >= 90.0 {
        Some(format!(
            "the machine was the limit: the load generator's thread ran {on:.0} % of the time \
             and waited for a core another {off:.0} %; give it a core of its own"
        ))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spent(running: u64, waiting: u64) -> Option<ThreadTime> {
        Some(ThreadTime {
            running: Duration::from_millis(running),
            waiting: Duration::from_millis(waiting),
        })
    }

    #[test]
    fn the_kernels_line_is_read() {
        let read = parse("1500000 2500000 17\n").unwrap();
        assert_eq!(read.running, Duration::from_micros(1_500));
        assert_eq!(read.waiting, Duration::from_micros(2_500));
        assert_eq!(parse(""), None);
        assert_eq!(parse("12"), None);
    }

    #[test]
    fn a_busy_generator_is_reported_as_the_limit_and_an_idle_one_is_not() {
        let wall = Duration::from_secs(1);
        assert!(verdict(spent(950, 0), wall).unwrap().contains("ran 95 %"));
        assert!(
            verdict(spent(500, 450), wall)
                .unwrap()
                .starts_with("the machine was the limit")
        );
        assert_eq!(verdict(spent(500, 100), wall), None);
        assert!(verdict(None, wall).unwrap().contains("not readable"));
    }
}
