//! The live page at the admin address. Three files compiled in, and no outside
//! asset: it works on a machine with no way out. It reads `/metrics` like any
//! other scraper does, so it shows nothing that an operator could not query.

use axum::{Router, http::header, response::IntoResponse, routing::get};

/// Nothing but these files may be loaded or talked to: a method's name that
/// came from a policy can never become a script.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
                      connect-src 'self'; img-src 'self' data:; base-uri 'none'; \
                      form-action 'none'; frame-ancestors 'none'";

/// `/`, `/page.css` and `/page.js`.
pub(super) fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    Router::new()
        .route(
            "/",
            get(|| file("text/html", include_str!("page/index.html"))),
        )
        .route(
            "/page.css",
            get(|| file("text/css", include_str!("page/page.css"))),
        )
        .route(
            "/page.js",
            get(|| file("text/javascript", include_str!("page/page.js"))),
        )
}

async fn file(kind: &'static str, text: &'static str) -> impl IntoResponse {
    let headers = [
        (header::CONTENT_TYPE, format!("{kind}; charset=utf-8")),
        (header::CONTENT_SECURITY_POLICY, POLICY.to_owned()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
        (header::CACHE_CONTROL, "no-cache".to_owned()),
    ];
    (headers, text)
}
