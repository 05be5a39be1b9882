//! Whether the files that a policy was made of have changed.
//!
//! Looked at now and then rather than announced by the kernel: a look costs
//! microseconds and is right on every file system, over the network too, and
//! through every symlink. Kubernetes changes a mounted file by swapping the
//! symlink of a folder above it, which moves no file that one could watch.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// What a file looked like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp {
    path: PathBuf,
    /// Where it truly is, its length, and when it was last written or made
    /// readable; `None` where there is no such file.
    seen: Option<(PathBuf, u64, [i64; 2])>,
}

impl Stamp {
    /// What the file at `path` looks like now.
    #[must_use]
    pub fn of(path: &Path) -> Self {
        let seen = fs::canonicalize(path).and_then(|place| {
            let file = fs::metadata(&place)?;
            Ok((place, file.len(), [file.ctime(), file.ctime_nsec()]))
        });
        Self {
            path: path.to_owned(),
            seen: seen.ok(),
        }
    }

    /// What the same file looks like now.
    #[must_use]
    pub fn again(&self) -> Self {
        Self::of(&self.path)
    }
}

/// Tells when something that was changed has come to rest. PURE.
#[derive(Debug)]
pub(super) struct Rest<T> {
    last: Option<T>,
}

impl<T> Default for Rest<T> {
    fn default() -> Self {
        Self { last: None }
    }
}

impl<T: PartialEq> Rest<T> {
    /// Whether what is seen `now` differs from what was last acted upon, and
    /// was the same at the look before: a file that is still being written is
    /// left alone, since half of one may well be a policy too.
    pub(super) fn look(&mut self, acted_upon: &T, now: T) -> bool {
        let is_new = now != *acted_upon;
        let rests = self.last.as_ref() == Some(&now);
        self.last = Some(now);
        is_new && rests
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_still_being_written_is_left_alone() {
        let mut rest = Rest::default();
        let looks = ["old", "old", "new", "newer", "newest", "newest"];
        let acted: Vec<_> = looks.iter().map(|now| rest.look(&"old", *now)).collect();
        assert_eq!(acted, [false, false, false, false, false, true]);
        assert!(!rest.look(&"newest", "newest"), "it was acted upon");
    }

    #[cfg(unix)]
    #[test]
    fn a_folder_swapped_above_the_file_is_a_change() {
        let home = tempfile::tempdir().expect("a temporary directory can be made");
        let at = |name: &str| home.path().join(name);
        for revision in ["..1", "..2"] {
            fs::create_dir(at(revision)).expect("it is not there");
            fs::write(at(revision).join("policy.yaml"), "same").expect("it can be written");
        }
        std::os::unix::fs::symlink("..1", at("..data")).expect("it is not there");
        std::os::unix::fs::symlink("..data/policy.yaml", at("policy.yaml")).expect("nor this");
        let before = Stamp::of(&at("policy.yaml"));
        assert_eq!(before.again(), before);
        // As the kubelet does it: a new link, renamed over the old one.
        std::os::unix::fs::symlink("..2", at("..next")).expect("it is not there");
        fs::rename(at("..next"), at("..data")).expect("both are links");
        assert_ne!(before.again(), before);
    }
}
