//! What a client may send for ever, and what it may not.

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
    // The first ones every client sends.
    assert!(watch.read(&settings, now).is_ok());
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
fn less_than_a_messages_head_is_no_work_either() {
    let now = Instant::now();
    let mut watch = watch(now);
    let allowed = PINGS * 4;
    let tiny = frame(DATA, 0, 1, 4);
    assert!(watch.read(&tiny.repeat(allowed), now).is_ok());
    assert_eq!(watch.read(&tiny, now), Err(Abuse::Control));
    // An empty message, over and over, is somebody's business.
    assert!(
        watch
            .read(&frame(DATA, 0, 1, 5).repeat(10 * allowed), now)
            .is_ok()
    );
    // And the last of a message may be as short as it is.
    let last = frame(DATA, END_STREAM, 1, 1);
    assert!(watch.read(&last.repeat(10 * allowed), now).is_ok());
}

#[test]
fn what_is_paid_for_is_never_held_up_and_what_is_not_is_for_a_second_at_most() {
    let mut now = Instant::now();
    let mut watch = watch(now);
    for number in 0..10_000 {
        let call = [call(2 * number + 1), ping()].concat();
        watch.read(&call, now).expect("it pays for its pings");
        assert!(!watch.owes());
    }
    let rest = watch.control.left / PING;
    let pings = ping().repeat(usize::try_from(rest).expect("few"));
    watch.read(&pings, now).expect("a burst");
    assert!(watch.owes());
    let hold = watch.hold(now).expect("it owes");
    let most = Duration::from_secs(1);
    assert!((most / 2..=most).contains(&hold), "{hold:?}");
    now += hold;
    assert_eq!(watch.hold(now), None);
}

#[test]
fn thousands_of_callers_that_give_up_at_once_are_not_held_up() {
    let mut now = Instant::now();
    let mut watch = watch(now);
    let streams = || (0..10_000).map(|number| 2 * number + 1);
    for stream in streams() {
        watch.read(&call(stream), now).expect("a call");
    }
    watch.took(10_000).expect("all of them were taken");
    now += 2 * YOUNG;
    for stream in streams() {
        let reset = frame(RST_STREAM, 0, stream, 4);
        watch.read(&reset, now).expect("it waited and has left");
    }
    assert!(!watch.owes() && watch.control.is_full());
    // There is nothing left to reset.
    let resets = frame(RST_STREAM, 0, 1, 4).repeat(PINGS * 4);
    watch.read(&resets, now).expect("a burst");
    assert!(watch.owes() && watch.control.left == 0);
}

#[test]
fn calls_that_come_to_nothing_are_paid_for_and_those_still_on_their_way_are_not() {
    let now = Instant::now();
    let mut watch = watch(now);
    let mut stream = 1;
    let mut make = |watch: &mut FrameWatch, calls: u32| {
        for _ in 0..calls {
            watch.read(&call(stream), now).expect("a call");
            stream += 2;
        }
    };
    make(&mut watch, 100);
    watch.took(100).expect("all are there");
    assert!(watch.control.is_full());
    // The head of one more, of which the rest is to come.
    watch.read(&call(1_001)[..12], now).expect("a beginning");
    watch.took(100).expect("it is not whole");
    assert!(watch.control.is_full());
    watch.read(&call(1_001)[12..], now).expect("the rest");
    watch.took(101).expect("now it is");
    let mut faulty = FrameWatch::new(CONTROL, RESETS);
    faulty
        .read(&[0; PREFACE as usize], now)
        .expect("the preface");
    stream = 1;
    let mut calls = 0;
    while faulty.took(0).is_ok() {
        for _ in 0..10 {
            faulty.read(&call(stream), now).expect("a call");
            stream += 2;
            calls += 1;
        }
        assert!(calls <= 2 * PINGS, "they go on for ever");
    }
    assert!(calls >= PINGS / 2, "{calls}");
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
