//! How far consumer groups have come. A consumer group's offsets lie in one
//! Raft group, so that what a call expects of them is judged in one place.

use std::ops::ControlFlow;

use tonic::Status;

use super::{
    MetaService, Room, blocking, too_much,
    write::{Write, bounded, named},
};
use crate::{
    proto::meta::{
        GetOffsetDataReply, GetOffsetDataReplyOffset, GetOffsetDataRequest, SaveOffsetData,
        SaveOffsetDataRequest,
    },
    raft::{Read, command::Kind},
};

impl Write for SaveOffsetDataRequest {
    type Raw = SaveOffsetData;
    const KIND: Kind = Kind::SaveOffsetData;
    const BATCHED: &'static str = "offsets";

    fn forms(self) -> (Option<SaveOffsetData>, Vec<SaveOffsetData>) {
        (None, self.offsets)
    }

    fn of(offsets: Vec<SaveOffsetData>) -> Self {
        Self { offsets }
    }

    fn check(raw: &SaveOffsetData) -> Result<(), String> {
        bounded("tenant", &raw.tenant)?;
        named("group", &raw.group, "consumer group")
    }

    fn key(raw: &SaveOffsetData) -> Vec<&[u8]> {
        vec![raw.tenant.as_bytes(), raw.group.as_bytes()]
    }

    fn is_conditional(raw: &SaveOffsetData) -> bool {
        raw.offsets
            .iter()
            .any(|offset| offset.expected_offset.is_some())
    }
}

/// The offsets of one consumer group.
pub(super) async fn of_group(
    service: &MetaService,
    read: Read,
    request: GetOffsetDataRequest,
) -> Result<GetOffsetDataReply, Status> {
    let GetOffsetDataRequest { tenant, group } = request;
    named("group", &group, "consumer group").map_err(Status::invalid_argument)?;
    let view = service
        .view_of(read, &[tenant.as_bytes(), group.as_bytes()])
        .await?;
    blocking(move || {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (mut room, mut offsets) = (Room::new(), Vec::new());
        let mut fits = true;
        view.offsets(tenant.as_bytes(), group.as_bytes(), |shard, offset| {
            fits = room.take(shard.name.len() + shard.topic.len() + size_of_val(&offset));
            if !fits {
                return ControlFlow::Break(());
            }
            offsets.push(GetOffsetDataReplyOffset {
                shard_name: text(shard.name),
                offset,
                topic: text(shard.topic),
                partition: shard.partition,
            });
            ControlFlow::Continue(())
        })?;
        Ok(fits.then_some(GetOffsetDataReply { offsets }))
    })
    .await?
    .ok_or_else(|| too_much("its offsets", "consume with several groups"))
}
