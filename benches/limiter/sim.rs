//! The event loop: callers → window → limiter → plant → answers, in virtual
//! time. The window, its pace and the limiter are the ones that ship; what
//! is modelled here is what stands around them.
//!
//! It does what `src/batch/worker.rs` does, in the same order: a due window
//! asks for a permit, is sealed when it is granted, and of an answer the
//! limiter hears before the callers do.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    time::{Duration, Instant},
};

use ferry::{
    batch::{
        Caller, Due, Flow, Held, Latency, Outlook, Pace, QueueSettings, Weight, Window,
        WindowSettings,
    },
    limit::{Limiter, Outcome, Sent},
};

use super::{
    load::LoadShape,
    plant::{Plant, PlantShape, Served},
    trace::{Answered, Trace},
};

/// Payload bytes of an entry.
const ENTRY_BYTES: usize = 256;
/// From an answer to the same caller's next call, and after a failure.
const THINK: f64 = 100e-6;
const BACK_OFF: f64 = 10e-3;

/// What one run is made of, and all that determines it but its limiter.
#[derive(Debug)]
pub(crate) struct Setup<'a> {
    pub(crate) plant: &'a PlantShape,
    pub(crate) load: &'a LoadShape,
    pub(crate) batch: u32,
    pub(crate) sidecars: usize,
    /// Between the first and the last sidecar's clock.
    pub(crate) clocks_ms: f64,
    pub(crate) seconds: f64,
    pub(crate) seed: u64,
    /// The window is not told who has left, like a batcher that submits first
    /// and finds out afterwards: what the count of ghosts is there to see.
    pub(crate) deaf: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// Somebody calls, and who comes after in an open load.
    Call { side: usize, groups: u32 },
    /// A batch arrives at the plant.
    Reach { batch: usize },
    /// The plant's sync that was planned for now.
    Sync,
    /// The plant is done with a batch.
    Done { batch: usize },
    /// Its answer arrives.
    Answer { batch: usize },
    /// A window may be due.
    Wake { side: usize },
}

/// When a caller leaves without an answer, if it does.
type Leaves = Option<Instant>;

/// A batch on its way. Its place is used again after its answer.
#[derive(Debug)]
struct Flying {
    side: usize,
    sent_at: f64,
    sent: Sent,
    entries: u32,
    callers: Vec<Held<Leaves>>,
    outcome: Outcome,
}

#[derive(Debug)]
struct Side {
    window: Window<Leaves>,
    pace: Pace,
    latency: Latency,
    flow: Flow,
    limiter: Limiter,
    waited: bool,
    wake: u64,
}

pub(crate) struct Sim<'a> {
    setup: &'a Setup<'a>,
    base: Instant,
    now: u64,
    order: u64,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    plant: Plant,
    calls: fastrand::Rng,
    capacity: f64,
    sides: Vec<Side>,
    flying: Vec<Option<Flying>>,
    free: Vec<usize>,
    max_wait: Duration,
    trace: Trace,
}

/// Runs one limiter a sidecar, as `limiter` makes them.
pub(crate) fn run(setup: &Setup<'_>, limiter: impl Fn() -> Limiter) -> Trace {
    let settings = WindowSettings {
        max_entries: setup.batch.try_into().expect("a batch of 0 was refused"),
        ..WindowSettings::default()
    };
    let side = || Side {
        window: Window::new(settings),
        pace: Pace::default(),
        latency: Latency::default(),
        flow: Flow::default(),
        limiter: limiter(),
        waited: false,
        wake: u64::MAX,
    };
    let mut sim = Sim {
        setup,
        base: Instant::now(),
        now: 0,
        order: 0,
        events: BinaryHeap::new(),
        plant: Plant::new(setup.plant.clone(), setup.seed),
        calls: fastrand::Rng::with_seed(setup.seed ^ 0x5eed),
        capacity: setup.plant.capacity(setup.batch),
        sides: (0..setup.sidecars).map(|_| side()).collect(),
        flying: Vec::new(),
        free: Vec::new(),
        max_wait: QueueSettings::default().max_wait,
        trace: Trace {
            by_sidecar: vec![0.0; setup.sidecars],
            ..Trace::default()
        },
    };
    let between = setup.clocks_ms / 1e3 / (setup.sidecars as f64 - 1.0).max(1.0);
    for (n, side) in sim.sides.iter_mut().enumerate() {
        let behind = Duration::from_secs_f64(between * n as f64);
        side.limiter.align(sim.base - behind);
    }
    sim.begin();
    let end = nanos(setup.seconds);
    while let Some(Reverse((at, _, event))) = sim.events.pop() {
        if at >= end {
            break;
        }
        sim.now = at;
        sim.happen(event);
    }
    sim.trace
}

impl Sim<'_> {
    fn begin(&mut self) {
        for side in 0..self.setup.sidecars {
            let groups = self.setup.load.groups(self.setup.sidecars);
            match self.setup.load.is_closed() {
                true => self.after(0.0, Event::Call { side, groups }),
                false => self.next_call(side),
            }
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Call { side, groups } => self.call(side, groups),
            Event::Reach { batch } => self.reach(batch),
            Event::Sync => self.sync(),
            Event::Done { batch } => {
                self.plant.left();
                self.go_home(batch);
            }
            Event::Answer { batch } => self.answer(batch),
            Event::Wake { side } => {
                if self.sides[side].wake <= self.now {
                    self.sides[side].wake = u64::MAX;
                }
                self.drive(side);
            }
        }
    }

    fn call(&mut self, side: usize, groups: u32) {
        let now = self.instant();
        let grain = self.setup.load.grain;
        let deadline_ms = self.setup.load.deadline_ms;
        let deadline = deadline_ms.map(|ms| now + Duration::from_secs_f64(ms / 1e3));
        for _ in 0..groups {
            if !self.admits(side, deadline_ms) {
                self.gone(side, 1);
                continue;
            }
            let leaves = self.leaves(now);
            self.sides[side].window.push(Held {
                entry: leaves,
                weight: Weight {
                    entries: grain,
                    overhead: 0,
                    bytes: grain as usize * ENTRY_BYTES,
                },
                arrived: now,
                deadline,
            });
        }
        if !self.setup.load.is_closed() {
            self.next_call(side);
        }
        self.drive(side);
    }

    /// Some callers lose patience before their deadline, wherever they are.
    fn leaves(&mut self, now: Instant) -> Leaves {
        let load = self.setup.load;
        let patience = load.patience_ms?;
        (self.calls.f64() < load.leave).then(|| {
            let seconds = self.calls.f64() * patience / 1e3;
            now + Duration::from_secs_f64(seconds)
        })
    }

    /// What `Queue` asks at the door (src/batch/service.rs): whether full
    /// batches, one a spacing, carry the backlog away in time, and whether
    /// the answer then still comes before the deadline.
    fn admits(&self, side: usize, deadline_ms: Option<f64>) -> bool {
        let side = &self.sides[side];
        let spacing = side.flow.spacing.unwrap_or_default().as_secs_f64();
        let batches = (side.window.count() / u64::from(self.setup.batch)) as f64;
        let drain = batches * spacing;
        let answered = match drain > 0.0 {
            true => drain + side.latency.latest().as_secs_f64(),
            false => 0.0,
        };
        let slack = deadline_ms.map_or(f64::INFINITY, |ms| ms / 1e3);
        drain <= self.max_wait.as_secs_f64() && answered <= slack
    }

    fn next_call(&mut self, side: usize) {
        let unit = -(1.0 - self.calls.f64()).ln();
        let sidecars = self.setup.sidecars;
        let gap = self
            .setup
            .load
            .gap(self.seconds(), unit, self.capacity, sidecars);
        self.after(gap, Event::Call { side, groups: 1 });
    }

    /// Sends while a window is due and a permit is free.
    fn drive(&mut self, index: usize) {
        let now = self.instant();
        let overdue = self.sides[index].window.overdue(now, self.max_wait);
        self.gone(index, overdue.len());
        loop {
            let side = &mut self.sides[index];
            match side.window.due(now, &side.flow) {
                Due::Never => return,
                Due::At(at) => return self.wake_at(index, at),
                Due::Now(_) if side.limiter.try_admit() => self.depart(index),
                Due::Now(_) => {
                    side.waited = true;
                    let oldest = side.window.oldest().expect("a due window is not empty");
                    return self.wake_at(index, oldest + self.max_wait);
                }
            }
        }
    }

    fn wake_at(&mut self, index: usize, at: Instant) {
        let at = at.saturating_duration_since(self.base).as_nanos();
        let at = u64::try_from(at).unwrap_or(u64::MAX).max(self.now + 1);
        // An earlier wake-up looks again by itself.
        if at < self.sides[index].wake {
            self.sides[index].wake = at;
            self.at(at, Event::Wake { side: index });
        }
    }

    fn depart(&mut self, index: usize) {
        let now = self.instant();
        let side = &mut self.sides[index];
        let outlook = Outlook {
            soonest: side.latency.soonest(),
            latest: side.latency.latest(),
            idle: side.flow.in_flight == 0,
        };
        let hears = !self.setup.deaf;
        let caller = |leaves: &Leaves| match leaves.is_some_and(|at| at <= now) {
            true if hears => Caller::Left,
            _ => Caller::Waiting,
        };
        let sealed = side.window.seal_for(now, &outlook, caller, |_| &[]);
        let fell_out = sealed.expired.len() + sealed.doomed.len() + sealed.cancelled.len();
        if sealed.entries.is_empty() {
            side.limiter.release();
            return self.gone(index, fell_out);
        }
        let waited = std::mem::take(&mut side.waited);
        let sent = side
            .limiter
            .sent(now, sealed.count, waited, side.window.count());
        side.flow.last_sent = Some(now);
        side.flow.in_flight += 1;
        side.pace.started(now);
        let gone = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        let ghosts = sealed.entries.iter();
        let ghosts = ghosts.filter(|held| gone(held.deadline) || gone(held.entry));
        let ghosts: u64 = ghosts.map(|held| u64::from(held.weight.entries)).sum();
        self.trace.ghosts += ghosts;
        self.trace.cancelled += sealed.cancelled.len() as u64 * u64::from(self.setup.load.grain);
        let flying = Flying {
            side: index,
            sent_at: self.seconds(),
            sent,
            entries: sealed.count,
            callers: sealed.entries,
            outcome: Outcome::Success,
        };
        let batch = self.free.pop().unwrap_or_else(|| {
            self.flying.push(None);
            self.flying.len() - 1
        });
        self.flying[batch] = Some(flying);
        let delay = self.plant.delay(self.seconds());
        self.after(delay, Event::Reach { batch });
        self.gone(index, fell_out);
    }

    /// Groups of callers whose call was not sent: a closed loop tries again.
    fn gone(&mut self, side: usize, groups: usize) {
        if groups == 0 {
            return;
        }
        self.trace.shed += groups as u64 * u64::from(self.setup.load.grain);
        if self.setup.load.is_closed() {
            let groups = u32::try_from(groups).unwrap_or(u32::MAX);
            self.after(BACK_OFF, Event::Call { side, groups });
        }
    }

    fn reach(&mut self, batch: usize) {
        let flying = self.flying[batch].as_mut().expect("its answer is to come");
        let now = seconds(self.now);
        match self.plant.arrive(now, batch, flying.entries) {
            Served::At(at) => self.at(nanos(at), Event::Done { batch }),
            Served::Waits(Some(_)) => self.at(self.now, Event::Sync),
            Served::Waits(None) => {}
            Served::Refused => {
                flying.outcome = Outcome::Unavailable;
                self.go_home(batch);
            }
        }
    }

    fn sync(&mut self) {
        if let Some((batches, end)) = self.plant.sync(self.seconds()) {
            for (batch, _) in batches {
                self.at(nanos(end), Event::Done { batch });
            }
            self.at(nanos(end), Event::Sync);
        }
    }

    fn go_home(&mut self, batch: usize) {
        let delay = self.plant.delay(self.seconds());
        self.after(delay, Event::Answer { batch });
    }

    fn answer(&mut self, batch: usize) {
        let flying = self.flying[batch].take().expect("one answer a batch");
        self.free.push(batch);
        let now = self.instant();
        let side = &mut self.sides[flying.side];
        side.limiter.answered(now, flying.sent, flying.outcome);
        side.flow.in_flight -= 1;
        let busy = side.flow.in_flight > 0;
        side.pace.finished(now, flying.entries, busy);
        side.flow.spacing = side.pace.spacing();
        side.latency
            .learn(Duration::from_secs_f64(seconds(self.now) - flying.sent_at));
        let succeeded = flying.outcome == Outcome::Success;
        if succeeded {
            self.record(&flying);
        }
        if self.setup.load.is_closed() {
            let groups = u32::try_from(flying.callers.len()).unwrap_or(u32::MAX);
            let side = flying.side;
            let pause = if succeeded { THINK } else { BACK_OFF };
            self.after(pause, Event::Call { side, groups });
        }
        self.drive(flying.side);
    }

    fn record(&mut self, flying: &Flying) {
        let (at, now) = (self.seconds(), self.instant());
        let mut entries = 0;
        for held in &flying.callers {
            let gone = |at: Option<Instant>| at.is_some_and(|at| at < now);
            if gone(held.deadline) || gone(held.entry) {
                self.trace.late += u64::from(held.weight.entries);
                continue;
            }
            entries += held.weight.entries;
            let waited = now.saturating_duration_since(held.arrived).as_secs_f64();
            let known = self.trace.callers.last_mut();
            match known.filter(|known| known.0 == at && known.1 == waited) {
                Some(known) => known.2 += held.weight.entries,
                None => self.trace.callers.push((at, waited, held.weight.entries)),
            }
        }
        self.trace.by_sidecar[flying.side] += f64::from(entries);
        self.trace.answered.push(Answered {
            at,
            rtt: at - flying.sent_at,
            entries,
            limit: self.sides[flying.side].limiter.limit(),
        });
    }

    fn instant(&self) -> Instant {
        self.base + Duration::from_nanos(self.now)
    }

    fn seconds(&self) -> f64 {
        seconds(self.now)
    }

    fn after(&mut self, pause: f64, event: Event) {
        if pause.is_finite() {
            self.at(self.now + nanos(pause), event);
        }
    }

    fn at(&mut self, at: u64, event: Event) {
        self.order += 1;
        // Seconds and nanoseconds round: nothing happens before now.
        let at = at.max(self.now);
        self.events.push(Reverse((at, self.order, event)));
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn nanos(seconds: f64) -> u64 {
    (seconds * 1e9) as u64
}

#[allow(clippy::cast_precision_loss)]
fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}

#[cfg(test)]
#[allow(dead_code, unused_imports)] // of no use to the bench, which has no harness
mod tests {
    use super::{
        super::{
            anchors,
            load::{Kind, Share},
        },
        *,
    };

    /// A plant that is asked for three times what it carries, by callers of
    /// whom half leave within 50 ms.
    fn overloaded(deaf: bool) -> Trace {
        let plant = PlantShape {
            base_ms: 2.0,
            delay_ms: 2.0,
            ..PlantShape::default()
        };
        let load = LoadShape {
            name: "over".into(),
            kind: Kind::Open(Share { share: 3.0 }),
            grain: 10,
            deadline_ms: Some(1_000.0),
            leave: 0.5,
            patience_ms: Some(50.0),
        };
        let setup = Setup {
            plant: &plant,
            load: &load,
            batch: 100,
            sidecars: 1,
            clocks_ms: 0.0,
            seconds: 3.0,
            seed: 1,
            deaf,
        };
        run(&setup, || anchors::limiter("little"))
    }

    #[test]
    fn callers_that_leave_are_dropped_and_none_becomes_a_ghost() {
        let trace = overloaded(false);
        assert_eq!(trace.ghosts, 0);
        assert!(trace.cancelled > 10_000, "{}", trace.cancelled);
    }

    #[test]
    fn a_window_that_does_not_hear_who_left_makes_ghosts_and_they_are_counted() {
        let trace = overloaded(true);
        assert!(trace.ghosts > 10_000, "{}", trace.ghosts);
    }
}
