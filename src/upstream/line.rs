//! One address of an upstream: its connections, made when needed and made
//! again when lost.
//!
//! A task keeps the connections; calls only look. A call that finds none while
//! one is being made waits for it, and one that finds that it could not be
//! made just now is told so at once: to hold calls in front of an upstream
//! that is gone would only collect them.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, timeout},
};

use super::{
    balance::Load,
    dial::Target,
    link::{KeepAlive, Link},
};

/// Between two attempts to connect, however many calls ask for one.
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// Between two attempts while no call asks, after many that failed.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// How a line makes and keeps its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LineSettings {
    /// How long a connection may take to be made.
    pub connect_timeout: Duration,
    /// Most connections to one address.
    pub connections: usize,
    /// Whether a silent upstream is asked if it lives.
    pub keep_alive: Option<KeepAlive>,
}

impl Default for LineSettings {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            connections: 64,
            // A server that did not ask for pings may close a connection for
            // them. That a peer is gone is the kernel's to find: see `dial`.
            keep_alive: None,
        }
    }
}

#[derive(Clone, Debug)]
enum Health {
    /// The first attempt, or the first since a connection was lost.
    Connecting,
    Up,
    Down {
        cause: Arc<str>,
        since: Instant,
    },
}

/// The connections to one address.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) target: Target,
    settings: LineSettings,
    links: ArcSwap<Vec<Arc<Link>>>,
    health: watch::Sender<Health>,
    /// Rung when a connection is lost or one more is wanted.
    bell: Notify,
    crowded: AtomicBool,
    pub(super) carried: Arc<AtomicUsize>,
}

impl Line {
    pub(super) fn new(target: Target, settings: LineSettings) -> Arc<Self> {
        Arc::new(Self {
            target,
            settings,
            links: ArcSwap::default(),
            health: watch::Sender::new(Health::Connecting),
            bell: Notify::new(),
            crowded: AtomicBool::new(false),
            carried: Arc::default(),
        })
    }

    pub(super) fn load(&self) -> Load {
        Load {
            up: matches!(*self.health.borrow(), Health::Up),
            carried: self.carried.load(Ordering::Relaxed),
        }
    }

    /// Why there is no connection; `None` if there is one, or may be soon.
    pub(super) fn down(&self) -> Option<Arc<str>> {
        match &*self.health.borrow() {
            Health::Down { cause, .. } => Some(Arc::clone(cause)),
            Health::Connecting | Health::Up => None,
        }
    }

    /// A connection for one call, the first with room; where none has any,
    /// the one that carries least, and one more is made. `None` if there is
    /// no connection.
    pub(super) fn link(&self) -> Option<Arc<Link>> {
        let links = self.links.load();
        let open = || links.iter().filter(|link| !link.is_closed());
        if let Some(link) = open().find(|link| link.has_room()) {
            return Some(Arc::clone(link));
        }
        let link = open().min_by_key(|link| link.carried())?;
        if links.len() < self.settings.connections {
            self.crowded.store(true, Ordering::Relaxed);
            self.bell.notify_one();
        }
        Some(Arc::clone(link))
    }

    /// Waits until there is a connection, or just now could not be one.
    pub(super) async fn connected(&self) -> Result<Arc<Link>, Arc<str>> {
        let mut health = self.health.subscribe();
        loop {
            let now = health.borrow_and_update().clone();
            if let Some(link) = self.link() {
                return Ok(link);
            }
            match now {
                Health::Down { cause, since } if since.elapsed() < PAUSE_MIN => return Err(cause),
                // Also where all have just closed and the keeper does not know.
                Health::Down { .. } | Health::Up => self.bell.notify_one(),
                Health::Connecting => {}
            }
            // The sender is part of this line.
            let _ = health.changed().await;
        }
    }

    /// The address is no longer the upstream's: whoever waits for it is told.
    pub(super) fn retire(&self) {
        self.failed("the upstream's name stands for another address now".to_owned());
    }

    /// Lets go of a connection that takes no more calls; those that it has
    /// are served to their end.
    pub(super) fn lose(&self, link: &Link) {
        link.close();
        self.bell.notify_one();
    }

    /// Drops closed connections; whether one is to be made.
    fn wants(&self) -> bool {
        let mut links = Vec::clone(&self.links.load());
        let before = links.len();
        links.retain(|link| !link.is_closed());
        let (none, crowded) = (
            links.is_empty(),
            self.crowded.swap(false, Ordering::Relaxed),
        );
        let room = links.len() < self.settings.connections;
        if links.len() < before {
            self.links.store(Arc::new(links));
        }
        if none && before > 0 {
            self.health.send_replace(Health::Connecting);
        }
        none || crowded && room
    }

    fn add(&self, link: Link) {
        let mut links = Vec::clone(&self.links.load());
        links.push(Arc::new(link));
        self.links.store(Arc::new(links));
        self.health.send_replace(Health::Up);
    }

    /// No connection could be made; those that there are go on.
    fn failed(&self, cause: String) {
        if self.links.load().is_empty() {
            let (cause, since) = (cause.into(), Instant::now());
            self.health.send_replace(Health::Down { cause, since });
        }
    }
}

/// Keeps a line's connections until the line is gone.
pub(super) async fn keep(line: Arc<Line>) {
    let mut pause = PAUSE_MIN;
    loop {
        if !line.wants() {
            line.bell.notified().await;
            continue;
        }
        let patience = line.settings.connect_timeout;
        let made = timeout(patience, connect(&line)).await;
        match made.unwrap_or_else(|_| Err(format!("no connection within {patience:?}"))) {
            Ok(link) => {
                line.add(link);
                pause = PAUSE_MIN;
            }
            Err(cause) => {
                tracing::debug!(upstream = %line.target, %cause, "no connection to an upstream");
                line.failed(cause);
                sleep(PAUSE_MIN).await;
                // A call that asks ends the pause; so does its time.
                let _ = timeout(pause, line.bell.notified()).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    }
}

async fn connect(line: &Arc<Line>) -> Result<Link, String> {
    let socket = line.target.dial().await?;
    let lost: Weak<Line> = Arc::downgrade(line);
    let ended = move || {
        if let Some(line) = lost.upgrade() {
            line.bell.notify_one();
        }
    };
    let link = Link::open(socket, line.settings.keep_alive, ended).await;
    link.map_err(|error| format!("it does not answer as HTTP/2 does: {error}"))
}
