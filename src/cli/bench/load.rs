//! Runs one load on the calling thread: its own runtime, apart from any
//! server's in the same process, so that neither borrows the other's time
//! unseen. Each caller sends its next call when the last is answered (closed loop)
//! or, at a rate, when one is due (open loop).

use std::{cell::RefCell, io, net::SocketAddr, rc::Rc, time::Duration};

use tokio::{
    runtime::Builder,
    task::{JoinSet, LocalSet},
    time::{Instant, MissedTickBehavior, interval, sleep},
};

use super::{
    caller::{Caller, Desk, SharedDesk},
    connection::{Crew, Ended, Line},
    cpu::{self, ThreadTime},
    pace::Pace,
    plan::LoadPlan,
    report::Report,
    tally::Progress,
};

/// How often the progress is shown and the wish to stop is looked at.
const TICK: Duration = Duration::from_millis(20);
/// Connections lost in a row, with no answer on any, before callers give up.
const MAX_LOST_IN_A_ROW: u32 = 8;
/// The first pause before connecting again; doubled each time up to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_secs(1);

/// The load generator.
#[derive(Debug)]
pub struct Load;

/// A load that could not begin.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The thread has no runtime.
    #[error("the load generator's runtime does not start")]
    Runtime(#[source] io::Error),
    /// Nobody listens.
    #[error(
        "{target}: cannot connect ({reason}); start a server there, or give another --host and --port"
    )]
    Connect {
        /// Where the load was to go.
        target: SocketAddr,
        /// What the system said.
        reason: io::Error,
    },
}

impl Load {
    /// Runs `plan` to its end on this thread, which must not be a runtime's:
    /// calls stop at the count or the duration, and what is in flight then is
    /// awaited, each call at most its timeout. `progress` shows it live and can
    /// stop it.
    ///
    /// # Errors
    /// Only if the load cannot begin; once it runs, everything is in the report.
    pub fn run(plan: &LoadPlan, progress: &Progress) -> Result<Report, LoadError> {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(LoadError::Runtime)?;
        LocalSet::new().block_on(&runtime, drive(plan, progress))
    }
}

async fn drive(plan: &LoadPlan, progress: &Progress) -> Result<Report, LoadError> {
    let target = plan.target;
    let mut lines = Vec::new();
    for callers in plan.callers_of_each_connection() {
        let callers = (0..callers).map(|_| Caller::new()).collect();
        let crew = Crew {
            callers,
            pace: None,
        };
        let line = Line::connect(plan, crew).await;
        lines.push(line.map_err(|(_, reason)| LoadError::Connect { target, reason })?);
    }
    let (started, busy) = (Instant::now().into_std(), ThreadTime::now());
    if let Some(rate) = plan.rate {
        let (batch, total) = (plan.batch_size.get(), plan.connections.get());
        let pace = |number| Pace::new(rate, batch, (number, total), started);
        let paced = (0..).zip(lines).map(|(number, line)| line.at(pace(number)));
        let paced: Result<_, _> = paced.collect();
        lines = paced.map_err(|(_, reason)| LoadError::Connect { target, reason })?;
    }
    let desk = Rc::new(RefCell::new(Desk::new(plan, started)));
    let mut tasks = JoinSet::new();
    for line in lines {
        tasks.spawn_local(serve(plan.clone(), line, Rc::clone(&desk)));
    }
    watch(&mut tasks, &desk, progress).await;
    let spent = ThreadTime::now()
        .zip(busy)
        .map(|(now, then)| now.since(then));

    // The tasks are gone, and with them all other handles.
    let Desk { mut tally, .. } = Rc::into_inner(desk)
        .expect("every connection has ended")
        .into_inner();
    tally.show(progress, Instant::now().into_std());
    if let Some(warning) = cpu::verdict(spent, Instant::now().into_std().duration_since(started)) {
        tally.warn(warning);
    }
    if let Some(rate) = plan.rate {
        let warnings = tally.lateness.warnings(rate, plan.concurrency.get());
        warnings.into_iter().for_each(|told| tally.warn(told));
    }
    if progress.stopped() {
        tally.warn("interrupted: calls in flight were reset and are not counted".into());
    }
    Ok(Report::new(plan.clone(), tally))
}

/// Shows the progress until every connection has ended or the load is stopped.
async fn watch(tasks: &mut JoinSet<()>, desk: &SharedDesk, progress: &Progress) {
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            joined = tasks.join_next() => match joined {
                None => return,
                Some(ended) => ended.expect("a connection's task neither panics nor is aborted"),
            },
            _ = tick.tick() => {
                desk.borrow_mut().tally.show(progress, Instant::now().into_std());
                if progress.stopped() {
                    tasks.shutdown().await;
                    return;
                }
            }
        }
    }
}

/// Keeps one connection's callers connected until they are done.
async fn serve(plan: LoadPlan, mut line: Line, desk: SharedDesk) {
    let mut lost_in_a_row = 0;
    loop {
        let answered = desk.borrow().tally.success;
        let ended = line.run(&desk).await;
        warn_of_stream_limit(&line, &desk);
        let Ended::Lost(mut error) = ended else {
            return;
        };
        let mut crew = line.into_crew();
        if desk.borrow().tally.success > answered {
            lost_in_a_row = 0;
        }
        line = loop {
            lost_in_a_row += 1;
            if lost_in_a_row >= MAX_LOST_IN_A_ROW {
                give_up(&desk, &mut crew, &error);
                return;
            }
            sleep(LAST_PAUSE.min(FIRST_PAUSE * 2_u32.pow(lost_in_a_row - 1))).await;
            let over = !desk.borrow().is_open(Instant::now().into_std());
            // At the first loss nobody has seen yet whether there is a server.
            if over && lost_in_a_row > 1 {
                cut_short(
                    &desk,
                    &crew,
                    &format!("had no server at the end (last: {error})"),
                );
            }
            if over || desk.borrow().unsent() == 0 && !crew.callers.iter().any(Caller::is_loaded) {
                pass_over(&desk, &mut crew);
                return;
            }
            match Line::connect(&plan, crew).await {
                Ok(line) => break line,
                Err((back, refused)) => {
                    crew = back;
                    error = format!("cannot connect: {refused}");
                }
            }
        };
        desk.borrow_mut()
            .tally
            .warn(format!("connected again after: {error}"));
    }
}

fn give_up(desk: &SharedDesk, crew: &mut Crew, error: &str) {
    pass_over(desk, crew);
    let why = format!(
        "stopped early: their connection was lost {MAX_LOST_IN_A_ROW} times in a row without an \
         answer (last: {error})"
    );
    cut_short(desk, crew, &why);
}

fn cut_short(desk: &SharedDesk, crew: &Crew, why: &str) {
    let tally = &mut desk.borrow_mut().tally;
    tally.cut_short = true;
    tally.warn(format!("{} callers {why}", crew.callers.len()));
}

/// An open loop's calls that nobody is left to send.
fn pass_over(desk: &SharedDesk, crew: &mut Crew) {
    let mut desk = desk.borrow_mut();
    if let Some((pace, closes)) = crew.pace.as_mut().zip(desk.closes()) {
        let calls = pace.pass_until(closes);
        desk.pass_over(calls);
    }
}

fn warn_of_stream_limit(line: &Line, desk: &SharedDesk) {
    let (limit, callers) = (line.stream_limit(), line.callers());
    // In an open loop it is told if a call did wait.
    if limit < callers && !line.is_paced() {
        desk.borrow_mut().tally.warn(format!(
            "the server takes {limit} calls at once on a connection that {callers} callers share: \
             calls waited for a free stream; add --connections"
        ));
    }
}
