//! What `deploy/` ships is what this version of ferry takes.

use std::{fs, path::Path, process::Command};

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
