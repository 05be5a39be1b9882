//! What a child process cost, from `/proc`: the benches are for Linux.

use std::{fs, time::Duration};

use anyhow::{Context, Result};

/// Ticks of `/proc/PID/stat` a second: fixed by Linux's interface to programs.
const TICKS_A_SECOND: u64 = 100;

/// What a child process used of its cores, threads that have ended included,
/// to a hundredth of a second. To be read before the child is waited for.
pub(crate) fn cpu_of(id: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat"))?;
    // The name, in parentheses, may hold blanks; user and system time are the
    // 12th and 13th fields after it.
    let (_, fields) = stat.rsplit_once(')').context("/proc/PID/stat has a name")?;
    let mut ticks = fields.split_ascii_whitespace().skip(11);
    let mut next = || -> Result<u64> {
        let field = ticks.next().context("/proc/PID/stat has 52 fields")?;
        Ok(field.parse()?)
    };
    let ticks = next()? + next()?;
    Ok(Duration::from_millis(ticks * 1_000 / TICKS_A_SECOND))
}
