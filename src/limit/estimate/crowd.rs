//! Others at the same upstream: how they are found, and the rule while they are
//! there. PURE.
//!
//! By its own elasticity each of k sidecars that share an upstream sees more in
//! flight pay, however long the queue is (`trim.rs`), and would climb for ever.
//! Once drains have shown that the queue is of others (`drain.rs`), the
//! elasticity is out of the play, and by Little each goes by
//!
//! ```text
//! L = X·τ + δ = L/W + δ,   hence   L = δ / (1 − 1/W)
//! ```
//!
//! (X·τ is what of ours the upstream works at, δ what of ours waits, in batches).
//! W is the same for all of them, so L is, too, whatever they had before; and the
//! queue of all is k·δ. That has a weakness: one who goes on climbing makes W
//! large, and L falls to δ. So nobody goes below what it had when it came in,
//! `L₀/W₀ + δ`, while W is large; and who gives way in vain takes back what it had,
//! so that the other one sees a queue that is not his.
//!
//! They come in together, at a slot of some seconds, for the last one to come would
//! find that the queue is its own; who cannot find them sees them give way there
//! (`following.rs`). It may be wrong: then what was carried falls, and a drain of
//! our own finds no queue but ours. One is made from time to time in any case, for
//! the others may have gone.

use std::time::{Duration, Instant};

use super::Little;
use crate::limit::drain::{Found, Purpose, Verdict};

/// δ: batches of ours that wait while others are there.
const WAITING: f64 = 0.9;
/// A slowdown from which on somebody does not give way.
const PRESSED: f64 = 2.0;
/// Seconds for which nothing is suspected when we take back what we gave up.
const HOLD_OUT: f64 = 6.0;
/// How soon it is seen whether coming in was right, or has cost throughput …
pub(super) const TRIAL: Duration = Duration::from_millis(1_900);
/// … which is less than this part of what was carried before. A slot leaves
/// [`FADES`] of that: what was ours once is not so for ever.
const LOST: f64 = 0.85;
const FADES: f64 = 0.98;
/// A slowdown below which nobody queues: the others are gone.
const EMPTY: f64 = 1.15;
/// How long a proof that others are there counts: they may be gone, and one who
/// is alone before a group commit sees W = 2 as one among others does.
const RECHECK: Duration = Duration::from_secs(8);
/// Unclear proofs after which the queue counts as that of others: alone one is
/// unclear by chance, and one who has most of the queue as a rule.
const UNCLEAR: u8 = 2;
/// A slot that takes this much of τ, and proves that the queue is ours, has also
/// seen that the upstream takes longer.
const SLOWER: f64 = 2.0;
/// Limits below which a suspicion does not stop the climb, and slowdowns: what is
/// small does little harm, and a group commit has far to go.
const SMALL: (f64, f64) = (4.0, 1.8);
/// Slots since START before which nothing is suspected: τ is hardly known yet.
pub(super) const SLOTS: u32 = 3;

/// Whether others share the upstream.
#[derive(Debug, Default)]
pub(super) struct Crowd {
    met: Option<Met>,
    /// What a proof found, until the next slot: whether the queue is of others.
    proved: Option<bool>,
    unclear: u8,
    /// Whether the slot that began last is one at which all come in.
    together: bool,
    /// Entries and seconds of the slot that asked for a proof, if it was slow.
    slower: Option<(f64, f64)>,
    /// Entries a second in the low phases of the last cycle.
    carried: f64,
}

/// Others are there.
#[derive(Clone, Copy, Debug)]
struct Met {
    since: Instant,
    /// When it was last asked whether they still are.
    asked: Instant,
    /// `L₀/W₀ + δ`.
    entered_at: f64,
    /// L and θ before that.
    before: (f64, f64),
    /// What was carried before that, fading.
    carried: f64,
}

impl Crowd {
    pub(super) const fn is_met(&self) -> bool {
        self.met.is_some()
    }

    pub(super) const fn forget(&mut self) {
        (self.met, self.proved, self.slower) = (None, None, None);
    }

    /// L while others are there, for an `X·τ` of `bdp` and the slowdown W.
    pub(super) fn share(&self, bdp: f64, slowdown: f64) -> Option<f64> {
        let met = self.met?;
        let share = bdp + WAITING;
        Some(match slowdown > PRESSED {
            true => share.max(met.entered_at),
            false => share,
        })
    }

    /// How long we have gone by a fair share.
    pub(super) fn has_been_in(&self, now: Instant) -> Duration {
        let met = self.met.as_ref();
        met.map_or(Duration::ZERO, |met| {
            now.saturating_duration_since(met.since)
        })
    }

    /// A slot, at which all come in or not. Returns whether they did a second ago.
    pub(super) const fn begins_slot(&mut self, together: bool) -> bool {
        std::mem::replace(&mut self.together, together)
    }

    pub(super) const fn carries(&mut self, throughput: f64) {
        self.carried = throughput;
    }

    /// Whether a slot is to be followed by a look of our own.
    fn is_in_doubt(&mut self, now: Instant) -> bool {
        let carried = self.carried;
        let Some(met) = &mut self.met else {
            return false;
        };
        let lasted = now.saturating_duration_since(met.since);
        let lost = lasted > TRIAL && carried < LOST * met.carried;
        met.carried *= FADES;
        let long_ago = now.saturating_duration_since(met.asked) > RECHECK;
        let doubts = lost || long_ago;
        if doubts {
            met.asked = now;
        }
        doubts
    }
}

impl Little {
    /// Whether others are suspected or looked for: L and θ stay.
    pub(super) fn is_held(&self) -> bool {
        let suspects = self.drains.suspects() || self.drains.looks();
        let small = self.centre < SMALL.0 || self.usual <= SMALL.1;
        (suspects || self.crowd.proved.is_some()) && (self.crowd.is_met() || !small)
    }

    /// The elasticity of a cycle speaks of others.
    pub(super) fn suspect_others(&mut self, now: Instant) {
        let at_it = self.drains.suspects() || self.drains.looks() || self.crowd.proved.is_some();
        if self.trim.is_shared() && self.drains.slots_seen() >= SLOTS && !at_it {
            let lot = self.lot(now);
            self.drains.look(now, lot);
        }
    }

    /// A slot has shown that what was suspected is a queue; not yet whose.
    pub(super) fn end_suspicion(&mut self, now: Instant, found: &Found) {
        if self.crowd.is_met() {
            return;
        }
        if !self.trim.may_be_shared() {
            return self.give_up_queue();
        }
        let slower = found.unloaded > SLOWER;
        self.crowd.slower = slower.then_some((found.entries, found.rtt));
        let lot = self.lot(now);
        self.drains.prove(now, lot);
    }

    /// A drain tells whose the queue is.
    pub(super) fn tell(&mut self, now: Instant, found: &Found) {
        let unclear = self.crowd.unclear;
        self.crowd.unclear = 0;
        match (found.verdict, found.purpose) {
            (Verdict::Others, Purpose::Empty) if self.crowd.is_met() => {}
            (Verdict::Others, Purpose::Empty) if self.crowd.together => self.meet(now),
            (Verdict::Others, _) => self.crowd.proved = Some(true),
            (_, Purpose::Look) if self.crowd.is_met() => {}
            (Verdict::Ours, Purpose::Look) => self.trim.is_alone(),
            (Verdict::Ours, _) => self.crowd.proved = Some(false),
            _ if unclear + 1 >= UNCLEAR && !self.crowd.is_met() => self.crowd.proved = Some(true),
            _ => self.crowd.unclear = unclear.saturating_add(1),
        }
    }

    /// A slot: what was proved before it counts from now on; others, from the
    /// next slot on at which all come in.
    pub(super) fn watch_crowd(&mut self, now: Instant) {
        let comes_in = self.crowd.proved == Some(true) && !self.crowd.is_met();
        if comes_in && !self.crowd.together {
            return;
        }
        match self.crowd.proved.take() {
            Some(others) => self.act(now, others),
            None if self.crowd.is_in_doubt(now) => {
                let lot = self.lot(now);
                self.drains.prove(now, lot);
            }
            None => {}
        }
    }

    fn act(&mut self, now: Instant, others: bool) {
        if let Some((entries, rtt)) = self.crowd.slower.take()
            && !others
        {
            self.unloaded.becomes(entries, rtt);
        }
        match (self.crowd.met, others) {
            (None, true) => self.meet(now),
            (None, false) if self.trim.may_be_shared() => self.trim.is_alone(),
            (None, false) => self.give_up_queue(),
            (Some(_), true) => {}
            (Some(_), false) => self.part(),
        }
    }

    pub(super) fn meet(&mut self, now: Instant) {
        (self.crowd.proved, self.crowd.unclear) = (None, 0);
        self.drains.forget_own();
        self.trim.meets_others();
        self.bdp = self.centre / self.slowdown.max(1.0);
        let share = self.bdp + WAITING;
        self.crowd.met = Some(Met {
            since: now,
            asked: now,
            entered_at: share,
            before: (self.centre, self.trim.theta()),
            carried: self.crowd.carried,
        });
        self.settle_at(share);
    }

    /// Who did not give way is to see a queue that is not his, and that we give
    /// way when all come in the next time.
    pub(super) fn take_back(&mut self) {
        let Some(met) = self.crowd.met.take() else {
            return;
        };
        let (limit, theta) = met.before;
        self.crowd.proved = Some(true);
        self.trim.set(theta);
        self.bdp = (limit - 1.0).max(0.5) / self.bracket();
        self.trim.holds_out(HOLD_OUT);
        self.settle_at(limit);
    }

    /// Nobody else is there: on from where we are.
    pub(super) fn part(&mut self) {
        self.crowd.met = None;
        let bracketed = self.unloaded.spread() * self.bdp.max(0.1);
        self.trim.set((self.centre - 1.0) / bracketed);
    }

    /// A cycle among others: no elasticity counts.
    pub(super) fn end_cycle_in_crowd(&mut self) {
        if self.usual < EMPTY {
            self.crowd.met = None;
            self.trim.set(1.0);
        }
        self.follow();
    }
}

#[cfg(test)]
mod tests;
