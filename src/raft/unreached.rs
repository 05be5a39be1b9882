//! Why a node could not be called, in the words of whoever knows: the system,
//! which stands at the end of the chain of errors.

use std::{error::Error, iter};

use tonic::{ConnectError, Status};

/// Why a call got no answer of the other end, as what is said of its address;
/// `None` where the status is the other end's answer.
pub(crate) fn unreached(status: &Status, from: &str) -> Option<String> {
    let causes = || iter::successors(status.source(), |cause| (*cause).source());
    let last = causes().last()?;
    if !causes().any(|cause| cause.is::<ConnectError>()) {
        return Some(format!("broke off the call{from}: {last}"));
    }
    // hyper has no type for it.
    let looked_up = !causes().any(|cause| cause.to_string() == "dns error");
    let what = if looked_up { "reached" } else { "looked up" };
    Some(format!("cannot be {what}{from}: {last}"))
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Step(&'static str, #[source] io::Error);

    fn status(step: &'static str) -> Status {
        let end = io::Error::other("the system's words");
        Status::from_error(Box::new(ConnectError(Box::new(Step(step, end)))))
    }

    #[test]
    fn what_is_told_is_the_deepest_cause_and_whether_it_was_the_name() {
        assert_eq!(
            unreached(&status("tcp connect error"), " from node 1").unwrap(),
            "cannot be reached from node 1: the system's words"
        );
        assert_eq!(
            unreached(&status("dns error"), "").unwrap(),
            "cannot be looked up: the system's words"
        );
        assert_eq!(
            unreached(&Status::unavailable("of the other end"), ""),
            None
        );
    }
}
