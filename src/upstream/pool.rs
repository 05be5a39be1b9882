//! The lines to all addresses of an upstream, as its names stand for them.
//!
//! Names are looked up again and again, soon where an address is down, and a
//! line is made or let go as the addresses change: a name is how a service moves.

use std::{
    collections::BTreeSet,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::{
    net::lookup_host,
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use super::{
    balance,
    dial::{Address, Target},
    fault::Fault,
    line::{self, Line, LineSettings, Told},
    link::Link,
};

/// How often a name is looked up, how soon again where that failed or one of
/// its addresses is down, and how long it may take.
const RESOLVE_EVERY: Duration = Duration::from_secs(30);
const RESOLVE_AGAIN: Duration = Duration::from_secs(1);
const RESOLVE_WITHIN: Duration = Duration::from_secs(10);
/// How often the log hears of a name that still cannot be.
const SAY_EVERY: Duration = Duration::from_secs(60);

/// Every line of an upstream, and what keeps them.
#[derive(Debug)]
pub(super) struct Pool {
    lines: ArcSwap<Vec<Kept>>,
    /// Why the name that was last looked up has no address; moves with `lines`.
    unresolved: watch::Sender<Option<(Arc<str>, String)>>,
    /// Told when any line is down, or is up.
    told: Told,
    settings: LineSettings,
    /// Those who look names up; they end with the pool.
    resolving: Mutex<JoinSet<()>>,
}

/// A line and the task that keeps it, for as long as it is in a list.
#[derive(Clone, Debug)]
struct Kept {
    line: Arc<Line>,
    _keeper: Arc<Keeper>,
}

#[derive(Debug)]
struct Keeper(Arc<Line>, tokio::task::AbortHandle);

impl Drop for Keeper {
    fn drop(&mut self) {
        self.1.abort();
        self.0.retire();
    }
}

impl Kept {
    fn start(target: Target, settings: LineSettings, told: Told) -> Self {
        let line = Line::new(target, settings, told);
        let keeper = tokio::spawn(line::keep(Arc::clone(&line))).abort_handle();
        Self {
            _keeper: Arc::new(Keeper(Arc::clone(&line), keeper)),
            line,
        }
    }
}

impl Pool {
    pub(super) fn start(endpoints: Vec<Target>, settings: LineSettings) -> Arc<Self> {
        let pool = Arc::new(Self {
            lines: ArcSwap::default(),
            unresolved: watch::Sender::new(None),
            told: Told::default(),
            settings,
            resolving: Mutex::default(),
        });
        let mut resolving = JoinSet::new();
        for target in endpoints {
            match &target.address {
                Address::Name(..) => {
                    resolving.spawn(resolve(Arc::downgrade(&pool), target, look_up));
                }
                Address::Tcp(_) | Address::Unix(_) => pool.stand_for(&target.clone(), [target]),
            }
        }
        *pool
            .resolving
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = resolving;
        pool
    }

    /// From now on `endpoint` stands for `targets`.
    fn stand_for(&self, endpoint: &Target, targets: impl IntoIterator<Item = Target>) {
        let targets: Vec<_> = targets.into_iter().collect();
        self.lines.rcu(|lines| {
            let (own, others): (Vec<_>, Vec<_>) = lines
                .iter()
                .cloned()
                .partition(|kept| kept.line.target.name == endpoint.name);
            let kept = |target: &Target| {
                let same = own
                    .iter()
                    .find(|kept| kept.line.target.address == target.address);
                same.cloned().unwrap_or_else(|| {
                    Kept::start(target.clone(), self.settings, self.told.clone())
                })
            };
            others
                .into_iter()
                .chain(targets.iter().map(kept))
                .collect::<Vec<_>>()
        });
        self.unresolved.send_replace(None);
    }

    /// A line with a connection for one call, if there is one at once.
    pub(super) fn ready(&self) -> Option<(Arc<Line>, Arc<Link>)> {
        let lines = self.lines.load();
        let line = &choose(&lines)?.line;
        Some((Arc::clone(line), line.link()?))
    }

    /// The same as soon as there is one on any line, or else why there is none
    /// on the one that was chosen.
    pub(super) async fn connected(&self) -> Result<(Arc<Line>, Arc<Link>), Fault> {
        let (mut unresolved, mut up) = (self.unresolved.subscribe(), self.told.up.subscribe());
        loop {
            up.mark_unchanged();
            let why = unresolved.borrow_and_update().clone();
            let line = choose(&self.lines.load()).map(|kept| Arc::clone(&kept.line));
            match (line, why) {
                (Some(line), _) => {
                    if !line.load().up {
                        // None is: the first that can be reached will do.
                        self.lines.load().iter().for_each(|kept| kept.line.ask());
                    }
                    let link = tokio::select! {
                        biased; // its own connection is no reason to choose again
                        link = line.connected() => link,
                        // The sender is part of this pool.
                        _ = up.changed() => continue,
                    };
                    let link = link.map_err(|why| Fault::unreachable(&line.target.name, &why))?;
                    return Ok((line, link));
                }
                (None, Some((name, why))) => return Err(Fault::unreachable(&name, &why)),
                // The sender is part of this pool.
                (None, None) => drop(unresolved.changed().await),
            }
        }
    }

    /// Why no call can be sent now; `None` if one can, or will soon be tried.
    pub(super) fn unreachable(&self) -> Option<String> {
        let lines = self.lines.load();
        let mut why = None;
        for kept in lines.iter() {
            let down = kept.line.down()?;
            why = Some(format!(
                "upstream {} cannot be reached: {down}",
                kept.line.target.name
            ));
        }
        let unresolved = || {
            let unresolved = self.unresolved.borrow();
            let (name, why) = unresolved.as_ref()?;
            Some(format!("upstream {name} cannot be reached: {why}"))
        };
        why.or_else(unresolved)
    }
}

fn choose(lines: &[Kept]) -> Option<&Kept> {
    let place = balance::choose(
        lines.len(),
        |place| lines[place].line.load(),
        |below| fastrand::usize(..below),
    );
    place.map(|place| &lines[place])
}

async fn look_up(host: Arc<str>, port: u16) -> io::Result<BTreeSet<SocketAddr>> {
    Ok(lookup_host((&*host, port)).await?.collect())
}

/// Looks a name up for as long as its pool is there.
async fn resolve<F>(pool: Weak<Pool>, endpoint: Target, look_up: impl Fn(Arc<str>, u16) -> F)
where
    F: Future<Output = io::Result<BTreeSet<SocketAddr>>>,
{
    let Address::Name(host, port) = &endpoint.address else {
        return;
    };
    let Some(mut lost) = pool.upgrade().map(|pool| pool.told.lost.subscribe()) else {
        return;
    };
    let mut said = Said::default();
    loop {
        lost.mark_unchanged();
        let found = timeout(RESOLVE_WITHIN, look_up(Arc::clone(host), *port)).await;
        let Some(live) = pool.upgrade() else { return };
        let pause = match found {
            Ok(Ok(addresses)) => {
                let target = |address| Target {
                    address: Address::Tcp(address),
                    ..endpoint.clone()
                };
                live.stand_for(&endpoint, addresses.into_iter().map(target));
                said = Said::default();
                RESOLVE_EVERY
            }
            Ok(Err(error)) => live.cannot_resolve(&endpoint, error.to_string(), &mut said),
            Err(_) => {
                let why = format!("no answer within {RESOLVE_WITHIN:?}");
                live.cannot_resolve(&endpoint, why, &mut said)
            }
        };
        drop(live);
        // However often a line is down, a name server is not asked more often.
        sleep(RESOLVE_AGAIN).await;
        let one_is_down = async {
            while lost.changed().await.is_ok() {
                if pool.upgrade().is_none_or(|pool| pool.misses(&endpoint)) {
                    return;
                }
            }
        };
        let _ = timeout(pause.saturating_sub(RESOLVE_AGAIN), one_is_down).await;
    }
}

/// What the log has heard last of a name that cannot be looked up.
#[derive(Default)]
struct Said(Option<(String, Instant)>);

impl Said {
    /// Whether it is to hear that it cannot, for this reason.
    fn is_news(&mut self, why: &str, now: Instant) -> bool {
        let old = self.0.as_ref();
        let old = old.is_some_and(|(said, at)| said == why && now - *at < SAY_EVERY);
        if !old {
            self.0 = Some((why.to_owned(), now));
        }
        !old
    }
}

impl Pool {
    /// Whether an address of `endpoint` has no connection.
    fn misses(&self, endpoint: &Target) -> bool {
        let lines = self.lines.load();
        let mut own = lines
            .iter()
            .filter(|kept| kept.line.target.name == endpoint.name);
        own.any(|kept| !kept.line.load().up)
    }

    /// The addresses that are known stay: a name server's fault is not the
    /// upstream's.
    fn cannot_resolve(&self, endpoint: &Target, why: String, said: &mut Said) -> Duration {
        if said.is_news(&why, Instant::now()) {
            tracing::warn!(upstream = %endpoint, %why, "the name cannot be looked up");
        }
        let why = format!("its name cannot be looked up: {why}");
        self.unresolved
            .send_replace(Some((Arc::clone(&endpoint.name), why)));
        RESOLVE_AGAIN
    }
}

#[cfg(test)]
mod tests {
    use http::uri::{Authority, Scheme};

    use super::*;
    use crate::upstream::stub::Stub;

    fn target(address: Address) -> Target {
        Target {
            address,
            name: "meta.example:1228".into(),
            scheme: Scheme::HTTP,
            authority: Authority::from_static("meta.example:1228"),
            tls: None,
        }
    }

    fn lines(pool: &Pool) -> Vec<Arc<Line>> {
        let lines = pool.lines.load();
        lines.iter().map(|kept| Arc::clone(&kept.line)).collect()
    }

    #[tokio::test]
    async fn a_name_that_stands_for_other_addresses_is_followed_and_keeps_those_it_still_has() {
        let pool = Pool::start(Vec::new(), LineSettings::default());
        let name = target(Address::Name("meta.example".into(), 1228));
        let [a, b, c] = [1, 2, 3].map(|n| target(Address::Tcp(([127, 0, 0, n], 9).into())));
        pool.stand_for(&name, [a.clone(), b.clone()]);
        let before = lines(&pool);
        pool.stand_for(&name, [b.clone(), c.clone()]);
        let after = lines(&pool);
        let addresses: Vec<_> = after.iter().map(|line| &line.target.address).collect();
        assert_eq!(addresses, [&b.address, &c.address]);
        assert!(Arc::ptr_eq(&before[1], &after[0]), "its connections stay");
        let down = before[0].down().expect("nobody is to call there any more");
        assert!(down.contains("another address"), "{down}");
    }

    #[tokio::test]
    async fn a_name_server_that_fails_takes_no_address_away() {
        let pool = Pool::start(Vec::new(), LineSettings::default());
        let name = target(Address::Name("meta.example".into(), 1228));
        let a = target(Address::Tcp(([127, 0, 0, 1], 9).into()));
        pool.stand_for(&name, [a]);
        assert_eq!(
            pool.cannot_resolve(&name, "no answer".into(), &mut Said::default()),
            RESOLVE_AGAIN
        );
        assert_eq!(lines(&pool).len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn the_log_hears_of_a_name_that_cannot_be_looked_up_at_each_change_and_once_a_minute() {
        let (mut said, now) = (Said::default(), Instant::now());
        let mut hears = |why, seconds| said.is_news(why, now + Duration::from_secs(seconds));
        assert!(hears("no answer", 0));
        assert!(!(1..60).any(|seconds| hears("no answer", seconds)));
        assert!(hears("no answer", 60) && !hears("no answer", 61));
        assert!(hears("no such name", 62));
    }

    #[tokio::test]
    async fn a_call_that_waits_at_a_dead_address_takes_the_first_that_comes_back() {
        let silent = Stub::start(9, 0, |_| {}).await;
        let live = Stub::start(9, 9, |_| {}).await;
        let settings = LineSettings {
            connect_timeout: Duration::from_secs(3_000),
            ..LineSettings::default()
        };
        let pool = Pool::start(vec![target(Address::Tcp(silent.address))], settings);
        let other = Target {
            name: "other.example:1228".into(),
            ..target(Address::Tcp(live.address))
        };
        let comes = async {
            while silent.connections() == 0 {
                tokio::task::yield_now().await;
            }
            pool.stand_for(&other, [other.clone()]);
        };
        let both = async { tokio::join!(pool.connected(), comes) };
        let both = timeout(Duration::from_secs(30), both).await;
        let (connected, ()) = both.expect("it does not wait for the other one");
        let (line, _) = connected.expect("there is a connection");
        assert_eq!(line.target.address, Address::Tcp(live.address));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_at_an_address_that_is_no_longer_the_upstreams() {
        let pool = Pool::start(Vec::new(), LineSettings::default());
        let name = target(Address::Name("meta.example".into(), 1228));
        let [a, b] = [1, 2].map(|n| target(Address::Tcp(([127, 0, 0, n], 9).into())));
        pool.stand_for(&name, [a]);
        let line = lines(&pool).swap_remove(0);
        pool.stand_for(&name, [b]);
        // A call that chose it before comes to it long after.
        tokio::time::advance(Duration::from_secs(60)).await;
        let told = timeout(Duration::from_secs(1), line.connected()).await;
        let why = told.expect("it is told at once").expect_err("it is gone");
        assert!(why.contains("another address"), "{why}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_with_an_address_that_is_down_is_looked_up_within_seconds_and_once_a_second() {
        let pool = Pool::start(Vec::new(), LineSettings::default());
        let name = target(Address::Name("meta.example".into(), 1228));
        let looks = Arc::<Mutex<Vec<Instant>>>::default();
        let seen = Arc::clone(&looks);
        let nobody_listens = move |_, _| {
            let mut looks = seen.lock().expect("no holder panics");
            looks.push(Instant::now());
            std::future::ready(Ok([([127, 0, 0, 1], 9).into()].into()))
        };
        let resolving = resolve(Arc::downgrade(&pool), name, nobody_listens);
        // Callers that ask all the time have it tried all the time.
        let asked = async {
            loop {
                let _ = pool.connected().await;
                sleep(Duration::from_millis(10)).await;
            }
        };
        let both = async { tokio::join!(resolving, asked) };
        let _ = timeout(Duration::from_secs(20), both).await;
        let looks = looks.lock().expect("no holder panics").clone();
        let gaps = || looks.windows(2).map(|two| two[1] - two[0]);
        assert!(gaps().count() > 3, "{looks:?}");
        assert!(gaps().all(|gap| gap >= RESOLVE_AGAIN && gap < 6 * RESOLVE_AGAIN));
    }
}
