//! The style of the house as a test, not as a review: floors, file lengths,
//! words, and documents that name only what exists. It reads the checkout as
//! text; every check is a function from files to faults, and is proved below
//! by a planted violation beside a clean file.

mod docs;
mod floors;
mod source;
mod words;

use source::File;

/// The whole checkout, read once a test.
fn checkout() -> Vec<File> {
    let files = source::read_tree(crate::support::root());
    assert!(
        files.iter().any(|file| file.path == "src/lib.rs"),
        "the checkout was not found, so nothing would be checked"
    );
    files
}

/// Fails with every fault at once, one a line.
#[track_caller]
fn assert_clean(faults: &[String]) {
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

#[test]
fn a_file_imports_its_own_floor_or_a_lower_one() {
    assert_clean(&floors::imports(&checkout()));
}

#[test]
fn the_pure_cores_touch_no_clock_lock_socket_or_log() {
    assert_clean(&floors::purity(&checkout()));
}

#[test]
fn no_file_outgrows_its_one_job() {
    assert_clean(&words::lengths(&checkout()));
}

#[test]
fn every_source_file_begins_with_its_reason() {
    assert_clean(&words::reasons(&checkout()));
}

#[test]
fn no_name_says_manager_or_handle() {
    assert_clean(&words::names(&checkout()));
}

#[test]
fn nothing_is_left_for_later() {
    assert_clean(&words::leftovers(&checkout()));
}

#[test]
fn nothing_committed_knows_the_machine_it_was_written_on() {
    assert_clean(&words::places(&checkout()));
}

#[test]
fn every_metric_that_a_document_names_exists() {
    assert_clean(&docs::metrics(&checkout()));
}

#[test]
fn every_promise_in_the_readme_names_a_test_that_exists() {
    assert_clean(&docs::promises(&checkout()));
}

#[test]
fn every_hazard_names_a_test_that_exists() {
    assert_clean(&docs::hazards(&checkout()));
}

#[test]
fn every_guard_names_a_test_that_exists() {
    assert_clean(&docs::guards(&checkout()));
}

#[test]
fn every_test_that_a_document_names_exists_and_is_run() {
    assert_clean(&docs::spoken_tests(&checkout()));
}

#[test]
fn every_path_that_a_document_names_exists() {
    assert_clean(&docs::paths(&checkout()));
}
