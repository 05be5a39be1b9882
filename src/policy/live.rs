//! The policy in force, and how another takes its place: parse, check, build,
//! and only then swap, all or nothing.
//!
//! A file that does not load, or that changes what cannot change, is told in
//! the log and in the admin pages, and the old policy goes on. Whoever was let
//! in under a policy is served under it to the end: what is swapped is the
//! door for the next call, never the one that a call has already passed.

use std::{
    collections::VecDeque,
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use arc_swap::ArcSwap;
use prometheus::IntCounterVec;

use super::{
    Faults, Mode, Policy, fixed,
    watch::{Rest, Stamp},
};

/// How often the files are looked at. A change is acted upon at the second
/// look that sees it, so within two of these.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Looks between two that read a policy again which was refused, though its
/// files seem the same: what it names and was not there may have come.
const READ_AGAIN: u32 = 3;
/// Reloads that are remembered for those who ask.
const REMEMBERED: usize = 32;

/// Where a policy comes from: a file, and what the command line says instead
/// of it.
#[derive(Clone)]
pub struct Source {
    path: PathBuf,
    amend: Arc<dyn Fn(&mut Policy) + Send + Sync>,
}

impl Source {
    /// The file at `path`; `amend` has the last word on what it says.
    pub fn new(path: PathBuf, amend: impl Fn(&mut Policy) + Send + Sync + 'static) -> Self {
        Self {
            path,
            amend: Arc::new(amend),
        }
    }

    /// The policy as it is there now.
    ///
    /// # Errors
    /// Every fault of the file at once.
    pub fn read(&self) -> Result<Policy, Faults> {
        let mut policy = Policy::read(&self.path)?;
        (self.amend)(&mut policy);
        Ok(policy)
    }

    /// The policy's file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Source").field(&self.path).finish()
    }
}

/// What asked for a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Cause {
    /// A file changed.
    File,
    /// SIGHUP.
    Signal,
    /// `POST /reload`, or the program that ferry is part of.
    Request,
}

/// One reload and what came of it.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Reload {
    /// When, in seconds since 1970.
    pub unix_seconds: u64,
    /// What asked for it.
    pub cause: Cause,
    /// Whether its policy is in force.
    pub accepted: bool,
    /// Why it is not: every fault there is.
    pub faults: Vec<String>,
}

/// Builds what a policy describes and puts it in the place of the old one, or
/// says why not and changes nothing.
pub type Install = Box<dyn Fn(&Policy) -> Result<(), String> + Send + Sync>;

/// The policy in force.
pub struct Live {
    source: Option<Source>,
    in_force: ArcSwap<Policy>,
    install: Install,
    reloads: IntCounterVec,
    /// Held for the time of a reload: they come one after the other.
    turn: tokio::sync::Mutex<()>,
    recent: Mutex<VecDeque<Reload>>,
    /// What the files looked like when they were last read.
    read: Mutex<Vec<Stamp>>,
}

impl Live {
    /// `policy` is in force. Others are read from `source`, if there is one,
    /// put in place by `install`, and counted in `reloads` by their result.
    #[must_use]
    pub fn new(
        policy: Policy,
        source: Option<Source>,
        install: Install,
        reloads: IntCounterVec,
    ) -> Self {
        for result in [true, false] {
            reloads.with_label_values(&[label(result)]);
        }
        Self {
            source,
            read: Mutex::new(policy.files.clone()),
            in_force: ArcSwap::from_pointee(policy),
            install,
            reloads,
            turn: tokio::sync::Mutex::default(),
            recent: Mutex::default(),
        }
    }

    /// The policy in force.
    #[must_use]
    pub fn policy(&self) -> Arc<Policy> {
        self.in_force.load_full()
    }

    /// The last reloads, oldest first.
    #[must_use]
    pub fn recent(&self) -> Vec<Reload> {
        lock(&self.recent).iter().cloned().collect()
    }

    /// Reads the policy's file again. If all of it is well its policy is in
    /// force when this returns; else the old one is.
    pub async fn reload(&self, cause: Cause) -> Reload {
        let _turn = self.turn.lock().await;
        let outcome = self.replace().await;
        self.note(cause, outcome)
    }

    /// The same for one that was refused; it is told where that has changed.
    async fn reload_again(&self) {
        let _turn = self.turn.lock().await;
        let outcome = self.replace().await;
        let told = lock(&self.recent).back().map(|last| last.faults.clone());
        if outcome.as_ref().err() != told.as_ref() {
            self.note(Cause::File, outcome);
        }
    }

    fn was_refused(&self) -> bool {
        let recent = lock(&self.recent);
        recent.back().is_some_and(|last| !last.accepted)
    }

    /// Tells what came of a reload, wherever it is asked for.
    fn note(&self, cause: Cause, outcome: Result<(), Vec<String>>) -> Reload {
        let reload = Reload {
            unix_seconds: unix_seconds(),
            cause,
            accepted: outcome.is_ok(),
            faults: outcome.err().unwrap_or_default(),
        };
        self.reloads
            .with_label_values(&[label(reload.accepted)])
            .inc();
        match reload.accepted {
            true => tracing::info!(?cause, "the policy was reloaded"),
            false => {
                let faults = reload.faults.join("\n");
                tracing::warn!(?cause, "the policy stays as it was: {faults}");
            }
        }
        let mut recent = lock(&self.recent);
        if recent.len() == REMEMBERED {
            recent.pop_front();
        }
        recent.push_back(reload.clone());
        reload
    }

    /// Puts one method of the policy in force into another mode, until the
    /// policy is read again.
    ///
    /// # Errors
    /// Why not: the policy has no such method, or it cannot be put in place.
    pub async fn switch(&self, selector: &str, mode: Mode) -> Result<(), String> {
        let _turn = self.turn.lock().await;
        let mut policy = Policy::clone(&self.policy());
        let mut methods = policy.methods.iter_mut();
        let Some(method) = methods.find(|method| method.path[1..] == *selector) else {
            let known: Vec<_> = policy.methods.iter().map(|m| &m.path[1..]).collect();
            return Err(format!(
                "method \"{selector}\": must be one of the policy's: {}",
                known.join(", ")
            ));
        };
        let before = std::mem::replace(&mut method.mode, mode).name();
        (self.install)(&policy)?;
        self.in_force.store(Arc::new(policy));
        let mode = mode.name();
        tracing::warn!(
            "{selector}: mode {mode} in the place of {before}, until the policy is read again"
        );
        Ok(())
    }

    async fn replace(&self) -> Result<(), Vec<String>> {
        let Some(source) = self.source.clone() else {
            let what = "ferry was started without a policy file; start it with --policy FILE";
            return Err(vec![what.to_owned()]);
        };
        let old = self.policy();
        // Noted before it is read, so that a change meanwhile is seen later.
        let seen = old.files.iter().map(Stamp::again).collect();
        *lock(&self.read) = seen;
        let read = tokio::task::spawn_blocking(move || source.read()).await;
        let new = match read {
            Ok(Ok(new)) => new,
            Ok(Err(faults)) => return Err(faults.to_string().lines().map(String::from).collect()),
            Err(error) => return Err(vec![format!("the policy's reader failed: {error}")]),
        };
        let fixed = fixed::differences(&old, &new);
        if !fixed.is_empty() {
            return Err(fixed);
        }
        (self.install)(&new).map_err(|why| vec![why])?;
        lock(&self.read).clone_from(&new.files);
        self.in_force.store(Arc::new(new));
        Ok(())
    }

    /// Looks at the policy's files for ever, and reloads when they have changed.
    pub async fn watch(&self) {
        let (mut rest, mut looks) = (Rest::default(), 0);
        while self.source.is_some() {
            tokio::time::sleep(LOOK_EVERY).await;
            let read = lock(&self.read).clone();
            let again = read.clone();
            let look = move || again.iter().map(Stamp::again).collect::<Vec<_>>();
            // Its only failure is a runtime that ends, and this with it.
            let Ok(now) = tokio::task::spawn_blocking(look).await else {
                return;
            };
            let is_new = now != read;
            if rest.look(&read, now) {
                self.reload(Cause::File).await;
                looks = 0;
            } else if !is_new && self.was_refused() {
                looks += 1;
                if looks % READ_AGAIN == 0 {
                    self.reload_again().await;
                }
            }
        }
    }
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Live")
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}

const fn label(accepted: bool) -> &'static str {
    match accepted {
        true => "accepted",
        false => "refused",
    }
}

#[allow(clippy::disallowed_methods)] // shown to people; nothing is decided by it
fn unix_seconds() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // What it guards is replaced whole, so a panic leaves nothing half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
