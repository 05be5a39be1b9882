//! `/plan`: what the policy in force does with each method, what went alone
//! and why, and what observed methods would have done. As JSON, or with
//! `?format=text` in words.

use std::{collections::BTreeMap, fmt::Write as _};

use axum::{
    Json,
    extract::{RawQuery, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::{Serialize, Serializer};

use super::{controls::Shared, observed::ObservedCounts};

/// One method of the policy in force.
#[derive(Clone, Debug, Serialize)]
pub struct MethodPlan {
    /// `package.Service/Method`.
    pub method: String,
    /// The mode that it is in.
    pub mode: &'static str,
    /// What is done with it, as `ferry check` says it.
    #[serde(serialize_with = "as_map")]
    pub plan: Vec<(&'static str, String)>,
    /// Entries that went alone, by reason.
    pub alone: BTreeMap<String, u64>,
    /// What would have become of its calls, if it was ever observed.
    pub observed: Option<ObservedCounts>,
}

fn as_map<S: Serializer>(plan: &[(&'static str, String)], to: S) -> Result<S::Ok, S::Error> {
    to.collect_map(plan.iter().map(|(name, what)| (name, what)))
}

impl MethodPlan {
    /// In words, a line each.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = format!("{}\n", self.method);
        let mut line = |name: &str, what: &str| {
            let name = format!("{name} ");
            writeln!(text, "  {name:<11}{what}").expect("a String takes all that is written");
        };
        self.plan.iter().for_each(|(name, what)| line(name, what));
        if !self.alone.is_empty() {
            let reasons = self.alone.iter();
            let reasons: Vec<_> = reasons.map(|(why, n)| format!("{why} {n}")).collect();
            line("went alone", &format!("entries: {}", reasons.join(", ")));
        }
        if let Some(observed) = &self.observed {
            line("observed", &observed.line());
            if !observed.sizes.is_empty() {
                let sizes = observed.sizes.iter();
                let sizes: Vec<_> = sizes.map(|(size, n)| format!("{n} of {size}")).collect();
                let what = format!("at most this many entries: {}", sizes.join(", "));
                line("batches", &what);
            }
            if let Some(refusal) = &observed.last_refusal {
                line("refusal", &format!("the last one: {refusal}"));
            }
        }
        text
    }
}

#[derive(Serialize)]
struct Plans {
    methods: Vec<MethodPlan>,
}

pub(super) async fn plan(State(controls): State<Shared>, RawQuery(asked): RawQuery) -> Response {
    let methods = controls.plans();
    match asked.as_deref() {
        Some("format=text") => {
            let methods: Vec<_> = methods.iter().map(MethodPlan::text).collect();
            methods.join("\n").into_response()
        }
        None | Some("format=json") => Json(Plans { methods }).into_response(),
        Some(other) => {
            let why = format!("{other}: must be format=text or format=json, or nothing\n");
            (StatusCode::BAD_REQUEST, why).into_response()
        }
    }
}
