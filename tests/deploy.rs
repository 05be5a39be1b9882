//! What `deploy/` ships is what this version of ferry takes.

use std::{fs, path::Path};

use ferry::policy::{NodeFile, Policy, Upstream};

/// The block under `policy.yaml: |` of the ConfigMap, without its indentation.
fn sidecar_policy() -> String {
    let path = crate::support::root().join("deploy/kubernetes-sidecar.yaml");
    let manifest = fs::read_to_string(path).expect("the manifest ships with ferry");
    let block = manifest
        .lines()
        .skip_while(|line| *line != "  policy.yaml: |")
        .skip(1)
        .take_while(|line| line.is_empty() || line.starts_with("    "));
    block
        .flat_map(|line| [line.get(4..).unwrap_or(""), "\n"])
        .collect()
}

#[test]
fn the_policy_of_the_kubernetes_sidecar_is_one_that_ferry_accepts() {
    let policy = Policy::load(&sidecar_policy(), Path::new("policy.yaml"))
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
