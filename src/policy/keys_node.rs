//! The keys of a node file.

use super::keys::{
    Keys,
    Takes::{Count, Duration, Flag, Map, OneOf, Pairs, Size, Text, Version},
    key,
};

pub(super) static TOP: Keys = Keys::with(
    &[
        key("version", Version, "The format's number: 1."),
        key("cluster", Text, "The cluster's name."),
        key("node", Count, "This node's number in it."),
        key("data_dir", Text, "Where log, state and snapshots lie."),
        key("listen", Map(&ADDRESS), "Where calls arrive."),
        key(
            "admin",
            Map(&ADDRESS),
            "Where metrics and probes are answered.",
        ),
        key("peer", Map(&PEER), "Where peers and operators call."),
        key(
            "members",
            Pairs,
            "The first members: number, HOST:PORT of their peer address.",
        ),
        key(
            "election",
            Map(&ELECTION),
            "How long a leader may be silent.",
        ),
        key("groups", Count, "How many Raft groups share the keys."),
        key(
            "runtime",
            OneOf(&["shared", "dedicated"]),
            "Which threads the cores run on.",
        ),
        key(
            "pipeline",
            OneOf(&["full", "serial"]),
            "How a group proposes.",
        ),
        key(
            "snapshot_log_bytes",
            Size,
            "The log at which a snapshot is made.",
        ),
    ],
    &["version", "cluster", "node"],
);

pub(super) static PEER: Keys = Keys::any_of(&[
    key("address", Text, "IP:port."),
    key("tls", Map(&TLS), "PEM files, relative to this one."),
]);

pub(super) static ADDRESS: Keys = Keys::any_of(&[key("address", Text, "IP:port.")]);

pub(super) static TLS: Keys = Keys::any_of(&[
    key("cert", Text, "The node's certificate."),
    key("key", Text, "Its private key."),
    key("ca", Text, "The authority of all nodes' certificates."),
    key(
        "verify_clients",
        Flag,
        "Whether callers have to show a certificate too.",
    ),
]);

pub(super) static ELECTION: Keys = Keys::any_of(&[
    key(
        "heartbeat",
        Duration,
        "How often a leader says that it is there.",
    ),
    key(
        "min",
        Duration,
        "The shortest silence that starts an election.",
    ),
    key("max", Duration, "The longest."),
]);
