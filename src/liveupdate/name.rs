//! The name of a session, on which the two lives must agree.

use core::fmt;

use super::LiveUpdateError;

/// The name of a session: 1 to 63 bytes, none of them NUL.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionName {
    /// Zeroes behind the name: at least one.
    bytes: [u8; Self::BYTES],
}

impl SessionName {
    /// Bytes of a name in Linux's structures, with the NUL at its end.
    pub(super) const BYTES: usize = 64;

    /// Returns a name.
    ///
    /// # Errors
    /// [`LiveUpdateError::Name`]: empty, too long, or with a NUL byte.
    pub const fn new(name: &str) -> Result<Self, LiveUpdateError> {
        let length = name.len();
        let name = name.as_bytes();
        let refuse = LiveUpdateError::Name { bytes: length };
        if length == 0 || length >= Self::BYTES {
            return Err(refuse);
        }
        let mut bytes = [0; Self::BYTES];
        let mut i = 0;
        while i < length {
            if name[i] == 0 {
                return Err(refuse);
            }
            bytes[i] = name[i];
            i += 1;
        }
        Ok(Self { bytes })
    }

    /// Returns a name that is written in the program.
    ///
    /// # Panics
    /// If it is none; in a constant that is an error of the compiler.
    pub const fn literal(name: &'static str) -> Self {
        match Self::new(name) {
            Ok(name) => name,
            Err(_) => panic!("a session's name has 1 to 63 bytes, none of them NUL"),
        }
    }

    /// Returns the bytes as Linux takes them.
    pub(super) const fn bytes(&self) -> [u8; Self::BYTES] {
        self.bytes
    }

    /// Returns the name.
    pub fn as_str(&self) -> &str {
        let end = self.bytes.iter().position(|byte| *byte == 0).unwrap_or(Self::BYTES);
        // It was a `str` when it came in.
        core::str::from_utf8(&self.bytes[..end]).unwrap_or_default()
    }
}

impl TryFrom<&str> for SessionName {
    type Error = LiveUpdateError;

    fn try_from(name: &str) -> Result<Self, LiveUpdateError> {
        Self::new(name)
    }
}

impl fmt::Debug for SessionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SessionName").field(&self.as_str()).finish()
    }
}

impl fmt::Display for SessionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
