//! The other side of [`super::asked`]: a server that tells what it has counted.

use std::{
    future::Future,
    io::{self, BufRead, Write},
    net::SocketAddr,
    thread,
};

use anyhow::Result;
use serde::Serialize;
use tokio::sync::oneshot;

/// Says where the server listens and begins to answer for its counts; the
/// future resolves when the input has ended.
pub(crate) fn told_to_end<C, F>(address: SocketAddr, count: F) -> Result<impl Future<Output = ()>>
where
    C: Serialize,
    F: Fn() -> io::Result<C> + Send + 'static,
{
    let (end, ended) = oneshot::channel::<()>();
    println!("{address}");
    io::stdout().flush()?;
    thread::Builder::new()
        .name("counts".into())
        .spawn(move || {
            // A bench that went away asks nothing more: the server ends.
            let _ = answer_counts(&count);
            drop(end);
        })?;
    Ok(async {
        let _ = ended.await;
    })
}

fn answer_counts<C: Serialize>(count: &impl Fn() -> io::Result<C>) -> io::Result<()> {
    for line in io::stdin().lock().lines() {
        line?;
        let mut out = io::stdout().lock();
        serde_json::to_writer(&mut out, &count()?)?;
        writeln!(out)?;
        out.flush()?;
    }
    Ok(())
}
