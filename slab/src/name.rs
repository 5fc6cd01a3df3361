//! The name of a cache: what it is known by across a jump.

use core::fmt;

/// A cache's name: 1 to 31 bytes of UTF-8 without a zero byte.
///
/// # Examples
/// ```
/// use heirloom_slab::Name;
/// assert_eq!(Name::new("inode").unwrap().as_str(), "inode");
/// assert!(Name::new("").is_none());
/// assert!(Name::new("a name of more than thirty-one bytes").is_none());
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    bytes: [u8; Self::BYTES],
}

impl Name {
    /// Bytes that a name takes where it is stored, zeroes behind it included.
    pub(crate) const BYTES: usize = 32;
    /// Bytes that a name can have.
    pub const MAX: usize = Self::BYTES - 1;

    /// Stands for buffers of whole frames in errors; no cache has it.
    pub(crate) const LARGE: Self = Self::truncated("(large buffer)");

    /// Returns the name, if it can be one.
    pub const fn new(name: &str) -> Option<Self> {
        let given = name.as_bytes();
        if given.is_empty() || given.len() > Self::MAX {
            return None;
        }
        let mut i = 0;
        while i < given.len() {
            if given[i] == 0 {
                return None;
            }
            i += 1;
        }
        Some(Self::truncated(name))
    }

    /// Returns the first bytes of `name`, for errors about what cannot be a name.
    pub(crate) const fn truncated(name: &str) -> Self {
        let given = name.as_bytes();
        let mut bytes = [0; Self::BYTES];
        let mut i = 0;
        while i < given.len() && i < Self::MAX {
            bytes[i] = given[i];
            i += 1;
        }
        Self { bytes }
    }

    /// Returns a name as it is stored; `None` if none is like this.
    pub(crate) fn from_bytes(bytes: [u8; Self::BYTES]) -> Option<Self> {
        let length = bytes.iter().position(|b| *b == 0)?;
        let (text, rest) = bytes.split_at_checked(length)?;
        let sound = rest.iter().all(|b| *b == 0) && core::str::from_utf8(text).is_ok();
        (sound && length > 0).then_some(Self { bytes })
    }

    /// Returns the name as it is stored: zeroes behind it.
    pub(crate) const fn to_bytes(self) -> [u8; Self::BYTES] {
        self.bytes
    }

    /// Returns the name.
    pub fn as_str(&self) -> &str {
        let text = self.bytes.split(|b| *b == 0).next().unwrap_or(&[]);
        text.utf8_chunks().next().map_or("", |chunk| chunk.valid())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_comes_back_from_its_bytes() {
        for name in ["x", "preserved-96", "thirty-one bytes are the limit.", "größe"] {
            let name = Name::new(name).unwrap();
            assert_eq!(Name::from_bytes(name.to_bytes()), Some(name));
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        assert_eq!(Name::new("a\0b"), None);
        assert_eq!(Name::from_bytes([0; 32]), None);
        assert_eq!(Name::from_bytes([b'a'; 32]), None);
        let mut late = [0; 32];
        (late[0], late[5]) = (b'a', b'b');
        assert_eq!(Name::from_bytes(late), None);
        let mut broken = [0; 32];
        broken[0] = 0xff;
        assert_eq!(Name::from_bytes(broken), None);
    }
}
