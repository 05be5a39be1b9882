//! The admin pages that show the policy and change what ferry does: `/policy`,
//! `/plan`, `POST /reload`, `/drain`, `/log-level` and `/mode`.
//!
//! Whoever may change something must stand on this machine or know the token,
//! and a browser that some other page has sent stands nowhere: it names the
//! page in `origin`, and is refused for it.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use axum::{
    Json, Router,
    extract::{ConnectInfo, Request, State},
    http::{HeaderMap, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use futures_util::future::BoxFuture;

use super::{
    log,
    plan::{self, MethodPlan},
};

/// What the admin pages may see and do of a sidecar.
pub trait Controls: Send + Sync + 'static {
    /// The policy in force and what became of the last reloads.
    fn policy(&self) -> serde_json::Value;

    /// What the policy in force does with each of its methods, and what was
    /// counted of that.
    fn plans(&self) -> Vec<MethodPlan>;

    /// Puts a method into the mode of that name until the policy is read
    /// again; the answer is why not.
    fn switch(&self, selector: String, mode: String) -> BoxFuture<'static, Result<(), String>>;

    /// Whether `told` is the token of those who are not on this machine.
    fn is_token(&self, told: &[u8]) -> bool;

    /// Reads the policy again; the answer is every fault that kept it from
    /// being put in force.
    fn reload(&self) -> BoxFuture<'static, Result<(), Vec<String>>>;

    /// Ends intake, and then the process.
    fn drain(&self);
}

pub(super) type Shared = Arc<dyn Controls>;

/// Whether what a caller has brought is the token.
pub(super) type IsToken = Arc<dyn Fn(&[u8]) -> bool + Send + Sync>;

/// The pages, to stand beside the others.
pub(super) fn pages(controls: Shared, is_token: IsToken) -> Router {
    let changing = Router::new()
        .route("/reload", post(reload))
        .route("/drain", post(drain))
        .route("/log-level", post(log_level))
        .route("/mode", post(mode))
        .with_state(Arc::clone(&controls));
    Router::new()
        .route("/policy", get(policy))
        .route("/plan", get(plan::plan))
        .with_state(controls)
        .merge(guarded(changing, is_token))
}

/// Pages for those alone who stand on this machine or know the token.
pub(super) fn guarded(pages: Router, is_token: IsToken) -> Router {
    pages.layer(middleware::from_fn_with_state(is_token, guard))
}

async fn policy(State(controls): State<Shared>) -> Json<serde_json::Value> {
    Json(controls.policy())
}

async fn reload(State(controls): State<Shared>) -> Response {
    match controls.reload().await {
        Ok(()) => "reloaded\n".into_response(),
        Err(faults) => {
            let told = format!("the policy stays as it was\n{}\n", faults.join("\n"));
            (StatusCode::UNPROCESSABLE_ENTITY, told).into_response()
        }
    }
}

async fn drain(State(controls): State<Shared>) -> &'static str {
    controls.drain();
    "draining\n"
}

/// `package.Service/Method off`
async fn mode(State(controls): State<Shared>, told: String) -> Response {
    let mut words = told.split_whitespace();
    let (Some(selector), Some(mode), None) = (words.next(), words.next(), words.next()) else {
        let what = "must be a method and its mode, such as: package.Service/Method off\n";
        return (StatusCode::UNPROCESSABLE_ENTITY, what).into_response();
    };
    match controls.switch(selector.to_owned(), mode.to_owned()).await {
        Ok(()) => format!("{selector}: {mode}, until the policy is read again\n").into_response(),
        Err(why) => (StatusCode::UNPROCESSABLE_ENTITY, format!("{why}\n")).into_response(),
    }
}

async fn log_level(filter: String) -> Response {
    match log::set(filter.trim()) {
        Ok(()) => format!("logging {}\n", filter.trim()).into_response(),
        Err(why) => (StatusCode::UNPROCESSABLE_ENTITY, format!("filter {why}\n")).into_response(),
    }
}

async fn guard(
    State(is_token): State<IsToken>,
    ConnectInfo(caller): ConnectInfo<SocketAddr>,
    request: Request,
    next: Next,
) -> Response {
    let token = bearer(request.headers());
    let known = token.is_some_and(|token| is_token(token));
    match refusal(caller.ip(), request.headers(), known) {
        None => next.run(request).await,
        Some(why) => (StatusCode::FORBIDDEN, format!("{why}\n")).into_response(),
    }
}

/// Why a caller may change nothing; `None` if it may.
fn refusal(caller: IpAddr, headers: &HeaderMap, knows_token: bool) -> Option<&'static str> {
    if knows_token {
        return None;
    }
    if headers.contains_key(header::ORIGIN) {
        return Some("sent by a web page: must come from a program, or bring the token");
    }
    // An IPv4 caller of an IPv6 socket has its address mapped.
    (!caller.to_canonical().is_loopback()).then_some(
        "not from this machine: must come from the loopback, or bring `authorization: Bearer` \
         and the token of the policy's admin.token_file",
    )
}

/// What a token stands behind, in letters of either case.
const BEARER: &[u8] = b"Bearer ";

fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let told = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, token) = told.split_at_checked(BEARER.len())?;
    scheme.eq_ignore_ascii_case(BEARER).then_some(token)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn nobody_from_elsewhere_changes_anything_without_the_token() {
        let (here, mapped, elsewhere) = ("127.0.0.1", "::ffff:127.0.0.1", "192.0.2.7");
        let refused = |caller: &str, headers: &HeaderMap, knows| {
            let caller = caller.parse().expect("an address");
            refusal(caller, headers, knows).is_some()
        };
        let none = HeaderMap::new();
        assert!(!refused(here, &none, false));
        assert!(!refused(mapped, &none, false));
        assert!(refused(elsewhere, &none, false));
        assert!(!refused(elsewhere, &none, true));
        let page = HeaderMap::from_iter([(header::ORIGIN, HeaderValue::from_static("null"))]);
        assert!(refused(here, &page, false), "a page that a browser shows");
    }

    #[test]
    fn a_token_is_read_from_the_authorization() {
        let told = |value| {
            let value = HeaderValue::from_static(value);
            HeaderMap::from_iter([(header::AUTHORIZATION, value)])
        };
        assert_eq!(bearer(&told("Bearer secret")), Some(&b"secret"[..]));
        assert_eq!(bearer(&told("bearer Secret")), Some(&b"Secret"[..]));
        assert_eq!(bearer(&told("Basic secret")), None);
        assert_eq!(bearer(&told("Bear")), None);
        assert_eq!(bearer(&HeaderMap::new()), None);
    }
}
