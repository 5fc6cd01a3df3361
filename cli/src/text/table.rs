//! Numbers and bars as a person reads them.

use std::fmt;

/// A number of bytes, in the largest unit that it has one of: `64 KiB`, `1.5 GiB`.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let unit = (bytes.checked_ilog2().unwrap_or(0) / 10) as usize;
    let name = UNITS.get(unit).copied().unwrap_or("EiB");
    let scale = 1_u64 << (unit * 10);
    let whole = bytes / scale;
    // Tenths, rounded down: no number is shown larger than it is.
    let tenths = (u128::from(bytes % scale) * 10 / u128::from(scale)) as u64;
    if bytes.is_multiple_of(scale) {
        format!("{whole} {name}")
    } else {
        format!("{whole}.{tenths} {name}")
    }
}

/// `1 folio`, `2 folios`.
pub(crate) fn plural(n: u64, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

/// A part of a whole, drawn.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bar {
    pub(crate) part: u64,
    pub(crate) whole: u64,
}

impl Bar {
    /// Characters of the longest.
    const WIDTH: u64 = 24;
}

impl fmt::Display for Bar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
        if self.part == 0 || self.whole == 0 {
            return Ok(());
        }
        let full = u128::from(Self::WIDTH * 8);
        let eighths = u128::from(self.part) * full / u128::from(self.whole);
        // What is there is seen.
        let eighths = eighths.clamp(1, full) as usize;
        for _ in 0..eighths / 8 {
            f.write_str("█")?;
        }
        f.write_str(EIGHTHS[eighths % 8])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_in_the_largest_unit() {
        let cases = [
            (0, "0 B"),
            (73, "73 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            ((1 << 20) - 1, "1023.9 KiB"),
            (604 << 10, "604 KiB"),
            (3 << 39, "1.5 TiB"),
            (u64::MAX, "15.9 EiB"),
        ];
        for (n, text) in cases {
            assert_eq!(bytes(n), text);
        }
    }

    #[test]
    fn a_bar_is_as_long_as_its_part() {
        let bar = |part, whole| Bar { part, whole }.to_string();
        assert_eq!(bar(0, 8), "");
        assert_eq!(bar(1, 1 << 40), "▏");
        assert_eq!(bar(1, 2), "█".repeat(12));
        assert_eq!(bar(7, 7), "█".repeat(24));
        assert_eq!(bar(7, 96), "█▊");
    }
}
