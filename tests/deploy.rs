//! What `deploy/` ships is what this version of ferry takes.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use ferry::policy::{NodeFile, Policy, Upstream};

/// The block under `key: |` of a manifest's ConfigMap, without its indentation.
fn block(manifest: &str, key: &str) -> String {
    let path = crate::support::root().join("deploy").join(manifest);
    let text = fs::read_to_string(path).expect("the manifest ships with ferry");
    let head = format!("  {key}: |");
    let block = text
        .lines()
        .skip_while(|line| *line != head)
        .skip(1)
        .take_while(|line| line.is_empty() || line.starts_with("    "));
    block
        .flat_map(|line| [line.get(4..).unwrap_or(""), "\n"])
        .collect()
}

fn read(path: &str) -> String {
    let read = fs::read_to_string(crate::support::root().join(path));
    read.unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// What the container file's build stage copies of the checkout.
fn copied() -> BTreeSet<String> {
    let file = read("deploy/Containerfile");
    let copies = file.lines().filter_map(|line| line.strip_prefix("COPY "));
    let own = copies.filter(|copy| !copy.starts_with("--from"));
    let words = own.flat_map(|copy| {
        let words: Vec<_> = copy.split_whitespace().collect();
        words[..words.len() - 1].to_vec()
    });
    words.map(str::to_owned).collect()
}

/// Every file under `folder`.
fn files_below(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("it is a folder of the checkout");
    let paths = entries.map(|entry| entry.expect("it can be listed").path());
    let files = paths.flat_map(|path| match path.is_dir() {
        true => files_below(&path),
        false => vec![path],
    });
    files.collect()
}

#[test]
fn the_container_file_copies_what_its_build_reads_and_the_context_holds_nothing_else() {
    let (root, copied) = (crate::support::root(), copied());
    for path in &copied {
        assert!(root.join(path).exists(), "COPY {path}: there is none");
    }
    let ignored = read(".dockerignore");
    let kept = ignored.lines().filter_map(|line| line.strip_prefix('!'));
    let kept: BTreeSet<_> = kept.map(str::to_owned).collect();
    assert_eq!(kept, copied, ".dockerignore against deploy/Containerfile");
    // What build.rs says it reads, and what the sources take into the binary.
    let build = read("build.rs");
    let read_by_build = build.split("rerun-if-changed=").skip(1);
    let read_by_build = read_by_build.map(|rest| rest.split('"').next().unwrap_or_default());
    let mut needed: BTreeSet<_> = read_by_build.map(|path| root.join(path)).collect();
    for file in files_below(&root.join("src")) {
        let text = fs::read_to_string(&file).expect("sources are text");
        let folder = file.parent().expect("it is in a folder");
        let taken = text.split("include_str!(\"").skip(1);
        let taken = taken.map(|rest| rest.split('"').next().unwrap_or_default());
        needed.extend(taken.map(|path| folder.join(path)));
    }
    assert!(needed.len() > 5, "{needed:?}");
    for path in needed {
        let real = path.canonicalize();
        let real = real.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let under = |copy: &String| real.starts_with(root.join(copy));
        assert!(
            copied.iter().any(under),
            "{}: is not copied",
            real.display()
        );
    }
}

#[test]
fn cargo_takes_the_manifest_with_what_the_container_file_copies() {
    let (root, home) = (
        crate::support::root(),
        tempfile::tempdir().expect("a folder"),
    );
    for path in copied() {
        let (from, to) = (root.join(&path), home.path().join(&path));
        let files = match from.is_dir() {
            true => files_below(&from),
            false => vec![from.clone()],
        };
        for file in files {
            let to = to.join(file.strip_prefix(&from).expect("it is below"));
            // A path joined with nothing ends in a slash, which a file's must not.
            let to: PathBuf = to.components().collect();
            fs::create_dir_all(to.parent().expect("it has a folder")).expect("writable");
            fs::copy(&file, &to).expect("it is readable");
        }
    }
    fs::write(home.path().join("tests/main.rs"), "").expect("as the container file does");
    let cargo = Command::new("cargo")
        .args(["metadata", "--locked", "--offline", "--format-version=1"])
        .current_dir(home.path())
        .output()
        .expect("cargo runs this test");
    let told = String::from_utf8_lossy(&cargo.stderr);
    assert!(cargo.status.success(), "{told}");
}

#[test]
fn the_policy_of_the_kubernetes_sidecar_is_one_that_ferry_accepts() {
    let policy = Policy::load(
        &block("kubernetes-sidecar.yaml", "policy.yaml"),
        Path::new("policy.yaml"),
    )
    .unwrap_or_else(|faults| panic!("deploy/kubernetes-sidecar.yaml: {faults}"));
    assert!(
        matches!(policy.upstream, Upstream::Remote { .. }),
        "a sidecar without a volume keeps no sessions itself"
    );
    assert_eq!(policy.methods.len(), 1);
}

#[test]
fn the_cluster_that_ships_is_three_nodes_that_name_each_other_and_a_policy_in_front() {
    let root = crate::support::root();
    let policy = Policy::read(&root.join("policies/cluster.yaml"))
        .unwrap_or_else(|faults| panic!("{faults}"));
    let Upstream::Remote { endpoints, .. } = policy.upstream else {
        panic!("the sidecar keeps no sessions itself");
    };
    for number in 1..=3_u64 {
        let path = root.join(format!("deploy/cluster/node{number}.yaml"));
        let node = NodeFile::read(&path).unwrap_or_else(|faults| panic!("{faults}"));
        assert_eq!(node.node, number);
        assert_eq!(node.members.len(), 3);
        assert_eq!(node.members[&number], node.peer.to_string());
        let called = format!("http://{}", node.listen);
        assert!(
            endpoints.iter().any(|at| at.to_string() == called),
            "{called}"
        );
    }
}

#[test]
fn the_nodes_of_the_compose_file_are_where_it_puts_them_and_know_each_other() {
    let folder = crate::support::root().join("deploy");
    let compose = fs::read_to_string(folder.join("compose.yaml")).expect("it ships");
    for number in 1..=3_u64 {
        let path = folder.join(format!("compose/node{number}.yaml"));
        let node = NodeFile::read(&path).unwrap_or_else(|faults| panic!("{faults}"));
        assert_eq!((node.node, node.members.len()), (number, 3));
        let peer = node.peer.to_string();
        assert_eq!(node.members[&number].to_string(), peer);
        assert_eq!(node.data_dir, Path::new("/data/node"), "its volume");
        let (address, _) = peer.rsplit_once(':').expect("a port");
        let place = format!("ipv4_address: {address}}}");
        assert!(compose.contains(&place), "{place}");
        let probe = format!("--node, \"{peer}\"");
        assert!(compose.contains(&probe), "{probe}");
    }
    let policy = Policy::read(&folder.join("compose/policy.yaml"));
    let policy = policy.unwrap_or_else(|faults| panic!("{faults}"));
    assert!(matches!(policy.upstream, Upstream::Remote { endpoints, .. } if endpoints.len() == 3));
}

#[test]
fn the_load_of_the_compose_file_is_one_that_the_bench_takes() {
    let path = crate::support::root().join("deploy/compose.yaml");
    let compose = fs::read_to_string(path).expect("it ships");
    let begin = compose.find("      - bench\n").expect("it has a load");
    let words = compose[begin..].lines();
    let words: Vec<_> = words
        .map_while(|line| line.strip_prefix("      - "))
        .filter(|word| !word.starts_with("--host=") && !word.starts_with("--port="))
        .collect();
    // Nobody listens there: flags that make no sense would be told before that.
    let ran = Command::new(env!("CARGO_BIN_EXE_ferry"))
        .args(&words)
        .args(["--host=127.0.0.1", "--port=1"])
        .output()
        .expect("cargo built the binary");
    let told = String::from_utf8_lossy(&ran.stderr);
    assert_eq!(ran.status.code(), Some(1), "{words:?}: {told}");
    assert!(told.contains("127.0.0.1:1"), "{told}");
}

#[test]
fn each_pod_of_the_kubernetes_cluster_has_a_file_by_its_name_and_all_name_the_same_three() {
    let mut members = Vec::new();
    for pod in 0..3_u64 {
        let key = format!("ferry-{pod}.yaml");
        let text = block("kubernetes-cluster.yaml", &key);
        let node = NodeFile::load(&text, Path::new(&key));
        let node = node.unwrap_or_else(|faults| panic!("{faults}"));
        assert_eq!(node.node, pod + 1, "pods count from 0 and nodes from 1");
        assert!(node.peer.ip().is_unspecified(), "a pod's address changes");
        let own = format!("ferry-{pod}.ferry-peers:{}", node.peer.port());
        assert_eq!(node.members[&node.node], own, "its name does not");
        members.push(node.members);
    }
    assert!(
        members
            .iter()
            .all(|one| *one == members[0] && one.len() == 3)
    );
}

/// The whole number of seconds after `key` on a line, if it is one of that key.
fn seconds(line: &str, key: &str) -> Option<u64> {
    let value = line.trim().strip_prefix(key)?.trim();
    value.trim_end_matches('s').parse().ok()
}

#[test]
fn whoever_stops_ferry_waits_for_longer_than_its_drain() {
    let drain = "const DRAIN_PATIENCE: Duration = Duration::from_secs(";
    let proxy = read("src/cli/proxy.rs");
    let (_, drain) = proxy.split_once(drain).expect("the drain has a bound");
    let drain: u64 = drain[..drain.find(')').expect("Rust")]
        .parse()
        .expect("a number");
    let keys = [
        "TimeoutStopSec=",
        "stop_grace_period:",
        "terminationGracePeriodSeconds:",
    ];
    let mut found = 0;
    for path in files_below(&crate::support::root().join("deploy")) {
        let Ok(text) = fs::read_to_string(&path) else {
            continue; // no text
        };
        let waits = text
            .lines()
            .flat_map(|line| keys.map(|key| seconds(line, key)));
        for waits in waits.flatten() {
            found += 1;
            assert!(waits > drain, "{}: {waits} s", path.display());
        }
    }
    assert!(found >= 5, "of the units, compose and Kubernetes, {found}");
}
