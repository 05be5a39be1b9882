//! A load on a thread of its own, and the bar that shows it.

use std::{sync::Arc, thread, time::Duration};

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::{
    sync::oneshot,
    time::{Instant, MissedTickBehavior, interval},
};

use super::{
    load::{Load, LoadError},
    plan::LoadPlan,
    report::{Report, milliseconds},
    tally::Progress,
};

/// How often the bar is drawn.
const REDRAW: Duration = Duration::from_millis(200);
/// The bar's length; its position is the larger share of count and duration.
const PER_MILLE: u64 = 1_000;

/// A load that runs; dropped, it stops.
#[derive(Debug)]
pub struct Running {
    progress: Arc<Progress>,
    report: oneshot::Receiver<Result<Report, LoadError>>,
    bar: ProgressBar,
    started: Instant,
    count: Option<u64>,
    duration: Option<Duration>,
}

impl Running {
    /// Starts `plan`; the bar on stderr (hidden where that is no terminal)
    /// begins with `name`.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn start(plan: LoadPlan, name: &str) -> Result<Self> {
        let (sender, report) = oneshot::channel();
        let progress = Arc::new(Progress::default());
        let (count, duration) = (plan.count, plan.duration);
        let shown = Arc::clone(&progress);
        thread::Builder::new()
            .name("ferry-load".into())
            .spawn(move || {
                // Nobody waits for the report of a load that was dropped.
                let _ = sender.send(Load::run(&plan, &shown));
            })
            .context("no thread for the load generator")?;
        let style = ProgressStyle::with_template("{prefix:>16} {bar:24.cyan/dim} {msg}")
            .expect("the template is well-formed");
        let bar = ProgressBar::new(PER_MILLE)
            .with_style(style)
            .with_prefix(name.to_owned());
        Ok(Self {
            progress,
            report,
            bar,
            started: Instant::now(),
            count,
            duration,
        })
    }

    /// Ends the load at once.
    pub fn stop(&self) {
        self.progress.stop();
    }

    /// Draws the bar until the load has ended. May be called again if the
    /// future was dropped before.
    ///
    /// # Errors
    /// If the load could not begin.
    pub async fn report(&mut self) -> Result<Report> {
        let mut redraw = interval(REDRAW);
        redraw.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                ended = &mut self.report => {
                    self.bar.finish_and_clear();
                    return match ended {
                        Ok(report) => Ok(report?),
                        Err(_) => bail!("the load generator's thread panicked"),
                    };
                }
                _ = redraw.tick() => self.draw(),
            }
        }
    }

    fn draw(&self) {
        let done = self.progress.done();
        let of_count = self.count.map_or(0.0, |count| done as f64 / count as f64);
        let of_duration = self.duration.map_or(0.0, |duration| {
            self.started.elapsed().as_secs_f64() / duration.as_secs_f64()
        });
        let share = of_count.max(of_duration).min(1.0);
        self.bar.set_position((share * PER_MILLE as f64) as u64);
        let p99 = self.progress.last_second_p99().as_secs_f64() * 1_000.0;
        let not_done = match self.progress.not_done() {
            0 => String::new(),
            some => format!(" · {some} failed or timed out"),
        };
        self.bar.set_message(format!(
            "{:>7} sessions/s · p99 {} · {done} done{not_done}",
            self.progress.last_second(),
            milliseconds(p99),
        ));
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.progress.stop();
        self.bar.finish_and_clear();
    }
}
