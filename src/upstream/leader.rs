//! Which of an upstream's endpoints leads, as the upstream itself tells: in the
//! text of an error. The hint is followed in here, to endpoints that the policy
//! names and to no others, and callers never see it: theirs is the sidecar.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use regex::Regex;
use tonic::{Code, Status};

use super::RemoteClient;
use crate::transport::{ClientFiles, Endpoint, TlsError};

/// No endpoint is known to lead.
const NOBODY: usize = usize::MAX;

/// How often one call is sent on from one endpoint to the next: the second
/// hint is a leader that has just changed, the third is a circle.
pub(super) const HOPS: usize = 3;

/// An upstream whose leader is found from its errors.
#[derive(Clone, Debug)]
pub struct Led(Arc<Endpoints>);

#[derive(Debug)]
struct Endpoints {
    /// Any of them.
    all: RemoteClient,
    each: Vec<(String, RemoteClient)>,
    hint: Regex,
    leader: AtomicUsize,
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
        })))
    }

    /// The leader, or any endpoint while nobody is known to lead.
    #[must_use]
    pub fn client(&self) -> &RemoteClient {
        let leader = self.0.each.get(self.0.leader.load(Ordering::Relaxed));
        leader.map_or(&self.0.all, |(_, client)| client)
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
    use super::*;

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
}
