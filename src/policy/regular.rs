//! What a policy refers to is a regular file: a pipe has no end that one could
//! wait for, and whoever reads it is held up as long.

use std::{fs, io, path::Path};

/// How long the file at `path` is, or the one that a link there names.
pub(super) fn size(path: &Path) -> io::Result<u64> {
    let file = fs::metadata(path)?;
    match file.is_file() {
        true => Ok(file.len()),
        false => Err(io::Error::other(
            "it is no regular file; name one, or a link to one",
        )),
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn a_link_to_a_regular_file_is_as_good_as_the_file_and_a_socket_or_folder_is_not() {
        let home = tempfile::tempdir().expect("a temporary directory can be made");
        let at = |name: &str| home.path().join(name);
        fs::write(at("file"), "text").expect("it is writable");
        std::os::unix::fs::symlink("file", at("link")).expect("it is not there");
        assert_eq!(size(&at("link")).expect("a file"), 4);
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).expect("it is free");
        for other in [at("socket"), home.path().to_owned()] {
            let told = size(&other).expect_err("it has no end").to_string();
            assert!(told.contains("no regular file"), "{told}");
        }
    }
}
