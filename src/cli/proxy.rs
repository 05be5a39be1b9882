//! `ferry proxy`: the sidecar, until it is asked to end.

use std::{net::SocketAddr, path::PathBuf, pin::pin, process::ExitCode, time::Duration};

use anyhow::{Context, Result};
use futures_util::{
    FutureExt,
    future::{Fuse, FusedFuture},
};

use super::{
    descriptors,
    settings::{Setting, effective},
    signals::{Hangups, Signals},
};
use crate::{
    policy::{self, Cause, Listen, Policy, Source},
    raft::Groups,
    stack::{self, Cut, Stack, StackError},
    telemetry::Metrics,
    transport::Place,
};

/// How long what was accepted may take to be answered once intake has ended.
pub(super) const DRAIN_PATIENCE: Duration = Duration::from_secs(30);

/// The flags of `ferry proxy`.
#[derive(Debug, clap::Args)]
pub(super) struct Proxy {
    /// The policy file; without one, the built-in policy: both generations of
    /// CreateSession over an embedded group in ./ferry-data
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Listen here instead of where the policy says; with the certificates of
    /// its first listener that has any
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// Serve metrics and probes here instead of where the policy says
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<SocketAddr>,
    /// Print what would be in force, and where each setting is from; start nothing
    #[arg(long)]
    print_config: bool,
    /// The flags above, and where their values are from.
    #[arg(skip)]
    pub(super) settings: Vec<Setting>,
}

impl Proxy {
    pub(super) async fn run(self) -> Result<ExitCode> {
        let (listen, admin) = (self.listen, self.admin);
        let file = self.policy.clone();
        let amend = move |policy: &mut Policy| {
            if let Some(address) = listen {
                policy.listen = vec![instead(&policy.listen, address)];
            }
            policy.admin = admin.or(policy.admin);
        };
        let source = self.policy.map(|path| Source::new(path, amend));
        let policy = match &source {
            Some(source) => source.read()?,
            None => {
                let mut policy = Policy::embedded();
                amend(&mut policy);
                policy
            }
        };
        if self.print_config {
            let in_force = policy::describe(&policy);
            print!("{}", effective(&self.settings, file.as_deref(), &in_force)?);
            return Ok(ExitCode::SUCCESS);
        }
        descriptors::provide_for(policy.listen.len(), &policy.guards);
        let metrics = Metrics::default();
        let listen = policy.listen.iter().map(|listen| listen.place.clone());
        stack::are_free(listen.chain(policy.admin.map(Place::Tcp)))?;
        let groups = stack::open_groups(&policy, &metrics).await?;
        let (mut signals, mut hangups) = (Signals::listen()?, Hangups::listen()?);
        let stack = Stack::of_source(&policy, source, groups.clone(), metrics).await;
        let stack = or_close(stack, groups.as_ref()).await?;
        announce("ferry proxy", &stack);
        until_ended(&stack, &mut signals, &mut hangups).await?;
        end(stack, groups).await
    }
}

/// `address` in place of the policy's listeners. If one of them asks its clients
/// for TLS so does this: another address is no leave to speak in the clear.
fn instead(listen: &[Listen], address: SocketAddr) -> Listen {
    Listen {
        tls: listen.iter().find_map(|listen| listen.tls.clone()),
        ..Listen::from(address)
    }
}

/// Serves until the process is asked to end; SIGHUP reads the policy again, one
/// time after the other. That may take long, where a file does not come, and
/// holds up no end.
async fn until_ended(stack: &Stack, signals: &mut Signals, hangups: &mut Hangups) -> Result<()> {
    let mut reload = pin!(Fuse::terminated());
    loop {
        tokio::select! {
            asked = signals.asked_to_end() => return asked,
            () = stack.drain_asked() => return Ok(()),
            // What came of it is in the log.
            _ = &mut reload => {}
            () = hangups.next(), if reload.is_terminated() => {
                reload.set(stack.reload(Cause::Signal).fuse());
            }
        }
    }
}

/// The stack, or else an orderly end of the groups that were opened for it: ones
/// that are only dropped would complain, and hide why.
pub(super) async fn or_close(
    stack: Result<Stack, StackError>,
    groups: Option<&Groups>,
) -> Result<Stack> {
    if let (Err(_), Some(groups)) = (&stack, groups) {
        groups.shutdown().await.context("closing the Raft groups")?;
    }
    Ok(stack?)
}

/// One line to stderr that says where it listens, for people and for scripts
/// that chose port 0.
pub(super) fn announce(what: &str, stack: &Stack) {
    let admin = stack.admin_addr();
    let admin = admin.map_or_else(String::new, |admin| format!(", admin on http://{admin}"));
    eprintln!("{what}: listening on {}{admin}", stack.places().join(", "));
}

/// Stops intake, answers what was accepted, then closes the groups.
pub(super) async fn end(stack: Stack, groups: Option<Groups>) -> Result<ExitCode> {
    eprintln!(
        "draining: what was accepted is answered; at most {} s",
        DRAIN_PATIENCE.as_secs()
    );
    let cut = stack.finish(DRAIN_PATIENCE).await;
    if let Some(groups) = groups {
        groups.shutdown().await.context("closing the Raft groups")?;
    }
    Ok(ended(&cut))
}

/// The exit code of a drain, and a word on what it had to cut. A stream that
/// is passed on has no end that one could wait for, so to cut one is no fault.
pub(super) fn ended(cut: &Cut) -> ExitCode {
    if let Some(told) = told(cut) {
        eprintln!("{told}");
    }
    match cut.unanswered {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

fn told(cut: &Cut) -> Option<String> {
    let open = match cut.connections {
        0 => return None,
        1 => "1 connection was still open after the drain and was cut".to_owned(),
        many => format!("{many} connections were still open after the drain and were cut"),
    };
    Some(match cut.unanswered {
        0 => format!("warning: {open}, with the streams that were passed on"),
        _ => format!("error: {open}, with calls that had not been answered"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::ServerFiles;

    #[test]
    fn a_stream_that_outlives_the_drain_is_told_and_no_failure_and_an_unanswered_call_is_one() {
        let told = |connections, unanswered| {
            told(&Cut {
                connections,
                unanswered,
            })
        };
        assert_eq!(told(0, 0), None);
        let one = told(1, 0).expect("it is told");
        assert!(one.starts_with("warning: 1 connection was "), "{one}");
        let two = told(2, 3).expect("it is told");
        assert!(two.starts_with("error: 2 connections were "), "{two}");
    }

    #[test]
    fn another_address_is_no_leave_to_speak_in_the_clear() {
        let address: SocketAddr = "127.0.0.1:1".parse().expect("an address");
        let plain = Listen::from(address);
        let secret = Listen {
            tls: Some(ServerFiles {
                cert: "cert.pem".into(),
                key: "key.pem".into(),
                client_ca: Some("ca.pem".into()),
            }),
            ..plain.clone()
        };
        let other: SocketAddr = "127.0.0.1:2".parse().expect("an address");
        let moved = instead(&[plain.clone(), secret.clone()], other);
        assert_eq!(moved.place, Listen::from(other).place);
        assert_eq!(moved.tls, secret.tls);
        assert_eq!(instead(&[plain], other), Listen::from(other));
    }
}
