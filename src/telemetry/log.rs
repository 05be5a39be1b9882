//! What is logged, changeable while the process runs.
//!
//! There is one log a process, so there is one of these: the command line,
//! which sets the log up, says how its filter is changed.

use std::sync::OnceLock;

type Change = Box<dyn Fn(&str) -> Result<(), String> + Send + Sync>;

static CHANGE: OnceLock<Change> = OnceLock::new();

/// Says how the log's filter is changed; the first to say so is believed.
pub fn changed_by(change: impl Fn(&str) -> Result<(), String> + Send + Sync + 'static) {
    // A second log would be somebody else's: the first goes on as it is.
    let _ = CHANGE.set(Box::new(change));
}

/// Logs by `filter` from now on, such as `info` or `warn,ferry::batch=debug`.
///
/// # Errors
/// If it is no filter, or this process's log has none.
pub fn set(filter: &str) -> Result<(), String> {
    let change = CHANGE.get();
    change.ok_or("this process's log has no filter to change")?(filter)
}
