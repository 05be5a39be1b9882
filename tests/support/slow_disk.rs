//! A disk that is slow while a file is there: a library in front of the
//! system's own that lets each sync take its time.
//!
//! It is put before a real node by `LD_PRELOAD`, so the node is the one that
//! ships, and only its disk is another.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// How long a sync takes while the disk is slow.
const SOURCE: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <unistd.h>

static void take_your_time(void) {
    const char *slow = getenv("FERRY_TEST_SLOW_DISK");
    if (slow && access(slow, F_OK) == 0) usleep(1000 * 1000);
}

int fdatasync(int fd) {
    static int (*real)(int);
    if (!real) real = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    take_your_time();
    return real(fd);
}

int fsync(int fd) {
    static int (*real)(int);
    if (!real) real = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    take_your_time();
    return real(fd);
}
"#;

/// A disk that may be made slow and quick again.
pub(crate) struct SlowDisk {
    library: PathBuf,
    slow: PathBuf,
}

impl SlowDisk {
    /// Builds the library below `home`, with the linker that built this test.
    pub(crate) fn new(home: &Path) -> Self {
        let (source, library) = (home.join("slow.c"), home.join("slow.so"));
        fs::write(&source, SOURCE).expect("the temporary directory is writable");
        let built = Command::new("cc")
            .args(["-shared", "-fPIC", "-o"])
            .arg(&library)
            .arg(&source)
            .arg("-ldl")
            .status();
        assert!(built.expect("there is a C compiler").success());
        let slow = home.join("slow");
        Self { library, slow }
    }

    /// What a process must find in its environment to have this disk.
    pub(crate) fn variables(&self) -> Vec<(String, String)> {
        let text = |path: &Path| path.display().to_string();
        vec![
            ("LD_PRELOAD".into(), text(&self.library)),
            ("FERRY_TEST_SLOW_DISK".into(), text(&self.slow)),
        ]
    }

    /// From now on, each sync takes a second.
    pub(crate) fn slow(&self) {
        fs::write(&self.slow, b"").expect("the temporary directory is writable");
    }

    /// From now on, it is as quick as it is.
    pub(crate) fn quick(&self) {
        fs::remove_file(&self.slow).expect("it was slow");
    }
}
