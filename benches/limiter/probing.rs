//! What probing itself costs: the throughput that a rule loses because it
//! moves its limit, whatever it is worth to have moved it.
//!
//! The counterfactual is the same plant, load and seed under a limit that does
//! not move, held where the rule's limit is on the mean over time:
//!
//! ```text
//! cost = 1 − X_rule / X_fixed(mean limit)      dimensionless, after the warm-up
//! ```
//!
//! Where the mean lies between two whole limits, X_fixed lies as far between
//! what the two of them carry. A limit that is too low or too high on the mean
//! is another fault, and shows in the throughput or the latency. The cost can
//! be told only where nothing else makes a rule move: under a closed load of
//! one sidecar, on plants without steps, stalls and outages.

use super::{memory::Fixed, oracle::Part, scenario::Scenario, sim::Setup, trace::Trace};

/// Whether the cost can be told.
pub(crate) fn is_told(scenario: &Scenario, setup: &Setup<'_>) -> bool {
    let plant = &scenario.plant;
    let still = plant.steps.is_empty() && plant.stall.is_none() && plant.outage.is_none();
    setup.load.is_closed() && still && scenario.sidecars == 1
}

/// The cost of a run, whose only segment `own` is.
pub(crate) fn cost(
    trace: &Trace,
    segment: (f64, f64),
    own: &Part,
    fixed: &mut Fixed<'_>,
    run: impl Fn(u32) -> Vec<Part>,
) -> f64 {
    let mean = mean_limit(trace, segment).max(1.0);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let (below, above) = (mean.floor() as u32, mean.ceil() as u32);
    let mut carried = |limit| fixed.parts(limit, || run(limit))[0].throughput;
    let (low, high) = (carried(below), carried(above));
    let held = (mean - mean.floor()).mul_add(high - low, low);
    match held > 0.0 {
        true => 1.0 - own.throughput / held,
        false => 0.0,
    }
}

/// Over time, not over batches: a low limit answers fewer of them.
fn mean_limit(trace: &Trace, (from, to): (f64, f64)) -> f64 {
    let first = trace.answered.partition_point(|a| a.at < from);
    let last = trace.answered.partition_point(|a| a.at < to);
    let (mut area, mut time) = (0.0, 0.0);
    for pair in trace.answered[first..last].windows(2) {
        let gap = pair[1].at - pair[0].at;
        area += gap * f64::from(pair[0].limit);
        time += gap;
    }
    if time > 0.0 { area / time } else { 0.0 }
}

#[cfg(test)]
#[allow(dead_code, unused_imports)] // of no use to the bench, which has no harness
mod tests {
    use ferry::limit::{LimitSettings, Limiter, Rule, Sample};

    use super::{
        super::{
            anchors,
            load::{Clients, Kind, LoadShape},
            memory::Memory,
            oracle,
            plant::PlantShape,
            sim,
        },
        *,
    };

    /// Goes to and fro between two limits, fifty answers each.
    #[derive(Debug)]
    struct Restless(f64, f64, u32);

    impl Rule for Restless {
        fn learn(&mut self, _: &Sample) {
            self.2 += 1;
        }

        fn limit(&self) -> f64 {
            if (self.2 / 50).is_multiple_of(2) {
                self.0
            } else {
                self.1
            }
        }
    }

    fn cost_of(low: f64, high: f64) -> f64 {
        let plant = PlantShape {
            base_ms: 1.0,
            delay_ms: 4.0,
            ..PlantShape::default()
        };
        let load = LoadShape {
            name: "closed".into(),
            kind: Kind::Closed(Clients { clients: 2_000 }),
            grain: 20,
            deadline_ms: None,
            leave: 0.0,
            patience_ms: None,
        };
        let setup = Setup {
            plant: &plant,
            load: &load,
            batch: 100,
            sidecars: 1,
            clocks_ms: 0.0,
            seconds: 5.0,
            seed: 1,
            deaf: false,
        };
        let segment = (1.0, 5.0);
        let rule = || Box::new(Restless(low, high, 0));
        let trace = sim::run(&setup, || {
            Limiter::with_rule(LimitSettings::default(), rule())
        });
        let parts = oracle::parts(&trace, &[segment]);
        let memory = Memory::new(Some("off".as_ref()), false);
        let mut fixed = memory.open("key".into());
        cost(&trace, segment, &parts[0], &mut fixed, |limit| {
            oracle::parts(&sim::run(&setup, || anchors::fixed(limit)), &[segment])
        })
    }

    #[test]
    fn a_limit_that_does_not_move_costs_nothing() {
        assert_eq!(cost_of(4.0, 4.0), 0.0);
    }

    #[test]
    fn a_limit_that_goes_to_and_fro_costs_what_its_mean_would_have_carried() {
        // Five batches carry all of it; 2 and 8 by turns carry 2/5 and all of it
        // for fifty batches each: 100 of them in the time of 175.
        let cost = cost_of(2.0, 8.0);
        assert!((0.2..0.5).contains(&cost), "{cost}");
        // Where more carries nothing more, moving is free.
        let cost = cost_of(6.0, 8.0);
        assert!(cost.abs() < 0.01, "{cost}");
    }
}
