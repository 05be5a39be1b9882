//! One address of an upstream: its connections, made when needed and made
//! again when lost.
//!
//! A task keeps the connections; calls only look. A call that finds none while
//! one is being made waits for it, and one that finds that it could not be
//! made just now is told so at once: to hold calls in front of an upstream
//! that is gone would only collect them. One that finds all connections full
//! waits for one more, or for a call to end, whichever comes first.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
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
    link::{Burden, KeepAlive, Link},
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
    Up {
        /// When one more connection was wanted and could not be made.
        stunted: Option<Instant>,
    },
    Down {
        cause: Arc<str>,
        since: Instant,
    },
    /// For good: nobody connects any more.
    Retired(Arc<str>),
}

/// What the lines of an upstream tell whoever minds all of them.
#[derive(Clone, Debug)]
pub(super) struct Told {
    /// One has no connection any more, or again none could be made.
    pub(super) lost: watch::Sender<()>,
    /// One has got a connection.
    pub(super) up: watch::Sender<()>,
}

impl Default for Told {
    fn default() -> Self {
        Self {
            lost: watch::Sender::new(()),
            up: watch::Sender::new(()),
        }
    }
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
    told: Told,
    pub(super) burden: Arc<Burden>,
}

impl Line {
    pub(super) fn new(target: Target, settings: LineSettings, told: Told) -> Arc<Self> {
        Arc::new(Self {
            target,
            settings,
            links: ArcSwap::default(),
            health: watch::Sender::new(Health::Connecting),
            bell: Notify::new(),
            crowded: AtomicBool::new(false),
            told,
            burden: Arc::default(),
        })
    }

    pub(super) fn load(&self) -> Load {
        Load {
            up: matches!(*self.health.borrow(), Health::Up { .. }),
            carried: self.burden.carried(),
        }
    }

    /// Why there is no connection; `None` if there is one, or may be soon.
    pub(super) fn down(&self) -> Option<Arc<str>> {
        match &*self.health.borrow() {
            Health::Down { cause, .. } | Health::Retired(cause) => Some(Arc::clone(cause)),
            Health::Connecting | Health::Up { .. } => None,
        }
    }

    /// A connection for one call, the first with room. `None` if there is no
    /// connection, or none has room and one more is made; where none can be,
    /// the one that carries least.
    pub(super) fn link(&self) -> Option<Arc<Link>> {
        let links = self.links.load();
        let open = || links.iter().filter(|link| !link.is_closed());
        if let Some(link) = open().find(|link| link.has_room()) {
            return Some(Arc::clone(link));
        }
        let link = open().min_by_key(|link| link.carried())?;
        if links.len() < self.settings.connections && self.may_grow() {
            self.crowded.store(true, Ordering::Relaxed);
            self.bell.notify_one();
            return None;
        }
        Some(Arc::clone(link))
    }

    /// Whether one more connection may come about.
    fn may_grow(&self) -> bool {
        match &*self.health.borrow() {
            Health::Up { stunted } => stunted.is_none_or(|since| since.elapsed() >= PAUSE_MAX),
            Health::Connecting | Health::Down { .. } => true,
            Health::Retired(_) => false,
        }
    }

    /// Waits until there is a connection, or just now could not be one.
    pub(super) async fn connected(&self) -> Result<Arc<Link>, Arc<str>> {
        let mut health = self.health.subscribe();
        let mut eased = false;
        loop {
            let now = health.borrow_and_update().clone();
            if let Some(link) = self.link() {
                if eased {
                    // Two calls that end together ring once: the next may have room too.
                    self.burden.eased.notify_one();
                }
                return Ok(link);
            }
            match now {
                Health::Down { cause, since } if since.elapsed() < PAUSE_MIN => return Err(cause),
                Health::Retired(cause) => return Err(cause),
                // Also where all have just closed and the keeper does not know.
                Health::Down { .. } | Health::Up { .. } => self.bell.notify_one(),
                Health::Connecting => {}
            }
            tokio::select! {
                // The sender is part of this line.
                _ = health.changed() => {}
                () = self.burden.eased.notified() => eased = true,
            }
        }
    }

    /// A call would take it, if it had a connection: it is tried soon again.
    pub(super) fn ask(&self) {
        if matches!(*self.health.borrow(), Health::Down { .. }) {
            self.bell.notify_one();
        }
    }

    /// The address is no longer the upstream's: whoever waits for it is told.
    pub(super) fn retire(&self) {
        let cause = "the upstream's name stands for another address now";
        self.turn(Health::Retired(cause.into()));
    }

    /// From now on it is so, unless it is retired.
    fn turn(&self, to: Health) {
        self.health.send_if_modified(|health| {
            let lives = !matches!(health, Health::Retired(_));
            if lives {
                *health = to;
            }
            lives
        });
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
            self.turn(Health::Connecting);
            self.told.lost.send_replace(());
        }
        none || crowded && room
    }

    fn add(&self, link: Link) {
        let mut links = Vec::clone(&self.links.load());
        links.push(Arc::new(link));
        self.links.store(Arc::new(links));
        // Whoever waits looks again, and says so if this is not enough.
        self.crowded.store(false, Ordering::Relaxed);
        self.turn(Health::Up { stunted: None });
        self.told.up.send_replace(());
    }

    /// No connection could be made; those that there are go on.
    fn failed(&self, cause: String) {
        let since = Instant::now();
        let health = match self.links.load().is_empty() {
            true => Health::Down {
                cause: cause.into(),
                since,
            },
            false => Health::Up {
                stunted: Some(since),
            },
        };
        let down = matches!(health, Health::Down { .. });
        self.turn(health);
        if down {
            self.told.lost.send_replace(());
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
