//! A policy in words that a person checks against what was meant.

use std::fmt::Write as _;

use tonic::Code;

use super::{
    guards,
    metadata::OtherMetadata,
    on_error::{OnError, name},
    rules::{Health, Method, Mode, Pipeline, Policy, Runtime, ShedStatus, Upstream},
    telemetry,
    units::{show_duration, show_size},
};
use crate::{
    batch::Close,
    limit::Algorithm,
    wire::{HeldIs, Is, KeyUse, Plan, Require},
};

/// What `policy` does, method by method, as `ferry check` prints it.
#[must_use]
pub fn describe(policy: &Policy) -> String {
    let mut text = String::new();
    let listen: Vec<_> = policy.listen.iter().map(ToString::to_string).collect();
    line(&mut text, "listen", &listen.join(", "));
    line(
        &mut text,
        "admin",
        &policy
            .admin
            .map_or("off".into(), |address| address.to_string()),
    );
    line(&mut text, "guards", &guards::describe(&policy.guards));
    let health = match policy.health {
        Health::Own => "ferry's own: SERVING where /ready is, until the drain",
        Health::Forward => "the upstream's, passed through",
    };
    line(&mut text, "health", health);
    line(&mut text, "upstream", &upstream(policy));
    line(&mut text, "limit", &limit(policy));
    line(&mut text, "shed", &shed(policy));
    let rules = &policy.metadata;
    let identity = match rules.identity() {
        [] => "no key is identity".to_owned(),
        keys => format!("{} must be equal within a batch", keys.join(", ")),
    };
    let host = match rules.by_authority() {
        true => ", so must the host that is called (:authority)",
        false => "",
    };
    let other = match rules.other() {
        OtherMetadata::Alone => "a call with any other goes alone",
        OtherMetadata::Identity => "any other must be equal too",
    };
    line(
        &mut text,
        "metadata",
        &format!(
            "{identity}{host}; {} ignored; {other}",
            rules.ignored().join(", ")
        ),
    );
    line(
        &mut text,
        "telemetry",
        &telemetry::describe(&policy.telemetry),
    );
    for method in &policy.methods {
        writeln!(text, "\n{}", &method.path[1..]).expect("a String takes all that is written");
        for (name, what) in plan(policy, method) {
            line(&mut text, &format!("  {name} "), &what);
        }
    }
    text
}

pub(super) fn line(text: &mut String, name: &str, what: &str) {
    writeln!(text, "{name:<13}{what}").expect("a String takes all that is written");
}

fn upstream(policy: &Policy) -> String {
    let target = match &policy.upstream {
        Upstream::Embedded {
            data_dir,
            pipeline,
            groups,
            runtime,
            log_max,
        } => {
            let groups = match groups.get() {
                1 => "1 group".to_owned(),
                groups => format!("{groups} groups"),
            };
            let runtime = match runtime {
                Runtime::Shared => "",
                Runtime::Dedicated => ", a thread each",
            };
            let pipeline = match pipeline {
                Pipeline::Full => "pipelined",
                Pipeline::Serial => "one proposal at a time",
            };
            format!(
                "embedded Raft in {} ({groups}, {pipeline}{runtime}, a snapshot at {} of log)",
                data_dir.display(),
                show_size(*log_max)
            )
        }
        Upstream::Remote { endpoints, .. } => {
            let endpoints = endpoints.iter().map(ToString::to_string);
            let endpoints: Vec<_> = endpoints
                .map(|endpoint| endpoint.trim_start_matches("http://").to_owned())
                .collect();
            format!("{}; methods not listed are forwarded", endpoints.join(", "))
        }
    };
    format!(
        "{target}; a batch ends after {} at the latest",
        show_duration(policy.batch_timeout)
    )
}

fn limit(policy: &Policy) -> String {
    let limit = policy.limit;
    match limit.algorithm {
        Algorithm::Fixed => format!("{} batches in flight, always", limit.max),
        adaptive => format!(
            "{} to {} batches in flight ({}: {})",
            limit.min,
            limit.max,
            adaptive.name(),
            adaptive.does()
        ),
    }
}

fn shed(policy: &Policy) -> String {
    let status = match policy.shed.status {
        ShedStatus::ResourceExhausted => "RESOURCE_EXHAUSTED",
        ShedStatus::Unavailable => "UNAVAILABLE",
    };
    let pushback = if policy.shed.pushback {
        "with"
    } else {
        "without"
    };
    format!("{status}, {pushback} a hint when to come again")
}

/// What `policy` does with one of its methods: what is said of it, and in
/// which words.
#[must_use]
pub fn plan(policy: &Policy, method: &Method) -> Vec<(&'static str, String)> {
    let mut lines = Vec::new();
    let text = &mut lines;
    let mode = match (method.mode, &policy.upstream) {
        (Mode::Enforce, _) => "enforce: single calls leave as batches",
        (Mode::Observe, _) => {
            "observe: forwarded as they come; what batches they would make is counted"
        }
        (Mode::Off, Upstream::Remote { .. }) => "off: forwarded, as if it were not listed",
        (Mode::Off, Upstream::Embedded { .. }) => "off: every call is a proposal of its own",
    };
    add(text, "mode", mode);
    if method.target != method.path {
        add(
            text,
            "calls",
            &format!("{} with each batch", &method.target[1..]),
        );
    }
    forms(text, &method.plan);
    add(text, "refused", &refused(method));
    let others = method.plan.other_fields().map(|field| field.name.clone());
    let others = others.chain(method.plan.discriminators().iter().cloned());
    let mut others: Vec<_> = others.collect();
    others.sort_unstable();
    others.dedup();
    if !others.is_empty() {
        add(
            text,
            "partition",
            &format!("{} must be equal within a batch", others.join(", ")),
        );
    }
    keys(text, &method.plan);
    if !method.barrier.is_empty() {
        add(text, "waits for", &waits_for(policy, method));
    }
    add(text, "alone if", &alone_if(&method.plan));
    let max_reply = show_size(method.max_reply_bytes as u64);
    let replies = format!("{}; at most {max_reply} a batch", reply(method));
    add(text, "reply", &replies);
    required_of_reply(text, &method.plan);
    add(text, "on error", &on_error(&method.on_error));
    let window = method.window;
    let close = match window.close {
        Close::Adaptive => "at once while the upstream is idle, else paced",
        Close::Fixed => "full or when the linger has passed",
    };
    let sizes = format!(
        "at most {} entries or {}; linger {}; closes {close}",
        window.max_entries,
        show_size(window.max_bytes as u64),
        show_duration(window.linger),
    );
    add(text, "window", &sizes);
    let (wait, bytes) = (
        show_duration(method.queue.max_wait),
        show_size(method.queue.max_bytes as u64),
    );
    add(
        text,
        "queue",
        &format!(
            "at most {bytes} and {} partitions, past which calls go alone; an entry waits {wait} \
             at most, then it is shed",
            method.max_partitions
        ),
    );
    lines
}

/// For which calls a call waits, and which of those that the policy names it
/// does not as things stand: only what batches has a place in the order.
fn waits_for(policy: &Policy, method: &Method) -> String {
    let others: Vec<_> = method.barrier.iter().map(|path| &path[1..]).collect();
    let others = others.join(", ");
    if method.mode != Mode::Enforce {
        let mode = method.mode.name();
        return format!(
            "nothing while its mode is {mode}; in enforce for earlier calls of {others}"
        );
    }
    let passing = policy.methods.iter();
    let passing =
        passing.filter(|other| other.mode != Mode::Enforce && method.barrier.contains(&other.path));
    let passing = passing.map(|other| {
        let (name, mode) = (&other.path[1..], other.mode.name());
        format!("; not for {name} while its mode is {mode}")
    });
    let passing: String = passing.collect();
    format!(
        "earlier calls of {others} on its key; what goes alone does not, nor is it waited \
         for{passing}"
    )
}

/// What is said of a method, line by line.
type Lines = Vec<(&'static str, String)>;

fn add(lines: &mut Lines, name: &'static str, what: &str) {
    lines.push((name, what.to_owned()));
}

/// What becomes of a batch that fails.
fn on_error(rules: &OnError) -> String {
    let names = |codes: &[Code]| {
        let names: Vec<_> = codes.iter().map(|code| name(*code)).collect();
        names.join(", ")
    };
    let bisected = match &rules.bisect[..] {
        [] => "never bisected".to_owned(),
        codes => format!("bisected on {}", names(codes)),
    };
    let retried = match &rules.retry {
        None => "never tried again".to_owned(),
        Some(retry) => {
            let (attempts, on) = (retry.attempts, names(&retry.on));
            let unanswered = retry.attempt_timeout.map_or_else(String::new, |timeout| {
                format!(" and after {} without an answer", show_duration(timeout))
            });
            format!("tried {attempts} times at most on {on}{unanswered}")
        }
    };
    format!("status, message and details copied to every caller; {bisected}, {retried}")
}

/// How the entries are found, by names and numbers.
fn forms(text: &mut Lines, plan: &Plan) {
    let (request, batched) = (plan.request_name(), plan.batched_name());
    let number = plan.batched_field();
    if let Some(wrap) = plan.wrap() {
        let into = match &wrap.field {
            Some((within, name)) => {
                format!("{batched}[].{name} (field {number}, in it {within})")
            }
            None => format!("{batched}[] (field {number})"),
        };
        let whole = format!("each {request} as a whole -> {into} of {}", wrap.request);
        return add(text, "wrapped", &whole);
    }
    add(
        text,
        "batch form",
        &format!("{request}: field {number} ({batched}), concatenated; counted one by one"),
    );
    let Some(lift) = plan.lift() else { return };
    let fields: Vec<_> = lift
        .fields
        .iter()
        .map(|field| {
            let to = plan.entry_fields().find(|entry| entry.number == field.to);
            let to = to.map_or("", |entry| entry.name.as_str());
            format!(
                "field {} ({}) -> {batched}[].{to} ({})",
                field.from, field.name, field.to
            )
        })
        .collect();
    let both = "both forms share a batch";
    add(
        text,
        "single form",
        &format!("{}: {}; {both}", lift.from, fields.join(", ")),
    );
}

/// What is answered with INVALID_ARGUMENT, to that caller alone.
fn refused(method: &Method) -> String {
    let batched = method.plan.batched_name();
    let mut rules = match method.plan.wrap() {
        Some(_) => Vec::new(),
        None => vec![format!("no {batched}")],
    };
    rules.extend(["not protobuf".into(), "strings not UTF-8".into()]);
    for field in method.plan.entry_fields() {
        match field.require {
            Require::Nothing => {}
            Require::Present => rules.push(format!("{} missing", field.name)),
            Require::Filled => rules.push(format!("{} empty", field.name)),
        }
        if let Some(max) = field.max_len {
            rules.push(format!("{} over {max} bytes", field.name));
        }
    }
    rules.push(format!(
        "a message over {}",
        show_size(method.max_message_bytes as u64)
    ));
    rules.join("; ")
}

/// What becomes of two entries of one key.
fn keys(text: &mut Lines, plan: &Plan) {
    let name = |number: &u32| {
        let mut fields = plan.entry_fields();
        fields
            .find(|field| field.number == *number)
            .map(|field| field.name.clone())
    };
    let keys: Vec<_> = plan.entry_key().iter().filter_map(name).collect();
    let equal = match (keys.is_empty(), plan.keys()) {
        (true, _) => return,
        (false, KeyUse::Distinct) => "the second of two equal ones waits for the next batch",
        (false, KeyUse::Ignore | KeyUse::Note) => "two equal ones may share a batch, in order",
    };
    add(text, "key", &format!("{}; {equal}", keys.join(", ")));
}

/// What is sent by itself, unchanged.
fn alone_if(plan: &Plan) -> String {
    let mut rules: Vec<_> = plan
        .alone_if()
        .iter()
        .map(|(field, is)| match is {
            Is::Present => format!("{field} is there"),
            Is::Empty => format!("{field} is empty"),
        })
        .collect();
    if plan.wrap().is_none() {
        let within = |field: &&String| field.contains('.');
        let mixed = plan.discriminators().iter().filter(within);
        rules.extend(mixed.map(|field| format!("its entries differ in {field}")));
        if plan.keys() == KeyUse::Distinct {
            rules.push("one key stands in it twice".into());
        }
        if plan.other_fields().any(|field| field.choice.is_some()) {
            rules.push("two of one oneof stand outside its entries".into());
        }
    }
    rules.push(
        "it has a field that the descriptors do not know, a group, or is larger than a window"
            .into(),
    );
    rules.join("; ")
}

/// What each caller gets.
fn reply(method: &Method) -> String {
    let plan = &method.plan;
    let Some(split) = &plan.reply().split else {
        return "copied to every caller".into();
    };
    let (name, reply) = (&split.name, &plan.reply().name);
    if plan.wrap().is_none() {
        let status = split
            .status
            .map(|_| "; a failed one is a status to a caller of the single form");
        return format!(
            "{reply}: to each caller with its own {name}, by position{}",
            status.unwrap_or_default()
        );
    }
    let mut what = match &split.unwrap {
        Some((_, within)) => format!("{reply}: {name}[].{within} to each caller, by position"),
        None => format!("{reply}: {name}[] to each caller, by position"),
    };
    for fill in &split.fill {
        let (from, to) = (&fill.from_name, &fill.to_name);
        what += &match fill.message {
            true => format!("; what its {to} lacks is filled from the reply's {from}"),
            false => format!("; its {to}, where absent, is the reply's {from}"),
        };
    }
    if split.status.is_some() {
        what += "; one that has a status of its own is that status to its caller alone";
    }
    what
}

fn required_of_reply(text: &mut Lines, plan: &Plan) {
    for held in &plan.reply().require {
        let must = match held.is {
            HeldIs::Flag(flag) => flag.to_string(),
            HeldIs::Present => "there".into(),
        };
        let code = tonic::Code::from(held.code);
        let what = format!(
            "{} must be {must}, else every caller gets: {code}",
            held.name
        );
        add(text, "demands", &what);
    }
}
