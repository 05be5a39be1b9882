//! What a client's frames say of it, seen as they go by. PURE.
//!
//! The HTTP/2 machine bounds what it keeps, but not what it is made to do: a
//! PING costs it an answer, a SETTINGS frame a walk over all streams, a call
//! that is reset as it is made all of a call's work, and a header block that
//! never ends all of its connection. Here only the heads of frames are looked
//! at, nine bytes each, and what is in them stays the machine's business.
//!
//! Frames that carry nothing are paid for by those that carry something, in
//! both directions, and by time: a client that measures its round trips sends
//! pings as often as it hears answers, and is no attacker. What is not paid
//! for is taken from a burst. The burst is no licence to be fast: past a tenth
//! of it a client is read no faster than would spend all of it in a second, so
//! that the others have the machine meanwhile, and then it is cut.

use std::time::{Duration, Instant};

/// Bytes of a frame's head.
const HEAD: usize = 9;
/// What a client says before its first frame.
const PREFACE: u32 = 24;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// What a frame that carries nothing costs, in quarters of a PING.
const PING: u64 = 4;
/// Each SETTINGS frame is applied to every stream that is open.
const SETTINGS_COST: u64 = 10 * PING;
/// So many of our own bytes pay for a quarter of a PING: a PING's answer (17
/// bytes) must not pay for it, a message and its trailers must.
const PAID_BY: u64 = 16;
/// A burst is so many seconds' worth; one of them at once, and the rest within
/// a second.
const BURST: u64 = 10;
/// Of a message's own head, which is no message: less than that in a frame
/// carries nothing.
const MESSAGE_HEAD: u32 = 5;

/// A call that is reset sooner was never meant to be answered. Clients that
/// give up in earnest take longer, even impatient ones.
const YOUNG: Duration = Duration::from_millis(10);
/// What such a call costs, in what a call that is left alone earns: a client
/// that hedges, and resets every other call at once, may do so for ever.
const YOUNG_RESET: u64 = 2;

/// Why a connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Abuse {
    /// More frames that carry nothing than its calls, and time, pay for; calls
    /// that come to nothing are such, too.
    Control,
    /// More calls made and reset at once than it makes and leaves alone.
    Resets,
}

/// So much, refilled by time and by what earns it.
#[derive(Debug)]
struct Allowance {
    left: u64,
    most: u64,
    /// What a second brings.
    rate: u64,
    /// What was spent and neither earned nor waited for.
    debt: u64,
    filled: Option<Instant>,
}

impl Allowance {
    fn new(rate: u64) -> Self {
        let most = rate.saturating_mul(BURST);
        Self {
            left: most,
            most,
            rate,
            debt: 0,
            filled: None,
        }
    }

    fn earn(&mut self, amount: u64) {
        self.left = self.left.saturating_add(amount).min(self.most);
        self.debt = self.debt.saturating_sub(amount);
    }

    fn fill(&mut self, now: Instant) {
        let filled = *self.filled.get_or_insert(now);
        let passed = now.saturating_duration_since(filled);
        let brought = u128::from(self.rate) * passed.as_micros() / 1_000_000;
        // What is less than one stays in the time that has not been counted.
        if brought > 0 {
            let brought = u64::try_from(brought).unwrap_or(u64::MAX);
            self.earn(brought);
            self.debt = self.debt.saturating_sub(brought.saturating_mul(BURST - 1));
            self.filled = Some(now);
        }
    }

    fn owes(&self) -> bool {
        self.debt > self.rate
    }

    /// How long to wait before more is spent: until no more is owed than comes
    /// in a second. Waiting for a second pays for all of the burst.
    fn hold(&self) -> Option<Duration> {
        if !self.owes() {
            return None;
        }
        let excess = self.debt - self.rate;
        let micros = u128::from(excess) * 1_000_000 / u128::from(self.most.max(1));
        Some(Duration::from_micros(
            u64::try_from(micros).unwrap_or(u64::MAX) + 1,
        ))
    }

    /// Whether it sufficed.
    fn spend(&mut self, amount: u64) -> bool {
        self.debt = self.debt.saturating_add(amount);
        match self.left.checked_sub(amount) {
            Some(left) => self.left = left,
            None => return false,
        }
        true
    }

    fn is_full(&self) -> bool {
        self.left == self.most
    }
}

/// Which streams were opened just now, without a note of each: their numbers
/// only rise.
#[derive(Debug, Default)]
struct Opened {
    last: u32,
    /// The highest number when this slice of time began, and the one before.
    slice: u32,
    before: u32,
    began: Option<Instant>,
}

impl Opened {
    fn roll(&mut self, now: Instant) {
        let began = *self.began.get_or_insert(now);
        let passed = now.saturating_duration_since(began);
        if passed >= YOUNG {
            self.before = if passed >= 2 * YOUNG {
                self.last
            } else {
                self.slice
            };
            self.slice = self.last;
            self.began = Some(now);
        }
    }

    fn is_young(&self, stream: u32) -> bool {
        stream > self.before && stream <= self.last
    }
}

/// Follows the frames of one connection.
#[derive(Debug)]
pub(super) struct FrameWatch {
    head: [u8; HEAD],
    /// Bytes of the next head that have come.
    have: usize,
    /// Bytes of this frame that are still to come.
    left: u32,
    /// A header block has begun and goes on in the next frame.
    block_open: bool,
    /// Since when a frame, or a header block, is half there.
    half_since: Option<Instant>,
    control: Allowance,
    resets: Allowance,
    opened: Opened,
    /// Calls that were opened, that came to nothing, and that may still be
    /// reset for what they have paid.
    calls: u64,
    faulty: u64,
    unreset: u64,
    /// Its first settings, which every client sends, have come.
    greeted: bool,
    written: u64,
}

impl FrameWatch {
    /// One that allows so many frames that carry nothing, and so many calls
    /// that are reset at once, a second, beside what is paid for.
    pub(super) fn new(control: u32, resets: u32) -> Self {
        Self {
            head: [0; HEAD],
            have: 0,
            left: PREFACE,
            block_open: false,
            half_since: None,
            control: Allowance::new(u64::from(control).saturating_mul(PING)),
            resets: Allowance::new(u64::from(resets)),
            opened: Opened::default(),
            calls: 0,
            faulty: 0,
            unreset: 0,
            greeted: false,
            written: 0,
        }
    }

    /// Whether the client has spent what it may at once, as far as is known
    /// without the time.
    pub(super) fn owes(&self) -> bool {
        self.control.owes() || self.resets.owes()
    }

    /// How long the client is not to be read.
    pub(super) fn hold(&mut self, now: Instant) -> Option<Duration> {
        self.control.fill(now);
        self.resets.fill(now);
        let hold = self.control.hold().max(self.resets.hold())?;
        if let Some(since) = &mut self.half_since {
            // What is not read does not come any sooner.
            *since = (*since).max(now + hold);
        }
        Some(hold)
    }

    /// All that was read was looked at, and so many calls have come of it ever
    /// since; the others were refused as they were made, and cost more than
    /// they brought.
    ///
    /// # Errors
    /// If it is time to close the connection.
    pub(super) fn took(&mut self, calls: u64) -> Result<(), Abuse> {
        let unread = u64::from(self.is_half());
        let faulty = self.calls.saturating_sub(calls + unread);
        let more = faulty.saturating_sub(self.faulty);
        self.faulty = self.faulty.max(faulty);
        match self.control.spend(more * 2 * PING) {
            true => Ok(()),
            false => Err(Abuse::Control),
        }
    }

    /// The client sent `bytes`; how many frames began in them.
    ///
    /// # Errors
    /// If it is time to close the connection.
    pub(super) fn read(&mut self, mut bytes: &[u8], now: Instant) -> Result<usize, Abuse> {
        self.control.fill(now);
        self.resets.fill(now);
        self.opened.roll(now);
        let mut frames = 0;
        while !bytes.is_empty() {
            if self.left > 0 {
                let taken = bytes.len().min(self.left as usize);
                bytes = &bytes[taken..];
                self.left -= u32::try_from(taken).expect("no more than is left");
            } else {
                let taken = bytes.len().min(HEAD - self.have);
                self.head[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
                bytes = &bytes[taken..];
                self.have += taken;
                if self.have < HEAD {
                    break;
                }
                self.have = 0;
                frames += 1;
                self.begin()?;
            }
            if self.left == 0 && !self.block_open {
                self.half_since = None;
            }
        }
        if self.is_half() {
            self.half_since.get_or_insert(now);
        }
        Ok(frames)
    }

    /// So many bytes went to the client. They pay for resets too: a call that
    /// was answered was meant, however soon its stream is reset after that.
    pub(super) fn wrote(&mut self, bytes: usize) {
        self.written += bytes as u64;
        self.control.earn(self.written / PAID_BY);
        self.resets.earn(self.written / PAID_BY);
        self.written %= PAID_BY;
    }

    /// Whether what has begun to come has not come whole for so long.
    pub(super) fn is_half_for(&self, span: Duration, now: Instant) -> bool {
        let since = self.half_since;
        since.is_some_and(|since| now.saturating_duration_since(since) >= span)
    }

    /// Whether calls were reset lately as they were made.
    pub(super) fn is_resetting(&self) -> bool {
        !self.resets.is_full()
    }

    fn is_half(&self) -> bool {
        self.have > 0 || self.left > 0 || self.block_open
    }

    /// A frame begins, whose head is whole.
    fn begin(&mut self) -> Result<(), Abuse> {
        let [a, b, c, kind, flags, stream @ ..] = self.head;
        self.left = u32::from_be_bytes([0, a, b, c]);
        let stream = u32::from_be_bytes(stream) & (u32::MAX >> 1);
        if kind == HEADERS || kind == CONTINUATION {
            self.block_open = flags & END_HEADERS == 0;
        }
        let cost = match kind {
            HEADERS => {
                if stream > self.opened.last {
                    self.opened.last = stream;
                    self.resets.earn(1);
                    self.calls += 1;
                    self.unreset += 1;
                }
                self.control.earn(PING);
                return Ok(());
            }
            DATA if self.left >= MESSAGE_HEAD || flags & END_STREAM != 0 => {
                self.control.earn(PING);
                return Ok(());
            }
            DATA if self.left > 0 => PING / 4,
            RST_STREAM => {
                let young = self.opened.is_young(stream);
                if young && !self.resets.spend(YOUNG_RESET) {
                    return Err(Abuse::Resets);
                }
                match self.unreset.checked_sub(1) {
                    // Of a call that was made, which has paid.
                    Some(unreset) => {
                        self.unreset = unreset;
                        return Ok(());
                    }
                    None => PING / 4,
                }
            }
            SETTINGS if !std::mem::replace(&mut self.greeted, true) => return Ok(()),
            SETTINGS if flags & ACK == 0 => SETTINGS_COST,
            WINDOW_UPDATE => PING / 4,
            _ => PING,
        };
        match self.control.spend(cost) {
            true => Ok(()),
            false => Err(Abuse::Control),
        }
    }
}

#[cfg(test)]
mod tests;
