//! Whether calls made now would be served, for whoever asks: the admin address,
//! and `grpc.health.v1`.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, Ordering},
};

use crate::{health::Standing, raft::Groups};

type Unreachable = Box<dyn Fn() -> Option<String> + Send + Sync>;

/// What readiness depends on.
#[derive(Default)]
pub(super) struct Readiness {
    draining: AtomicBool,
    groups: Option<Groups>,
    /// Why no call can be passed on now; set once there is a door to ask.
    unreachable: OnceLock<Unreachable>,
}

impl Readiness {
    /// Of a process over these groups, if over any.
    pub(super) fn of(groups: Option<Groups>) -> Arc<Self> {
        Arc::new(Self {
            groups,
            ..Self::default()
        })
    }

    /// Asks `unreachable` where there are no groups.
    pub(super) fn asks(&self, unreachable: impl Fn() -> Option<String> + Send + Sync + 'static) {
        // Whoever asked first goes on being asked.
        let _ = self.unreachable.set(Box::new(unreachable));
    }

    /// The groups that it depends on, if any.
    pub(super) const fn groups(&self) -> Option<&Groups> {
        self.groups.as_ref()
    }

    /// From now on nothing is ready.
    pub(super) fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// What stands against it, if anything.
    pub(super) fn why_not(&self) -> Option<String> {
        if self.draining.load(Ordering::Relaxed) {
            return Some("draining".to_owned());
        }
        let Some(groups) = &self.groups else {
            return self.unreachable.get().and_then(|unreachable| unreachable());
        };
        let mut groups = groups.all().iter().enumerate();
        groups
            .find_map(|(number, group)| Some(format!("Raft group {number} {}", group.obstacle()?)))
    }

    /// The same, as health is told.
    pub(super) fn standing(&self) -> Standing {
        if self.draining.load(Ordering::Relaxed) {
            return Standing::Draining;
        }
        match self.why_not() {
            None => Standing::Serving,
            Some(_) => Standing::NotServing,
        }
    }
}
