//! From what firmware says to what [`Heirloom::boot`](heirloom_restore::Heirloom::boot) takes: whole frames of memory, in order,
//! without holes, without what must not be handed out.
//!
//! ```text
//!   regions:   RAM ──────────────┐ ┌──── RAM ────┐  hole  ┌───── RAM
//!              low │ image │ module  reserved
//!   Map:           └┬┘     └─────┘   └──────────┘         └─────
//!                 scratch
//! ```

use heirloom_folio::NodeId;
use heirloom_kho::narrow::usize_to_u64;
use heirloom_kho::{PAGE_SIZE, Pfn, PhysAddr, Run};
use heirloom_restore::MemoryMap;

use crate::error::{Error, Fault, Structure};
use crate::fit;
use crate::region::{MemoryType, Region};

/// What the low memory of a PC ends with: firmware, the start of other CPUs, frame 0, which no pointer
/// that is not null leads to.
const LOW: u64 = 1 << 20;

/// What Linux wants the ends of its scratch areas to be multiples of, in bytes: the largest block of its
/// page allocator.
pub const LINUX_SCRATCH_ALIGN: u64 = 4 << 20;

/// The most frames that there can be: physical addresses have 52 bits.
const FRAMES: u64 = (1 << 52) / usize_to_u64(PAGE_SIZE);

/// The memory that a kernel may hand to heirloom: up to `N` ranges, by address, each of whole frames.
///
/// First all memory is added, then what is none is removed, whatever order firmware lists them in and however
/// they overlap.
///
/// # Examples
/// ```
/// use heirloom_kho::{PhysAddr, Run};
/// use heirloom_x86::map::{LINUX_SCRATCH_ALIGN, Map};
/// use heirloom_x86::{MemoryType, Region};
///
/// let firmware = [
///     Region::new(0, 0x9_fc00, MemoryType::RAM),
///     Region::new(1 << 20, 127 << 20, MemoryType::RAM),
///     Region::new(0x7fe_0000, 0x2_0000, MemoryType::RESERVED),
/// ];
/// let mut map = Map::<8>::new();
/// firmware.iter().try_for_each(|region| map.add_memory(*region))?;
/// firmware.iter().try_for_each(|region| map.remove_other(*region))?;
/// map.remove_low()?;
/// let image = Run::covering(PhysAddr::new(0x20_0000), 0x10_0000).unwrap();
/// map.remove(image)?;
/// assert_eq!(map.ranges().len(), 2);
///
/// // Two areas for images and metadata, where Linux may follow.
/// let first = map.place(16 << 20, LINUX_SCRATCH_ALIGN, PhysAddr::new(4 << 30), &[])?;
/// let second = map.place(16 << 20, LINUX_SCRATCH_ALIGN, PhysAddr::new(4 << 30), &[first])?;
/// assert_eq!((first.addr().get(), second.addr().get()), (4 << 20, 20 << 20));
/// # Ok::<(), heirloom_x86::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Map<const N: usize> {
    ranges: [(Run, NodeId); N],
    count: usize,
}

impl<const N: usize> Default for Map<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const N: usize> Map<N> {
    /// Returns a map of no memory.
    pub const fn new() -> Self {
        Self { ranges: [(NONE, NodeId(0)); N], count: 0 }
    }

    /// The ranges, by address.
    pub fn ranges(&self) -> MemoryMap<'_> {
        self.ranges.get(..self.count).unwrap_or(&[])
    }

    /// Adds the whole frames of a region that is RAM; does nothing with any other. All of it is of node 0.
    ///
    /// # Errors
    /// [`Fault::TooMany`]: more ranges than there is room for.
    pub fn add_memory(&mut self, region: Region) -> Result<(), Error> {
        if region.kind != MemoryType::RAM {
            return Ok(());
        }
        let page = usize_to_u64(PAGE_SIZE);
        let start = region.addr.get().div_ceil(page).min(FRAMES);
        let end = (region.end().get() / page).min(FRAMES);
        let Some(mut run) = Run::between(Pfn::new(start), Pfn::new(end.max(start))) else {
            return Ok(());
        };
        if run.is_empty() {
            return Ok(());
        }
        // Those that it meets or touches become part of it.
        let mut at = 0;
        while let Some((there, _)) = self.ranges().get(at).copied() {
            if there.end() < run.start() {
                at += 1;
            } else if there.start() <= run.end() {
                let (start, end) = (there.start().min(run.start()), there.end().max(run.end()));
                run = Run::between(start, end).unwrap_or(run);
                self.take_out(at);
            } else {
                break;
            }
        }
        self.put_in(at, run)
    }

    /// Removes every frame of which a part lies in a region that is not RAM; does nothing with RAM.
    ///
    /// # Errors
    /// [`Fault::TooMany`], as a range becomes two.
    pub fn remove_other(&mut self, region: Region) -> Result<(), Error> {
        if region.kind == MemoryType::RAM || region.bytes == 0 {
            return Ok(());
        }
        let page = usize_to_u64(PAGE_SIZE);
        let start = (region.addr.get() / page).min(FRAMES);
        let end = region.end().get().div_ceil(page).min(FRAMES);
        let run = Run::between(Pfn::new(start), Pfn::new(end.max(start)));
        run.map_or(Ok(()), |run| self.remove(run))
    }

    /// Removes the first MiB, which is not handed out on a PC: firmware uses it, other CPUs start there, and no
    /// pointer in an identity map leads to frame 0.
    ///
    /// # Errors
    /// None in effect: what is removed begins where memory does.
    pub fn remove_low(&mut self) -> Result<(), Error> {
        self.remove_other(Region::new(0, LOW, MemoryType::RESERVED))
    }

    /// Removes what must not be handed out: the running image, a module. Scratch stays: it is part of the
    /// map.
    ///
    /// # Errors
    /// [`Fault::TooMany`], as a range becomes two. Nothing is removed then.
    pub fn remove(&mut self, run: Run) -> Result<(), Error> {
        if run.is_empty() {
            return Ok(());
        }
        let mut at = 0;
        while let Some((there, _)) = self.ranges().get(at).copied() {
            if !there.overlaps(run) {
                at += 1;
                continue;
            }
            let before = Run::between(there.start(), run.start()).filter(|run| !run.is_empty());
            let after = Run::between(run.end(), there.end()).filter(|run| !run.is_empty());
            if before.is_some() && after.is_some() && self.count == N {
                return Err(full::<N>());
            }
            self.take_out(at);
            for left in [before, after].into_iter().flatten() {
                self.put_in(at, left)?;
                at += 1;
            }
        }
        Ok(())
    }

    /// Returns the lowest place for a scratch area of `bytes` bytes, below `limit`, that starts at a multiple of `align` bytes,
    /// both rounded up to whole pages, and shares nothing with `taken`. Changes nothing.
    ///
    /// Where Linux may follow, areas start and end at multiples of [`LINUX_SCRATCH_ALIGN`], are tens of MiB, and
    /// one of them lies below 4 GiB.
    ///
    /// # Errors
    /// [`Fault::NoRoom`].
    pub fn place(
        &self,
        bytes: u64,
        align: u64,
        limit: PhysAddr,
        taken: &[Run],
    ) -> Result<Run, Error> {
        let (frames, align) = (fit::frames(bytes), fit::frames(align));
        let limit = limit.pfn();
        let mut places = self.ranges().iter().filter_map(|(range, _)| {
            fit::lowest(*range, frames, align, limit, &taken.iter().copied())
        });
        let none = Fault::NoRoom { needed: bytes };
        places.next().ok_or(none.of(Structure::Map, PhysAddr::new(0), 0))
    }

    /// Frames in all.
    pub fn frames(&self) -> u64 {
        self.ranges().iter().map(|(range, _)| range.frames()).sum()
    }

    fn take_out(&mut self, at: usize) {
        if let Some(rest) = self.ranges.get_mut(at..self.count)
            && !rest.is_empty()
        {
            rest.rotate_left(1);
            self.count -= 1;
        }
    }

    fn put_in(&mut self, at: usize, run: Run) -> Result<(), Error> {
        let rest = self.ranges.get_mut(at..=self.count).ok_or(full::<N>())?;
        rest.rotate_right(1);
        if let Some(first) = rest.first_mut() {
            *first = (run, NodeId(0));
        }
        self.count += 1;
        Ok(())
    }
}

/// No frames.
const NONE: Run = match Run::new(Pfn::new(0), 0) {
    Some(run) => run,
    None => panic!("no frames are a run"),
};

const fn full<const N: usize>() -> Error {
    Fault::TooMany { limit: N }.of(Structure::Map, PhysAddr::new(0), 0)
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;

    const PAGE: u64 = PAGE_SIZE as u64;
    /// What regions of the small world start and end at: an eighth of a frame.
    const PART: u64 = PAGE / 8;

    fn run(start: u64, frames: u64) -> Run {
        Run::new(Pfn::new(start), frames).unwrap()
    }

    fn ram(start: u64, frames: u64) -> Region {
        Region::new(start * PAGE, frames * PAGE, MemoryType::RAM)
    }

    fn reserved(addr: u64, bytes: u64) -> Region {
        Region::new(addr, bytes, MemoryType::RESERVED)
    }

    fn runs<const N: usize>(map: &Map<N>) -> Vec<Run> {
        map.ranges().iter().map(|(run, _)| *run).collect()
    }

    #[test]
    fn memory_is_rounded_inward_and_all_else_outward() {
        let mut map = Map::<4>::new();
        map.add_memory(Region::new(PAGE + 1, 4 * PAGE, MemoryType::RAM)).unwrap();
        assert_eq!(runs(&map), [run(2, 3)]);
        map.remove_other(reserved(3 * PAGE + 5, 1)).unwrap();
        assert_eq!(runs(&map), [run(2, 1), run(4, 1)]);
        map.add_memory(Region::new(9 * PAGE + 1, PAGE, MemoryType::RAM)).unwrap();
        map.add_memory(Region::new(9 * PAGE, 0, MemoryType::RAM)).unwrap();
        map.remove_other(reserved(4 * PAGE, 0)).unwrap();
        assert_eq!(map.frames(), 2);
    }

    #[test]
    fn regions_that_touch_or_overlap_are_one_range() {
        let mut map = Map::<3>::new();
        for region in [ram(10, 5), ram(30, 5), ram(20, 5), ram(15, 5), ram(22, 20), ram(12, 1)] {
            map.add_memory(region).unwrap();
        }
        assert_eq!(runs(&map), [run(10, 32)]);
    }

    #[test]
    fn a_map_without_room_says_so_and_stays() {
        let mut map = Map::<2>::new();
        map.add_memory(ram(10, 10)).unwrap();
        map.add_memory(ram(30, 10)).unwrap();
        let full = Err(Fault::TooMany { limit: 2 });
        assert_eq!(map.add_memory(ram(50, 1)).map_err(|e| e.fault), full);
        assert_eq!(map.remove(run(12, 1)).map_err(|e| e.fault), full);
        assert_eq!(runs(&map), [run(10, 10), run(30, 10)]);
        map.add_memory(ram(20, 10)).unwrap();
        map.remove(run(12, 1)).unwrap();
        assert_eq!(runs(&map), [run(10, 2), run(13, 27)]);
        map.remove(run(0, 1 << 30)).unwrap();
        assert_eq!(runs(&map), []);
    }

    #[test]
    fn what_ends_nowhere_ends_with_the_address_space() {
        let mut map = Map::<2>::new();
        map.add_memory(Region::new(1 << 40, u64::MAX, MemoryType::RAM)).unwrap();
        assert_eq!(map.ranges()[0].0.end(), Pfn::new(FRAMES));
        map.remove_other(reserved(1 << 41, u64::MAX)).unwrap();
        let (start, end) = (Pfn::new((1 << 40) / PAGE), Pfn::new((1 << 41) / PAGE));
        assert_eq!(runs(&map), [Run::between(start, end).unwrap()]);
    }

    /// Each frame of a small world is in the map if a region of RAM has all of it, and one that is not RAM no part.
    #[test]
    fn a_map_is_what_its_regions_say_of_each_frame() {
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let mut next = |below: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % below
        };
        for _ in 0..2000 {
            let regions: Vec<_> = (0..next(9))
                .map(|_| {
                    let kind = if next(3) == 0 { MemoryType::NVS } else { MemoryType::RAM };
                    Region::new(next(320) * PART, next(96) * PART, kind)
                })
                .collect();
            let mut map = Map::<32>::new();
            regions.iter().try_for_each(|region| map.add_memory(*region)).unwrap();
            regions.iter().try_for_each(|region| map.remove_other(*region)).unwrap();
            for frame in 0..64_u64 {
                let (start, end) = (frame * PAGE, (frame + 1) * PAGE);
                let whole = |r: &Region| r.addr.get() <= start && end <= r.end().get();
                let meets = |r: &Region| {
                    let part = |byte| r.addr.get() <= byte && byte < r.end().get();
                    (start..end).step_by(PART as usize).any(part)
                };
                let is = |r: &&Region| r.kind == MemoryType::RAM;
                let expected = regions.iter().filter(is).any(whole)
                    && !regions.iter().any(|r| !is(&r) && meets(r));
                let there = map.ranges().iter().any(|(run, _)| run.contains(Pfn::new(frame)));
                assert_eq!(there, expected, "{frame} of {regions:?}");
            }
            let sorted = map.ranges().windows(2).all(|pair| pair[0].0.end() < pair[1].0.start());
            assert!(sorted, "{map:?}");
        }
    }

    #[test]
    fn scratch_lies_within_one_range() {
        let mut map = Map::<4>::new();
        map.add_memory(ram(256, 1024)).unwrap();
        map.add_memory(ram(4096, 4096)).unwrap();
        let far = PhysAddr::new(u64::MAX);
        let place = |bytes, align, limit, taken: &[Run]| map.place(bytes, align, limit, taken).ok();
        assert_eq!(place(PAGE, PAGE, far, &[]), Some(run(256, 1)));
        assert_eq!(place(1025 * PAGE, PAGE, far, &[]), Some(run(4096, 1025)));
        assert_eq!(place(1024 * PAGE, LINUX_SCRATCH_ALIGN, far, &[]), Some(run(4096, 1024)));
        assert_eq!(place(1024 * PAGE, 1, far, &[run(300, 1)]), Some(run(4096, 1024)));
        assert_eq!(place(1025 * PAGE, 1, PhysAddr::new(16 << 20), &[]), None);
    }
}
