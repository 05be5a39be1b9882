//! What a reload cannot change, since it was taken when ferry started: sockets,
//! whether they speak TLS, and the data directory.

use super::{
    listen::Listen,
    rules::{Policy, Upstream},
    units::show_size,
};

/// Every key that differs and cannot, each in a sentence with both values.
pub(super) fn differences(old: &Policy, new: &Policy) -> Vec<String> {
    let mut told = Vec::new();
    let mut same = |key: &str, old: String, new: String| {
        if old != new {
            told.push(format!(
                "{key}: {new}: cannot change from {old} while ferry runs; put it back, or start \
                 ferry again"
            ));
        }
    };
    same("listen", places(&old.listen), places(&new.listen));
    let admin = |policy: &Policy| {
        let address = policy.admin.map(|address| address.to_string());
        address.unwrap_or_else(|| "off".to_owned())
    };
    same("admin", admin(old), admin(new));
    match (&old.upstream, &new.upstream) {
        (
            Upstream::Embedded {
                data_dir: old_dir,
                pipeline: old_pipeline,
                groups: old_groups,
                runtime: old_runtime,
                log_max: old_log_max,
            },
            Upstream::Embedded {
                data_dir,
                pipeline,
                groups,
                runtime,
                log_max,
            },
        ) => {
            let key = |name| format!("upstream.embedded.{name}");
            let show = |path: &std::path::Path| path.display().to_string();
            same(&key("data_dir"), show(old_dir), show(data_dir));
            same(&key("groups"), old_groups.to_string(), groups.to_string());
            let show = |pipeline| format!("{pipeline:?}").to_lowercase();
            same(&key("pipeline"), show(*old_pipeline), show(*pipeline));
            let show = |runtime| format!("{runtime:?}").to_lowercase();
            same(&key("runtime"), show(*old_runtime), show(*runtime));
            let show = |bytes: &u64| show_size(*bytes);
            same(&key("log_max"), show(old_log_max), show(log_max));
        }
        (old, new) => same("upstream", kind(old).to_owned(), kind(new).to_owned()),
    }
    told
}

fn places(listen: &[Listen]) -> String {
    let tls = |listen: &Listen| if listen.tls.is_some() { " (TLS)" } else { "" };
    let places = listen
        .iter()
        .map(|one| format!("{}{}", one.place, tls(one)));
    let places: Vec<_> = places.collect();
    places.join(", ")
}

const fn kind(upstream: &Upstream) -> &'static str {
    match upstream {
        Upstream::Embedded { .. } => "embedded",
        Upstream::Remote { .. } => "endpoints",
    }
}
