//! The name of a subtree.

use core::fmt;

use crate::fault::BadName;
use crate::narrow::{u32_to_u8, usize_to_u32};

/// The name of a subtree, as the root page has it.
///
/// # Examples
/// ```
/// use heirloom_kho::Name;
/// let name = Name::new("guest-memory")?;
/// assert_eq!(name.as_str(), "guest-memory");
/// assert!(Name::new("no spaces").is_err());
/// # Ok::<(), heirloom_kho::BadName>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    /// Printable ASCII, then zeroes.
    bytes: [u8; Self::READ_MAX],
    length: u8,
}

impl Name {
    /// The longest name that [`Name::new`] takes, in bytes: the Devicetree Specification's limit.
    pub const MAX: usize = BadName::MAX;

    /// The longest name read from a predecessor, in bytes. Linux's tree code has no limit.
    pub const READ_MAX: usize = 39;

    /// Checks `name` as a subtree's name: letters, digits and `,._+-`.
    ///
    /// `@` is refused: a device tree reader that looks for `a` takes `a@b` for it.
    ///
    /// # Errors
    /// [`BadName`] if it is empty, longer than [`Name::MAX`], or has another character.
    pub const fn new(name: &str) -> Result<Self, BadName> {
        let from = name.as_bytes();
        if from.is_empty() || from.len() > Self::MAX {
            return Err(BadName { length: from.len(), at: None });
        }
        let mut bytes = [0; Self::READ_MAX];
        let mut i = 0;
        while i < from.len() {
            let byte = from[i];
            if !(byte.is_ascii_alphanumeric() || matches!(byte, b',' | b'.' | b'_' | b'+' | b'-')) {
                return Err(BadName { length: from.len(), at: Some(i) });
            }
            bytes[i] = byte;
            i += 1;
        }
        Ok(Self { bytes, length: u32_to_u8(usize_to_u32(from.len())) })
    }

    /// Returns the name that `bytes` spell until the first zero, if a predecessor may have written
    /// it: printable, no blanks, no `/`, at most [`Name::READ_MAX`] bytes.
    pub(crate) fn read(from: impl Iterator<Item = u8>) -> Option<Self> {
        let mut bytes = [0; Self::READ_MAX];
        for (length, byte) in from.enumerate() {
            if byte == 0 {
                return (length > 0)
                    .then_some(Self { bytes, length: u32_to_u8(usize_to_u32(length)) });
            }
            if !byte.is_ascii_graphic() || byte == b'/' {
                return None;
            }
            *bytes.get_mut(length)? = byte;
        }
        None
    }

    /// Returns the name as text.
    pub fn as_str(&self) -> &str {
        core::str::from_utf8(self.as_bytes()).unwrap_or("")
    }

    /// Returns the name's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.length)).unwrap_or(&[])
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_rules_of_tree_nodes() {
        for good in ["a", "LUO", "kho_test", "kexec-metadata", "a,b.c+d", "heirloom"] {
            assert_eq!(Name::new(good).unwrap().as_str(), good);
        }
        let long = "abcdefghijklmnopqrstuvwxyz012345";
        assert_eq!(Name::new(long), Err(BadName { length: 32, at: None }));
        assert!(Name::new(&long[..31]).is_ok());
        assert_eq!(Name::new(""), Err(BadName { length: 0, at: None }));
        for (bad, at) in [("a b", 1), ("/", 0), ("cpu@0", 3), ("nul\0", 3), ("\u{e4}", 0)] {
            let length = bad.len();
            assert_eq!(Name::new(bad), Err(BadName { length, at: Some(at) }));
        }
    }

    #[test]
    fn a_read_name_ends_within_its_bytes() {
        let read = |b: &[u8]| Name::read(b.iter().copied());
        assert_eq!(read(b"memory@10\0x").unwrap().as_str(), "memory@10");
        assert_eq!(read(b"open"), None);
        assert_eq!(read(b"\0"), None);
        assert_eq!(read(b"a b\0"), None);
        let mut long = [b'x'; Name::READ_MAX + 2];
        long[Name::READ_MAX + 1] = 0;
        assert_eq!(read(&long), None);
        assert_eq!(read(&long[1..]).map(|n| n.as_bytes().len()), Some(Name::READ_MAX));
    }
}
