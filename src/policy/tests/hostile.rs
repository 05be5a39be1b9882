//! Files that mean harm are refused before they cost anything.

use super::*;

/// The refusal of `yaml`, which is bounded itself.
fn refused(yaml: &str) -> String {
    let faults = load(yaml).expect_err("must be refused");
    assert!(
        faults.faults.len() < 300,
        "a refusal is bounded too: {}",
        faults.faults.len()
    );
    faults.to_string()
}

#[test]
fn a_billion_laughs_are_refused() {
    let mut yaml = "a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n".to_owned();
    for level in 1..12 {
        let alias = format!("*a{}", level - 1);
        yaml += &format!("a{level}: &a{level} [{}]\n", [alias.as_str(); 9].join(", "));
    }
    assert!(refused(&yaml).contains("not a policy in YAML"));
}

#[test]
fn deep_nesting_is_refused_without_a_deep_stack() {
    for depth in [30, 100_000] {
        let flow = format!("version: {}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(refused(&flow).contains("not a policy in YAML"));
        let maps = format!("version: {}1{}", "{a: ".repeat(depth), "}".repeat(depth));
        assert!(refused(&maps).contains("not a policy in YAML"));
    }
    let block: String = (0..500)
        .map(|depth| format!("{}a:\n", " ".repeat(depth)))
        .collect();
    assert!(refused(&block).contains("not a policy in YAML"));
    let lists = format!("version:\n{}", "- ".repeat(5_000));
    assert!(refused(&lists).contains("not a policy in YAML"));
}

#[test]
fn a_huge_file_is_refused_by_its_size() {
    let huge = format!("version: 1 #{}", "x".repeat(1 << 20));
    assert!(refused(&huge).contains("must be at most 1048576"));
}

#[test]
fn a_file_of_very_many_values_is_refused() {
    let many = format!("version: [{}]", "1,".repeat(200_000));
    assert!(refused(&many).contains("not a policy in YAML"));
    let several = "version: 1\n---\n".repeat(10_000);
    assert!(refused(&several).contains("not a policy in YAML"));
}

#[test]
fn a_long_value_is_shown_shortened() {
    let long = refused(&with(
        "pushback: true",
        &format!("pushback: {}", "y".repeat(500_000)),
    ));
    assert!(long.len() < 300, "{} bytes", long.len());
}

#[test]
fn many_faults_are_shown_up_to_a_bound() {
    let many: String = (0..5_000).map(|i| format!("key{i}: 1\n")).collect();
    let text = refused(&many);
    assert!(
        text.lines()
            .last()
            .is_some_and(|line| line.contains("and more faults")),
        "{text}"
    );
}
