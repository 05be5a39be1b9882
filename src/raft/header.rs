//! The header of a data directory: whose it is, and how far it was laid out.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::directory::{DirectoryError, Identity};

/// The layout of the directory; raised when it changes.
pub(crate) const FORMAT: u32 = 1;

/// What a header says.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Header {
    format: u32,
    #[serde(flatten)]
    pub(crate) identity: Identity,
    /// Left out by earlier versions, which did not note it.
    #[serde(default)]
    pub(crate) layout: Layout,
    checksum: String,
}

/// How far a directory was laid out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Layout {
    /// What is missing is begun.
    #[default]
    Begun,
    /// Its groups hold what a backup held; its log is begun.
    Restored,
    /// Its log and all its groups are there, and none of them is begun again.
    Whole,
}

impl Header {
    pub(crate) fn new(identity: &Identity, layout: Layout) -> Self {
        Self {
            format: FORMAT,
            identity: identity.clone(),
            layout,
            checksum: checksum(FORMAT, identity),
        }
    }

    /// As it lies in the file.
    pub(crate) fn text(&self) -> Vec<u8> {
        let mut text =
            serde_json::to_vec_pretty(self).expect("a header is strings and numbers only");
        text.push(b'\n');
        text
    }
}

/// What the file says of the directory at `path`.
pub(crate) fn parse(path: &Path, text: &[u8]) -> Result<Header, DirectoryError> {
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let path = || path.to_owned();
    let damaged = |fault: String| DirectoryError::Damaged {
        path: path(),
        fault,
    };
    // The format first: another one may have other fields.
    let Format { format } = serde_json::from_slice(text).map_err(|e| damaged(e.to_string()))?;
    if format != FORMAT {
        return Err(DirectoryError::Format {
            path: path(),
            found: format,
        });
    }
    let header: Header = serde_json::from_slice(text).map_err(|e| damaged(e.to_string()))?;
    let meant = checksum(format, &header.identity);
    if header.checksum == meant {
        Ok(header)
    } else {
        Err(damaged(format!("its checksum is not {meant}")))
    }
}

/// Over what earlier versions wrote, so that they go on reading it.
fn checksum(format: u32, identity: &Identity) -> String {
    let covered = format!(
        "{format} {} {} {}",
        identity.node, identity.groups, identity.cluster
    );
    format!("{:08x}", crc32fast::hash(covered.as_bytes()))
}
