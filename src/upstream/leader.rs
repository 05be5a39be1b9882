//! Which of an upstream's endpoints leads, as the upstream itself tells: in the
//! text of an error. The hint is followed in here, to endpoints that the policy
//! names and to no others, and callers never see it: theirs is the sidecar.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use regex::Regex;
use tokio::time::{Instant, timeout_at};
use tonic::{Code, Status};

use super::RemoteClient;
use crate::transport::{ClientFiles, Endpoint, TlsError};

/// No endpoint is known to lead.
const NOBODY: usize = usize::MAX;

/// How often one call is sent on from one endpoint to the next: the second
/// hint is a leader that has just changed, the third is a circle.
pub(super) const HOPS: usize = 3;

/// A caller that leaves so shortly before its time is up leaves for that: its
/// clock began earlier.
const SHORTLY: Duration = Duration::from_millis(100);

/// An upstream whose leader is found from its errors.
#[derive(Clone, Debug)]
pub struct Led(Arc<Endpoints>);

#[derive(Debug)]
struct Endpoints {
    /// Any of them.
    all: RemoteClient,
    each: Vec<(String, RemoteClient)>,
    hint: Regex,
    /// An index of `each`; that and their count for one that was the leader
    /// and fell silent; or [`NOBODY`].
    leader: AtomicUsize,
    began: Instant,
    /// Milliseconds since then at which a leader answered last.
    heard: AtomicU64,
}

/// What an error says of the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hint {
    /// One that the policy allows, and calls go to it from now on.
    Endpoint,
    /// There is none, or none that the policy allows.
    Nobody,
}

impl Led {
    /// `hint` matches the text of an error that says who leads; its first
    /// group is the leader's `HOST:PORT`.
    ///
    /// # Errors
    /// If an endpoint is of `https` and the files cannot be used.
    pub fn new(endpoints: &[Endpoint], tls: &ClientFiles, hint: Regex) -> Result<Self, TlsError> {
        let each = endpoints.iter().map(|endpoint| {
            let client = RemoteClient::new(vec![endpoint.clone()], tls.clone())?;
            Ok((place(endpoint), client))
        });
        Ok(Self(Arc::new(Endpoints {
            all: RemoteClient::new(endpoints.to_vec(), tls.clone())?,
            each: each.collect::<Result<_, TlsError>>()?,
            hint,
            leader: AtomicUsize::new(NOBODY),
            began: Instant::now(),
            heard: AtomicU64::new(0),
        })))
    }

    /// What the leader makes of `call`, or any endpoint while nobody is known
    /// to lead. A leader that has not answered by `patience`, and in the second
    /// half of the time to it nobody else either, is none any more, though what
    /// it says later is still heard: a process that stands still breaks no
    /// connection, and one that answers others is only slow.
    pub async fn ask<'a, F: Future>(
        &'a self,
        patience: Option<Instant>,
        call: impl FnOnce(&'a RemoteClient) -> F,
    ) -> F::Output {
        let known = self.0.leader.load(Ordering::Relaxed);
        let whom = self.whom(known);
        let client = whom.and_then(|at| self.0.each.get(at));
        let client = client.map_or(&self.0.all, |(_, client)| client);
        let mut answer = pin!(call(client));
        let (Some(whom), Some(patience)) = (whom, patience) else {
            return answer.await;
        };
        let mut unheard = Unheard {
            led: self,
            known,
            whom,
            asked: Instant::now(),
            patience: Some(patience),
        };
        if let Ok(answer) = timeout_at(patience, &mut answer).await {
            unheard.patience = None;
            self.0.hears(patience);
            return answer;
        }
        drop(unheard);
        answer.await
    }

    /// Whom to ask where `known` is known of the leader; `None` for any. After
    /// one that fell silent it is the next, who knows of another or takes its
    /// place: any might be the silent one.
    fn whom(&self, known: usize) -> Option<usize> {
        let count = self.0.each.len();
        match known {
            NOBODY => None,
            leader if leader < count => Some(leader),
            silent => Some((silent - count + 1) % count),
        }
    }

    /// Whether it was made of these.
    #[must_use]
    pub fn is_of(&self, endpoints: &[Endpoint], tls: &ClientFiles, hint: &Regex) -> bool {
        self.0.all.serves(endpoints, tls) && self.0.hint.as_str() == hint.as_str()
    }

    /// What `status` says of the leader, which is remembered; `None` if it
    /// speaks of something else.
    pub(super) fn learn(&self, status: &Status) -> Option<Hint> {
        let Some(hint) = self.0.hint.captures(status.message()) else {
            // One that cannot be reached leads nobody.
            if status.code() == Code::Unavailable {
                self.0.leader.store(NOBODY, Ordering::Relaxed);
            }
            return None;
        };
        let place = hint.get(1).map(|place| place.as_str());
        let known = |place: &str| {
            let mut each = self.0.each.iter();
            each.position(|(known, _)| known.eq_ignore_ascii_case(place))
        };
        let leader = place.and_then(known);
        if let (Some(place), None) = (place, leader) {
            tracing::warn!(
                leader = place,
                "the upstream's leader is none of upstream.endpoints: add it there"
            );
        }
        self.0
            .leader
            .store(leader.unwrap_or(NOBODY), Ordering::Relaxed);
        Some(leader.map_or(Hint::Nobody, |_| Hint::Endpoint))
    }

    /// `status` as a caller may see it.
    #[must_use]
    pub fn told(&self, status: Status) -> Status {
        match self.learn(&status) {
            Some(_) => no_leader(),
            None => status,
        }
    }
}

impl Endpoints {
    /// A leader has answered a call that had until `patience`; at that moment it
    /// is no answer of the leader's, but that the time was up.
    fn hears(&self, patience: Instant) {
        let now = Instant::now();
        if now < patience {
            self.heard.fetch_max(self.millis(now), Ordering::Relaxed);
        }
    }

    fn millis(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.began);
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    /// Whether a leader has answered anybody since `at`.
    fn has_heard_since(&self, at: Instant) -> bool {
        self.heard.load(Ordering::Relaxed) > self.millis(at)
    }
}

/// One that was asked and has not answered.
struct Unheard<'a> {
    led: &'a Led,
    /// What was known of the leader when it was asked.
    known: usize,
    whom: usize,
    asked: Instant,
    /// How long its answer is waited for; `None` once it has come.
    patience: Option<Instant>,
}

impl Drop for Unheard<'_> {
    fn drop(&mut self) {
        let Some(patience) = self.patience else {
            return;
        };
        let left = patience.saturating_duration_since(Instant::now());
        let half = self.asked + patience.saturating_duration_since(self.asked) / 2;
        if left <= SHORTLY && !self.led.0.has_heard_since(half) {
            let Endpoints { each, leader, .. } = &*self.led.0;
            let silent = each.len() + self.whom;
            // Unless something else has been heard meanwhile.
            let _ =
                leader.compare_exchange(self.known, silent, Ordering::Relaxed, Ordering::Relaxed);
        }
    }
}

/// What a caller is told of a call that no leader took. It was refused before
/// anything was done, so trying again is safe.
pub(super) fn no_leader() -> Status {
    Status::unavailable("the upstream is between two leaders, and took nothing: try again")
}

/// An endpoint as a leader's address names it; no address names a socket file.
fn place(endpoint: &Endpoint) -> String {
    match endpoint {
        Endpoint::Url(uri) => uri.authority().map(ToString::to_string).unwrap_or_default(),
        Endpoint::Unix(_) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::{future::pending, sync::Mutex};

    use http::{HeaderMap, Response};
    use tokio::time::{advance, timeout};
    use tower::ServiceExt;

    use super::*;
    use crate::{
        accept::frame::framed,
        policy::Policy,
        upstream::{
            Remote, Target,
            again::tests::batch,
            stub::{Came, Stub},
        },
    };

    const HINT: &str = r#"has to forward request to: (?:None|.*rpc_addr: "([^"]+)")"#;

    fn led() -> Led {
        let endpoints = ["http://127.0.0.1:1", "http://127.0.0.1:2"];
        let endpoints = endpoints.map(|uri| Endpoint::Url(uri.parse().expect("a URI")));
        let hint = Regex::new(HINT).expect("a regex");
        Led::new(&endpoints, &ClientFiles::default(), hint).expect("no TLS, no fault")
    }

    fn elsewhere(place: &str) -> Status {
        Status::internal(format!(
            "has to forward request to: Some(2), Some(Node {{ rpc_addr: \"{place}\" }})"
        ))
    }

    #[tokio::test]
    async fn a_hint_is_followed_to_endpoints_of_the_policy_only_and_never_told() {
        let led = led();
        assert_eq!(led.learn(&elsewhere("127.0.0.1:2")), Some(Hint::Endpoint));
        assert_eq!(led.learn(&elsewhere("192.0.2.1:2")), Some(Hint::Nobody));
        let nobody = Status::internal("has to forward request to: None, None");
        assert_eq!(led.learn(&nobody), Some(Hint::Nobody));
        assert_eq!(led.learn(&Status::internal("disk full")), None);
        for status in [elsewhere("127.0.0.1:2"), elsewhere("192.0.2.1:2"), nobody] {
            let told = led.told(status);
            assert_eq!(told.code(), Code::Unavailable);
            assert!(!told.message().contains("forward"), "{told}");
        }
        let told = led.told(Status::internal("disk full"));
        assert_eq!((told.code(), told.message()), (Code::Internal, "disk full"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_that_is_silent_until_a_call_is_given_up_is_none_any_more() {
        let second = Duration::from_secs(1);
        let led = led();
        for (left_after, leads) in [
            (second / 2, true),
            (second - SHORTLY / 2, false),
            (second * 2, false),
        ] {
            led.learn(&elsewhere("127.0.0.1:2"));
            let call = led.ask(Some(Instant::now() + second), |_| pending::<()>());
            let _ = timeout(left_after, call).await;
            let known = led.0.leader.load(Ordering::Relaxed);
            assert_eq!(known == 1, leads, "left after {left_after:?}");
            assert_eq!(led.whom(known), Some(usize::from(leads)));
        }
        // What is heard of another meanwhile is not forgotten for it.
        led.learn(&elsewhere("127.0.0.1:2"));
        {
            let mut call = pin!(led.ask(Some(Instant::now() + second), |_| pending::<()>()));
            assert!(timeout(second / 2, &mut call).await.is_err());
            led.learn(&elsewhere("127.0.0.1:1"));
            advance(second).await;
            assert!(timeout(second, &mut call).await.is_err());
        }
        assert_eq!(led.0.leader.load(Ordering::Relaxed), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_that_is_slow_with_one_call_and_answers_others_still_leads() {
        let (led, second) = (led(), Duration::from_secs(1));
        led.learn(&elsewhere("127.0.0.1:2"));
        let answered = async || {
            let until = Instant::now() + second;
            led.ask(Some(until), |_| std::future::ready(())).await;
        };
        for (heard_after, leads) in [(second * 9 / 10, true), (second / 10, false)] {
            let until = Instant::now() + second;
            let slow = timeout(2 * second, led.ask(Some(until), |_| pending::<()>()));
            let other = async {
                tokio::time::sleep(heard_after).await;
                answered().await;
            };
            let (slow, ()) = tokio::join!(slow, other);
            assert!(slow.is_err());
            let known = led.0.leader.load(Ordering::Relaxed);
            assert_eq!(known == 1, leads, "heard after {heard_after:?}");
        }
    }

    /// Takes whatever comes, and keeps silent.
    fn silent() -> impl Fn(Came) + Clone {
        let held = Arc::<Mutex<Vec<Came>>>::default();
        move |came| held.lock().expect("no holder panics").push(came)
    }

    /// Answers a batch with success.
    fn leads((_, mut respond): Came) {
        let body = respond.send_response(Response::new(()), false);
        let mut body = body.expect("ferry is there");
        body.send_data(framed(b""), false).expect("it has room");
        let mut trailers = HeaderMap::new();
        trailers.insert(Status::GRPC_STATUS, 0.into());
        body.send_trailers(trailers).expect("ferry is there");
    }

    #[tokio::test]
    async fn a_leader_that_stands_still_costs_one_batchs_time_or_attempt_and_no_more() {
        let (short, long) = (Duration::from_secs(1), Duration::from_secs(60));
        let (policy, hint) = (Policy::embedded(), Regex::new(HINT).expect("a regex"));
        for (batch_timeout, attempt_timeout) in [(short, None), (long, Some(short))] {
            let stopped = Stub::start(100, 9, silent()).await;
            let other = Stub::start(100, 9, leads).await;
            let endpoints = [&stopped, &other].map(|stub| {
                let uri = format!("http://{}", stub.address);
                Endpoint::Url(uri.parse().expect("a URI"))
            });
            let led = Led::new(&endpoints, &ClientFiles::default(), hint.clone());
            let led = led.expect("no TLS, no fault");
            led.learn(&elsewhere(&stopped.address.to_string()));
            let target = Target {
                path: "/s.S/Set".into(),
                plan: Arc::clone(&policy.methods[0].plan),
                max_reply_bytes: 4 << 20,
                attempt_timeout,
            };
            let remote = Remote::new(led.0.all.clone(), vec![target], batch_timeout);
            let remote = remote.led(led.clone());
            let ask = || remote.clone().oneshot(batch(&["client-0".to_owned()]));
            let first = tokio::spawn(ask());
            let left = async {
                while led.0.leader.load(Ordering::Relaxed) == 0 {
                    tokio::task::yield_now().await;
                }
            };
            timeout(long / 2, left).await.expect("it is left");
            for _ in 0..20 {
                let answer = timeout(long / 2, ask()).await;
                assert!(answer.is_ok_and(|answer| answer.is_ok()), "the other leads");
            }
            first.abort();
        }
    }
}
