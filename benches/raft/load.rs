//! What is written: sessions under keys in no order, as client ids are, so that
//! compaction has its work; and the callers that propose them to the groups.
//!
//! The same sessions go into RocksDB by hand ([`super::raw`]).

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use bytes::{BufMut, BytesMut};
use ferry::raft::{Applied, Command, Groups, Kind};
use prost::encoding::{encode_varint, encoded_len_varint};
use tokio::task::JoinSet;

use super::{child::cpu_of, figures::Figures, stand::Stand};

/// Bytes of a session's value, unless it is what grows.
pub(crate) const VALUE_BYTES: usize = 250;
/// Bytes of a client id.
const ID_BYTES: usize = 16;
/// Random bytes that all values are cut from: a generator of its own for each
/// would cost more than the write.
const POOL_BYTES: usize = 1 << 20;

/// Which sessions are written.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Which {
    /// Each one new.
    New,
    /// Some of the first so many, at random.
    Among(u64),
}

/// Makes one session after another; shared by all callers.
pub(crate) struct Sessions {
    pool: Vec<u8>,
    next: AtomicU64,
    value_bytes: usize,
}

impl Sessions {
    pub(crate) fn new(value_bytes: usize) -> Self {
        let mut random = fastrand::Rng::with_seed(7);
        let pool = std::iter::repeat_with(|| random.u8(..));
        Self {
            pool: pool.take(POOL_BYTES + value_bytes).collect(),
            next: AtomicU64::new(0),
            value_bytes,
        }
    }

    /// Calls `visit` with client id and value of so many sessions.
    pub(crate) fn take(
        &self,
        which: Which,
        count: u32,
        mut visit: impl FnMut([u8; ID_BYTES], &[u8]),
    ) {
        let first = match which {
            Which::New => self.next.fetch_add(count.into(), Ordering::Relaxed),
            Which::Among(_) => 0,
        };
        for number in first..first + u64::from(count) {
            let number = match which {
                Which::New => number,
                Which::Among(stored) => fastrand::u64(..stored),
            };
            let mixed = mixed(number);
            let from = mixed as usize % POOL_BYTES;
            visit(
                hexadecimal(mixed),
                &self.pool[from..from + self.value_bytes],
            );
        }
    }

    /// The command that creates so many sessions.
    fn command(&self, which: Which, count: u32) -> Command {
        let value = field(self.value_bytes);
        let entry = field(ID_BYTES) + value;
        let mut message = BytesMut::with_capacity(2 + count as usize * field(entry));
        message.extend_from_slice(&Command::header(Kind::CreateSession));
        // sessions = 1, each with client_id = 1 and session = 2.
        self.take(which, count, |id, value| {
            message.put_u8(0x0a);
            encode_varint(entry as u64, &mut message);
            message.put_u8(0x0a);
            encode_varint(id.len() as u64, &mut message);
            message.extend_from_slice(&id);
            message.put_u8(0x12);
            encode_varint(value.len() as u64, &mut message);
            message.extend_from_slice(value);
        });
        Command::from_encoded(message.freeze())
    }
}

/// Of a field with a one-byte tag and so many bytes.
fn field(length: usize) -> usize {
    1 + encoded_len_varint(length as u64) + length
}

/// SplitMix64: two numbers never come to the same, and neighbours lie far apart.
fn mixed(number: u64) -> u64 {
    let mut word = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

fn hexadecimal(word: u64) -> [u8; ID_BYTES] {
    let digit = |place: usize| b"0123456789abcdef"[(word >> (4 * place)) as usize & 0xf];
    std::array::from_fn(digit)
}

/// Callers in this process, each with one proposal in flight.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// Entries of a proposal.
    pub(crate) batch: u32,
    /// Callers, of all groups together: each goes round the groups.
    pub(crate) in_flight: u32,
    pub(crate) which: Which,
}

/// When callers stop.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Until {
    Elapsed(Duration),
    /// Each session of a load once; the last batches may go past it.
    Written(u64),
}

impl Load {
    /// Proposes until then, and says what it came to.
    pub(crate) fn run(
        self,
        stand: &Stand,
        sessions: &Arc<Sessions>,
        until: Until,
    ) -> Result<Figures> {
        let (counted, cpu) = (stand.counted()?, cpu_of(std::process::id())?);
        let start = Instant::now();
        let latencies_us = stand
            .runtime
            .block_on(self.call(&stand.groups, sessions, until))?;
        let elapsed = start.elapsed();
        let cpu = cpu_of(std::process::id())?.saturating_sub(cpu);
        let written = latencies_us.len() as u64 * u64::from(self.batch);
        let (proposals_per_sync, sync_ms) = stand.counted()?.since(counted);
        Ok(Figures {
            proposals_per_sync,
            sync_ms,
            ..Figures::of(written, elapsed, cpu, latencies_us)
        })
    }

    async fn call(
        self,
        groups: &Groups,
        sessions: &Arc<Sessions>,
        until: Until,
    ) -> Result<Vec<u32>> {
        let start = Instant::now();
        let mut callers = JoinSet::new();
        for caller in 0..self.in_flight {
            let (groups, sessions) = (groups.clone(), Arc::clone(sessions));
            let ends = move |sessions: &Sessions| match until {
                Until::Elapsed(duration) => start.elapsed() >= duration,
                Until::Written(count) => sessions.next.load(Ordering::Relaxed) >= count,
            };
            callers.spawn(async move {
                let mut latencies_us = Vec::new();
                let mut turn = caller;
                while !ends(&sessions) {
                    let command = sessions.command(self.which, self.batch);
                    let group = groups.at(turn % groups.count());
                    let since = Instant::now();
                    match group.propose(command, self.batch).await {
                        Ok(Applied::Done) => {}
                        Ok(other) => {
                            bail!("a proposal was {other:?}; no figure is taken from this")
                        }
                        Err(error) => bail!("{error}; no figure is taken from this"),
                    }
                    latencies_us.push(u32::try_from(since.elapsed().as_micros())?);
                    turn = turn.wrapping_add(1);
                }
                anyhow::Ok(latencies_us)
            });
        }
        let mut all = Vec::new();
        while let Some(caller) = callers.join_next().await {
            all.append(&mut caller??);
        }
        Ok(all)
    }
}
