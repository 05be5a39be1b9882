//! Who calls: a closed loop of clients, or arrivals that do not wait for
//! answers. A share is of what the plant can carry with full batches.

use serde::{Deserialize, Serialize};

/// One load of a scenario.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LoadShape {
    /// A name for the report.
    pub(crate) name: String,
    pub(crate) kind: Kind,
    /// Entries that arrive together. More than one makes a run cheaper and
    /// its arrivals coarser.
    #[serde(default = "one")]
    pub(crate) grain: u32,
    /// What each caller gives for its answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) deadline_ms: Option<f64>,
    /// The part of the callers that leave without an answer …
    #[serde(default)]
    pub(crate) leave: f64,
    /// … at some time before this one, uniformly.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) patience_ms: Option<f64>,
}

const fn one() -> u32 {
    1
}

/// How they call.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// Each calls again as soon as it is answered.
    Closed(Clients),
    /// Poisson at one share.
    Open(Share),
    /// Poisson, a low and a high share by turns.
    Swing(Swing),
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Clients {
    pub(crate) clients: u32,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Share {
    pub(crate) share: f64,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Swing {
    pub(crate) low: f64,
    pub(crate) high: f64,
    pub(crate) every_s: f64,
}

impl LoadShape {
    pub(crate) fn check(&self) -> Result<(), String> {
        let sound = self.grain > 0
            && self.deadline_ms.is_none_or(|ms| ms > 0.0)
            && self.patience_ms.is_none_or(|ms| ms > 0.0)
            && (0.0..=1.0).contains(&self.leave)
            && match &self.kind {
                Kind::Closed(closed) => closed.clients >= self.grain,
                Kind::Open(open) => open.share > 0.0,
                Kind::Swing(swing) => {
                    swing.low > 0.0 && swing.high >= swing.low && swing.every_s > 0.0
                }
            };
        match sound {
            true => Ok(()),
            false => Err(format!(
                "load {}: grain, clients, shares and times must be above zero",
                self.name
            )),
        }
    }

    /// Whether callers wait for their answers before they call again.
    pub(crate) fn is_closed(&self) -> bool {
        matches!(self.kind, Kind::Closed(_))
    }

    /// What an open load offers on the mean, as a share of what the plant can
    /// carry; 0 of a closed one, which offers what is answered.
    pub(crate) fn mean_share(&self) -> f64 {
        match &self.kind {
            Kind::Closed(_) => 0.0,
            Kind::Open(open) => open.share,
            Kind::Swing(swing) => f64::midpoint(swing.low, swing.high),
        }
    }

    /// The groups of callers of a closed loop, shared among `sidecars`.
    pub(crate) fn groups(&self, sidecars: usize) -> u32 {
        match &self.kind {
            Kind::Closed(closed) => {
                (closed.clients / self.grain / u32::try_from(sidecars).unwrap_or(1)).max(1)
            }
            _ => 0,
        }
    }

    /// Seconds to the next arrival at one of `sidecars`; `unit` is drawn from
    /// the exponential distribution of mean 1, `capacity` in entries a second.
    pub(crate) fn gap(&self, at: f64, unit: f64, capacity: f64, sidecars: usize) -> f64 {
        let share = match &self.kind {
            Kind::Closed(_) => return f64::INFINITY,
            Kind::Open(open) => open.share,
            Kind::Swing(swing) => match (at / swing.every_s) % 2.0 < 1.0 {
                true => swing.low,
                false => swing.high,
            },
        };
        #[allow(clippy::cast_precision_loss)]
        let rate = share * capacity / sidecars as f64;
        unit * f64::from(self.grain) / rate
    }
}
