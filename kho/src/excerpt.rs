//! The start of a text that a predecessor wrote, for an error that names it.

use core::fmt;

/// The start of a text that is not known: as much of it as an error has room for.
///
/// # Examples
/// ```
/// use heirloom_kho::Excerpt;
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

    /// Returns the first bytes of `text`.
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

    /// Returns the bytes that were kept.
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
