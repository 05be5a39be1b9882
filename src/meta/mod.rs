//! The services of a node, served by tonic: the calls that come straight to the
//! groups, and the ones that are too rare to batch.
//!
//! One file a family: `sessions`, `subscriptions`, `offsets`, `values`. Each
//! says what its writes consist of, and how it is read; `mqtt` and `meta_service` are
//! the two services that RobustMQ made of them, and `listing` streams what is
//! too much for one reply. Writes validate first: what cannot be applied never
//! reaches the log. Reads answer from what this node has applied, once that is
//! no older than any write that was acknowledged before; a caller that does not
//! need that much says so with the metadata `ferry-read: stale`. They get at it
//! in two places only: `MetaService::view_of` and `MetaService::views`.
//!
//! Every record has a key that decides its Raft group. A write of several
//! groups' is applied a group at a time; a read of everything asks all of them.

mod listing;
mod meta_service;
mod mqtt;
mod offsets;
mod sessions;
mod subscriptions;
mod values;
mod write;

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, io, ops::ControlFlow};

use futures_util::future::join_all;
use tokio::task;
use tonic::{Code, Status};

use self::{
    listing::{Listing, Listings},
    write::Write,
};
use crate::raft::{
    Group, Groups, ProposeError, Read, View,
    command::{Applied, Command},
};

/// Most bytes of records in one unary reply: what gRPC clients accept unless
/// they are told otherwise, less what the encoding adds.
const REPLY_MAX: usize = 3 << 20;

/// The services over a node's Raft groups.
#[derive(Clone)]
pub struct MetaService {
    groups: Groups,
    listings: Listings,
}

impl MetaService {
    /// Serves `groups`.
    #[must_use]
    pub fn new(groups: Groups) -> Self {
        Self {
            groups,
            listings: Listings::none(),
        }
    }

    /// What is read of the group that this key decides, once it is as fresh as
    /// it has to be.
    async fn view_of(&self, read: Read, key: &[&[u8]]) -> Result<View, Status> {
        let group = self.groups.of(key);
        read.of(std::slice::from_ref(group)).await?;
        Ok(group.view())
    }

    /// What is read of all groups, likewise.
    async fn views(&self, read: Read) -> Result<Vec<View>, Status> {
        let groups = self.groups.all();
        read.of(groups).await?;
        Ok(groups.iter().map(Group::view).collect())
    }

    /// Applies a write, a group at a time. Whether it took effect: it does not
    /// where it expects an offset that is another.
    async fn write<W: Write>(&self, request: W) -> Result<bool, Status> {
        let raws = write::checked(request)?;
        let is_whole = raws.iter().any(W::is_conditional);
        let mut parts = BTreeMap::<u32, Vec<W::Raw>>::new();
        for raw in raws {
            let group = self.groups.number_of(&W::key(&raw));
            parts.entry(group).or_default().push(raw);
        }
        if is_whole && parts.len() > 1 {
            return Err(Status::invalid_argument(format!(
                "{}: with an expected offset all must be saved or none, and they lie in {} Raft \
                 groups; send a call for each consumer group",
                W::BATCHED,
                parts.len()
            )));
        }
        let mut proposals = Vec::new();
        for (group, part) in parts {
            let entries = part.len();
            let command = write::command(W::KIND, &W::of(part))?;
            proposals.push(self.propose(group, command, entries));
        }
        together(join_all(proposals).await)
    }

    async fn propose(&self, group: u32, command: Command, entries: usize) -> Result<bool, Status> {
        let entries = u32::try_from(entries).unwrap_or(u32::MAX);
        match self.groups.at(group).propose(command, entries).await {
            Ok(Applied::Done) => Ok(true),
            Ok(Applied::Conflict) => Ok(false),
            Ok(Applied::Malformed) => Err(Status::internal(
                "the group could not parse the command; nothing was applied",
            )),
            // Definitely not appended, so a retry is safe.
            Err(error @ ProposeError::Refused(_)) => Err(Status::unavailable(error.to_string())),
            // A client must not take this for an invitation to retry blindly.
            Err(error @ ProposeError::Unknown(_)) => Err(Status::unknown(error.to_string())),
        }
    }

    /// Streams what `each` shows of every group, no faster than the caller
    /// reads: group by group, each as of the moment at which its turn begins.
    async fn list<R, F>(&self, read: Read, each: F) -> Result<Listing<R>, Status>
    where
        R: prost::Message + 'static,
        F: Fn(&View, &mut dyn FnMut(R) -> ControlFlow<()>) -> io::Result<u64> + Send + 'static,
    {
        let views = self.views(read).await?;
        self.listings.begin(views, each).await
    }
}

/// What `read` finds, on a thread that may wait for the disk.
async fn blocking<T: Send + 'static>(
    read: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, Status> {
    task::spawn_blocking(read)
        .await
        .map_err(|error| Status::internal(error.to_string()))?
        .map_err(|error| Status::unavailable(error.to_string()))
}

/// One answer of all groups'. UNAVAILABLE would say that nothing was applied,
/// so it is said only where that is true of every part.
fn together(outcomes: Vec<Result<bool, Status>>) -> Result<bool, Status> {
    let parts = outcomes.len();
    let took_effect = outcomes.iter().all(|outcome| matches!(outcome, Ok(true)));
    let applied = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    let errors: Vec<_> = outcomes.into_iter().filter_map(Result::err).collect();
    let uncertain = errors.iter().find(|e| e.code() != Code::Unavailable);
    match uncertain.or(errors.first()) {
        None => Ok(took_effect),
        Some(error) if applied == 0 => Err(error.clone()),
        Some(error) => Err(Status::unknown(format!(
            "{applied} of the {parts} groups that the entries belong to applied their part, and \
             one did not: {}; send them again if that twice does no harm",
            error.message()
        ))),
    }
}

/// Bytes that a unary reply has room for.
struct Room(usize);

impl Room {
    const fn new() -> Self {
        Self(REPLY_MAX)
    }

    /// Whether so many more fit.
    const fn take(&mut self, bytes: usize) -> bool {
        match self.0.checked_sub(bytes) {
            Some(left) => {
                self.0 = left;
                true
            }
            None => false,
        }
    }
}

/// What was asked for does not fit in a reply.
fn too_much(what: &str, remedy: &str) -> Status {
    Status::out_of_range(format!(
        "{what} are over {REPLY_MAX} bytes, more than one reply may have; {remedy}"
    ))
}
