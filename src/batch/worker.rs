//! The driver of one upstream's windows: the only `select!` loop.
//!
//! One task owns all partitions of one (upstream, group), and so is the fair
//! queue for its permits: of the windows that are due, the one whose oldest
//! entry has waited longest goes first, and nobody starves. The task asks the
//! service below for readiness only while a window is due; the grant is the
//! departure signal, and the window is sealed at that moment.

use std::{
    future::{Future, pending, poll_fn},
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Instant,
};

use tokio::{sync::mpsc, task::unconstrained};
use tower::Service;

use super::{
    Batch, BatchError, Close, Coalesce, Entry, Held, PartOf, Sealed, Sealing, Split,
    bell::{Sleep, Slept},
    flight::{Finished, Flight, Report, clock, unzip},
    latency::{Latency, Outlook},
    pace::Pace,
    partitions::Partitions,
    queue::Queue,
    refuse::{shed_doomed, turn_away},
    weight::Scale,
    window::{Caller, ClosedBy, Due, Flow, earlier},
};

type EntryOf<Req, C, S> =
    Entry<Req, <C as Coalesce<Req>>::Partition, PartOf<S, Req>, <S as Service<Batch<Req>>>::Error>;

/// Entries taken from the channel in one go.
const TAKEN_AT_ONCE: usize = 256;

pub(super) struct Worker<Req, C, S>
where
    C: Coalesce<Req>,
    S: Service<Batch<Req>>,
    S::Response: Split<S::Error>,
{
    below: S,
    rules: Arc<C>,
    queue: Arc<Queue>,
    intake: mpsc::UnboundedReceiver<Held<EntryOf<Req, C, S>>>,
    /// Entries taken from the channel since the start, by weight.
    seen: u64,
    slept: Slept,
    /// Room for what is taken at once, and for what is sealed at once: empty
    /// but for that moment.
    taken: Vec<Held<EntryOf<Req, C, S>>>,
    sealed: Sealed<EntryOf<Req, C, S>>,
    windows: Partitions<C::Partition, EntryOf<Req, C, S>>,
    finished: mpsc::UnboundedReceiver<Finished>,
    report: mpsc::UnboundedSender<Finished>,
    flow: Flow,
    pace: Pace,
    /// By the partitions' kind, since some take longer than others.
    latencies: Vec<Latency>,
    /// Since when some window has been due without a break.
    asking: Option<Instant>,
    /// Whether the service below was asked for readiness and has not told yet:
    /// then we stand in its line.
    stands: bool,
}

/// What the windows want next.
struct Next<K> {
    /// The window that leaves with the next permit.
    due: Option<(K, ClosedBy)>,
    /// What to sleep through until then.
    sleep: Sleep,
}

impl<Req, C, S> Worker<Req, C, S>
where
    C: Coalesce<Req>,
    S: Service<Batch<Req>, Error: Clone + Send + Sync>,
    S: Clone + Send + 'static,
    S::Response: Split<S::Error, Part: Send> + Send,
    S::Future: Send + 'static,
    Req: Send + Sync + 'static,
{
    pub(super) fn new(
        below: S,
        rules: Arc<C>,
        queue: Arc<Queue>,
        intake: mpsc::UnboundedReceiver<Held<EntryOf<Req, C, S>>>,
    ) -> Self {
        let (report, finished) = mpsc::unbounded_channel();
        let kinds = rules.kinds().len();
        Self {
            below,
            rules,
            queue,
            intake,
            seen: 0,
            slept: Slept::default(),
            taken: Vec::new(),
            sealed: Sealed::default(),
            windows: Partitions::default(),
            finished,
            report,
            flow: Flow::default(),
            pace: Pace::default(),
            latencies: (0..kinds).map(|_| Latency::default()).collect(),
            asking: None,
            stands: false,
        }
    }

    pub(super) async fn run(mut self) {
        loop {
            self.take_arrivals();
            let now = clock();
            let Next { due, sleep } = self.next(now);
            self.asking = due.as_ref().map(|_| self.asking.unwrap_or(now));
            if due.is_none() && std::mem::take(&mut self.stands) {
                // What it was asked for is gone, and others stand behind us: a
                // fresh clone does not stand in the line.
                self.below = self.below.clone();
            }
            if due.is_none() && self.is_done() {
                return;
            }
            self.stands |= due.is_some();
            // Biased: a due window leaves before new entries join it, else
            // steady traffic would postpone it for ever.
            tokio::select! {
                biased;
                ready = poll_fn(|cx| self.below.poll_ready(cx)), if due.is_some() => {
                    let (partition, closed_by) = due.expect("readiness is asked for a due window");
                    self.stands = false;
                    match ready {
                        Ok(()) => self.depart(&partition, closed_by),
                        Err(error) => self.fail(&error),
                    }
                }
                Some(finished) = self.finished.recv() => self.finish(&finished),
                () = self.queue.bell().heard(&mut self.slept, sleep) => {}
                () = sleep_until(sleep.look) => {}
            }
        }
    }

    fn is_done(&self) -> bool {
        self.flow.draining && self.flow.in_flight == 0
    }

    /// Looks at every window: what has waited too long is shed; of the due
    /// ones the one that has waited longest is next.
    fn next(&mut self, now: Instant) -> Next<C::Partition> {
        let mut oldest_due: Option<(Instant, C::Partition, ClosedBy)> = None;
        let mut look: Option<Instant> = None;
        let mut room = None;
        let (mut is_paced, mut taken) = (false, false);
        for (partition, window) in self.windows.iter_mut() {
            let max_wait = self.rules.queue(partition).max_wait;
            let waited = window.waits();
            let overdue = window.overdue(now, max_wait);
            if !overdue.is_empty() {
                taken = true;
                let kind = self.rules.kind(partition);
                self.queue.left(kind, waited - window.waits());
                turn_away(&*self.rules, &self.queue, partition, now, overdue);
            }
            let Some(oldest) = window.oldest() else {
                continue;
            };
            room = Some(room.map_or(window.room(), |room: u64| room.min(window.room())));
            is_paced |= window.closes() == Close::Adaptive;
            let mut look_again = oldest + max_wait;
            match window.due(now, &self.flow) {
                Due::Now(closed_by) => {
                    if oldest_due
                        .as_ref()
                        .is_none_or(|(first, ..)| oldest < *first)
                    {
                        oldest_due = Some((oldest, partition.clone(), closed_by));
                    }
                }
                Due::At(at) => look_again = look_again.min(at),
                Due::Never => {}
            }
            look = earlier(look, Some(look_again));
        }
        if taken {
            self.windows.taken();
        }
        // The first entry of all starts a linger, so it matters.
        let room = room.unwrap_or(0).max(1);
        Next {
            sleep: Sleep {
                seen: self.seen,
                room: oldest_due.is_none().then_some(room),
                look,
                is_paced,
            },
            due: oldest_due.map(|(_, partition, closed_by)| (partition, closed_by)),
        }
    }

    /// Everything that stands in the channel joins its window.
    ///
    /// Not by `try_recv`: while a caller is in the midst of sending, that
    /// parks the thread, with everything that runs on it, until the caller's
    /// thread has its next turn (on a starved machine a second and more).
    fn take_arrivals(&mut self) {
        let mut taken = std::mem::take(&mut self.taken);
        while let Poll::Ready(count) = self.poll_arrivals(&mut taken) {
            if count == 0 {
                self.flow.draining = true;
                break;
            }
            for held in taken.drain(..) {
                self.seen += u64::from(held.weight.entries);
                self.join(held);
            }
        }
        self.taken = taken;
    }

    /// Nobody is woken by the channel (the bell does that), and the task's
    /// budget is left alone: with none left the channel would seem empty.
    fn poll_arrivals(&mut self, taken: &mut Vec<Held<EntryOf<Req, C, S>>>) -> Poll<usize> {
        let mut cx = Context::from_waker(Waker::noop());
        let arrivals = poll_fn(|cx| self.intake.poll_recv_many(cx, taken, TAKEN_AT_ONCE));
        pin!(unconstrained(arrivals)).poll(&mut cx)
    }

    fn join(&mut self, mut held: Held<EntryOf<Req, C, S>>) {
        if let Some(window) = self.windows.window_mut(&held.entry.partition) {
            return window.push(held);
        }
        let rules = &self.rules;
        let (owner, is_beyond) = self.windows.open(
            held.entry.partition.clone(),
            |partition| rules.crowd(partition),
            |partition| rules.window(partition),
        );
        if is_beyond {
            rules.crowded(&held.entry.partition, held.weight.entries);
            // It leaves by itself, so it counts as a batch.
            let kind = rules.kind(&owner);
            let amount = |of| Scale::of(&rules.window(of)).amount(held.weight);
            self.queue.joined(kind, amount(&owner));
            self.queue.left(kind, amount(&held.entry.partition));
            held.entry.partition = owner.clone();
        }
        let window = self.windows.window_mut(&owner);
        window.expect("it was just opened").push(held);
    }

    /// The permit is granted: seal at this last moment and send.
    fn depart(&mut self, partition: &C::Partition, closed_by: ClosedBy) {
        // Whoever stands at the door still catches this batch.
        self.take_arrivals();
        let now = clock();
        let window = self.windows.window_mut(partition);
        let window = window.expect("a window that is due is kept until it is sealed");
        let waited = window.waits();
        let kind = self.rules.kind(partition);
        let latency = &self.latencies[kind];
        let outlook = Outlook {
            soonest: latency.soonest(),
            latest: latency.latest(),
            idle: self.flow.in_flight == 0,
        };
        let rules = &self.rules;
        let mut sealed = std::mem::take(&mut self.sealed);
        window.seal_into(
            &mut sealed,
            now,
            &outlook,
            |entry| match entry.reply.has_left() {
                true => Caller::Left,
                false => Caller::Waiting,
            },
            |entry| rules.keys(&entry.request),
        );
        self.queue.left(kind, waited - window.waits());
        self.windows.taken();

        let arrivals: Vec<Instant> = sealed.entries.iter().map(|held| held.arrived).collect();
        let mut weights = Vec::new();
        if sealed.count as usize != sealed.entries.len() {
            weights.extend(sealed.entries.iter().map(|held| held.weight.entries));
        }
        self.rules.sealed(
            partition,
            &Sealing {
                now,
                entries: sealed.count,
                bytes: sealed.bytes,
                closed_by,
                arrivals: &arrivals,
                cancelled: sealed.cancelled.len(),
                expired: sealed.expired.len(),
            },
        );
        // Whose own timer has not told them yet hear it here.
        sealed.cancelled.clear();
        for entry in sealed.expired.drain(..) {
            entry.reply.send(Err(BatchError::DeadlineExceeded));
        }
        shed_doomed(&*self.rules, &self.queue, partition, &mut sealed.doomed);
        if sealed.entries.is_empty() {
            // Nobody is left to carry: a fresh clone holds no permit, so the
            // granted one goes back, unsampled.
            self.below = self.below.clone();
            self.sealed = sealed;
            return;
        }
        let (mut batch, replies) = unzip(&mut sealed, closed_by);
        let given_up = self.rules.timeout(partition).map(|timeout| now + timeout);
        batch.deadline = earlier(batch.deadline, given_up);
        batch.backlog = self.queue.backlog();
        let flight = Flight {
            partition: partition.clone(),
            asked: self.asked(&arrivals, now),
            sent: now,
            handed_over: batch.handed_over.clone(),
            entries: batch.entries,
            deadline: batch.deadline,
            arrivals,
            weights,
            replies,
        };
        self.sealed = sealed;
        self.send(batch, flight);
    }

    /// Since when a batch waited for its permit: since the line did, but not
    /// before it was there itself.
    fn asked(&self, arrivals: &[Instant], now: Instant) -> Instant {
        let oldest = arrivals.first().copied().unwrap_or(now);
        self.asking.map_or(now, |since| since.max(oldest).min(now))
    }

    /// Hands the batch over.
    fn send(&mut self, batch: Batch<Req>, flight: Flight<C::Partition, PartOf<S, Req>, S::Error>) {
        self.flow.last_sent = Some(flight.sent);
        self.flow.in_flight += 1;
        self.pace.started(flight.sent);
        let report = Report {
            to: self.report.clone(),
            kind: self.rules.kind(&flight.partition),
            entries: flight.entries,
            rtt: None,
        };
        let answer = self.below.call(batch);
        tokio::spawn(flight.land::<Req, C, S::Response>(answer, Arc::clone(&self.rules), report));
    }

    fn finish(&mut self, finished: &Finished) {
        self.flow.in_flight -= 1;
        let busy = self.flow.in_flight > 0;
        self.pace.finished(clock(), finished.entries, busy);
        self.flow.spacing = self.pace.spacing();
        self.queue.paced(self.flow.spacing);
        if let Some(rtt) = finished.rtt {
            let latency = &mut self.latencies[finished.kind];
            latency.learn(rtt);
            self.queue.answers(finished.kind, latency.latest());
        }
    }

    /// The service below is broken for good (tower: an error of `poll_ready`
    /// is final): everything that waits hears so, at once.
    fn fail(&mut self, error: &S::Error) {
        for (partition, window) in self.windows.iter_mut() {
            self.queue.left(self.rules.kind(partition), window.waits());
            for entry in window.clear() {
                entry.reply.send(Err(BatchError::Upstream(error.clone())));
            }
        }
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => pending().await,
    }
}
