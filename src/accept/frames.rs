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
//! pings as often as it hears answers, and is no attacker.

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
/// A burst is so many seconds' worth.
const BURST: u64 = 10;

/// A call that is reset sooner was never meant to be answered. Clients that
/// give up in earnest take longer, even impatient ones.
const YOUNG: Duration = Duration::from_millis(10);
/// What such a call costs, in what a call that is left alone earns: a client
/// that hedges, and resets every other call at once, may do so for ever.
const YOUNG_RESET: u64 = 2;

/// Why a connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Abuse {
    /// More frames that carry nothing than its calls, and time, pay for.
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
    filled: Option<Instant>,
}

impl Allowance {
    fn new(rate: u64) -> Self {
        let most = rate.saturating_mul(BURST);
        Self {
            left: most,
            most,
            rate,
            filled: None,
        }
    }

    fn earn(&mut self, amount: u64) {
        self.left = self.left.saturating_add(amount).min(self.most);
    }

    fn fill(&mut self, now: Instant) {
        let filled = *self.filled.get_or_insert(now);
        let passed = now.saturating_duration_since(filled);
        let brought = u128::from(self.rate) * passed.as_micros() / 1_000_000;
        // What is less than one stays in the time that has not been counted.
        if brought > 0 {
            self.earn(u64::try_from(brought).unwrap_or(u64::MAX));
            self.filled = Some(now);
        }
    }

    /// Whether it sufficed.
    fn spend(&mut self, amount: u64) -> bool {
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
            written: 0,
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
                }
                self.control.earn(PING);
                return Ok(());
            }
            DATA if self.left > 0 || flags & END_STREAM != 0 => {
                self.control.earn(PING);
                return Ok(());
            }
            RST_STREAM => {
                let young = self.opened.is_young(stream);
                if young && !self.resets.spend(YOUNG_RESET) {
                    return Err(Abuse::Resets);
                }
                // Of a call that was made, which has paid.
                PING / 4
            }
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
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CONTROL: u32 = 100;
    const RESETS: u32 = 10;
    /// A burst of pings that is allowed.
    const PINGS: usize = (CONTROL as u64 * BURST) as usize;
    const PING_KIND: u8 = 6;

    fn frame(kind: u8, flags: u8, stream: u32, payload: usize) -> Vec<u8> {
        let length = u32::try_from(payload).expect("small");
        let mut frame = length.to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.resize(HEAD + payload, 0);
        frame
    }

    fn watch(now: Instant) -> FrameWatch {
        let mut watch = FrameWatch::new(CONTROL, RESETS);
        watch
            .read(&[0; PREFACE as usize], now)
            .expect("the preface");
        watch
    }

    fn ping() -> Vec<u8> {
        frame(PING_KIND, 0, 0, 8)
    }

    fn call(stream: u32) -> Vec<u8> {
        frame(HEADERS, END_HEADERS | END_STREAM, stream, 20)
    }

    #[test]
    fn a_burst_of_pings_is_allowed_and_time_brings_the_next() {
        let mut now = Instant::now();
        let mut watch = watch(now);
        let burst = ping().repeat(PINGS);
        assert_eq!(watch.read(&burst, now), Ok(PINGS));
        assert_eq!(watch.read(&ping(), now), Err(Abuse::Control));
        now += Duration::from_secs(1);
        assert_eq!(
            watch.read(&ping().repeat(CONTROL as usize), now),
            Ok(CONTROL as usize)
        );
        assert_eq!(watch.read(&ping(), now), Err(Abuse::Control));
    }

    #[test]
    fn a_client_may_ping_for_every_answer_that_it_hears_for_ever() {
        let now = Instant::now();
        let mut watch = watch(now);
        for call_number in 0..10 * u32::try_from(PINGS).expect("few") {
            let call = [call(2 * call_number + 1), ping()].concat();
            watch.read(&call, now).expect("it pays for its pings");
        }
    }

    #[test]
    fn the_answer_to_a_ping_does_not_pay_for_it() {
        let now = Instant::now();
        let mut watch = watch(now);
        let mut pings = 0;
        while watch.read(&ping(), now).is_ok() {
            watch.wrote(HEAD + 8);
            pings += 1;
            assert!(pings <= 2 * PINGS, "they go on for ever");
        }
    }

    #[test]
    fn who_reads_a_stream_may_say_so() {
        let now = Instant::now();
        let mut watch = watch(now);
        for _ in 0..10 * PINGS {
            // A small message, and the window opened again on both levels.
            watch.wrote(HEAD + 5 + 20);
            let updates = [frame(WINDOW_UPDATE, 0, 1, 4), frame(WINDOW_UPDATE, 0, 0, 4)];
            watch.read(&updates.concat(), now).expect("it reads");
        }
    }

    #[test]
    fn settings_cost_what_they_are_worth() {
        let now = Instant::now();
        let mut watch = watch(now);
        let settings = frame(SETTINGS, 0, 0, 6);
        let allowed = PINGS / 10;
        assert!(watch.read(&settings.repeat(allowed), now).is_ok());
        assert_eq!(watch.read(&settings, now), Err(Abuse::Control));
    }

    #[test]
    fn empty_frames_and_unknown_ones_are_no_work() {
        for kind in [DATA, CONTINUATION, 0x2, 0xfa] {
            let now = Instant::now();
            let mut watch = watch(now);
            let idle = frame(kind, 0, 1, 0);
            assert!(watch.read(&idle.repeat(PINGS), now).is_ok());
            assert_eq!(watch.read(&idle, now), Err(Abuse::Control), "{kind}");
        }
    }

    #[test]
    fn calls_that_are_reset_as_they_are_made_end_the_connection() {
        let now = Instant::now();
        let mut watch = watch(now);
        let burst = u64::from(RESETS) * BURST;
        let ended = (0..).find(|number| {
            let stream = 2 * number + 1;
            let rapid = [call(stream), frame(RST_STREAM, 0, stream, 4)].concat();
            watch.read(&rapid, now) == Err(Abuse::Resets)
        });
        let calls: u32 = ended.expect("it ends");
        // Each costs one more than it earns, and the first earns nothing.
        assert!(
            (burst / 2..=2 * burst).contains(&u64::from(calls)),
            "{calls}"
        );
        assert!(watch.is_resetting());
    }

    #[test]
    fn a_client_that_hedges_every_call_goes_on() {
        let now = Instant::now();
        let mut watch = watch(now);
        for number in 0..10_000 {
            let (kept, hedged) = (4 * number + 1, 4 * number + 3);
            let both = [call(kept), call(hedged), frame(RST_STREAM, 0, hedged, 4)];
            watch.read(&both.concat(), now).expect("half are kept");
        }
    }

    #[test]
    fn impatient_callers_that_all_give_up_go_on() {
        let mut now = Instant::now();
        let mut watch = watch(now);
        let mut stream = 1;
        for _ in 0..1_000 {
            let calls: Vec<u32> = (0..32).map(|number| stream + 2 * number).collect();
            stream += 64;
            for call_stream in &calls {
                watch.read(&call(*call_stream), now).expect("a call");
            }
            now += 2 * YOUNG;
            for call_stream in calls {
                watch
                    .read(&frame(RST_STREAM, 0, call_stream, 4), now)
                    .expect("it waited and has left");
            }
        }
        assert!(!watch.is_resetting());
    }

    #[test]
    fn what_is_half_there_is_timed_from_its_own_beginning() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let within = Duration::from_millis(100);
        let mut watch = watch(start);
        let open = frame(HEADERS, END_STREAM, 1, 10);
        watch.read(&open[..4], at(0)).expect("a beginning");
        assert!(!watch.is_half_for(within, at(99)));
        assert!(watch.is_half_for(within, at(100)));
        // Whole, but its block goes on.
        watch.read(&open[4..], at(50)).expect("the frame");
        let more = frame(CONTINUATION, 0, 1, 10);
        watch.read(&more, at(90)).expect("some more of it");
        assert!(watch.is_half_for(within, at(100)));
        let last = frame(CONTINUATION, END_HEADERS, 1, 10);
        watch.read(&last, at(99)).expect("the end of it");
        assert!(!watch.is_half_for(within, at(10_000)));
        // A new frame has its own time.
        watch.read(&ping()[..9], at(200)).expect("a head");
        assert!(!watch.is_half_for(within, at(299)));
    }

    proptest! {
        #[test]
        fn it_sees_the_same_in_whatever_pieces_bytes_come(
            frames in prop::collection::vec((0_u8..12, any::<u8>(), 0_u32..9, 0_usize..40), 0..60),
            pieces in prop::collection::vec(1_usize..30, 1..40),
        ) {
            let now = Instant::now();
            let bytes: Vec<u8> = frames
                .iter()
                .flat_map(|(kind, flags, stream, len)| frame(*kind, *flags, *stream, *len))
                .collect();
            let (mut whole, mut parted) = (watch(now), watch(now));
            let seen = whole.read(&bytes, now);
            let mut rest = &bytes[..];
            let mut counted = Ok(0);
            for piece in pieces.iter().cycle() {
                if rest.is_empty() || counted.is_err() {
                    break;
                }
                let (part, later) = rest.split_at(rest.len().min(*piece));
                rest = later;
                counted = parted.read(part, now).map(|frames| frames + counted.expect("it goes on"));
            }
            prop_assert_eq!(seen, counted);
            prop_assert_eq!(whole.is_half(), parted.is_half());
            prop_assert_eq!(whole.control.left, parted.control.left);
            prop_assert_eq!(whole.resets.left, parted.resets.left);
        }
    }
}
