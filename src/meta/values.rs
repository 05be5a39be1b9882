//! A plain table of keys and values.

use std::ops::ControlFlow;

use tonic::Status;

use super::{
    MetaService, Room, blocking, too_much,
    write::{Write, named},
};
use crate::{
    proto::meta::{
        DeleteRaw, DeleteRequest, ExistsReply, GetPrefixReply, GetReply, SetRaw, SetRequest,
    },
    raft::{Read, command::Kind},
};

impl Write for SetRequest {
    type Raw = SetRaw;
    const KIND: Kind = Kind::Set;
    const BATCHED: &'static str = "entries";

    fn forms(self) -> (Option<SetRaw>, Vec<SetRaw>) {
        let Self {
            key,
            value,
            entries,
        } = self;
        let is_single = entries.is_empty() || !(key.is_empty() && value.is_empty());
        (is_single.then_some(SetRaw { key, value }), entries)
    }

    fn of(entries: Vec<SetRaw>) -> Self {
        Self {
            entries,
            ..Self::default()
        }
    }

    fn check(raw: &SetRaw) -> Result<(), String> {
        named("key", &raw.key, "value")
    }

    fn key(raw: &SetRaw) -> Vec<&[u8]> {
        vec![raw.key.as_bytes()]
    }
}

impl Write for DeleteRequest {
    type Raw = DeleteRaw;
    const KIND: Kind = Kind::Delete;
    const BATCHED: &'static str = "entries";

    fn forms(self) -> (Option<DeleteRaw>, Vec<DeleteRaw>) {
        let Self { key, entries } = self;
        let is_single = entries.is_empty() || !key.is_empty();
        (is_single.then_some(DeleteRaw { key }), entries)
    }

    fn of(entries: Vec<DeleteRaw>) -> Self {
        Self {
            entries,
            ..Self::default()
        }
    }

    fn check(raw: &DeleteRaw) -> Result<(), String> {
        named("key", &raw.key, "value")
    }

    fn key(raw: &DeleteRaw) -> Vec<&[u8]> {
        vec![raw.key.as_bytes()]
    }
}

/// The value of one key; empty where there is none.
pub(super) async fn of_key(
    service: &MetaService,
    read: Read,
    key: String,
) -> Result<GetReply, Status> {
    let found = stored(service, read, key).await?;
    Ok(GetReply {
        value: found.unwrap_or_default(),
    })
}

/// Whether a key has a value.
pub(super) async fn exists(
    service: &MetaService,
    read: Read,
    key: String,
) -> Result<ExistsReply, Status> {
    let found = stored(service, read, key).await?;
    Ok(ExistsReply {
        flag: found.is_some(),
    })
}

async fn stored(service: &MetaService, read: Read, key: String) -> Result<Option<String>, Status> {
    named("key", &key, "value").map_err(Status::invalid_argument)?;
    let view = service.view_of(read, &[key.as_bytes()]).await?;
    let found = blocking(move || view.value(key.as_bytes())).await?;
    Ok(found.map(|value| String::from_utf8_lossy(&value).into_owned()))
}

/// The values of all keys that begin so, in the order of the keys.
pub(super) async fn with_prefix(
    service: &MetaService,
    read: Read,
    prefix: String,
) -> Result<GetPrefixReply, Status> {
    let views = service.views(read).await?;
    blocking(move || {
        let (mut room, mut found) = (Room::new(), Vec::new());
        let mut fits = true;
        for view in views {
            view.values(prefix.as_bytes(), |key, value| {
                fits = room.take(key.len() + value.len());
                if !fits {
                    return ControlFlow::Break(());
                }
                let value = String::from_utf8_lossy(value).into_owned();
                found.push((key.to_vec(), value));
                ControlFlow::Continue(())
            })?;
            if !fits {
                return Ok(None);
            }
        }
        // Each group's are in order, and the groups are not.
        found.sort_unstable();
        let values = found.into_iter().map(|(_, value)| value).collect();
        Ok(Some(GetPrefixReply { values }))
    })
    .await?
    .ok_or_else(|| too_much("the values under this prefix", "ask for a longer prefix"))
}
