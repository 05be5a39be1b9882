//! A secret that the policy refers to: read from a file, never shown.

use std::{fmt, fs, path::Path, sync::Arc};

use super::{fault::Found, regular, section::At};

/// Fewer characters than this are guessed.
const MIN_CHARS: usize = 16;
/// A token is a line; what is much longer is another file.
const MAX_BYTES: u64 = 4_096;

/// What may be compared and not be seen.
#[derive(Clone)]
pub struct Secret(Arc<[u8]>);

impl Secret {
    /// Whether `told` is it. Looks at every byte whatever it finds, so that
    /// the time it takes says nothing of how much was right.
    #[must_use]
    pub fn is(&self, told: &[u8]) -> bool {
        let differences = self.0.iter().zip(told).fold(0, |all, (a, b)| all | (a ^ b));
        std::hint::black_box(differences) == 0 && self.0.len() == told.len()
    }

    /// Its bytes, for whoever must send them.
    pub(crate) fn reveal(&self) -> &[u8] {
        &self.0
    }

    /// The secret in `file`, a path relative to `folder`, which others are to
    /// guess in vain.
    pub(super) fn read(
        file: &At<String>,
        folder: &Path,
        key: &str,
        found: &mut Found,
    ) -> Option<Self> {
        Self::of_at_least(MIN_CHARS, file, folder, key, found)
    }

    /// The secret in `file`, whose strength is somebody else's concern.
    pub(super) fn line(
        file: &At<String>,
        folder: &Path,
        key: &str,
        found: &mut Found,
    ) -> Option<Self> {
        Self::of_at_least(1, file, folder, key, found)
    }

    fn of_at_least(
        chars: usize,
        file: &At<String>,
        folder: &Path,
        key: &str,
        found: &mut Found,
    ) -> Option<Self> {
        let path = folder.join(&file.value);
        let mut fault = |what: String| found.add(file.at, format!("{key}: {}: {what}", file.value));
        let text = match regular::size(&path) {
            Ok(size) if size > MAX_BYTES => {
                return fault(format!(
                    "must be at most {MAX_BYTES} bytes; name a file with one token"
                ));
            }
            size => match size.and_then(|_| fs::read_to_string(&path)) {
                Ok(text) => text,
                Err(error) => return fault(format!("cannot be read: {error}")),
            },
        };
        let token = text.trim();
        match token.len() < chars {
            true => fault(format!(
                "{} characters: must be at least {chars}; write a longer token",
                token.len()
            )),
            false => Some(Self(token.as_bytes().into())),
        }
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.is(&other.0)
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(redacted)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_known_by_all_of_it_and_never_shown() {
        let secret = Secret(b"correct horse".as_slice().into());
        assert!(secret.is(b"correct horse"));
        for wrong in [&b""[..], b"correct", b"correct horsf", b"correct horse "] {
            assert!(!secret.is(wrong));
        }
        assert_eq!(format!("{secret:?}"), "Secret(redacted)");
    }
}
