//! What the sidecar reads of a call's metadata: when its caller stops waiting.

use std::time::Duration;

use http::HeaderMap;

/// The header in which a caller says how long it will wait.
const GRPC_TIMEOUT: &str = "grpc-timeout";

/// The time the caller is ready to wait; `None` if it did not say, or said it
/// in no known way (gRPC: at most eight digits and a unit).
#[must_use]
pub fn deadline(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(GRPC_TIMEOUT)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let value: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(value * 3600),
        "M" => Duration::from_secs(value * 60),
        "S" => Duration::from_secs(value),
        "m" => Duration::from_millis(value),
        "u" => Duration::from_micros(value),
        "n" => Duration::from_nanos(value),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: &str) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        headers.insert(GRPC_TIMEOUT, value.parse().expect("a header value"));
        deadline(&headers)
    }

    #[test]
    fn every_unit_of_grpc_timeout_is_understood() {
        assert_eq!(read("2H"), Some(Duration::from_secs(7200)));
        assert_eq!(read("3M"), Some(Duration::from_secs(180)));
        assert_eq!(read("1S"), Some(Duration::from_secs(1)));
        assert_eq!(read("250m"), Some(Duration::from_millis(250)));
        assert_eq!(read("99999999u"), Some(Duration::from_micros(99_999_999)));
        assert_eq!(read("5n"), Some(Duration::from_nanos(5)));
    }

    #[test]
    fn what_is_no_timeout_is_no_deadline() {
        for value in ["", "S", "5", "123456789S", "-1S", "1 S", "1s"] {
            assert_eq!(read(value), None, "{value:?}");
        }
    }
}
