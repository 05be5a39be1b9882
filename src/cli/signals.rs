//! What people and supervisors ask of the process by a signal.
//!
//! Listened for before the process says that it serves: a signal that comes
//! before anyone listens for it ends the process at once, with every call that
//! it had accepted.

use anyhow::{Context as _, Result};

#[cfg(unix)]
use tokio::signal::unix::{Signal, SignalKind, signal};

/// From its making on, signals are kept for whoever awaits them.
#[derive(Debug)]
pub(super) struct Signals {
    #[cfg(unix)]
    interrupts: Signal,
    #[cfg(unix)]
    terminations: Signal,
}

impl Signals {
    /// # Errors
    /// Where the process may not listen for signals.
    pub(super) fn listen() -> Result<Self> {
        Ok(Self {
            #[cfg(unix)]
            interrupts: signal(SignalKind::interrupt()).context("Ctrl-C cannot be awaited")?,
            #[cfg(unix)]
            terminations: signal(SignalKind::terminate()).context("SIGTERM cannot be awaited")?,
        })
    }

    /// Resolves when the process is asked to end: Ctrl-C or SIGTERM.
    #[cfg(unix)]
    pub(super) async fn asked_to_end(&mut self) -> Result<()> {
        tokio::select! {
            _ = self.interrupts.recv() => {}
            _ = self.terminations.recv() => {}
        }
        Ok(())
    }

    #[cfg(not(unix))]
    pub(super) async fn asked_to_end(&mut self) -> Result<()> {
        let pressed = tokio::signal::ctrl_c().await;
        pressed.context("Ctrl-C cannot be awaited")
    }
}

/// Requests to read the policy again: SIGHUP.
#[derive(Debug)]
pub(super) struct Hangups {
    #[cfg(unix)]
    hangups: Signal,
}

impl Hangups {
    /// # Errors
    /// Where the process may not listen for signals.
    pub(super) fn listen() -> Result<Self> {
        Ok(Self {
            #[cfg(unix)]
            hangups: signal(SignalKind::hangup()).context("SIGHUP cannot be awaited")?,
        })
    }

    /// Resolves at the next one.
    pub(super) async fn next(&mut self) {
        #[cfg(unix)]
        if self.hangups.recv().await.is_some() {
            return;
        }
        std::future::pending().await
    }
}

/// Resolves when the process is asked to end, for commands that serve nobody.
pub(crate) async fn interrupted() -> Result<()> {
    Signals::listen()?.asked_to_end().await
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_signal_that_comes_before_anyone_awaits_it_is_kept() {
        let mut hangups = Hangups::listen().expect("a process may");
        let kill = format!("kill -HUP {}", std::process::id());
        let mut shell = tokio::process::Command::new("sh");
        let sent = shell.args(["-c", &kill]).status().await;
        assert!(sent.expect("there is a shell").success());
        hangups.next().await;
    }
}
