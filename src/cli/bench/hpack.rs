//! Header compression, as much of it as a load needs (RFC 7541): one request
//! head that never changes, and answers of which only the status matters.
//!
//! The head is encoded once: the first request puts its fields into the
//! server's table, each later one names them by their index, in some ten
//! bytes. Pure.

use std::{borrow::Cow, collections::VecDeque, sync::LazyLock};

/// The table's size unless settings say otherwise, in RFC 7541's bytes.
const DEFAULT_TABLE: usize = 4_096;
/// What an entry weighs beside its text.
const ENTRY_OVERHEAD: usize = 32;
/// A table smaller than this does not hold a request's head for sure.
const SMALLEST_TABLE: u32 = 2_048;
/// Length of the longest Huffman code.
const LONGEST_CODE: usize = 30;

/// The names of the static table, from index 1 on.
const STATIC_NAMES: &str = ":authority :method :method :path :path :scheme :scheme \
    :status :status :status :status :status :status :status accept-charset accept-encoding \
    accept-language accept-ranges accept access-control-allow-origin age allow authorization \
    cache-control content-disposition content-encoding content-language content-length \
    content-location content-range content-type cookie date etag expect expires from host if-match \
    if-modified-since if-none-match if-range if-unmodified-since last-modified link location \
    max-forwards proxy-authenticate proxy-authorization range referer refresh retry-after server \
    set-cookie strict-transport-security transfer-encoding user-agent vary via www-authenticate";

/// Its values of `:status`, from index 8 on; no other value matters here.
const STATIC_STATUSES: [&str; 7] = ["200", "204", "206", "304", "400", "404", "500"];

static STATIC_TABLE: LazyLock<Vec<&str>> =
    LazyLock::new(|| STATIC_NAMES.split_ascii_whitespace().collect());

/// Length of each byte's Huffman code. The codes follow from the lengths:
/// counted upwards, shorter ones first, equal ones by byte.
#[rustfmt::skip]
const CODE_LENGTHS: [u8; 256] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28,
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5,
    6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23,
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25,
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
];

/// A header block that breaks the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// The head of every request.
#[derive(Debug)]
pub(super) struct RequestHead {
    /// Puts its fields into the table.
    first: Vec<u8>,
    /// Names them by index.
    again: Vec<u8>,
    /// Spells them out, for a server that keeps no table.
    plain: Vec<u8>,
    table: ServerTable,
}

/// What the server's table knows of the head.
#[derive(Debug, PartialEq, Eq)]
enum ServerTable {
    Empty,
    Filled,
    /// The server wants none; it must be told once that none is used.
    Refused {
        told: bool,
    },
}

impl RequestHead {
    /// A POST over plain HTTP with `fields`, in that order.
    pub(super) fn new(fields: &[(&str, &str)]) -> Self {
        let post = [0x83, 0x86]; // :method POST, :scheme http
        let (mut first, mut again, mut plain) = (post.to_vec(), post.to_vec(), post.to_vec());
        for (at, (name, value)) in fields.iter().enumerate() {
            for (block, prefix, bits) in [(&mut first, 0x40, 6), (&mut plain, 0x00, 4)] {
                let known = STATIC_TABLE.iter().position(|known| known == name);
                put_integer(block, prefix, bits, known.map_or(0, |index| index + 1));
                if known.is_none() {
                    put_text(block, name);
                }
                put_text(block, value);
            }
            // The newest entry has the lowest index.
            let index = STATIC_TABLE.len() + fields.len() - at;
            put_integer(&mut again, 0x80, 7, index);
        }
        Self {
            first,
            again,
            plain,
            table: ServerTable::Empty,
        }
    }

    /// The server keeps a table of `bytes` at most.
    pub(super) fn limit_table(&mut self, bytes: u32) {
        if bytes < SMALLEST_TABLE && !matches!(self.table, ServerTable::Refused { .. }) {
            self.table = ServerTable::Refused { told: false };
        }
    }

    /// The block of the next request.
    pub(super) fn block(&mut self) -> Cow<'_, [u8]> {
        match &mut self.table {
            table @ ServerTable::Empty => {
                *table = ServerTable::Filled;
                (&self.first).into()
            }
            ServerTable::Filled => (&self.again).into(),
            ServerTable::Refused { told: true } => (&self.plain).into(),
            ServerTable::Refused { told } => {
                *told = true;
                [&[0x20], &self.plain[..]].concat().into()
            }
        }
    }
}

/// Reads the server's header blocks.
#[derive(Debug)]
pub(super) struct Decoder {
    /// The newest entry first.
    table: VecDeque<(Vec<u8>, Vec<u8>)>,
    size: usize,
    limit: usize,
}

impl Decoder {
    /// A decoder whose table is empty.
    pub(super) fn new() -> Self {
        Self {
            table: VecDeque::new(),
            size: 0,
            limit: DEFAULT_TABLE,
        }
    }

    /// Shows each field of `block` to `field`.
    ///
    /// # Errors
    /// If the block breaks the rules; the connection is of no use then.
    pub(super) fn decode(
        &mut self,
        mut block: &[u8],
        mut field: impl FnMut(&[u8], &[u8]),
    ) -> Result<(), Malformed> {
        while let Some(&kind) = block.first() {
            if kind & 0x80 != 0 {
                let index = take_integer(&mut block, 7)?;
                let (name, value) = self.indexed(index)?;
                field(name, value);
            } else if kind & 0xe0 == 0x20 {
                self.limit = take_integer(&mut block, 5)?;
                if self.limit > DEFAULT_TABLE {
                    return Err(Malformed);
                }
                self.evict();
            } else {
                let remembered = kind & 0x40 != 0;
                let index = take_integer(&mut block, if remembered { 6 } else { 4 })?;
                let name = match index {
                    0 => take_text(&mut block)?,
                    known => self.indexed(known)?.0.to_vec(),
                };
                let value = take_text(&mut block)?;
                field(&name, &value);
                if remembered {
                    self.size += name.len() + value.len() + ENTRY_OVERHEAD;
                    self.table.push_front((name, value));
                    self.evict();
                }
            }
        }
        Ok(())
    }

    fn indexed(&self, index: usize) -> Result<(&[u8], &[u8]), Malformed> {
        let index = index.checked_sub(1).ok_or(Malformed)?;
        if let Some(name) = STATIC_TABLE.get(index) {
            let value = index
                .checked_sub(7)
                .and_then(|status| STATIC_STATUSES.get(status));
            return Ok((name.as_bytes(), value.map_or(b"", |value| value.as_bytes())));
        }
        let entry = self
            .table
            .get(index - STATIC_TABLE.len())
            .ok_or(Malformed)?;
        Ok((&entry.0, &entry.1))
    }

    fn evict(&mut self) {
        while self.size > self.limit {
            let (name, value) = self.table.pop_back().expect("an empty table has no size");
            self.size -= name.len() + value.len() + ENTRY_OVERHEAD;
        }
    }
}

fn put_integer(block: &mut Vec<u8>, prefix: u8, bits: u8, value: usize) {
    let most = (1 << bits) - 1;
    if value < most {
        block.push(prefix | value as u8);
        return;
    }
    block.push(prefix | most as u8);
    let mut rest = value - most;
    while rest >= 0x80 {
        block.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    block.push(rest as u8);
}

fn put_text(block: &mut Vec<u8>, text: &str) {
    put_integer(block, 0x00, 7, text.len());
    block.extend_from_slice(text.as_bytes());
}

fn take_integer(block: &mut &[u8], bits: u8) -> Result<usize, Malformed> {
    let most = (1 << bits) - 1;
    let mut value = usize::from(take_byte(block)?) & most;
    if value < most {
        return Ok(value);
    }
    // Four more bytes hold any length that a header may have.
    for shift in [0, 7, 14, 21] {
        let byte = take_byte(block)?;
        value += usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(Malformed)
}

fn take_byte(block: &mut &[u8]) -> Result<u8, Malformed> {
    let (&byte, rest) = block.split_first().ok_or(Malformed)?;
    *block = rest;
    Ok(byte)
}

fn take_text(block: &mut &[u8]) -> Result<Vec<u8>, Malformed> {
    let huffman = block.first().ok_or(Malformed)? & 0x80 != 0;
    let length = take_integer(block, 7)?;
    let (text, rest) = block.split_at_checked(length).ok_or(Malformed)?;
    *block = rest;
    if huffman {
        unpack(text)
    } else {
        Ok(text.to_vec())
    }
}

/// The Huffman code, as canonical codes are read: at each length, how many
/// codes there are, and the bytes in the order of their codes.
static CODES: LazyLock<(Vec<u8>, [u32; LONGEST_CODE + 1])> = LazyLock::new(|| {
    let mut bytes: Vec<u8> = (0..=255).collect();
    bytes.sort_by_key(|&byte| (CODE_LENGTHS[usize::from(byte)], byte));
    let mut counts = [0; LONGEST_CODE + 1];
    CODE_LENGTHS
        .iter()
        .for_each(|&length| counts[usize::from(length)] += 1);
    (bytes, counts)
});

fn unpack(packed: &[u8]) -> Result<Vec<u8>, Malformed> {
    let (bytes, counts) = &*CODES;
    let mut text = Vec::with_capacity(packed.len() * 2);
    // `code` so far has `length` bits; the codes of that length begin at
    // `first`, and `before` bytes have shorter ones.
    let (mut code, mut first, mut before, mut length) = (0_u32, 0_u32, 0_u32, 0);
    for bit in packed
        .iter()
        .flat_map(|byte| (0..8).rev().map(move |at| u32::from(byte >> at & 1)))
    {
        length += 1;
        if length > LONGEST_CODE {
            return Err(Malformed);
        }
        code = code << 1 | bit;
        before += counts[length - 1];
        first = (first + counts[length - 1]) << 1;
        if code - first < counts[length] {
            text.push(bytes[(before + code - first) as usize]);
            (code, first, before, length) = (0, 0, 0, 0);
        }
    }
    // What is left must be padding: fewer than 8 bits, all ones.
    if length < 8 && code == (1 << length) - 1 {
        Ok(text)
    } else {
        Err(Malformed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        let hex: Vec<_> = hex
            .bytes()
            .filter(|byte| !byte.is_ascii_whitespace())
            .collect();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16);
        hex.chunks(2).map(|pair| byte(pair).unwrap()).collect()
    }

    fn decoded(decoder: &mut Decoder, block: &[u8]) -> Vec<(String, String)> {
        let mut fields = Vec::new();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        decoder
            .decode(block, |name, value| fields.push((text(name), text(value))))
            .unwrap();
        fields
    }

    /// RFC 7541, C.6: answers with Huffman code and a table that evicts.
    #[test]
    fn the_examples_of_the_standard_decode() {
        let mut decoder = Decoder::new();
        assert!(decoded(&mut decoder, &bytes("3f e1 01")).is_empty()); // 256 bytes
        let first = bytes(
            "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b \
             ff6e 919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3",
        );
        let fields = decoded(&mut decoder, &first);
        let told: Vec<_> = fields
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        assert_eq!(
            told,
            [
                ":status=302",
                "cache-control=private",
                "date=Mon, 21 Oct 2013 20:13:21 GMT",
                concat!("location=https:", "//www.example.com")
            ]
        );
        assert_eq!(decoder.size, 222);
        let fields = decoded(&mut decoder, &bytes("4883 640e ffc1 c0bf"));
        assert_eq!(fields[0], (":status".into(), "307".into()));
        assert_eq!(fields[3].1, concat!("https:", "//www.example.com"));
        assert_eq!(decoder.size, 222, "the oldest entry made room");
    }

    #[test]
    fn every_byte_has_its_code() {
        // A prefix code that leaves nothing over but the end-of-string mark.
        let sum: u64 = CODE_LENGTHS
            .iter()
            .map(|&length| 1 << (LONGEST_CODE - usize::from(length)))
            .sum();
        assert_eq!(sum, (1 << LONGEST_CODE) - 1);
        assert_eq!(
            unpack(&bytes("f1e3 c2e5 f23a 6ba0 ab90 f4ff")).unwrap(),
            b"www.example.com"
        );
    }

    #[test]
    fn the_second_request_names_what_the_first_spelled_out() {
        let fields = [
            (":path", "/a.b/C"),
            ("te", "trailers"),
            ("grpc-timeout", "250m"),
            ("te", "x"),
        ];
        let mut head = RequestHead::new(&fields);
        let mut server = Decoder::new();
        let first = decoded(&mut server, &head.block());
        let second = head.block().into_owned();
        assert_eq!(decoded(&mut server, &second), first);
        assert_eq!(second.len(), 2 + fields.len());
        let told: Vec<_> = first[2..]
            .iter()
            .map(|(name, value)| (&**name, &**value))
            .collect();
        assert_eq!(told, fields);
    }

    #[test]
    fn a_server_without_a_table_is_told_everything_each_time() {
        let fields = [(":path", "/a.b/C"), ("te", "trailers")];
        let mut head = RequestHead::new(&fields);
        let mut server = Decoder::new();
        decoded(&mut server, &head.block());
        head.limit_table(0);
        for _ in 0..2 {
            assert_eq!(decoded(&mut server, &head.block())[2..].len(), 2);
            assert_eq!((server.limit, server.size), (0, 0));
        }
    }

    #[test]
    fn broken_blocks_are_refused() {
        // A cut integer, index 0, an index behind the table, a cut text, a
        // table that is too large, padding that is none.
        for block in [
            "ff",
            "80",
            "be",
            "0085 aa",
            "3f ff ff 7f",
            "0081 00 81 ff ff",
        ] {
            let ended = Decoder::new().decode(&bytes(block), |_, _| {});
            assert_eq!(ended, Err(Malformed), "{block}");
        }
    }
}
