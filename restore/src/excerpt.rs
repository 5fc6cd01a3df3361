//! The start of a text that a predecessor wrote, for an error that names it.

use core::fmt;

use crate::error::Fault;

/// The start of a text that is not known: as much of it as an error has room for.
///
/// # Examples
/// ```
/// use heirloom_restore::Excerpt;
/// assert_eq!(Excerpt::of(b"kho-v4;radix-v1".iter().copied()).to_string(), "kho-v4;radix-v1");
/// let long = Excerpt::of([b'x'; 100].into_iter()).to_string();
/// assert_eq!(long, "x".repeat(Excerpt::MAX) + "…");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Excerpt {
    /// Zeroes behind the text.
    bytes: [u8; Self::MAX],
    length: u8,
}

impl Excerpt {
    /// Bytes that are kept.
    pub const MAX: usize = 38;
    /// The length of a text of which only the start was kept.
    const CUT: u8 = u8::MAX;

    /// The first bytes of `text`.
    pub fn of(text: impl Iterator<Item = u8>) -> Self {
        let (mut bytes, mut length) = ([0; Self::MAX], 0);
        for byte in text {
            match bytes.get_mut(usize::from(length)) {
                Some(place) => *place = byte,
                None => return Self { bytes, length: Self::CUT },
            }
            length += 1;
        }
        Self { bytes, length }
    }

    /// The bytes that were kept.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.length)).unwrap_or(&self.bytes)
    }
}

/// Printable ASCII as it is, every other byte by its number.
impl fmt::Display for Excerpt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_bytes().escape_ascii().fmt(f)?;
        if self.length == Self::CUT { f.write_str("…") } else { Ok(()) }
    }
}

impl fmt::Debug for Excerpt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// What is wrong with a `text` that is not `expected`: `family` with another number behind it is
/// another version, anything else a format of another make.
pub(crate) fn unknown<I: Iterator<Item = u8>>(
    text: impl Fn() -> I,
    family: &str,
    expected: &'static str,
) -> Fault {
    let found = version(text().skip(family.len()));
    let known = version(expected.bytes().skip(family.len()));
    match found.zip(known) {
        Some((found, known)) if text().take(family.len()).eq(family.bytes()) => {
            Fault::Version { found, known }
        }
        _ => Fault::Unknown { found: Excerpt::of(text()), expected },
    }
}

/// The number that `text` is, all of it.
fn version(mut text: impl Iterator<Item = u8>) -> Option<u32> {
    /// Digits of a version that is a number.
    const DIGITS: u32 = 9;
    let number = text.try_fold((0_u32, 0), |(number, digits), byte| {
        // A number starts with no zero.
        let fits = byte.is_ascii_digit() && digits < DIGITS && (digits > 0 || byte != b'0');
        fits.then(|| (number * 10 + u32::from(byte - b'0'), digits + 1))
    });
    number.filter(|(_, digits)| *digits > 0).map(|(number, _)| number)
}
