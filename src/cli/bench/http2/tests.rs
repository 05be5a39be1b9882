//! The connection against a server that is written frame by frame.

use super::*;

/// A connection whose server has sent its settings.
fn connected() -> Http2 {
    let mut http2 = Http2::new(RequestHead::new(&[(":path", "/a.b/C")]));
    http2
        .receive(&frame(SETTINGS, 0, 0, b""), &mut Vec::new())
        .unwrap();
    http2.outbound.clear();
    http2
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    put_header(&mut bytes, payload.len(), kind, flags, stream);
    bytes.put_slice(payload);
    bytes.into()
}

fn open(http2: &mut Http2, caller: usize) -> u32 {
    assert!(http2.can_open());
    http2.open(caller, Bytes::from_static(b"\0\0\0\0\0"))
}

/// A head, an empty message, trailers with `status` (one digit).
fn reply(stream: u32, status: u8) -> Vec<u8> {
    let trailers = [b"\0\x0bgrpc-status\x01", &[status][..]].concat();
    [
        frame(HEADERS, END_HEADERS, stream, &[0x88]),
        frame(DATA, 0, stream, b"\0\0\0\0\0"),
        frame(HEADERS, END_HEADERS | END_STREAM, stream, &trailers),
    ]
    .concat()
}

fn received(http2: &mut Http2, bytes: &[u8]) -> Vec<(usize, Verdict)> {
    let mut answers = Vec::new();
    http2.receive(bytes, &mut answers).unwrap();
    answers
        .into_iter()
        .map(|Answer { caller, verdict }| (caller, verdict))
        .collect()
}

/// The first frame to be sent: kind, flags, stream, payload.
fn next_sent(http2: &mut Http2) -> (u8, u8, u32, Bytes) {
    let sent = http2.outbound();
    let length = sent.get_uint(3) as usize;
    let (kind, flags, stream) = (sent.get_u8(), sent.get_u8(), sent.get_u32());
    (kind, flags, stream, sent.split_to(length).freeze())
}

#[test]
fn answers_reach_their_callers_in_any_order_and_any_pieces() {
    let mut http2 = connected();
    let (one, two) = (open(&mut http2, 10), open(&mut http2, 20));
    let bytes = [reply(two, b'0'), reply(one, b'8')].concat();
    let mut answers = Vec::new();
    for byte in bytes.chunks(1) {
        answers.extend(received(&mut http2, byte));
    }
    let refused = Err("RESOURCE_EXHAUSTED".into());
    assert_eq!(answers, [(20, Ok(())), (10, refused)]);
    assert!(http2.streams.is_empty());
}

#[test]
fn padding_priority_and_continuations_are_taken_off() {
    let mut http2 = connected();
    let stream = open(&mut http2, 0);
    let head = [2, 0, 0, 0, 0, 0, 0x88, 0, 0];
    let bytes = [
        frame(HEADERS, END_HEADERS | PADDED | PRIORITY, stream, &head),
        frame(DATA, PADDED, stream, b"\x03\0\0\0\0\0PPP"),
        frame(HEADERS, END_STREAM, stream, b"\0\x0bgrpc-"),
        frame(CONTINUATION, 0, stream, b"status"),
        frame(CONTINUATION, END_HEADERS, stream, b"\x010"),
    ];
    assert_eq!(received(&mut http2, &bytes.concat()), [(0, Ok(()))]);
}

#[test]
fn a_call_taken_back_is_reset_and_its_late_answer_ignored() {
    let mut http2 = connected();
    let stream = open(&mut http2, 0);
    http2.outbound.clear();
    http2.reset(stream);
    http2.reset(stream);
    assert_eq!(
        next_sent(&mut http2),
        (RST_STREAM, 0, stream, b"\0\0\0\x08"[..].into())
    );
    assert!(http2.outbound.is_empty(), "it is reset once");
    assert!(received(&mut http2, &reply(stream, b'0')).is_empty());
}

#[test]
fn a_call_that_is_answered_twice_breaks_its_connection() {
    let mut http2 = connected();
    let stream = open(&mut http2, 0);
    open(&mut http2, 1);
    assert_eq!(received(&mut http2, &reply(stream, b'0')), [(0, Ok(()))]);
    let again = http2.receive(&reply(stream, b'0'), &mut Vec::new());
    let told = again.expect_err("it has its answer").0;
    assert_eq!(told, format!("stream {stream} was answered twice"));
    // Nor may what was taken back be answered more than once.
    let mut http2 = connected();
    let stream = open(&mut http2, 0);
    http2.reset(stream);
    received(&mut http2, &reply(stream, b'0'));
    let again = http2.receive(&reply(stream, b'0'), &mut Vec::new());
    again.expect_err("it was answered");
}

#[test]
fn calls_wait_while_the_server_takes_no_more() {
    let mut http2 = Http2::new(RequestHead::new(&[]));
    assert!(!http2.can_open(), "its settings have not come");
    let settings = frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 1]);
    http2.receive(&settings, &mut Vec::new()).unwrap();
    let stream = open(&mut http2, 0);
    assert!(!http2.can_open());
    received(&mut http2, &reply(stream, b'0'));
    assert!(http2.can_open());
}

#[test]
fn settings_and_pings_are_acknowledged() {
    let mut http2 = connected();
    received(&mut http2, &frame(PING, 0, 0, b"12345678"));
    assert_eq!(
        next_sent(&mut http2),
        (PING, ACK, 0, b"12345678"[..].into())
    );
    received(&mut http2, &frame(SETTINGS, 0, 0, b""));
    assert_eq!(next_sent(&mut http2), (SETTINGS, ACK, 0, Bytes::new()));
    received(&mut http2, &frame(PING, ACK, 0, b"12345678"));
    assert!(http2.outbound.is_empty());
}

#[test]
fn a_closing_server_ends_what_it_refuses_and_answers_the_rest() {
    let mut http2 = connected();
    let (kept, refused) = (open(&mut http2, 1), open(&mut http2, 2));
    let told = [&kept.to_be_bytes()[..], &0_u32.to_be_bytes()].concat();
    let answers = received(&mut http2, &frame(GOAWAY, 0, 0, &told));
    assert_eq!((answers.len(), answers[0].0), (1, 2));
    assert!(!http2.can_open());
    assert!(refused > kept);
    let mut answers = Vec::new();
    let ended = http2.receive(&reply(kept, b'0'), &mut answers).unwrap_err();
    assert!(ended.0.contains("NO_ERROR"), "{ended:?}");
    assert_eq!(answers[0].caller, 1);
}

#[test]
fn what_breaks_the_rules_breaks_the_connection_with_a_reason() {
    let broken =
        |http2: &mut Http2, bytes: &[u8]| http2.receive(bytes, &mut Vec::new()).unwrap_err().0;
    let fresh = &mut Http2::new(RequestHead::new(&[]));
    assert!(broken(fresh, b"HTTP/1.1 400 Bad Request").contains("does not speak HTTP/2"));
    for (bytes, told) in [
        (frame(HEADERS, END_HEADERS, 1, &[0x80]), "does not decode"),
        (frame(DATA, PADDED, 1, &[9, 0]), "padding"),
        (frame(CONTINUATION, 0, 1, b""), "continues nothing"),
        (
            [frame(HEADERS, 0, 1, b""), frame(PING, 0, 0, b"12345678")].concat(),
            "interrupted",
        ),
        (frame(PUSH_PROMISE, 0, 1, b""), "PUSH_PROMISE"),
        (frame(RST_STREAM, 0, 1, b"1"), "cut"),
    ] {
        let reason = broken(&mut connected(), &bytes);
        assert!(reason.contains(told), "{reason}");
    }
}
