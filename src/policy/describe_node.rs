//! A node of a cluster in words that a person checks against what was meant.

use super::{
    NodeFile,
    describe::line,
    rules::{Pipeline, Runtime},
    units::{show_duration, show_size},
};

/// What `file` describes, as `ferry node --print-config` prints it: certificates
/// and keys are named and not read.
#[must_use]
pub fn describe_node(file: &NodeFile) -> String {
    let mut text = String::new();
    let mut told = |name, what: &str| line(&mut text, name, what);
    told(
        "cluster",
        &format!("{}, as node {}", file.cluster, file.node),
    );
    told("data_dir", &file.data_dir.display().to_string());
    told("listen", &file.listen.to_string());
    let admin = file.admin.as_ref().map(ToString::to_string);
    told("admin", admin.as_deref().unwrap_or("off"));
    told("peer", &peer(file));
    let members = file.members.iter();
    let members: Vec<_> = members
        .map(|(node, address)| format!("{node} at {address}"))
        .collect();
    told(
        "members",
        &match &members[..] {
            [] => "none: it waits to be added to a cluster".to_owned(),
            members => members.join(", "),
        },
    );
    let show = show_duration;
    let (heartbeat, min, max) = (file.heartbeat, file.election_min, file.election_max);
    told(
        "election",
        &format!(
            "after a silence of {} to {}; a leader speaks every {}",
            show(min),
            show(max),
            show(heartbeat)
        ),
    );
    told("groups", &groups(file));
    text
}

fn peer(file: &NodeFile) -> String {
    let tls = match &file.tls {
        None => "in the clear".to_owned(),
        Some(tls) => {
            let callers = match tls.verify_clients {
                true => "callers show certificates too",
                false => "callers need no certificate",
            };
            let (cert, ca) = (tls.cert.display(), tls.ca.display());
            format!("TLS by {cert}, trusting {ca}; {callers}")
        }
    };
    format!("{} ({tls})", file.peer)
}

fn groups(file: &NodeFile) -> String {
    let runtime = match file.runtime {
        Runtime::Shared => "one runtime",
        Runtime::Dedicated => "a thread each",
    };
    let pipeline = match file.pipeline {
        Pipeline::Full => "pipelined",
        Pipeline::Serial => "one proposal at a time",
    };
    let log = show_size(file.log_bytes_max);
    format!(
        "{}, {runtime}, {pipeline}; a snapshot at {log} of log",
        file.groups
    )
}
