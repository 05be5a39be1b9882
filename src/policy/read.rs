//! From the tree to the file's shape, by the keys that [`super::keys`] has.

use std::path::Path;

use super::{
    client_tls,
    fault::Found,
    file::{
        AdminFile, File, LiftFile, LimitFile, ListenFile, MetadataFile, MethodFile, OnErrorFile,
        QueueFile, RetryFile, ServerTlsFile, TargetFile, UpstreamFile, WindowFile,
    },
    guards,
    keys::{ADMIN, EMBEDDED, LIMIT, LISTEN, METADATA, SERVER_TLS, SHED, TOP, UPSTREAM},
    keys_method::{LIFT, METHOD, ON_ERROR, QUEUE, RETRY, WINDOW},
    on_error::CODES,
    read_form::FormFile,
    section::{At, Section},
    telemetry,
    tree::{Node, Value},
};
use crate::{batch::Close, limit::Algorithm};

impl File {
    /// Reads the shape; what is missing or of the wrong type is in `found`. Files
    /// that it names are relative to `folder`.
    pub(super) fn read(root: &Node, folder: &Path, found: &mut Found) -> Option<Self> {
        if is_node(root) {
            let what = "looks like a node's file, which `ferry node` reads; name a policy file";
            return found.add(root.at, what);
        }
        let top = Section::open(root, "", &TOP, found)?;
        version(&top, found);
        let mut file = Self {
            listen: listen(&top, found),
            guards: guards::read(&top, found),
            health: health(&top, found),
            admin: admin(&top, found),
            admin_token: admin_token(&top, found),
            descriptors: top.texts("descriptors", found).unwrap_or_default(),
            methods: methods(&top, found),
            telemetry: telemetry::read(&top, folder, found),
            ..Self::default()
        };
        let remedy = "name embedded: {data_dir: …} or endpoints: […]";
        if top.require("upstream", remedy, found).is_some() {
            file.upstream = upstream(&top, found);
        }
        if let Some(shed) = top.section("shed", &SHED, found) {
            use super::ShedStatus::{ResourceExhausted, Unavailable};
            let statuses = [
                ("RESOURCE_EXHAUSTED", Some(ResourceExhausted)),
                ("UNAVAILABLE", Some(Unavailable)),
            ];
            file.shed_status = shed.choice("status", &statuses, found);
            file.shed_pushback = shed.flag("pushback", found);
        }
        if let Some(metadata) = top.section("metadata", &METADATA, found) {
            use super::OtherMetadata::{Alone, Identity};
            let others = [("alone", Some(Alone)), ("identity", Some(Identity))];
            file.metadata = MetadataFile {
                identity: metadata.texts("identity", found),
                ignore: metadata.texts("ignore", found).unwrap_or_default(),
                other: metadata.choice("other", &others, found),
            };
        }
        Some(file)
    }
}

/// Whether it has what only a node's file has, and nothing that only a policy has.
fn is_node(root: &Node) -> bool {
    let Value::Map(entries) = &root.value else {
        return false;
    };
    let has = |name: &str| entries.iter().any(|(key, _)| key.name == name);
    has("cluster") && has("node") && !has("upstream") && !has("methods")
}

fn version(top: &Section<'_>, found: &mut Found) {
    if top.require("version", "write version: 1", found).is_none() {
        return;
    }
    if let Some(version) = top
        .count("version", found)
        .filter(|version| version.value != 1)
    {
        let what = format!(
            "version: {}: must be 1; this ferry knows no other",
            version.value
        );
        found.add::<()>(version.at, what);
    }
}

fn listen(top: &Section<'_>, found: &mut Found) -> Option<Vec<ListenFile>> {
    let list = top.list("listen", found)?;
    if list.is_empty() {
        let what =
            "listen: is empty: must have at least 1 address; leave the key out for the default";
        return top.node("listen").and_then(|node| found.add(node.at, what));
    }
    let mut places = Vec::with_capacity(list.len());
    for (i, node) in list.iter().enumerate() {
        let Some(listen) = Section::open(node, &format!("listen[{i}]"), &LISTEN, found) else {
            continue;
        };
        if listen.node("unix").is_none() {
            listen.require("address", "write address: 127.0.0.1:1229", found);
        }
        places.push(ListenFile {
            address: listen.text("address", found),
            unix: listen.text("unix", found),
            tls: server_tls(&listen, found),
        });
    }
    Some(places)
}

fn server_tls(listen: &Section<'_>, found: &mut Found) -> Option<ServerTlsFile> {
    let tls = listen.section("tls", &SERVER_TLS, found)?;
    let cert = tls.require("cert", "name a PEM file with the certificate chain", found);
    let key = tls.require("key", "name a PEM file with its private key", found);
    cert.and(key)?;
    Some(ServerTlsFile {
        cert: tls.text("cert", found)?,
        key: tls.text("key", found)?,
        client_ca: tls.text("client_ca", found),
    })
}

fn admin(top: &Section<'_>, found: &mut Found) -> Option<At<AdminFile>> {
    let node = top.node("admin")?;
    if matches!(&node.value, Value::Text(text) if text == "off") {
        return Some(At {
            value: AdminFile::Off,
            at: node.at,
        });
    }
    let admin = Section::open(node, "admin", &ADMIN, found)?;
    admin.require(
        "address",
        "write address: 127.0.0.1:9901, or admin: off",
        found,
    )?;
    let address = admin.text("address", found)?;
    Some(At {
        value: AdminFile::Address(address.value),
        at: address.at,
    })
}

fn health(top: &Section<'_>, found: &mut Found) -> Option<At<super::Health>> {
    use super::Health::{Forward, Own};
    let who = [("own", Some(Own)), ("forward", Some(Forward))];
    top.choice("health", &who, found)
}

/// Every algorithm by its name in a policy.
fn algorithms() -> Vec<(&'static str, Option<Algorithm>)> {
    let all = Algorithm::ALL.iter();
    all.map(|algorithm| (algorithm.name(), Some(*algorithm)))
        .collect()
}

/// What is wrong with the section has been said by then.
fn admin_token(top: &Section<'_>, found: &mut Found) -> Option<At<String>> {
    let node = top.node("admin")?;
    let mut told = Found::default();
    let admin = Section::open(node, "admin", &ADMIN, &mut told)?;
    admin.text("token_file", found)
}

fn upstream(top: &Section<'_>, found: &mut Found) -> Option<UpstreamFile> {
    let upstream = top.section("upstream", &UPSTREAM, found)?;
    let limit = upstream
        .section("limit", &LIMIT, found)
        .map(|limit| LimitFile {
            algorithm: limit.choice("algorithm", &algorithms(), found),
            min: limit.count("min", found),
            max: limit.count("max", found),
        });
    let batch_timeout = upstream.duration("batch_timeout", found);
    let embedded = upstream.section("embedded", &EMBEDDED, found);
    let target = match (embedded, upstream.node("endpoints")) {
        (Some(_), Some(node)) => {
            let what = "upstream.endpoints: stands beside upstream.embedded; keep one of them";
            return found.add(node.at, what);
        }
        (Some(embedded), None) => {
            use super::Pipeline::{Full, Serial};
            use super::Runtime::{Dedicated, Shared};
            let runtimes = [("shared", Some(Shared)), ("dedicated", Some(Dedicated))];
            let pipelines = [("full", Some(Full)), ("serial", Some(Serial))];
            TargetFile::Embedded {
                data_dir: embedded.text("data_dir", found),
                groups: embedded.count("groups", found),
                pipeline: embedded.choice("pipeline", &pipelines, found),
                runtime: embedded.choice("runtime", &runtimes, found),
                log_max: embedded.size("log_max", found),
            }
        }
        (None, Some(node)) => {
            let endpoints = upstream.texts("endpoints", found)?;
            if matches!(&node.value, Value::List(list) if list.is_empty()) {
                let what = "upstream.endpoints: is empty: must have at least 1 address; name one";
                return found.add(node.at, what);
            }
            TargetFile::Endpoints(endpoints)
        }
        (None, None) if upstream.node("embedded").is_some() => return None,
        (None, None) => {
            let what = "upstream: has neither embedded nor endpoints; name where batches go";
            return found.add(upstream.at, what);
        }
    };
    Some(UpstreamFile {
        target,
        tls: client_tls::read(&upstream, found),
        limit: limit.unwrap_or_default(),
        batch_timeout,
        leader_hint: upstream.text("leader_hint", found),
    })
}

fn methods(top: &Section<'_>, found: &mut Found) -> Vec<MethodFile> {
    let remedy = "list the methods that batch";
    if top.require("methods", remedy, found).is_none() {
        return Vec::new();
    }
    let list = top.list("methods", found).unwrap_or_default();
    let read = |(i, node)| method(node, &format!("methods[{i}]"), found);
    list.iter().enumerate().filter_map(read).collect()
}

fn method(node: &Node, path: &str, found: &mut Found) -> Option<MethodFile> {
    let method = Section::open(node, path, &METHOD, found)?;
    let modes = super::Mode::ALL.map(|(name, mode)| (name, Some(mode)));
    let mode = method.choice("mode", &modes, found);
    let on_error = method.section("on_error", &ON_ERROR, found);
    let window = method.section("window", &WINDOW, found);
    let queue = method.section("queue", &QUEUE, found);
    let selector = method.require("selector", "write selector: package.Service/Method", found);
    let batched = method.require("batched_field", "name the repeated field of entries", found);
    let shape = MethodFile {
        path: path.to_owned(),
        mode,
        lift: lift(&method, found),
        form: FormFile::read(&method, found),
        entry_key: method.texts("entry_key", found).unwrap_or_default(),
        require: method.texts("require", found).unwrap_or_default(),
        barrier: method.texts("barrier", found).unwrap_or_default(),
        ordered: false,
        max_message_bytes: method.size("max_message_bytes", found),
        on_error: on_error
            .map(|on_error| self::on_error(&on_error, found))
            .unwrap_or_default(),
        window: window
            .map(|window| self::window(&window, found))
            .unwrap_or_default(),
        queue: queue
            .map(|queue| QueueFile {
                max_wait: queue.duration("max_wait", found),
                max_bytes: queue.size("max_bytes", found),
                max_partitions: queue.count("max_partitions", found),
            })
            .unwrap_or_default(),
        selector: selector.and_then(|()| method.text("selector", found))?,
        batched_field: batched.and_then(|()| method.text("batched_field", found))?,
    };
    Some(shape)
}

fn on_error(on_error: &Section<'_>, found: &mut Found) -> OnErrorFile {
    let retry = on_error.section("retry", &RETRY, found);
    OnErrorFile {
        atomic: on_error.flag("atomic", found),
        bisect: on_error.choices("bisect", &CODES, found),
        retry: retry.map(|retry| RetryFile {
            at: retry.at,
            attempts: retry.count("attempts", found),
            on: retry.choices("on", &CODES, found),
            idempotent: retry.flag("idempotent", found),
            backoff: retry.duration("backoff", found),
            attempt_timeout: retry.duration("attempt_timeout", found),
        }),
    }
}

fn window(window: &Section<'_>, found: &mut Found) -> WindowFile {
    let closes = [
        ("adaptive", Some(Close::Adaptive)),
        ("fixed", Some(Close::Fixed)),
    ];
    WindowFile {
        max_entries: window.count("max_entries", found),
        max_bytes: window.size("max_bytes", found),
        linger: window.duration("linger", found),
        close: window.choice("close", &closes, found),
    }
}

fn lift(method: &Section<'_>, found: &mut Found) -> Option<LiftFile> {
    let lift = method.section("lift", &LIFT, found)?;
    let from = lift.require("from", "name the message of the single form", found);
    let fields = lift.require("fields", "say where each field goes: {from: to}", found);
    from.and(fields)?;
    Some(LiftFile {
        from: lift.text("from", found)?,
        fields: lift.pairs("fields", found)?,
    })
}
