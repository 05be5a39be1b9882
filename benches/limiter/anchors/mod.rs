//! The known limiters, written anew from their published rules, behind the
//! trait that ferry's own rule has. Each keeps its published parameters and
//! its own first limit; ferry's bounds replace theirs.

mod aimd;
mod envoy;
mod gradient2;
mod vegas;

use ferry::limit::{Algorithm, LimitSettings, Limiter, Outcome, Rule};

/// Everything that is compared, ferry's own first.
pub(crate) const NAMES: [&str; 5] = ["little", "envoy", "gradient2", "vegas", "aimd"];

/// The limit of a rule that starts as its authors start it.
const FIRST: f64 = 20.0;

/// A limiter by its name in [`NAMES`].
pub(crate) fn limiter(name: &str) -> Limiter {
    let settings = LimitSettings::default();
    let rule: Box<dyn Rule> = match name {
        "envoy" => Box::new(envoy::Gradient::default()),
        "gradient2" => Box::new(gradient2::Gradient2::default()),
        "vegas" => Box::new(vegas::Vegas::default()),
        "aimd" => Box::new(aimd::Aimd::default()),
        _ => return Limiter::new(settings),
    };
    Limiter::with_rule(settings, rule)
}

/// A limit that stays.
pub(crate) fn fixed(max: u32) -> Limiter {
    Limiter::new(LimitSettings {
        algorithm: Algorithm::Fixed,
        min: 1,
        max,
    })
}

/// These rules know one kind of failure.
fn is_drop(outcome: Outcome) -> bool {
    outcome != Outcome::Success && outcome != Outcome::Failed
}

fn clamp(limit: f64) -> f64 {
    let bounds = LimitSettings::default();
    limit.clamp(f64::from(bounds.min), f64::from(bounds.max))
}
