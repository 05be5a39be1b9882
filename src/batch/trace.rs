//! Whose span a batch, or a caller, has: the W3C's trace context, level 1, as
//! it stands in a `traceparent` header. PURE.

use std::fmt;

/// Bytes of a `traceparent` of version 00.
const LENGTH: usize = 55;
/// The bit of the flags that says that the span is recorded.
const SAMPLED: u8 = 1;

/// A span that is recorded, here or by whoever called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TraceContext {
    /// The trace; not 0.
    pub trace: u128,
    /// The span in it; not 0.
    pub span: u64,
}

impl TraceContext {
    /// Reads a `traceparent`; `None` if it is none, or if its span is not
    /// recorded: then nothing would be found at the other end.
    #[must_use]
    pub fn sampled(traceparent: &[u8]) -> Option<Self> {
        let (version, rest) = traceparent.split_at_checked(2)?;
        let is_first = version == b"00";
        // A later version may say more, behind a dash.
        let longer = traceparent.get(LENGTH);
        if version == b"ff" || is_first && longer.is_some() || longer.is_some_and(|c| *c != b'-') {
            return None;
        }
        hex(version)?;
        let field = |from: usize, length: usize| {
            let (dash, digits) = rest.get(from..from + 1 + length)?.split_first()?;
            if *dash == b'-' { hex(digits) } else { None }
        };
        let (trace, span, flags) = (field(0, 32)?, field(33, 16)?, field(50, 2)?);
        let sampled = u8::try_from(flags).ok()? & SAMPLED != 0;
        let span = u64::try_from(span).ok()?;
        (sampled && trace != 0 && span != 0).then_some(Self { trace, span })
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            to,
            "00-{:032x}-{:016x}-{SAMPLED:02x}",
            self.trace, self.span
        )
    }
}

/// Lower-case digits only, as the W3C has it.
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0_u128, |all, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(all << 4 | u128::from(value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPAN: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn read(traceparent: &str) -> Option<TraceContext> {
        TraceContext::sampled(traceparent.as_bytes())
    }

    #[test]
    fn a_traceparent_is_read_and_written_as_it_was() {
        let context = read(SPAN).expect("it is recorded");
        assert_eq!(context.span, 0xb7ad_6b71_6920_3331);
        assert_eq!(context.to_string(), SPAN);
        let flags = SPAN.replace("-01", "-03");
        assert_eq!(read(&flags), Some(context), "another flag beside it");
        let later = format!("{}-more", SPAN.replace("00-", "01-"));
        assert_eq!(read(&later), Some(context), "a later version");
    }

    #[test]
    fn what_is_no_recorded_span_is_no_context() {
        let all_zero = "0".repeat(32);
        for wrong in [
            String::new(),
            "00".to_owned(),
            SPAN.replace("-01", "-00"),
            SPAN.replace("-01", "-0"),
            SPAN.replace("00-", "ff-"),
            SPAN.replace("00-", "0-"),
            SPAN.replace("0af765", "0AF765"),
            SPAN.replace("0af765", "0ag765"),
            SPAN.replace("9c-b7", "9c_b7"),
            SPAN.replace("b7ad6b7169203331", &all_zero[..16]),
            SPAN.replace("0af7651916cd43dd8448eb211c80319c", &all_zero),
            format!("{SPAN}-more"),
            format!("{}x", SPAN.replace("00-", "01-")),
        ] {
            assert_eq!(read(&wrong), None, "{wrong:?}");
        }
    }
}
