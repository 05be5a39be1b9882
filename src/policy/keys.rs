//! The keys of a policy file, each with what it takes and what it is for: the
//! one table that the reader goes by and that the schema for editors is made
//! of. A debug build ends at once where the reader asks for a key that is not
//! here, or for a value of another kind.

use super::{keys_guards::GUARDS, keys_method::METHOD};

/// The keys that a map may have.
#[derive(Debug)]
pub(super) struct Keys {
    /// Those that are read.
    pub(super) known: &'static [Key],
    /// Those without which it is none.
    pub(super) needs: &'static [&'static str],
    /// Exactly one of these stands in it, if there are any.
    pub(super) one_of: &'static [&'static str],
}

/// One key of a map.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) takes: Takes,
    /// What an editor shows of it.
    pub(super) help: &'static str,
}

/// The kind of a key's value.
#[derive(Debug)]
pub(super) enum Takes {
    /// The format's number.
    Version,
    Text,
    /// A whole number from 1.
    Count,
    Flag,
    /// Bytes, with their unit.
    Size,
    /// Time, with its unit.
    Duration,
    Texts,
    /// Names to names.
    Pairs,
    /// Names to sizes.
    Sizes,
    /// One of these names.
    OneOf(&'static [&'static str]),
    /// Some of these names.
    SomeOf(&'static [&'static str]),
    Map(&'static Keys),
    Maps(&'static Keys),
    /// Any of these.
    Either(&'static [Self]),
}

impl Takes {
    /// Whether `wanted` is true of it, or of one that it may be.
    pub(super) fn may_be(&self, wanted: &impl Fn(&Self) -> bool) -> bool {
        match self {
            Self::Either(all) => all.iter().any(|one| one.may_be(wanted)),
            one => wanted(one),
        }
    }
}

impl Keys {
    /// Of these, none of which must be there.
    pub(super) const fn any_of(known: &'static [Key]) -> Self {
        Self {
            known,
            needs: &[],
            one_of: &[],
        }
    }

    /// Of these, of which some must be there.
    pub(super) const fn with(known: &'static [Key], needs: &'static [&'static str]) -> Self {
        Self {
            known,
            needs,
            one_of: &[],
        }
    }

    /// The names of the keys.
    pub(super) fn names(&self) -> impl Iterator<Item = &'static str> {
        self.known.iter().map(|key| key.name)
    }
}

pub(super) const fn key(name: &'static str, takes: Takes, help: &'static str) -> Key {
    Key { name, takes, help }
}

use Takes::{Count, Duration, Either, Flag, Map, Maps, OneOf, Pairs, Size, Text, Texts, Version};

pub(super) static TOP: Keys = Keys::with(
    &[
        key("version", Version, "The format's number: 1."),
        key(
            "listen",
            Maps(&LISTEN),
            "Where calls arrive: 127.0.0.1:1229 unless said.",
        ),
        key(
            "guards",
            Map(&GUARDS),
            "What one client may have of a listener.",
        ),
        key(
            "health",
            OneOf(&["own", "forward"]),
            "Who tells grpc.health.v1: ferry itself, or whoever calls are forwarded to.",
        ),
        key(
            "admin",
            Either(&[OneOf(&["off"]), Map(&ADMIN)]),
            "Where metrics, probes and the live page are: 127.0.0.1:9901 unless said, or off.",
        ),
        key(
            "upstream",
            Map(&UPSTREAM),
            "Where batches go, and how many at once.",
        ),
        key(
            "shed",
            Map(&SHED),
            "What a caller is told for whom there is no room.",
        ),
        key(
            "metadata",
            Map(&METADATA),
            "What a call's metadata means for its batch.",
        ),
        key(
            "telemetry",
            Map(&TELEMETRY),
            "What is told of single calls and batches.",
        ),
        key(
            "descriptors",
            Texts,
            ".proto files or compiled descriptor sets, relative to this file, that describe the \
             methods.",
        ),
        key("methods", Maps(&METHOD), "The methods that batch."),
    ],
    &["version", "upstream", "methods"],
);

pub(super) static LISTEN: Keys = Keys {
    known: &[
        key("address", Text, "IP:port; port 0 takes any that is free."),
        key(
            "unix",
            Text,
            "The path of a Unix socket, in the place of an address.",
        ),
        key(
            "tls",
            Map(&SERVER_TLS),
            "PEM files, relative to this one; without them in the clear.",
        ),
    ],
    needs: &[],
    one_of: &["address", "unix"],
};

pub(super) static SERVER_TLS: Keys = Keys::with(
    &[
        key("cert", Text, "The certificate chain."),
        key("key", Text, "Its private key."),
        key(
            "client_ca",
            Text,
            "Clients must have a certificate of this authority.",
        ),
    ],
    &["cert", "key"],
);

pub(super) static CLIENT_TLS: Keys = Keys::any_of(&[
    key(
        "ca",
        Text,
        "The authority of the upstream's certificate; else the system's.",
    ),
    key(
        "cert",
        Text,
        "ferry's own certificate, where the upstream asks for one.",
    ),
    key("key", Text, "Its private key."),
    key(
        "server_name",
        Text,
        "The name that the upstream's certificate is of, if not the host.",
    ),
]);

pub(super) static ADMIN: Keys = Keys::with(
    &[
        key("address", Text, "IP:port."),
        key(
            "token_file",
            Text,
            "Holds what must be known to change anything from another machine.",
        ),
    ],
    &["address"],
);

pub(super) static UPSTREAM: Keys = Keys {
    known: &[
        key(
            "embedded",
            Map(&EMBEDDED),
            "Raft groups within this process.",
        ),
        key(
            "endpoints",
            Texts,
            "The upstream's addresses: http://host:port, https://host:port or unix:/path. What \
             is not listed under methods is forwarded there.",
        ),
        key(
            "tls",
            Map(&CLIENT_TLS),
            "PEM files for https endpoints, relative to this one.",
        ),
        key(
            "limit",
            Map(&LIMIT),
            "How many batches may be in flight; found while running.",
        ),
        key(
            "batch_timeout",
            Duration,
            "A batch without an earlier deadline ends after this: 10s.",
        ),
        key(
            "leader_hint",
            Text,
            "Matches the error text that says who leads; its first group is HOST:PORT.",
        ),
    ],
    needs: &[],
    one_of: &["embedded", "endpoints"],
};

pub(super) static EMBEDDED: Keys = Keys::any_of(&[
    key(
        "data_dir",
        Text,
        "Where the data lies, relative to where ferry is started.",
    ),
    key(
        "groups",
        Count,
        "How many Raft groups share the keys; fixed once there is data.",
    ),
    key(
        "runtime",
        OneOf(&["shared", "dedicated"]),
        "Which threads the groups' cores run on.",
    ),
    key(
        "pipeline",
        OneOf(&["full", "serial"]),
        "Proposals at once: as many as fit, or one.",
    ),
    key(
        "log_max",
        Size,
        "A group's log at which a snapshot is made and the log let go: 1GiB.",
    ),
]);

pub(super) static LIMIT: Keys = Keys::any_of(&[
    key(
        "algorithm",
        OneOf(&["little", "aimd", "vegas", "gradient2", "fixed"]),
        "How the limit is found: little unless said.",
    ),
    key("min", Count, "The least batches in flight: 1."),
    key("max", Count, "The most batches in flight: 256."),
]);

pub(super) static SHED: Keys = Keys::any_of(&[
    key(
        "status",
        OneOf(&["RESOURCE_EXHAUSTED", "UNAVAILABLE"]),
        "The gRPC status: UNAVAILABLE for clients that retry nothing else.",
    ),
    key(
        "pushback",
        Flag,
        "Whether a hint says when to come again: true.",
    ),
]);

pub(super) static METADATA: Keys = Keys::any_of(&[
    key(
        "identity",
        Texts,
        "Must be equal within a batch: authorization, token and who a mesh says it is, unless said.",
    ),
    key(
        "ignore",
        Texts,
        "Separates nobody and is not passed on; a name may end in *; client_certificate and :authority are names too.",
    ),
    key(
        "other",
        OneOf(&["alone", "identity"]),
        "A call with any other metadata goes alone, or it counts as identity.",
    ),
]);

pub(super) static TELEMETRY: Keys = Keys::any_of(&[
    key(
        "explain",
        Flag,
        "Whether a caller that sends ferry-explain is answered: true.",
    ),
    key(
        "slow_batch",
        Duration,
        "A batch that takes longer is listed and logged: 500ms.",
    ),
    key(
        "access_log",
        Count,
        "One call in so many has a line in the access log.",
    ),
    key(
        "traces",
        Map(&TRACES),
        "Where the spans of batches are sent.",
    ),
]);

pub(super) static TRACES: Keys = Keys::with(
    &[
        key(
            "endpoint",
            Text,
            "http://host:port or https://host:port of a collector that takes OTLP over gRPC.",
        ),
        key(
            "tls",
            Map(&CLIENT_TLS),
            "PEM files for an https endpoint, relative to this one.",
        ),
        key(
            "header_files",
            Pairs,
            "Headers that are sent along: name, the file that holds the value.",
        ),
        key(
            "one_in",
            Count,
            "One batch in so many has a span although no caller has one.",
        ),
    ],
    &["endpoint"],
);
