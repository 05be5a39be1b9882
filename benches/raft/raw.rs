//! RocksDB written by hand: what the disk and the library give whoever wants a
//! hundred sessions durable at a time. No Raft, no log of its own, no second
//! copy: each session is written to one database, and its write-ahead log is
//! synced before the writer goes on. Eight threads, whose syncs RocksDB shares.
//!
//! It opens as a service would that has a mind to its speed: RocksDB's defaults
//! for the memtable and compaction, no compression (the build has none), two
//! background jobs as the groups' databases have.

use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use rocksdb::{DB, DBCompressionType, Options, WriteBatch, WriteOptions};

use super::{
    child::cpu_of,
    figures::Figures,
    load::{Sessions, Which},
};

/// Writers, each with one synced batch under way.
pub(crate) const THREADS: usize = 8;

pub(crate) fn run(
    folder: &Path,
    batch: u32,
    sessions: &Sessions,
    duration: Duration,
) -> Result<Figures> {
    let home = tempfile::tempdir_in(folder)?;
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_compression_type(DBCompressionType::None);
    options.set_max_background_jobs(2);
    let db = DB::open(&options, home.path())?;
    let cpu = cpu_of(std::process::id())?;
    let start = Instant::now();
    let latencies = thread::scope(|scope| {
        let writers: Vec<_> = (0..THREADS)
            .map(|_| scope.spawn(|| write(&db, batch, sessions, start, duration)))
            .collect();
        let mut all = Vec::new();
        for writer in writers {
            let written = writer.join().ok().context("a writer panicked")?;
            all.append(&mut written?);
        }
        anyhow::Ok(all)
    })?;
    let elapsed = start.elapsed();
    let cpu = cpu_of(std::process::id())?.saturating_sub(cpu);
    let written = latencies.len() as u64 * u64::from(batch);
    Ok(Figures::of(written, elapsed, cpu, latencies))
}

fn write(
    db: &DB,
    batch: u32,
    sessions: &Sessions,
    start: Instant,
    duration: Duration,
) -> Result<Vec<u32>> {
    let mut options = WriteOptions::default();
    options.set_sync(true);
    let mut latencies_us = Vec::new();
    while start.elapsed() < duration {
        let mut writes = WriteBatch::default();
        sessions.take(Which::New, batch, |id, value| writes.put(id, value));
        let since = Instant::now();
        db.write_opt(writes, &options)?;
        latencies_us.push(u32::try_from(since.elapsed().as_micros())?);
    }
    Ok(latencies_us)
}
