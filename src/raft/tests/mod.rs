//! Tests that need more than one file of the module, on a real disk.

use std::{
    collections::BTreeMap,
    fs, io,
    ops::ControlFlow,
    path::{Path, PathBuf},
    thread,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use openraft::impls::leader_id_adv::LeaderId;
use prometheus::Registry;
use prost::Message as _;

use super::{
    Group, GroupSettings, LogMetrics, RaftMetrics,
    command::{Command, Kind},
    types::LogId,
};
use crate::proto::mqtt::{CreateSessionRaw, CreateSessionRequest, DeleteSessionRequest};

mod backup;
mod cluster;
mod crash;
mod disk;
mod group;
mod groups;
mod peers;
mod recovery;
mod sent;
mod snapshots;
mod store;
mod suite;
mod tables;

/// A log id of one leader, as all of these tests have it.
pub(crate) fn log_id(index: u64) -> LogId {
    LogId::new(
        LeaderId {
            term: 1,
            node_id: 1,
        },
        index,
    )
}

pub(crate) fn metrics() -> RaftMetrics {
    RaftMetrics::register(&Registry::new(), 0).unwrap()
}

pub(crate) fn log_metrics() -> LogMetrics {
    LogMetrics::register(&Registry::new()).unwrap()
}

pub(crate) fn create(sessions: &[(&str, &str)]) -> Command {
    let sessions = sessions
        .iter()
        .map(|&(client_id, session)| CreateSessionRaw {
            client_id: client_id.into(),
            session: Bytes::copy_from_slice(session.as_bytes()),
        })
        .collect();
    encoded(
        Kind::CreateSession,
        &CreateSessionRequest { sessions }.encode_to_vec(),
    )
}

pub(crate) fn delete(client_id: &str) -> Command {
    let message = DeleteSessionRequest {
        client_id: client_id.into(),
        ..DeleteSessionRequest::default()
    };
    encoded(Kind::DeleteSession, &message.encode_to_vec())
}

pub(crate) fn encoded(kind: Kind, message: &[u8]) -> Command {
    Command::from_encoded([&Command::header(kind)[..], message].concat().into())
}

pub(crate) async fn open(path: &Path) -> Group {
    Group::open(GroupSettings::new(path), &Registry::new())
        .await
        .unwrap()
}

/// All sessions, as text, in order.
pub(crate) fn listed(group: &Group) -> Vec<(String, String)> {
    let mut all = Vec::new();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    group
        .sessions()
        .for_each(|client_id, session| {
            all.push((text(client_id), text(session)));
            ControlFlow::Continue(())
        })
        .unwrap();
    all
}

/// What a crash would leave of a data directory: a copy of its files as they
/// are, while the databases are open. What still works behind the last answer
/// (a purge, a compaction) is waited for, so that all is of one moment.
pub(crate) fn crash_image(from: &Path, to: &Path) {
    for _ in 0..600 {
        let before = files(from);
        let copied = before.is_ok() && copy(from, to).is_ok();
        if copied && before.ok() == files(from).ok() {
            return;
        }
        fs::remove_dir_all(to).ok();
        thread::sleep(Duration::from_millis(100));
    }
    panic!("{} was still written to after a minute", from.display());
}

/// Every file below a directory, with its length and when it was written.
fn files(below: &Path) -> io::Result<BTreeMap<PathBuf, (u64, SystemTime)>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(below)? {
        let entry = entry?;
        let about = entry.metadata()?;
        if about.is_dir() {
            found.append(&mut files(&entry.path())?);
        } else {
            found.insert(entry.path(), (about.len(), about.modified()?));
        }
    }
    Ok(found)
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
