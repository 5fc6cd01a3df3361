//! The descriptors that go along with the memory.
//!
//! ```text
//! HEIRLOOM_FDS=v1 listen=5 client=6 client=9
//! ```

use core::fmt;
use std::io;
use std::os::fd::{BorrowedFd, RawFd};

use super::error::JumpError;
use super::letter::number;
use super::names::{PASSED, VERSION};

/// The most bytes of a name.
const MAX_NAME: usize = 64;

/// Returns whether a descriptor can have this name: it is one word of the variable, and no part of its syntax.
fn is_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
    (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(allowed)
}

/// Refuses a name that no descriptor can have.
pub(super) fn check_name(name: &str) -> io::Result<()> {
    if is_name(name) {
        return Ok(());
    }
    let text = format!(
        "a descriptor's name has 1 to {MAX_NAME} letters, digits or `-_.:`; this one is {name:?}"
    );
    Err(io::Error::new(io::ErrorKind::InvalidInput, text))
}

/// The variable's value.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Passed(pub(super) Vec<(String, RawFd)>);

impl fmt::Display for Passed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(VERSION)?;
        self.0.iter().try_for_each(|(name, fd)| write!(f, " {name}={fd}"))
    }
}

impl Passed {
    /// Returns what the predecessor passed on beside `memory`: descriptors that are open, no two the same.
    pub(super) fn from_env(memory: RawFd) -> Result<Self, JumpError> {
        let Some(text) = std::env::var_os(PASSED) else { return Ok(Self::default()) };
        let mut passed = Self::parse(text.to_str().ok_or(JumpError::NotText)?, memory)?;
        // What came between, a wrapper say, may have closed one: the memory and the others are there all the same.
        passed.0.retain(|&(_, fd)| {
            // SAFETY: the number is not -1 (`parse`), and nothing closes it (contract of the caller's
            // caller). If it is not open, the call says so.
            rustix::io::fcntl_getfd(unsafe { BorrowedFd::borrow_raw(fd) }).is_ok()
        });
        Ok(passed)
    }

    /// Reads what `Display` writes, and nothing else.
    fn parse(text: &str, memory: RawFd) -> Result<Self, JumpError> {
        let mut words = text.split(' ');
        if words.next() != Some(VERSION) {
            return Err(JumpError::Version);
        }
        let malformed = JumpError::Malformed { field: PASSED };
        let mut passed = Vec::new();
        for word in words {
            let (name, fd) = word.split_once('=').ok_or(malformed)?;
            // The standard three are never passed so.
            let fd = number(fd, 10).and_then(|fd| RawFd::try_from(fd).ok()).filter(|&fd| fd > 2);
            if !is_name(name) {
                return Err(malformed);
            }
            passed.push((name.to_owned(), fd.ok_or(malformed)?));
        }
        // One number twice would be closed twice.
        let mut numbers: Vec<_> = passed.iter().map(|(_, fd)| *fd).chain([memory]).collect();
        numbers.sort_unstable();
        if numbers.windows(2).any(|pair| pair.first() == pair.last()) {
            return Err(malformed);
        }
        Ok(Self(passed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let passed = [("listen", 5), ("client", 9), ("client", 6), ("a-b_c.d:8", RawFd::MAX)];
        let passed = Passed(passed.map(|(name, fd)| (name.to_owned(), fd)).to_vec());
        let text = "v1 listen=5 client=9 client=6 a-b_c.d:8=2147483647";
        assert_eq!(passed.to_string(), text);
        assert_eq!(Passed::parse(text, 7), Ok(passed));
        assert_eq!(Passed::parse("v1", 7), Ok(Passed::default()));
    }

    #[test]
    fn nothing_else_is_read() {
        let malformed = JumpError::Malformed { field: PASSED };
        for (text, error) in [
            ("", JumpError::Version),
            ("v2 listen=5", JumpError::Version),
            ("v1 ", malformed),
            ("v1 listen", malformed),
            ("v1 =5", malformed),
            ("v1 listen=", malformed),
            ("v1 listen=+5", malformed),
            ("v1 listen=-1", malformed),
            ("v1 listen=2", malformed),
            ("v1 listen=2147483648", malformed),
            ("v1 li/sten=5", malformed),
            ("v1 listen=5 client=5", malformed),
            ("v1 listen=7", malformed),
            ("v1 listen=5  client=6", malformed),
        ] {
            assert_eq!(Passed::parse(text, 7), Err(error), "{text:?}");
        }
        assert!(Passed::parse(&format!("v1 {}=5", "n".repeat(MAX_NAME)), 7).is_ok());
        assert!(Passed::parse(&format!("v1 {}=5", "n".repeat(MAX_NAME + 1)), 7).is_err());
    }
}
