//! A call goes to the line of its Raft group; one whose entries belong to
//! several is split, and answered once all of its parts are.
//!
//! Each group has its windows, its limit and its queue, so a slow group holds
//! up nobody else's calls. A split call is atomic a group, not as a whole: one
//! part may be applied and another not, and its caller is told that nothing is
//! certain. Where there is one line, nothing is hashed.

use std::{
    future::Future,
    num::NonZeroU32,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt as _, join_all};
use pin_project_lite::pin_project;
use tonic::Status;

use super::{barred::Reserve, door::Submit, partition::CallRules, status::is_refusal};
use crate::{
    batch::{BatchError, Place},
    upstream::Call,
    wire::{Placing, Plan},
};

/// What of a method's entries decides their group.
#[derive(Clone, Debug)]
pub struct GroupKey {
    /// How its messages are read.
    pub plan: Arc<Plan>,
    /// Numbers of the entry's fields, strings or bytes all of them.
    pub fields: Vec<u32>,
}

/// One line a group, and what chooses among them.
#[derive(Clone, Debug)]
pub struct Spread<S> {
    lines: Vec<S>,
    groups: NonZeroU32,
    keys: Vec<GroupKey>,
}

impl<S> Spread<S> {
    /// Everything in one line, whatever its key.
    #[must_use]
    pub fn lone(line: S) -> Self {
        Self {
            lines: vec![line],
            groups: NonZeroU32::MIN,
            keys: Vec::new(),
        }
    }

    /// A line for each group, in their order; `keys` are the methods', in the
    /// policy's order.
    ///
    /// # Panics
    /// If there is no line.
    #[must_use]
    pub fn new(lines: Vec<S>, keys: Vec<GroupKey>) -> Self {
        let groups = u32::try_from(lines.len()).ok().and_then(NonZeroU32::new);
        Self {
            groups: groups.expect("there is a line for each group, and at least one group"),
            lines,
            keys,
        }
    }
}

impl<S: Submit> Submit for Spread<S> {
    type Answer = SpreadAnswer<S::Answer>;

    fn submit(&self, mut call: Call) -> Self::Answer {
        if let [line] = &self.lines[..] {
            return SpreadAnswer::one(line.submit(call));
        }
        let GroupKey { plan, fields } = &self.keys[call.method];
        match plan.place(&call.piece, fields, self.groups) {
            Placing::One(group) => {
                call.group = group;
                SpreadAnswer::one(self.lines[group as usize].submit(call))
            }
            Placing::Several => {
                let parts = plan.by_group(&call.piece, fields, self.groups);
                let answers = parts.into_iter().map(|(group, piece)| {
                    self.lines[group as usize].submit(Call {
                        group,
                        piece,
                        ..call.clone()
                    })
                });
                let answer = Box::pin(join_all(answers).map(together));
                SpreadAnswer {
                    state: State::Several { answer },
                }
            }
        }
    }
}

impl<S: Reserve> Reserve for Spread<S> {
    fn reserve(&self, call: &Call) -> Result<Place<Call, CallRules>, BatchError<Status>> {
        if let [line] = &self.lines[..] {
            return line.reserve(call);
        }
        let GroupKey { plan, fields } = &self.keys[call.method];
        let line = match plan.place(&call.piece, fields, self.groups) {
            Placing::One(group) => group as usize,
            // It is one call until it is split: counted as a whole, and once.
            Placing::Several => 0,
        };
        self.lines[line].reserve(call)
    }
}

pin_project! {
    /// The answer to a call: its line's, or that of all its parts.
    pub struct SpreadAnswer<A> {
        #[pin]
        state: State<A>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<A> {
        One { #[pin] answer: A },
        Several { answer: BoxFuture<'static, Result<Bytes, BatchError<Status>>> },
    }
}

impl<A> SpreadAnswer<A> {
    const fn one(answer: A) -> Self {
        Self {
            state: State::One { answer },
        }
    }
}

impl<A> Future for SpreadAnswer<A>
where
    A: Future<Output = Result<Bytes, BatchError<Status>>>,
{
    type Output = A::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProjection::One { answer } => answer.poll(cx),
            StateProjection::Several { answer } => answer.poll_unpin(cx),
        }
    }
}

/// One answer of all parts'. If some were applied and some were not, or not
/// for certain, no status would be true of the whole but UNKNOWN.
fn together(outcomes: Vec<Result<Bytes, BatchError<Status>>>) -> Result<Bytes, BatchError<Status>> {
    let parts = outcomes.len();
    let mut replies = Vec::with_capacity(parts);
    let mut errors = Vec::new();
    for outcome in outcomes {
        match outcome {
            Ok(reply) => replies.push(reply),
            Err(error) => errors.push(error),
        }
    }
    let applied = replies.len();
    let first = match errors.iter().position(|error| !is_certain(error)) {
        Some(worst) => Some(errors.swap_remove(worst)),
        None => errors.into_iter().next(),
    };
    match first {
        None => match replies.iter().all(|reply| *reply == replies[0]) {
            true => Ok(replies.swap_remove(0)),
            false => Err(BatchError::Upstream(Status::internal(
                "the groups that the request's entries belong to answered differently",
            ))),
        },
        // Its own status says already that it may have been applied.
        Some(error @ (BatchError::DeadlineExceeded | BatchError::TimedOut)) => Err(error),
        Some(error) if applied == 0 => Err(error),
        Some(error) => Err(BatchError::Upstream(Status::unknown(format!(
            "{applied} of the {parts} groups that the request's entries belong to applied their \
             part, and one did not: {error}; send it again if applying it twice does no harm"
        )))),
    }
}

/// Whether nothing was applied, for certain.
fn is_certain(error: &BatchError<Status>) -> bool {
    match error {
        BatchError::Shed { .. } | BatchError::Closed => true,
        BatchError::Upstream(status) => is_refusal(status),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tonic::Code;

    use super::*;
    use crate::batch::ShedReason;

    fn shed() -> BatchError<Status> {
        BatchError::Shed {
            reason: ShedReason::QueueWait,
            retry_after: Duration::from_millis(7),
        }
    }

    fn failed(code: Code) -> BatchError<Status> {
        BatchError::Upstream(Status::new(code, "why"))
    }

    fn reply() -> Result<Bytes, BatchError<Status>> {
        Ok(Bytes::new())
    }

    #[test]
    fn a_split_call_succeeds_only_if_every_part_did() {
        assert_eq!(together(vec![reply(), reply()]).unwrap(), Bytes::new());
        let Err(BatchError::Upstream(status)) = together(vec![reply(), Err(shed()), reply()])
        else {
            panic!("a part was shed");
        };
        assert_eq!(status.code(), Code::Unknown);
        assert!(status.message().contains("2 of the 3 groups"), "{status}");
    }

    #[test]
    fn a_split_call_of_which_nothing_was_applied_says_so() {
        let outcome = together(vec![Err(shed()), Err(failed(Code::Unavailable))]);
        assert!(
            matches!(outcome, Err(BatchError::Shed { .. })),
            "{outcome:?}"
        );
    }

    #[test]
    fn an_uncertain_part_makes_a_split_call_uncertain() {
        for uncertain in [failed(Code::Unknown), BatchError::DeadlineExceeded] {
            let outcome = together(vec![Err(shed()), Err(uncertain.clone())]);
            let Err(error) = outcome else {
                panic!("no part was applied");
            };
            assert_eq!(error.to_string(), uncertain.to_string());
        }
        let outcome = together(vec![reply(), Err(BatchError::DeadlineExceeded)]);
        assert!(matches!(outcome, Err(BatchError::DeadlineExceeded)));
    }

    #[test]
    fn parts_that_are_answered_differently_are_no_success() {
        let outcome = together(vec![reply(), Ok(Bytes::from_static(b"\x08\x01"))]);
        assert!(
            matches!(outcome, Err(BatchError::Upstream(status)) if status.code() == Code::Internal)
        );
    }
}
