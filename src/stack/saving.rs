//! What a backup over the admin address is made of: the groups write it to a
//! pipe, a thread that may block, and the caller's reading paces them.

use std::io::{self, Write};

use bytes::Bytes;
use futures_util::{StreamExt as _, future::BoxFuture, stream};
use tokio::sync::mpsc;

use crate::{
    raft::{Groups, backup::Moment},
    telemetry::{Pieces, Saves},
};

/// Pieces of a backup that wait for a slow reader: a few of 256 KiB.
const WAITING: usize = 4;

impl Saves for Groups {
    fn save(&self, stale: bool) -> BoxFuture<'static, Result<Pieces, String>> {
        let groups = self.clone();
        let moment = if stale { Moment::Stale } else { Moment::Now };
        Box::pin(async move {
            let (pipe, mut pieces) = mpsc::channel(WAITING);
            let end = pipe.clone();
            tokio::spawn(async move {
                if let Err(error) = groups.save(moment, Pipe(pipe)).await {
                    tracing::warn!("a backup is not whole: {error}");
                    // Nobody to tell is a reader that has hung up.
                    let _ = end.send(Err(io::Error::other(error.to_string()))).await;
                }
            });
            match pieces.recv().await {
                Some(Ok(first)) => {
                    let rest = stream::poll_fn(move |cx| pieces.poll_recv(cx));
                    Ok(stream::iter([Ok(first)]).chain(rest).boxed() as Pieces)
                }
                Some(Err(error)) => Err(error.to_string()),
                None => Err("the backup ended before it began; see this process's log".into()),
            }
        })
    }
}

/// The end that is written; it blocks while enough waits to be read.
struct Pipe(mpsc::Sender<io::Result<Bytes>>);

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sent = self.0.blocking_send(Ok(Bytes::copy_from_slice(bytes)));
        sent.map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "its reader hung up"))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
