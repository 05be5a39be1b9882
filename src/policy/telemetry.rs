//! What ferry tells of single calls and batches, beside its metrics.

use std::{num::NonZeroU32, path::Path, time::Duration};

use super::{
    bounds::{count, span},
    fault::Found,
    keys::TELEMETRY,
    section::Section,
    traces::{self, TracesTo},
    units::show_duration,
};

/// Ten times what a healthy synced write takes on a spinning disk.
const SLOW_BATCH: Duration = Duration::from_millis(500);
const SLOW_BOUNDS: (Duration, Duration) = (Duration::from_millis(1), Duration::from_secs(3_600));

/// The checked `telemetry` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Telemetry {
    /// Whether a caller that sends `ferry-explain` is told what became of its
    /// call.
    pub explain: bool,
    /// A batch that takes longer, from its first entry's arrival to its last
    /// answer, is listed and logged.
    pub slow_batch: Duration,
    /// One call in so many has a line in the access log; `None` is no log.
    pub access_log: Option<NonZeroU32>,
    /// Where spans of batches are sent, if anywhere.
    pub traces: Option<TracesTo>,
}

impl Default for Telemetry {
    fn default() -> Self {
        Self {
            explain: true,
            slow_batch: SLOW_BATCH,
            access_log: None,
            traces: None,
        }
    }
}

/// The section in `top`, or what holds without one.
pub(super) fn read(top: &Section<'_>, folder: &Path, found: &mut Found) -> Telemetry {
    let default = Telemetry::default();
    let Some(section) = top.section("telemetry", &TELEMETRY, found) else {
        return default;
    };
    let explain = section.flag("explain", found);
    let slow = section.duration("slow_batch", found);
    let slow = span(slow, "telemetry.slow_batch", SLOW_BOUNDS, found);
    let log = one_in(&section, "access_log", found);
    let traces = traces::read(&section, folder, found);
    Telemetry {
        explain: explain.map_or(default.explain, |explain| explain.value),
        slow_batch: slow.unwrap_or(default.slow_batch),
        access_log: log,
        traces,
    }
}

/// One of so many.
pub(super) fn one_in(section: &Section<'_>, key: &str, found: &mut Found) -> Option<NonZeroU32> {
    let told = section.count(key, found);
    let path = section.path_of(key);
    let told = count(told.as_ref(), &path, u64::from(u32::MAX), found)?;
    NonZeroU32::new(u32::try_from(told).ok()?)
}

/// In words, for `ferry check`.
pub(super) fn describe(telemetry: &Telemetry) -> String {
    let explain = match telemetry.explain {
        true => "ferry-explain is answered",
        false => "ferry-explain is ignored",
    };
    let slow = show_duration(telemetry.slow_batch);
    let log = match telemetry.access_log.map(NonZeroU32::get) {
        None => "no access log".to_owned(),
        Some(1) => "every call in the access log".to_owned(),
        Some(calls) => format!("one call in {calls} in the access log"),
    };
    let traces = traces::describe(telemetry.traces.as_ref());
    format!("{explain}; a batch is slow after {slow}; {log}; {traces}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Policy;

    fn load(section: &str) -> Result<Telemetry, String> {
        let yaml = format!("version: 1\nupstream: {{embedded: {{}}}}\nmethods: []\n{section}");
        let policy = Policy::load(&yaml, Path::new("policy.yaml"));
        policy
            .map(|policy| policy.telemetry)
            .map_err(|faults| faults.to_string())
    }

    #[test]
    fn telemetry_has_its_defaults_and_what_the_policy_says_instead() {
        assert_eq!(load("").unwrap(), Telemetry::default());
        let told = load("telemetry: {explain: false, slow_batch: 20ms, access_log: 100}\n");
        let told = told.unwrap();
        assert!(!told.explain);
        assert_eq!(told.slow_batch, Duration::from_millis(20));
        assert_eq!(
            describe(&told),
            "ferry-explain is ignored; a batch is slow after 20ms; one call in 100 in the access \
             log; no traces"
        );
    }

    #[test]
    fn a_fault_in_telemetry_is_told_with_its_key_and_bound() {
        for (section, told) in [
            ("{slow_batch: 1us}", "telemetry.slow_batch"),
            ("{access_log: 0}", "telemetry.access_log: 0: must be"),
            ("{access_lag: 1}", "did you mean access_log"),
            ("{explain: maybe}", "true or false"),
        ] {
            let faults = load(&format!("telemetry: {section}\n")).unwrap_err();
            assert!(faults.contains(told), "{section}: {faults}");
        }
    }
}
