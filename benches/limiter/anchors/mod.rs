//! What is compared: the rules that ship, and known limiters that do not,
//! written anew from their published rules behind the trait that ferry's own
//! rule has. Each keeps its published parameters and its own first limit;
//! ferry's bounds replace theirs.

mod envoy;

use ferry::limit::{Algorithm, LimitSettings, Limiter};

/// Everything that is compared, ferry's own first.
pub(crate) const NAMES: [&str; 5] = ["little", "envoy", "gradient2", "vegas", "aimd"];

/// A limiter by its name in [`NAMES`].
pub(crate) fn limiter(name: &str) -> Limiter {
    let settings = LimitSettings::default();
    if name == "envoy" {
        return Limiter::with_rule(settings, Box::new(envoy::Gradient::default()));
    }
    let shipped = Algorithm::ALL.iter().find(|shipped| shipped.name() == name);
    let algorithm = *shipped.expect("every name but envoy's is a policy's");
    Limiter::new(LimitSettings {
        algorithm,
        ..settings
    })
}

/// A limit that stays.
pub(crate) fn fixed(max: u32) -> Limiter {
    Limiter::new(LimitSettings {
        algorithm: Algorithm::Fixed,
        min: 1,
        max,
    })
}

fn clamp(limit: f64) -> f64 {
    let bounds = LimitSettings::default();
    limit.clamp(f64::from(bounds.min), f64::from(bounds.max))
}
