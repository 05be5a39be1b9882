//! How fresh a read has to be, as its caller says.
//!
//! By default a read sees every write that was acknowledged before it, by any
//! node: that costs a question to the leader, which asks a majority whether it
//! still leads. A caller that can do with less says so in its metadata, and is
//! answered by whichever node it asked, from what that node has.

use futures_util::future::join_all;
use tonic::{Request, Status};

use super::group::Group;

/// The metadata by which a caller says how fresh a read has to be.
const FERRY_READ: &str = "ferry-read";

/// How fresh a read has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// It sees every write that was acknowledged before it.
    Linearizable,
    /// It sees what this node has, without asking anybody.
    Stale,
}

impl Read {
    /// What the caller asks for in its metadata.
    ///
    /// # Errors
    /// INVALID_ARGUMENT, for a wish that this version does not know.
    pub fn asked<T>(request: &Request<T>) -> Result<Self, Status> {
        let wish = request.metadata().get(FERRY_READ);
        match wish.map(|wish| wish.as_encoded_bytes()) {
            None | Some(b"linearizable") => Ok(Self::Linearizable),
            Some(b"stale") => Ok(Self::Stale),
            Some(other) => Err(Status::invalid_argument(format!(
                "metadata {FERRY_READ}: {}: must be linearizable or stale; leave it out for \
                 linearizable",
                other.escape_ascii()
            ))),
        }
    }

    /// Waits until a read of these groups is as fresh as it has to be.
    ///
    /// # Errors
    /// UNAVAILABLE if that cannot be had now: nothing was read.
    pub async fn of(self, groups: &[Group]) -> Result<(), Status> {
        if self == Self::Stale {
            return Ok(());
        }
        let waits = join_all(groups.iter().map(Group::linearize)).await;
        let fresh: Result<(), _> = waits.into_iter().collect();
        fresh.map_err(|error| Status::unavailable(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(wish: Option<&'static str>) -> Result<Read, Status> {
        let mut request = Request::new(());
        if let Some(wish) = wish {
            request
                .metadata_mut()
                .insert(FERRY_READ, wish.parse().unwrap());
        }
        Read::asked(&request)
    }

    #[test]
    fn a_read_is_linearizable_unless_its_caller_asks_for_less() {
        assert_eq!(asked(None).unwrap(), Read::Linearizable);
        assert_eq!(asked(Some("linearizable")).unwrap(), Read::Linearizable);
        assert_eq!(asked(Some("stale")).unwrap(), Read::Stale);
        let status = asked(Some("fresh")).unwrap_err();
        assert!(status.message().contains("linearizable or stale"));
    }
}
