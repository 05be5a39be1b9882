//! An entry's key as a number.
//!
//! The number is the same in every process and every version of ferry, since
//! entries may be sent by it to the group that has their key.

use super::{marks::KeyPart, record, shape::Kind};

/// Odd, and half of the bits set, so that a product spreads every bit.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
/// Keeps a zero word from making everything before it count for nothing.
const SALT: u64 = 0xa076_1d64_78bd_642f;

/// Where every hash begins.
const START: u64 = 0x2545_f491_4f6c_dd1d;

/// The hash of a key that consists of `parts`, in order. Equal keys have equal
/// hashes, always; it is no secret and stands no attacker who seeks equal ones.
#[must_use]
pub fn key_hash<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> u64 {
    parts.into_iter().fold(START, |hash, part| {
        let (words, rest) = part.as_chunks::<8>();
        let hash = words.iter().fold(hash, |hash, word| {
            fold(hash ^ u64::from_le_bytes(*word), SPREAD)
        });
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        // The length tells "ab", "c" from "a", "bc".
        let len = (part.len() as u64).rotate_left(32);
        fold(hash ^ u64::from_le_bytes(last), SPREAD ^ len)
    })
}

/// Both halves of the product, folded into one.
#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let wide = u128::from(a ^ SALT) * u128::from(b | 1);
    (wide as u64) ^ ((wide >> 64) as u64)
}

/// The hash of the key whose values lie at `slots` of `buf`.
#[inline]
pub(super) fn of_entry(parts: &[KeyPart], slots: &[(u32, u32)], buf: &[u8]) -> u64 {
    let mut number = [0; 8];
    match parts {
        // One key of text or bytes is the usual one.
        [one] if matches!(one.kind, Kind::Text | Kind::Bytes) => {
            let (start, end) = slots[usize::from(one.slot)];
            key_hash([&buf[start as usize..end as usize]])
        }
        parts => parts.iter().fold(START, |hash, part| {
            let (start, end) = slots[usize::from(part.slot)];
            let value = match part.kind {
                Kind::Text | Kind::Bytes => &buf[start as usize..end as usize],
                kind => canonical(kind, &buf[..end as usize], start as usize, &mut number),
            };
            fold(hash, key_hash([value]))
        }),
    }
}

/// A number as every decoder reads it, however it was encoded: without padding
/// and what is beyond its width; 0 as if absent.
fn canonical<'a>(kind: Kind, buf: &[u8], at: usize, out: &'a mut [u8; 8]) -> &'a [u8] {
    let varint = || record::varint(buf, at, at).map_or(0, |(value, _)| value);
    let value = match kind {
        Kind::Varint32 => u64::from(varint() as u32),
        Kind::Flag => u64::from(varint() != 0),
        Kind::Varint => varint(),
        // Four bytes or eight, and none of what is absent.
        _ => buf[at..]
            .iter()
            .rfold(0, |value, byte| value << 8 | u64::from(*byte)),
    };
    *out = value.to_le_bytes();
    match value {
        0 => &[],
        _ => out,
    }
}

/// The hashes of a request's keys.
#[derive(Clone, Debug, Default)]
pub(super) enum Keys {
    /// None were noted.
    #[default]
    None,
    /// Nearly always: no allocation.
    One(u64),
    /// One an entry.
    Many(Vec<u64>),
}

impl Keys {
    #[inline]
    pub(super) fn push(&mut self, key: u64) {
        match self {
            Self::None => *self = Self::One(key),
            Self::One(first) => *self = Self::Many(vec![*first, key]),
            Self::Many(keys) => keys.push(key),
        }
    }

    pub(super) fn as_slice(&self) -> &[u64] {
        match self {
            Self::None => &[],
            Self::One(key) => std::slice::from_ref(key),
            Self::Many(keys) => keys,
        }
    }

    /// Whether two of them are equal.
    pub(super) fn repeat(&self) -> bool {
        let Self::Many(keys) = self else {
            return false;
        };
        let mut sorted = keys.clone();
        sorted.sort_unstable();
        sorted.windows(2).any(|pair| pair[0] == pair[1])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_the_same_number_in_every_version() {
        assert_eq!(key_hash([&b"client-1"[..]]), key_hash([&b"client-1"[..]]));
        let known = [
            key_hash([&b""[..]]),
            key_hash([&b"client-1"[..]]),
            key_hash([&b"tenant"[..], b"group"]),
        ];
        assert_eq!(known, KNOWN);
    }

    #[test]
    fn keys_that_differ_anywhere_have_different_numbers() {
        let mut seen = std::collections::BTreeSet::new();
        for len in 0..40 {
            for at in 0..len {
                let mut key = vec![0_u8; len];
                key[at] = 1;
                assert!(seen.insert(key_hash([&key[..]])), "{len} {at}");
            }
        }
        assert_ne!(key_hash([&b"ab"[..], b"c"]), key_hash([&b"a"[..], b"bc"]));
    }

    const KNOWN: [u64; 3] = [
        2_643_466_927_316_042_639,
        11_686_164_869_715_310_064,
        8_407_879_466_926_442_295,
    ];
}
