//! The value of the variable that says where the memory is, and where to begin in it.

use core::fmt;
use std::os::fd::RawFd;

use heirloom_kho::PhysAddr;
use heirloom_restore::Entry;

use super::error::JumpError;
use super::names::VERSION;

/// The variable's value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Letter {
    pub(super) fd: RawFd,
    pub(super) entry: Entry,
}

impl fmt::Display for Letter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { fd, entry: Entry { root, scratch, scratch_bytes } } = self;
        write!(f, "{VERSION} fd={fd} root={root} scratch={scratch}+{scratch_bytes:#x}")
    }
}

impl Letter {
    /// Reads what `Display` writes, and nothing else.
    pub(super) fn parse(text: &str) -> Result<Self, JumpError> {
        let mut words = text.split(' ');
        if words.next() != Some(VERSION) {
            return Err(JumpError::Version);
        }
        let mut field = |field, prefix| {
            let value = words.next().and_then(|word| word.strip_prefix(prefix));
            value.ok_or(JumpError::Missing { field })
        };
        let (fd, root, scratch) =
            (field("fd", "fd=")?, field("root", "root=")?, field("scratch", "scratch=")?);
        if words.next().is_some() {
            return Err(JumpError::Trailing);
        }
        // The standard three are never an arena's (`Arena::share`).
        let fd = number(fd, 10).and_then(|fd| RawFd::try_from(fd).ok()).filter(|&fd| fd > 2);
        let fd = fd.ok_or(JumpError::Malformed { field: "fd" })?;
        let root = hex(root).ok_or(JumpError::Malformed { field: "root" })?;
        let scratch = scratch.split_once('+').and_then(|(at, len)| Some((hex(at)?, hex(len)?)));
        let (scratch, scratch_bytes) = scratch.ok_or(JumpError::Malformed { field: "scratch" })?;
        let (root, scratch) = (PhysAddr::new(root), PhysAddr::new(scratch));
        Ok(Self { fd, entry: Entry { root, scratch, scratch_bytes } })
    }
}

fn hex(text: &str) -> Option<u64> {
    number(text.strip_prefix("0x")?, 16)
}

/// Digits alone; the standard library would let a sign pass.
pub(super) fn number(text: &str, radix: u32) -> Option<u64> {
    if !text.chars().all(|c| c.is_digit(radix)) {
        return None;
    }
    u64::from_str_radix(text, radix).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter() -> Letter {
        let (root, scratch) = (PhysAddr::new(0x1_0000_1000), PhysAddr::new(0x1_0000_2000));
        Letter { fd: 7, entry: Entry { root, scratch, scratch_bytes: 32 } }
    }

    #[test]
    fn what_is_written_is_read() {
        let text = "v1 fd=7 root=0x100001000 scratch=0x100002000+0x20";
        assert_eq!(letter().to_string(), text);
        assert_eq!(Letter::parse(text), Ok(letter()));
        let top = PhysAddr::new(u64::MAX);
        let entry = Entry { root: top, scratch: top, scratch_bytes: u64::MAX };
        let most = Letter { fd: RawFd::MAX, entry };
        assert_eq!(Letter::parse(&most.to_string()), Ok(most));
    }

    #[test]
    fn errors_name_the_field() {
        let (missing, malformed) = (
            |field| Err(JumpError::Missing { field }),
            |field| Err(JumpError::Malformed { field }),
        );
        for (text, error) in [
            ("", Err(JumpError::Version)),
            ("v2 fd=7 root=0x1000 scratch=0x2000+0x20", Err(JumpError::Version)),
            ("v1", missing("fd")),
            ("v1  fd=7 root=0x1000 scratch=0x2000+0x20", missing("fd")),
            ("v1 root=0x1000 fd=7 scratch=0x2000+0x20", missing("fd")),
            ("v1 fd=7 scratch=0x2000+0x20", missing("root")),
            ("v1 fd=7 root=0x1000", missing("scratch")),
            ("v1 fd=7 root=0x1000 scratch=0x2000+0x20 ", Err(JumpError::Trailing)),
            ("v1 fd= root=0x1000 scratch=0x2000+0x20", malformed("fd")),
            ("v1 fd=2 root=0x1000 scratch=0x2000+0x20", malformed("fd")),
            ("v1 fd=-1 root=0x1000 scratch=0x2000+0x20", malformed("fd")),
            ("v1 fd=+7 root=0x1000 scratch=0x2000+0x20", malformed("fd")),
            ("v1 fd=2147483648 root=0x1000 scratch=0x2000+0x20", malformed("fd")),
            ("v1 fd=7 root=1000 scratch=0x2000+0x20", malformed("root")),
            ("v1 fd=7 root=0x+1 scratch=0x2000+0x20", malformed("root")),
            ("v1 fd=7 root=0x10000000000000000 scratch=0x2000+0x20", malformed("root")),
            ("v1 fd=7 root=0x1000 scratch=0x2000", malformed("scratch")),
            ("v1 fd=7 root=0x1000 scratch=0x2000+", malformed("scratch")),
            ("v1 fd=7 root=0x1000 scratch=0x2000+0x20+0x1", malformed("scratch")),
        ] {
            assert_eq!(Letter::parse(text), error, "{text:?}");
        }
    }
}
