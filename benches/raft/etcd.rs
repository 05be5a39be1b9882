//! A ferry node against etcd: one member each, the same disk, a hundred keys a
//! call and twenty calls in flight, over their sockets, from the same callers.
//! etcd gets transactions of a hundred puts, ferry batches of a hundred
//! sessions; both sync before they answer. One is measured at a time, so that
//! neither waits for the other's disk or cores.

use anyhow::Result;
use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use ferry::cli::bench::Form;
use serde::Serialize;

use super::{
    Bench,
    calls::Calls,
    child::cpu_of,
    etcd_server,
    figures::{Figures, Medians, verdict},
    nodes::{CALLS, Nodes},
};

/// Of etcd's keys a second.
const GOAL: f64 = 1.5;

/// Both.
#[derive(Serialize)]
pub(crate) struct Beside {
    etcd: Medians,
    ferry: Medians,
    /// ferry's keys a second over etcd's.
    ratio: f64,
}

#[derive(Clone, Copy, Debug)]
enum Side {
    Etcd,
    Ferry,
}

pub(crate) fn run(bench: &Bench<'_>) -> Result<Beside> {
    let sides = [Side::Etcd, Side::Ferry];
    let figures = bench.by_turns(
        &sides,
        |side| format!("{side:?}"),
        |side, _| match side {
            Side::Etcd => etcd(bench),
            Side::Ferry => {
                let node = Nodes::start(bench.folder, 1)?;
                node.measure(node.entrance(true)?, "etcd-", bench.sustained)
            }
        },
    )?;
    let mut medians = figures.into_iter().map(Medians::of);
    let mut next = || medians.next().expect("two sides were measured");
    let (etcd, ferry) = (next(), next());
    Ok(Beside {
        ratio: ferry.ratio_to(&etcd),
        etcd,
        ferry,
    })
}

fn etcd(bench: &Bench<'_>) -> Result<Figures> {
    let home = tempfile::tempdir_in(bench.folder)?;
    let runtime = tokio::runtime::Runtime::new()?;
    let (address, process) = runtime.block_on(etcd_server::etcd(home.path()))?;
    let calls = Calls {
        form: Form::Txn,
        ..CALLS
    };
    calls.run(address, "warm-up-", bench.sustained / 10)?;
    let before = cpu_of(process.0.id())?;
    let report = calls.run(address, "etcd-", bench.sustained)?;
    let cpu = cpu_of(process.0.id())?.saturating_sub(before);
    Ok(Figures::told(&report, cpu))
}

impl Beside {
    pub(crate) fn table(&self) -> String {
        let mut table = Table::new();
        table.load_style(UTF8_FULL_CONDENSED).set_header([
            "100 keys a call, 20 in flight",
            "keys/s",
            "slowest–fastest",
            "p50 ms",
            "p99 ms",
            "CPU µs a key",
        ]);
        for (name, medians) in [
            ("etcd, transactions", &self.etcd),
            ("ferry node, batches", &self.ferry),
        ] {
            let figures = medians.figures;
            table.add_row([
                name.to_owned(),
                format!("{:.0}", figures.sessions_per_second),
                medians.range(),
                format!("{:.2}", figures.p50_ms),
                format!("{:.2}", figures.p99_ms),
                format!("{:.2}", figures.cpu_us_per_session),
            ]);
        }
        format!(
            "{table}\n{}",
            verdict("ferry, of etcd's keys a second:", self.ratio, GOAL)
        )
    }
}
