//! Memory that is read before anything is known about it.

use heirloom_kho::PhysAddr;
use heirloom_kho::narrow::{u64_to_usize, usize_to_u64};
use zerocopy::{FromBytes, IntoBytes};

/// Physical memory as a reader of boot data sees it: copied, never referred to.
pub trait Source {
    /// Copies the bytes at `at` into `into`, all of them. Returns `false` if any of them cannot be read.
    fn read(&self, at: PhysAddr, into: &mut [u8]) -> bool;
}

/// Returns the value at `at`.
pub(crate) fn load<T: FromBytes + IntoBytes>(source: &impl Source, at: PhysAddr) -> Option<T> {
    let mut value = T::new_zeroed();
    source.read(at, value.as_mut_bytes()).then_some(value)
}

/// Returns the address `bytes` behind `at`.
pub(crate) fn behind(at: PhysAddr, bytes: u64) -> Option<PhysAddr> {
    at.get().checked_add(bytes).map(PhysAddr::new)
}

/// Bytes that stand at an address: an image of memory, or a part of one.
#[derive(Clone, Copy, Debug)]
pub struct Bytes<'a> {
    at: PhysAddr,
    bytes: &'a [u8],
}

impl<'a> Bytes<'a> {
    /// Returns memory in which `bytes` stand at `at`, and nothing else can be read.
    pub const fn new(at: PhysAddr, bytes: &'a [u8]) -> Self {
        Self { at, bytes }
    }
}

impl Source for Bytes<'_> {
    fn read(&self, at: PhysAddr, into: &mut [u8]) -> bool {
        let Some(start) = at.get().checked_sub(self.at.get()) else { return false };
        let there = self.bytes.get(u64_to_usize(start)..).and_then(|rest| rest.get(..into.len()));
        let Some(there) = there else { return false };
        into.copy_from_slice(there);
        true
    }
}

/// This machine's memory, mapped at its own addresses: how a kernel finds it that has just been
/// entered.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    end: u64,
}

impl Identity {
    /// Returns the memory from address 1 to `end`, exclusive. What starts at 0, which is no pointer, cannot be
    /// read.
    ///
    /// # Safety
    /// As long as the value lives, every address from 1 to `end` is mapped at itself and may be
    /// read, without an effect where there is no memory; nothing writes what is read.
    pub const unsafe fn new(end: PhysAddr) -> Self {
        Self { end: end.get() }
    }
}

impl Source for Identity {
    fn read(&self, at: PhysAddr, into: &mut [u8]) -> bool {
        let end = behind(at, usize_to_u64(into.len()));
        if at.get() == 0 || end.is_none_or(|end| end.get() > self.end) {
            return false;
        }
        let from = core::ptr::with_exposed_provenance::<u8>(u64_to_usize(at.get()));
        // SAFETY: `new` was promised that these addresses, which were just compared with its end, may be read,
        // and that nothing writes them; `into` is the caller's own.
        unsafe { core::ptr::copy(from, into.as_mut_ptr(), into.len()) };
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_read_whole_or_not_at_all() {
        let source = Bytes::new(PhysAddr::new(0x1000), b"abcdef");
        let mut into = [0; 3];
        assert!(source.read(PhysAddr::new(0x1003), &mut into));
        assert_eq!(&into, b"def");
        for at in [0xfff, 0x1004, 0x1006, 0, u64::MAX] {
            assert!(!source.read(PhysAddr::new(at), &mut into), "{at:#x}");
        }
        assert!(source.read(PhysAddr::new(0x1006), &mut []));
    }

    #[test]
    fn an_identity_map_ends_where_it_was_told() {
        let here = std::vec![7_u8; 8192];
        let at = here.as_ptr().expose_provenance() as u64;
        // SAFETY: nothing is read but `here`.
        let source = unsafe { Identity::new(PhysAddr::new(at + 8192)) };
        let mut into = [0; 8];
        assert!(source.read(PhysAddr::new(at + 8184), &mut into));
        assert_eq!(into, [7; 8]);
        assert!(!source.read(PhysAddr::new(at + 8185), &mut into));
        assert!(!source.read(PhysAddr::new(0), &mut into));
        assert!(!source.read(PhysAddr::new(u64::MAX), &mut into));
    }
}
