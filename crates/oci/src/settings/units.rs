//! Sizes and durations as operators and pod authors write them.
//! It must not know which key a value belongs to.

use std::time::Duration;

/// What is said of a text that is not a size.
pub(crate) const SIZE_FORM: &str = "a size above 0 such as 64Mi, 1Gi, 500M or plain bytes";
/// What is said of a text that is not a duration.
pub(crate) const DURATION_FORM: &str = "a duration above 0 such as 500ms, 30s, 2m or 1h";

/// Bytes of a whole number with a unit of Kubernetes quantities; zero is no size.
pub(crate) fn size(text: &str) -> Option<u64> {
    let (number, unit) = split(text)?;
    let factor: u64 = match unit {
        "" => 1,
        "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "T" => 1_000_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        _ => return None,
    };
    number.checked_mul(factor).filter(|bytes| *bytes > 0)
}

/// A whole number of milliseconds, seconds, minutes or hours; the unit is never left out, and zero is no duration.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = split(text)?;
    let factor_ms: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    let ms = number.checked_mul(factor_ms).filter(|ms| *ms > 0)?;
    Some(Duration::from_millis(ms))
}

fn split(text: &str) -> Option<(u64, &str)> {
    let end = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(end);
    Some((number.parse().ok()?, unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_take_units() {
        let cases = [
            ("1", Some(1)),
            ("64Mi", Some(64 << 20)),
            ("1Gi", Some(1 << 30)),
            ("500M", Some(500_000_000)),
            ("2k", Some(2_000)),
            ("0", None),
            ("", None),
            ("Mi", None),
            ("-1", None),
            ("1.5Gi", None),
            ("64 Mi", None),
            ("64mi", None),
            ("99999999999Ti", None),
            ("99999999999999999999", None),
        ];
        for (text, bytes) in cases {
            assert_eq!(size(text), bytes, "{text:?}");
        }
    }

    #[test]
    fn durations_need_units() {
        let cases = [
            ("500ms", Some(500)),
            ("30s", Some(30_000)),
            ("2m", Some(120_000)),
            ("1h", Some(3_600_000)),
            ("30", None),
            ("0s", None),
            ("s", None),
            ("1d", None),
        ];
        for (text, ms) in cases {
            assert_eq!(duration(text), ms.map(Duration::from_millis), "{text:?}");
        }
    }
}
