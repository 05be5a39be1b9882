//! Entries that were taken and are not sent: each hears why.

use std::time::Instant;

use super::{BatchError, ClosedBy, Coalesce, Entry, Held, Sealing, ShedReason, queue::Queue};

/// An entry that stands in a window of `C`'s.
type Standing<Req, C, P, E> = Held<Entry<Req, <C as Coalesce<Req>>::Partition, P, E>>;

/// Who would not be answered in time hears it while there is some left.
pub(super) fn shed_doomed<Req, C: Coalesce<Req>, P, E>(
    rules: &C,
    queue: &Queue,
    partition: &C::Partition,
    doomed: &mut Vec<Standing<Req, C, P, E>>,
) {
    if doomed.is_empty() {
        return;
    }
    let entries = doomed.iter().map(|held| u64::from(held.weight.entries));
    let reason = ShedReason::Deadline;
    rules.shed(partition, narrow(entries.sum()), reason);
    let retry_after = queue.drain_time();
    for held in doomed.drain(..) {
        held.entry.reply.send(Err(BatchError::Shed {
            reason,
            retry_after,
        }));
    }
}

/// Who has waited too long is shed, unless it has left or its time is over: that
/// counts as what it is.
pub(super) fn turn_away<Req, C: Coalesce<Req>, P, E>(
    rules: &C,
    queue: &Queue,
    partition: &C::Partition,
    now: Instant,
    overdue: Vec<Standing<Req, C, P, E>>,
) {
    let retry_after = queue.drain_time();
    let reason = ShedReason::QueueWait;
    let (mut shed, mut cancelled, mut expired) = (0, 0, 0);
    for Held {
        entry,
        weight,
        deadline,
        ..
    } in overdue
    {
        if deadline.is_some_and(|deadline| deadline <= now) {
            expired += 1;
            entry.reply.send(Err(BatchError::DeadlineExceeded));
        } else if entry.reply.has_left() {
            cancelled += 1;
        } else {
            shed += u64::from(weight.entries);
            entry.reply.send(Err(BatchError::Shed {
                reason,
                retry_after,
            }));
        }
    }
    if shed > 0 {
        rules.shed(partition, narrow(shed), reason);
    }
    if cancelled + expired > 0 {
        rules.sealed(
            partition,
            &Sealing {
                now,
                entries: 0,
                bytes: 0,
                closed_by: ClosedBy::Deadline,
                arrivals: &[],
                cancelled,
                expired,
            },
        );
    }
}

fn narrow(entries: u64) -> u32 {
    u32::try_from(entries).unwrap_or(u32::MAX)
}
