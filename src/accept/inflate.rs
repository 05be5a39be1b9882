//! A compressed message as its sender wrote it, within a bound.
//!
//! Bytes merge only as they were encoded, so a compressed message has to be
//! decoded before it can share a batch. What it decodes to is read up to the
//! bound and no further: a few kilobytes can stand for gigabytes. An encoding
//! that ferry does not know is left to the upstream, to which such a call goes
//! alone and as it came.

use std::io::{self, Read};

use bytes::Bytes;
use flate2::bufread::{MultiGzDecoder, ZlibDecoder};
use http::HeaderMap;

/// In which a call says how its messages are compressed.
const GRPC_ENCODING: &str = "grpc-encoding";

/// How the messages of a call are compressed, where they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// RFC 1952.
    Gzip,
    /// RFC 1950, which is what gRPC means by it.
    Deflate,
    /// One that ferry does not know, or none.
    Other,
}

/// Why a compressed message is not read.
#[derive(Debug, thiserror::Error)]
pub enum InflateError {
    /// It stands for more than may be.
    #[error(
        "message of {compressed} compressed bytes: decodes to more than {bound}, the most that \
         are taken; send less, or raise max_message_bytes in the policy"
    )]
    TooLarge {
        /// Its bytes as they came.
        compressed: usize,
        /// The most that it may decode to.
        bound: usize,
    },
    /// It is not what its call's head says.
    #[error(
        "message of {compressed} compressed bytes: must be what grpc-encoding says, and is not \
         ({error}); compress it anew"
    )]
    Broken {
        /// Its bytes as they came.
        compressed: usize,
        /// What the decoder says.
        error: io::Error,
    },
}

impl Encoding {
    /// What the head of a call says.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Self {
        match headers.get(GRPC_ENCODING).map(|value| value.as_bytes()) {
            Some(b"gzip") => Self::Gzip,
            Some(b"deflate") => Self::Deflate,
            _ => Self::Other,
        }
    }

    /// What `compressed` stands for, at most `bound` bytes; `None` if nobody
    /// here can say.
    pub fn inflate(self, compressed: &[u8], bound: usize) -> Option<Result<Bytes, InflateError>> {
        match self {
            Self::Gzip => Some(read(
                MultiGzDecoder::new(compressed),
                compressed.len(),
                bound,
            )),
            Self::Deflate => Some(read(ZlibDecoder::new(compressed), compressed.len(), bound)),
            Self::Other => None,
        }
    }
}

fn read(from: impl Read, compressed: usize, bound: usize) -> Result<Bytes, InflateError> {
    // What most messages come to; more is asked for as it is needed.
    let mut message = Vec::with_capacity(compressed.saturating_mul(4).min(bound));
    let mut from = from.take(bound as u64 + 1);
    from.read_to_end(&mut message)
        .map_err(|error| InflateError::Broken { compressed, error })?;
    match message.len() > bound {
        true => Err(InflateError::TooLarge { compressed, bound }),
        false => Ok(message.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::{Compression, write};

    use super::*;

    fn gzip(message: &[u8]) -> Vec<u8> {
        let mut into = write::GzEncoder::new(Vec::new(), Compression::best());
        into.write_all(message).expect("a Vec takes all");
        into.finish().expect("a Vec takes all")
    }

    fn zlib(message: &[u8]) -> Vec<u8> {
        let mut into = write::ZlibEncoder::new(Vec::new(), Compression::fast());
        into.write_all(message).expect("a Vec takes all");
        into.finish().expect("a Vec takes all")
    }

    fn inflated(encoding: Encoding, compressed: &[u8], bound: usize) -> Result<Bytes, String> {
        let read = encoding.inflate(compressed, bound).expect("it is known");
        read.map_err(|error| error.to_string())
    }

    #[test]
    fn a_compressed_message_is_read_up_to_its_bound_and_no_further() {
        let message = b"what was written ".repeat(60);
        for (encoding, compressed) in [
            (Encoding::Gzip, gzip(&message)),
            (Encoding::Deflate, zlib(&message)),
        ] {
            let whole = inflated(encoding, &compressed, message.len());
            assert_eq!(whole.as_deref(), Ok(&message[..]));
            let told = inflated(encoding, &compressed, message.len() - 1).unwrap_err();
            let bytes = compressed.len();
            assert!(
                told.starts_with(&format!(
                    "message of {bytes} compressed bytes: decodes to more than 1019"
                )),
                "{told}"
            );
            assert!(told.contains("raise max_message_bytes"), "{told}");
        }
    }

    #[test]
    fn a_bomb_costs_no_more_memory_than_the_bound_allows() {
        // A thousandth of what it stands for, and that twice over.
        let bomb = gzip(&vec![0; 64 << 20]);
        assert!(bomb.len() < 100 << 10, "{} bytes", bomb.len());
        let told = inflated(Encoding::Gzip, &bomb, 1 << 10).unwrap_err();
        assert!(told.contains("more than 1024"), "{told}");
        let members = [&bomb[..], &bomb[..]].concat();
        assert!(inflated(Encoding::Gzip, &members, 1 << 10).is_err());
        let mut looked_at = Counting(0);
        let stands_for = Read::by_ref(&mut looked_at);
        assert!(read(stands_for, 10, 1 << 10).is_err());
        assert_eq!(looked_at.0, (1 << 10) + 1, "bytes that were decoded");
    }

    /// Zeros without end, and how many were taken.
    struct Counting(usize);

    impl Read for Counting {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            into.fill(0);
            self.0 += into.len();
            Ok(into.len())
        }
    }

    #[test]
    fn what_is_not_compressed_as_it_says_is_told_so() {
        let mut cut = gzip(b"a message that is longer than its half");
        cut.truncate(cut.len() / 2);
        for (encoding, bytes) in [
            (Encoding::Gzip, &cut[..]),
            (Encoding::Gzip, b"plain"),
            (Encoding::Gzip, b""),
            (Encoding::Deflate, &gzip(b"another's")),
            (Encoding::Gzip, &[&gzip(b"x")[..], b"more"].concat()),
        ] {
            let told = inflated(encoding, bytes, 1 << 10).unwrap_err();
            assert!(told.contains("must be what grpc-encoding says"), "{told}");
        }
    }

    #[test]
    fn an_encoding_that_nobody_knows_is_nobodys_to_read() {
        for said in ["snappy", "identity", "gzip,deflate", ""] {
            let headers = HeaderMap::from_iter([(
                http::HeaderName::from_static(GRPC_ENCODING),
                said.parse().expect("a header value"),
            )]);
            assert_eq!(Encoding::of(&headers), Encoding::Other, "{said}");
        }
        assert!(Encoding::Other.inflate(b"x", 10).is_none());
    }
}
