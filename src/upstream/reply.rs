//! What a batch was answered with, as its callers will hear it.

use std::{error::Error, sync::Arc};

use bytes::Bytes;
use tonic::{Code, Status};

use crate::{
    batch::{BatchError, Split},
    wire::{EntryStatus, Parts, SplitError},
};

/// The messages that go to a batch's callers.
#[derive(Clone, Debug)]
pub enum BatchReply {
    /// One for all of them.
    Same(Bytes),
    /// One each, in the order of the batch's calls, or its own error.
    Each(Vec<Result<Bytes, Status>>),
}

impl From<Parts> for BatchReply {
    fn from(parts: Parts) -> Self {
        match parts {
            Parts::Same(reply) => Self::Same(reply),
            Parts::Each(parts) => {
                let own = |part: Result<Bytes, EntryStatus>| part.map_err(of_entry);
                Self::Each(parts.into_iter().map(own).collect())
            }
        }
    }
}

impl Split<Status> for BatchReply {
    type Part = Bytes;

    fn split(
        self,
        requests: usize,
    ) -> Result<impl Iterator<Item = Result<Bytes, BatchError<Status>>> + Send, BatchError<Status>>
    {
        let (same, each) = match self {
            Self::Same(reply) => (std::iter::repeat_n(reply, requests), Vec::new()),
            Self::Each(parts) if parts.len() == requests => {
                (std::iter::repeat_n(Bytes::new(), 0), parts)
            }
            Self::Each(parts) => {
                return Err(BatchError::Unsplittable {
                    entries: requests,
                    parts: parts.len(),
                });
            }
        };
        let own = |part: Result<Bytes, Status>| part.map_err(BatchError::Upstream);
        Ok(same.map(Ok).chain(each.into_iter().map(own)))
    }
}

/// A reply that is not for its callers: each of them hears why, and none what
/// it said to the others.
pub(super) fn of_split(error: &SplitError) -> Status {
    let code = match error {
        SplitError::NotHeld { code, .. } => Code::from(*code),
        _ => Code::Internal,
    };
    Status::new(code, error.to_string())
}

/// Marks a status that the upstream gave as its own. Any other is ferry's word
/// for what it saw of the upstream, and says nothing of what was done there.
#[derive(Debug, thiserror::Error)]
#[error("the upstream's own status")]
struct Given;

/// `status`, which the upstream gave.
pub(super) fn given(mut status: Status) -> Status {
    status.set_source(Arc::new(Given));
    status
}

/// Whether the upstream gave `status`.
pub(super) fn is_given(status: &Status) -> bool {
    status.source().is_some_and(|source| source.is::<Given>())
}

/// One entry's own status, as the upstream's reply has it.
fn of_entry(status: EntryStatus) -> Status {
    Status::with_details(Code::from(status.code), status.message, status.details)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(reply: BatchReply, requests: usize) -> Result<Vec<Result<Bytes, Code>>, String> {
        let parts = reply.split(requests).map_err(|error| error.to_string())?;
        let code = |error: BatchError<Status>| match error {
            BatchError::Upstream(status) => status.code(),
            other => panic!("not an entry's own: {other}"),
        };
        Ok(parts.map(|part| part.map_err(code)).collect())
    }

    #[test]
    fn one_reply_for_all_is_told_to_each() {
        let reply = Bytes::from_static(b"done");
        let all = parts(BatchReply::Same(reply.clone()), 2);
        assert_eq!(all, Ok(vec![Ok(reply.clone()), Ok(reply)]));
    }

    #[test]
    fn an_entrys_own_error_is_told_to_its_caller_alone() {
        let own = EntryStatus {
            code: 5,
            message: "no such order".into(),
            details: Bytes::new(),
        };
        let reply = BatchReply::from(Parts::Each(vec![Ok(Bytes::new()), Err(own)]));
        assert_eq!(
            parts(reply, 2),
            Ok(vec![Ok(Bytes::new()), Err(Code::NotFound)])
        );
    }

    #[test]
    fn parts_that_are_too_few_are_an_error_to_all() {
        let reply = BatchReply::Each(vec![Ok(Bytes::new())]);
        assert!(
            parts(reply, 2).is_err_and(|error| error.contains("batch of 2 was answered with 1"))
        );
    }
}
