//! `policies/schema.json` before a validator that ferry did not write.

use std::{fs, path::Path};

use serde_json::{Value, json};

use crate::{python_client::python, support::root};

/// The policy in `yaml` with each value as the loader sees it: to YAML's older
/// readers `off` would be a boolean, to the loader and to editors it is text.
fn as_json(yaml: &str) -> Value {
    let options = serde_yaml::options! { strict_booleans: true };
    serde_yaml::from_str_with_options(yaml, options).expect("it is YAML")
}

/// What the validator says of each of these policies: nothing, or what is
/// wrong with it.
async fn judged(policies: &[(String, Value)]) -> Vec<String> {
    let home = tempfile::tempdir().expect("a temporary directory can be made");
    let path = home.path().join("policies.json");
    let values: Vec<_> = policies.iter().map(|(_, policy)| policy).collect();
    fs::write(&path, json!(values).to_string()).expect("it is writable");
    let schema = root().join("policies/schema.json");
    let arguments = [&schema, &path].map(|path| path.display().to_string());
    let arguments = arguments.each_ref().map(|argument| &**argument);
    let said = python("tests/python/validate.py", &arguments).await;
    let said: Vec<_> = said.lines().map(str::to_owned).collect();
    assert_eq!(said.len(), policies.len(), "{said:?}");
    said
}

fn policies_in(folder: &Path) -> Vec<(String, Value)> {
    let files = fs::read_dir(folder).expect("the folder is shipped");
    let files = files.map(|file| file.expect("it can be read").path());
    let yaml = files.filter(|path| path.extension().is_some_and(|ending| ending == "yaml"));
    let read = |path: std::path::PathBuf| {
        let text = fs::read_to_string(&path).expect("it can be read");
        (path.display().to_string(), as_json(&text))
    };
    yaml.map(read).collect()
}

#[tokio::test]
async fn every_ready_policy_is_one_by_the_schema_and_names_it_to_editors() {
    let policies = policies_in(&root().join("policies"));
    assert!(policies.len() >= 5, "{}", policies.len());
    for (path, _) in &policies {
        let text = fs::read_to_string(path).expect("it was read");
        let named = "# yaml-language-server: $schema=schema.json\n";
        assert!(text.starts_with(named), "{path}");
    }
    let said = judged(&policies).await;
    for ((path, _), said) in policies.iter().zip(said) {
        assert_eq!(said, "valid", "{path}");
    }
}

#[tokio::test]
async fn a_policy_that_the_schema_refuses_is_told_where() {
    let sound = as_json(
        "version: 1\nupstream: {endpoints: [http://127.0.0.1:1]}\nmethods:\n  \
         - {selector: shop.Orders/Place, batched_field: orders, mode: off}\n",
    );
    let mut policies = vec![("sound".to_owned(), sound.clone())];
    let mut wrong = |at: &str, value: Value| {
        let mut policy = sound.clone();
        let (within, key) = at.rsplit_once('/').expect("a path");
        policy.pointer_mut(within).expect("it is there")[key] = value;
        policies.push((at.to_owned(), policy));
    };
    wrong("/version", json!(2));
    wrong("/methods/0/mode", json!("offf"));
    wrong("/methods/0/window", json!({"linger": 2}));
    wrong("/methods/0/window", json!({"max_entires": 2}));
    wrong("/upstream/embedded", json!({}));
    wrong("/upstream/limit", json!({"max": 0}));
    wrong("/admin", json!(false));
    wrong("/methods/0/reply", json!({"require": [{"field": "x"}]}));
    let said = judged(&policies).await;
    assert_eq!(said[0], "valid");
    for ((at, _), said) in policies.iter().zip(&said).skip(1) {
        let within = at.rsplit_once('/').expect("a path").0;
        let told = at == said || said == within || said.starts_with(at);
        assert!(told, "{at}: {said}");
    }
}
