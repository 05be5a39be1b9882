//! The threads that a group's core runs on: everybody's, or its own.
//!
//! A group's core, its state machine's task and its timers are a handful of
//! tasks. On one runtime they compete with every other group's and with the
//! calls; on a runtime of its own a group has one thread to itself. Which is
//! better is a matter of how many cores there are, so it is a setting.

use std::{future::Future, io};

use tokio::{runtime, task::JoinHandle};

/// Which threads the groups' cores run on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Runtime {
    /// Those of the runtime that opens the groups.
    #[default]
    Shared,
    /// One thread for each group, of its own.
    Dedicated,
}

/// The threads of one group.
pub(super) enum Runs {
    Shared,
    Dedicated(Option<runtime::Runtime>),
}

impl Runs {
    pub(super) fn of(runtime: Runtime, group: u32) -> io::Result<Self> {
        match runtime {
            Runtime::Shared => Ok(Self::Shared),
            Runtime::Dedicated => {
                let own = runtime::Builder::new_multi_thread()
                    .worker_threads(1)
                    .thread_name(format!("ferry-group-{group}"))
                    .enable_all()
                    .build()?;
                Ok(Self::Dedicated(Some(own)))
            }
        }
    }

    /// Runs a task there. Without threads of its own: on the caller's runtime.
    pub(super) fn spawn<F>(&self, task: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        match self {
            Self::Dedicated(Some(own)) => own.spawn(task),
            Self::Dedicated(None) | Self::Shared => tokio::spawn(task),
        }
    }
}

impl Drop for Runs {
    fn drop(&mut self) {
        // A runtime that is dropped waits for its threads, and whoever drops
        // this may be on a thread that must not wait.
        if let Self::Dedicated(own) = self
            && let Some(own) = own.take()
        {
            own.shutdown_background();
        }
    }
}
