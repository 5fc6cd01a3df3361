//! Where to begin: the handover's entry, in the arena's first page.
//!
//! The environment of a process passes an entry through `exec`, but not through the end of the
//! kernel, nor to a process that a supervisor starts after a crash. So the memory can name its
//! own entry: a successor that finds the memory finds the handover.
//!
//! Two slots, each in a cache line of its own, right behind the memory map:
//!
//! ```text
//! 3968  slot 0     magic "hl-entry" · number u64 · root u64 · scratch u64 · scratch bytes u64
//! 4032  slot 1     · checksum u64: XXH3-64 of what is before it
//! ```
//!
//! Little-endian. A new entry goes to the slot that does not hold the latest, with the next
//! number; the latest is the sound one with the highest number. So one sound entry stays there
//! whatever instant the writer ends at, and a half-written one is told by its checksum.

use std::os::fd::BorrowedFd;

use heirloom_kho::{PAGE_SIZE, PhysAddr};
use heirloom_restore::Entry;
use xxhash_rust::xxh3::xxh3_64;
use zerocopy::byteorder::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::error::{MapFault, os};
use super::{ArenaError, forks, map};

/// Where the slots are in the file.
pub(super) const SLOTS: [u64; 2] = [3968, 4032];
const MAGIC: [u8; 8] = *b"hl-entry";

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Default)]
#[repr(C)]
struct Slot {
    magic: [u8; 8],
    number: U64,
    root: U64,
    scratch: U64,
    scratch_bytes: U64,
    checksum: U64,
}

const BYTES: u64 = size_of::<Slot>() as u64;

const _: () = {
    assert!(BYTES == 48 && core::mem::offset_of!(Slot, checksum) == 40);
    assert!(map::BYTES as u64 <= SLOTS[0] && SLOTS[0] + BYTES <= SLOTS[1]);
    assert!(SLOTS[1] + BYTES <= PAGE_SIZE as u64);
};

impl Slot {
    fn new(number: u64, entry: Entry) -> Self {
        let mut slot = Self {
            magic: MAGIC,
            number: number.into(),
            root: entry.root.get().into(),
            scratch: entry.scratch.get().into(),
            scratch_bytes: entry.scratch_bytes.into(),
            checksum: 0.into(),
        };
        slot.checksum = slot.sum().into();
        slot
    }

    fn sum(&self) -> u64 {
        xxh3_64(&self.as_bytes()[..core::mem::offset_of!(Self, checksum)])
    }

    fn is_sound(&self) -> bool {
        self.magic == MAGIC && self.checksum.get() == self.sum()
    }

    /// Returns whether nothing was ever written here.
    fn is_blank(&self) -> bool {
        self.as_bytes().iter().all(|byte| *byte == 0)
    }

    fn entry(&self) -> Entry {
        Entry {
            root: PhysAddr::new(self.root.get()),
            scratch: PhysAddr::new(self.scratch.get()),
            scratch_bytes: self.scratch_bytes.get(),
        }
    }
}

fn slots(fd: BorrowedFd<'_>) -> Result<[Slot; 2], ArenaError> {
    let mut slots = [Slot::default(); 2];
    for (slot, at) in slots.iter_mut().zip(SLOTS) {
        let read = rustix::io::pread(fd, slot.as_mut_bytes(), at).map_err(os("pread"))?;
        if read as u64 != BYTES {
            return Err(ArenaError::BadMap(MapFault::TooShort {
                found: at + read as u64,
                needed: at + BYTES,
            }));
        }
    }
    Ok(slots)
}

/// Returns which of the sound slots is the latest.
fn latest(slots: &[Slot; 2]) -> Option<usize> {
    (0..slots.len()).filter(|&i| slots[i].is_sound()).max_by_key(|&i| slots[i].number.get())
}

/// Writes `entry` beside the one that is there.
///
/// Writers of one process take turns: two at once could choose the same slot.
pub(super) fn write(fd: BorrowedFd<'_>, entry: Entry) -> Result<(), ArenaError> {
    forks::undivided(|_| {
        let slots = slots(fd)?;
        let latest = latest(&slots);
        let number = latest.map_or(0, |i| slots[i].number.get());
        let at = SLOTS[latest.map_or(0, |i| 1 - i)];
        // A number that cannot be exceeded was never counted up to: the file was forged.
        let next = number.checked_add(1);
        let next = next.ok_or(ArenaError::Entry { expected: 0, found: number })?;
        super::write_all(fd, Slot::new(next, entry).as_bytes(), at)
    })
}

/// Takes all entries out: as if none was ever written.
pub(super) fn erase(fd: BorrowedFd<'_>) -> Result<(), ArenaError> {
    forks::undivided(|_| {
        let slots = slots(fd)?;
        // The latest last: until it goes, it is the one that is found.
        let last = latest(&slots).unwrap_or_default();
        for at in [SLOTS[1 - last], SLOTS[last]] {
            super::write_all(fd, Slot::default().as_bytes(), at)?;
        }
        Ok(())
    })
}

/// Returns the latest entry; `None` where none was ever written.
pub(super) fn read(fd: BorrowedFd<'_>) -> Result<Option<Entry>, ArenaError> {
    let slots = slots(fd)?;
    if let Some(latest) = latest(&slots) {
        return Ok(Some(slots[latest].entry()));
    }
    match slots.iter().find(|slot| !slot.is_blank()) {
        None => Ok(None),
        Some(torn) => Err(ArenaError::Entry { expected: torn.sum(), found: torn.checksum.get() }),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use heirloom_folio::NodeId;

    use super::*;
    use crate::arena::{Arena, RangeSpec};

    fn arena() -> Arena {
        let start = PhysAddr::new(1 << 32);
        let spec = RangeSpec { start, bytes: 16 * PAGE_SIZE as u64, node: NodeId(0) };
        Arena::create("entry", &[spec]).unwrap()
    }

    fn entry(n: u64) -> Entry {
        let at = |page: u64| PhysAddr::new((1 << 32) + page * PAGE_SIZE as u64);
        Entry { root: at(n), scratch: at(n + 1), scratch_bytes: 16 * n }
    }

    #[test]
    fn the_latest_entry_is_found_by_whoever_has_the_memory() {
        let arena = arena();
        assert_eq!(arena.entry(), Ok(None));
        for n in 1..=5 {
            arena.leave(entry(n)).unwrap();
            let other = Arena::open(arena.share().unwrap()).unwrap();
            assert_eq!(other.entry(), Ok(Some(entry(n))));
        }
    }

    #[test]
    fn a_writer_that_ends_anywhere_leaves_the_old_entry_or_the_new() {
        let arena = arena();
        arena.leave(entry(1)).unwrap();
        arena.leave(entry(2)).unwrap();
        let (old, new) = (slots(arena.as_fd()).unwrap(), Slot::new(3, entry(3)));
        assert_eq!(latest(&old), Some(1));
        for written in 0..=size_of::<Slot>() {
            rustix::io::pwrite(&arena, old[0].as_bytes(), SLOTS[0]).unwrap();
            rustix::io::pwrite(&arena, &new.as_bytes()[..written], SLOTS[0]).unwrap();
            let expected = entry(if written == size_of::<Slot>() { 3 } else { 2 });
            assert_eq!(arena.entry(), Ok(Some(expected)), "{written} bytes");
        }
    }

    #[test]
    fn an_entry_that_is_erased_was_never_there() {
        let arena = arena();
        for n in 1..=3 {
            arena.leave(entry(n)).unwrap();
            erase(arena.as_fd()).unwrap();
            assert_eq!(arena.entry(), Ok(None));
        }
        arena.leave(entry(4)).unwrap();
        assert_eq!(arena.entry(), Ok(Some(entry(4))));
    }

    #[test]
    fn what_is_no_entry_is_said_to_be_none() {
        let arena = arena();
        rustix::io::pwrite(&arena, b"hl-entry", SLOTS[1]).unwrap();
        let slot = Slot { magic: MAGIC, ..Slot::default() };
        let error = ArenaError::Entry { expected: slot.sum(), found: 0 };
        assert_eq!(arena.entry(), Err(error));
        // Nothing sound is there to be kept, so a new entry is at home.
        arena.leave(entry(1)).unwrap();
        assert_eq!(arena.entry(), Ok(Some(entry(1))));
    }

    #[test]
    fn a_forged_number_is_not_counted_on() {
        let arena = arena();
        let forged = Slot::new(u64::MAX, entry(1));
        rustix::io::pwrite(&arena, forged.as_bytes(), SLOTS[0]).unwrap();
        assert_eq!(arena.leave(entry(2)), Err(ArenaError::Entry { expected: 0, found: u64::MAX }));
    }
}
