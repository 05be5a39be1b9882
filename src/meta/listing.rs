//! Listings of everything: as many at once as a node can bear, each no faster
//! than its caller reads, and none for longer than its caller does read. A
//! caller that reads nothing, or next to nothing, must not keep all others from
//! theirs.

use std::{io, ops::ControlFlow, pin::Pin, sync::Arc, time::Duration};

use futures_util::{Stream, stream};
use prost::Message;
use tokio::{
    runtime::Handle,
    sync::{
        OwnedSemaphorePermit, Semaphore,
        mpsc::{
            self,
            error::{SendTimeoutError, TrySendError},
        },
    },
    task,
    time::{Instant, timeout},
};
use tonic::Status;

use crate::raft::View;

/// How many listings of everything may run at once: each holds a thread and a
/// moment of the database for as long as its caller takes to read it.
pub(super) const LISTINGS_MAX: usize = 4;
/// How long a listing waits for one of those to end.
pub(super) const LISTING_WAIT: Duration = Duration::from_secs(10);
/// How long a listing waits for its caller to take one more record.
pub(super) const LISTING_STALL: Duration = Duration::from_secs(60);
/// How much longer a listing waits for its caller in all, for each record that
/// was taken, and for each byte of it: ten a second, or 64 KiB of large ones,
/// are read for ever.
const LISTING_RECORD: Duration = Duration::from_millis(100);
const LISTING_BYTE: Duration = Duration::from_micros(16);
/// How many records a listing reads ahead of its caller.
const LISTING_AHEAD: usize = 256;

/// A stream of replies.
pub(super) type Listing<R> = Pin<Box<dyn Stream<Item = Result<R, Status>> + Send>>;

/// The listings that run. Clones share them.
#[derive(Clone)]
pub(super) struct Listings(Arc<Semaphore>);

impl Listings {
    pub(super) fn none() -> Self {
        Self(Arc::new(Semaphore::new(LISTINGS_MAX)))
    }

    /// Streams what `each` shows of every view, one after the other.
    pub(super) async fn begin<R, F>(&self, views: Vec<View>, each: F) -> Result<Listing<R>, Status>
    where
        R: Message + 'static,
        F: Fn(&View, &mut dyn FnMut(R) -> ControlFlow<()>) -> io::Result<u64> + Send + 'static,
    {
        let place = self.place().await?;
        // One more, so that what ended the listing can be told to a caller that
        // reads nothing yet.
        let (reply, mut replies) = mpsc::channel(LISTING_AHEAD + 1);
        let last = reply.clone().try_reserve_owned();
        let last = last.map_err(|_| Status::internal("a new listing has no room for its end"))?;
        let runtime = Handle::current();
        task::spawn_blocking(move || {
            let _place = place;
            let (mut ended, mut patience) = (None, LISTING_STALL);
            for view in views {
                let listed = each(&view, &mut |shown| {
                    ended = offer(&reply, &runtime, &mut patience, shown).err();
                    match ended {
                        None => ControlFlow::Continue(()),
                        Some(_) => ControlFlow::Break(()),
                    }
                });
                if let Err(error) = listed {
                    ended = Some(End::Told(Status::unavailable(error.to_string())));
                }
                if ended.is_some() {
                    break;
                }
            }
            if let Some(End::Told(status)) = ended {
                last.send(Err(status));
            }
        });
        Ok(Box::pin(stream::poll_fn(move |context| {
            replies.poll_recv(context)
        })))
    }

    async fn place(&self) -> Result<OwnedSemaphorePermit, Status> {
        let place = timeout(LISTING_WAIT, Arc::clone(&self.0).acquire_owned()).await;
        let place = place.map_err(|_| {
            Status::resource_exhausted(format!(
                "{LISTINGS_MAX} listings run, as many as may, and none ended within \
                 {LISTING_WAIT:?}; read those to their end or leave them, and ask again"
            ))
        })?;
        place.map_err(|_| Status::unavailable("the node is shutting down"))
    }

    #[cfg(test)]
    pub(super) fn running(&self) -> usize {
        LISTINGS_MAX - self.0.available_permits()
    }
}

/// Why a listing ends before there is no more.
enum End {
    /// The caller has left.
    Left,
    Told(Status),
}

/// Hands on a record as soon as the caller has taken one that was before it.
/// `patience` is what the listing may still wait in all.
fn offer<R: Message>(
    reply: &mpsc::Sender<Result<R, Status>>,
    runtime: &Handle,
    patience: &mut Duration,
    record: R,
) -> Result<(), End> {
    let bytes = u32::try_from(record.encoded_len()).unwrap_or(u32::MAX);
    *patience += LISTING_RECORD + LISTING_BYTE * bytes;
    let waiting = match reply.try_send(Ok(record)) {
        Ok(()) => return Ok(()),
        Err(TrySendError::Closed(_)) => return Err(End::Left),
        Err(TrySendError::Full(record)) => record,
    };
    let sent = runtime.block_on(async {
        let (begin, longest) = (Instant::now(), LISTING_STALL.min(*patience));
        let sent = reply.send_timeout(waiting, longest).await;
        *patience = patience.saturating_sub(begin.elapsed());
        sent
    });
    match sent {
        Ok(()) => Ok(()),
        Err(SendTimeoutError::Closed(_)) => Err(End::Left),
        Err(SendTimeoutError::Timeout(_)) => Err(End::Told(Status::aborted(format!(
            "nothing of the listing was read for {LISTING_STALL:?}, or next to nothing for \
             longer, so it ended; read it as it comes, and ask again"
        )))),
    }
}
