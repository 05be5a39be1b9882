//! What ferry tells of single calls and batches, beside its metrics.

use std::{num::NonZeroU32, time::Duration};

use http::Uri;

use super::{
    bounds::{count, span},
    fault::Found,
    section::{Keys, Section},
    units::show_duration,
};

const KEYS: Keys = Keys {
    known: &["explain", "slow_batch", "access_log", "traces"],
    later: &[],
};

const TRACES: Keys = Keys {
    known: &["endpoint", "one_in"],
    later: &[],
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

/// A collector that takes OTLP over gRPC, and what it is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TracesTo {
    /// `http://host:port`.
    pub endpoint: String,
    /// One batch in so many has a span although no caller's is recorded;
    /// `None` is no such batch.
    pub one_in: Option<NonZeroU32>,
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
pub(super) fn read(top: &Section<'_>, found: &mut Found) -> Telemetry {
    let default = Telemetry::default();
    let Some(section) = top.section("telemetry", &KEYS, found) else {
        return default;
    };
    let explain = section.flag("explain", found);
    let slow = section.duration("slow_batch", found);
    let slow = span(slow, "telemetry.slow_batch", SLOW_BOUNDS, found);
    let log = one_in(&section, "access_log", found);
    let traces = section.section("traces", &TRACES, found);
    let traces = traces.and_then(|traces| traces_to(&traces, found));
    Telemetry {
        explain: explain.map_or(default.explain, |explain| explain.value),
        slow_batch: slow.unwrap_or(default.slow_batch),
        access_log: log,
        traces,
    }
}

/// One of so many.
fn one_in(section: &Section<'_>, key: &str, found: &mut Found) -> Option<NonZeroU32> {
    let told = section.count(key, found);
    let path = section.path_of(key);
    let told = count(told.as_ref(), &path, u64::from(u32::MAX), found)?;
    NonZeroU32::new(u32::try_from(told).ok()?)
}

fn traces_to(traces: &Section<'_>, found: &mut Found) -> Option<TracesTo> {
    let one_in = one_in(traces, "one_in", found);
    traces.require("endpoint", "write endpoint: http://127.0.0.1:4317", found)?;
    let endpoint = traces.text("endpoint", found)?;
    let uri = endpoint.value.parse::<Uri>().ok();
    let is_one = uri.is_some_and(|uri| {
        let plain = uri.path() == "/" && uri.query().is_none();
        plain && uri.scheme_str() == Some("http") && uri.port().is_some()
    });
    if !is_one {
        let what = "must be http://host:port of a collector that takes OTLP over gRPC";
        let path = traces.path_of("endpoint");
        return found.add(endpoint.at, format!("{path}: {}: {what}", endpoint.value));
    }
    Some(TracesTo {
        endpoint: endpoint.value,
        one_in,
    })
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
    let traces = match &telemetry.traces {
        None => "no traces".to_owned(),
        Some(TracesTo {
            endpoint,
            one_in: None,
        }) => format!("spans to {endpoint} of batches with a traced caller"),
        Some(TracesTo {
            endpoint,
            one_in: Some(batches),
        }) => {
            format!("spans to {endpoint} of batches with a traced caller, and of one in {batches}")
        }
    };
    format!("{explain}; a batch is slow after {slow}; {log}; {traces}")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

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
            (
                "{traces: {one_in: 10}}",
                "telemetry.traces.endpoint: is missing",
            ),
            (
                "{traces: {endpoint: 'localhost:4317'}}",
                "must be http://host:port",
            ),
            (
                "{traces: {endpoint: 'http://a:4317/v1/traces'}}",
                "over gRPC",
            ),
        ] {
            let faults = load(&format!("telemetry: {section}\n")).unwrap_err();
            assert!(faults.contains(told), "{section}: {faults}");
        }
    }
}
