//! The goals of the evaluation: what a rule should reach on its worst plant,
//! and on which loads each goal is judged.

use std::fmt::Write as _;

use super::{
    figures::Figures,
    load::{Kind, LoadShape},
    report::Line,
    scenario::Scenario,
};

/// A way that holds so much that a batch more or less tells little, ms.
const LONG_WAY: f64 = 30.0;

/// What of a scenario and load decides which goals they speak to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Case {
    kind: Shape,
    steps: bool,
    fleet: bool,
    /// Callers leave early, or have deadlines.
    impatient: bool,
    way_ms: f64,
    /// Who is told at once that nobody is there has waited for nothing, so the
    /// latency of those who were answered says nothing of a rule.
    outage: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    Closed,
    Open,
    Over,
    Swing,
}

impl Case {
    pub(crate) fn of(scenario: &Scenario, load: &LoadShape) -> Self {
        Self {
            kind: match &load.kind {
                Kind::Closed(_) => Shape::Closed,
                Kind::Open(open) if open.share > 1.0 => Shape::Over,
                Kind::Open(_) => Shape::Open,
                Kind::Swing(_) => Shape::Swing,
            },
            steps: !scenario.plant.steps.is_empty(),
            fleet: scenario.sidecars > 1,
            impatient: load.leave > 0.0 || load.deadline_ms.is_some(),
            way_ms: scenario.plant.delay_ms,
            outage: scenario.plant.outage.is_some(),
        }
    }
}

/// A row of the goals: what counts, and whether more of it is better.
struct Goal {
    name: &'static str,
    bound: f64,
    more: bool,
    figure: fn(&Figures) -> Option<f64>,
    counts: fn(&Case) -> bool,
}

const GOALS: [Goal; 10] = [
    Goal {
        name: "throughput / oracle",
        bound: 0.98,
        more: true,
        figure: |f| Some(f.throughput_ratio),
        counts: |case| matches!(case.kind, Shape::Closed | Shape::Over),
    },
    Goal {
        name: "median plant latency / oracle",
        bound: 1.2,
        more: false,
        figure: |f| Some(f.latency_ratio),
        counts: |case| case.kind == Shape::Closed,
    },
    Goal {
        name: "open-loop p99 / oracle",
        bound: 1.2,
        more: false,
        figure: |f| Some(f.p99_ratio),
        counts: |case| case.kind == Shape::Open && !case.outage,
    },
    Goal {
        name: "size-swing p99 / oracle",
        bound: 1.1,
        more: false,
        figure: |f| Some(f.p99_ratio),
        counts: |case| case.kind == Shape::Swing && !case.outage,
    },
    Goal {
        name: "seconds below 95 % after a step",
        bound: 1.0,
        more: false,
        figure: |f| Some(f.seconds_below_95),
        counts: |case| case.kind == Shape::Closed && case.steps,
    },
    Goal {
        name: "start to 95 %, RTT",
        bound: 20.0,
        more: false,
        figure: |f| Some(f.start_rtts),
        counts: |case| case.kind == Shape::Closed,
    },
    Goal {
        name: "probing cost, %",
        bound: 0.5,
        more: false,
        figure: |f| f.probing_cost.map(|cost| cost * 100.0),
        counts: |case| case.way_ms < LONG_WAY,
    },
    Goal {
        name: "probing cost over a way of 30 ms, %",
        bound: 1.5,
        more: false,
        figure: |f| f.probing_cost.map(|cost| cost * 100.0),
        counts: |case| case.way_ms >= LONG_WAY,
    },
    Goal {
        name: "Jain fairness",
        bound: 0.98,
        more: true,
        figure: |f| Some(f.jain),
        counts: |case| case.kind == Shape::Closed && case.fleet,
    },
    Goal {
        name: "ghosts where callers leave",
        bound: 0.0,
        more: false,
        figure: |f| Some(f.ghosts),
        counts: |case| case.impatient,
    },
];

impl Goal {
    /// A line's figure, where the goal speaks to it.
    fn value(&self, line: &Line) -> Option<f64> {
        (self.counts)(&line.case)
            .then(|| (self.figure)(&line.figures))
            .flatten()
    }

    fn misses(&self, value: f64) -> bool {
        match self.more {
            true => value < self.bound,
            false => value > self.bound,
        }
    }

    /// The lines that it speaks to, the worst first.
    fn worst_first<'a>(&self, lines: &'a [Line], rule: &str) -> Vec<(f64, &'a Line)> {
        let own = lines.iter().filter(|line| line.algorithm == rule);
        let mut valued: Vec<(f64, &Line)> = own
            .filter_map(|line| Some((self.value(line)?, line)))
            .collect();
        valued.sort_by(|a, b| match self.more {
            true => a.0.total_cmp(&b.0),
            false => b.0.total_cmp(&a.0),
        });
        valued
    }

    fn heading(&self) -> String {
        let sign = if self.more { "≥" } else { "≤" };
        format!("| {} | {sign} {} |", self.name, self.bound)
    }
}

/// A figure to three digits, without a sign on nothing.
fn shown(value: f64) -> String {
    let text = match value.abs() >= 100.0 {
        true => format!("{value:.0}"),
        false => format!("{value:.3}"),
    };
    if text == "-0.000" {
        "0.000".into()
    } else {
        text
    }
}

/// The goals as a Markdown table: each rule's worst plant.
pub(crate) fn table(lines: &[Line], rules: &[&'static str]) -> String {
    let mut table = String::from("| worst plant | goal |");
    for name in rules {
        let _ = write!(table, " {name} |");
    }
    table.push_str("\n|---|---|");
    table.push_str(&"---|".repeat(rules.len()));
    for goal in &GOALS {
        let _ = write!(table, "\n{}", goal.heading());
        for name in rules {
            let Some((value, worst)) = goal.worst_first(lines, name).into_iter().next() else {
                table.push_str(" not run |");
                continue;
            };
            let mark = if goal.misses(value) { "" } else { " ✓" };
            let place = format!("{} {}", worst.scenario, worst.load);
            let _ = write!(table, " {}{mark} ({place}) |", shown(value));
        }
    }
    table
}

/// One rule's worst plant and the next worst ones, as a Markdown table.
pub(crate) fn own(lines: &[Line], rule: &str) -> String {
    let mut table = format!("| worst plant | goal | {rule} | next worst |\n|---|---|---|---|");
    for goal in &GOALS {
        let named: Vec<String> = (goal.worst_first(lines, rule).iter())
            .take(4)
            .map(|(value, line)| {
                let mark = if goal.misses(*value) { "" } else { " ✓" };
                let place = format!("{} {}", line.scenario, line.load);
                format!("{}{mark} ({place})", shown(*value))
            })
            .collect();
        let (worst, others) = named
            .split_first()
            .map_or(("not run", [].as_slice()), |n| (n.0.as_str(), n.1));
        let _ = write!(
            table,
            "\n{} {worst} | {} |",
            goal.heading(),
            others.join(", ")
        );
    }
    table
}

/// Each rule's worst value of each goal, without its place.
pub(crate) fn values(lines: &[Line], rules: &[&'static str]) -> String {
    let mut table = format!("| worst plant | goal | {} |\n|---|---|", rules.join(" | "));
    table.push_str(&"---|".repeat(rules.len()));
    for goal in &GOALS {
        let _ = write!(table, "\n{}", goal.heading());
        for rule in rules {
            let worst = goal
                .worst_first(lines, rule)
                .first()
                .map(|(value, _)| *value);
            let text = worst.map_or("not run".into(), |value| {
                let mark = if goal.misses(value) { "" } else { " ✓" };
                format!("{}{mark}", shown(value))
            });
            let _ = write!(table, " {text} |");
        }
    }
    table
}

/// A rule's figures under each load.
pub(crate) fn loads(lines: &[Line], rule: &str) -> String {
    let mut table = String::from(
        "| plant | load | throughput | latency | p99 | p99, ms | limit | oracle’s | s below 95 % | start, RTT | probing, % |\n\
         |---|---|---|---|---|---|---|---|---|---|---|",
    );
    for line in lines.iter().filter(|line| line.algorithm == rule) {
        let f = &line.figures;
        // An open load has no pace to reach.
        let start = match line.case.kind {
            Shape::Closed => format!("{:.0}", f.start_rtts),
            _ => String::new(),
        };
        let probing = f.probing_cost;
        let probing = probing.map_or(String::new(), |cost| format!("{:.2}", cost * 100.0));
        let _ = write!(
            table,
            "\n| {} | {} | {:.3} | {:.2} | {:.2} | {:.1} | {:.1} | {:.1} | {:.2} | {start} | {probing} |",
            line.scenario,
            line.load,
            f.throughput_ratio,
            f.latency_ratio,
            f.p99_ratio,
            f.p99_ratio * f.oracle_p99_ms,
            f.mean_limit,
            f.oracle_limit,
            f.seconds_below_95,
        );
    }
    table
}

/// The goals over many plants that nobody chose: the worst three of a rule,
/// what nine of ten reach, the median, and how many miss the goal.
pub(crate) fn spread(lines: &[Line], rule: &str) -> String {
    let mut table = format!("| {rule} | goal | missed | median | 9 of 10 | worst | |\n");
    table.push_str("|---|---|---|---|---|---|---|");
    for goal in &GOALS {
        let valued = goal.worst_first(lines, rule);
        let Some((value, _)) = valued.first() else {
            let _ = write!(table, "\n{} not run | | | | |", goal.heading());
            continue;
        };
        let missed = valued.iter().filter(|(v, _)| goal.misses(*v)).count();
        let at = |part: usize| shown(valued[valued.len() * part / 10].0);
        let named = valued.iter().take(3);
        let named: Vec<String> = named
            .map(|(v, line)| format!("{} {} {}", line.scenario, line.load, shown(*v)))
            .collect();
        let _ = write!(
            table,
            "\n{} {missed} of {} | {} | {} | {} | {} |",
            goal.heading(),
            valued.len(),
            at(5),
            at(1),
            shown(*value),
            named.join(", ")
        );
    }
    table
}
