//! A slab and its header: the truth about its objects, at any instant.
//!
//! ```text
//! offset  bytes
//! 0       8   magic "hl-slab1"
//! 8       8   XXH3-64 of bytes 0..88 with these eight zero
//! 16      8   the slab's own physical address
//! 24      64  slab description: which cache, and how its objects lie (see below)
//! 88      8   owner         ┐
//! 96      16  links         │ this kernel's; a successor does not look at them
//! 112     8   entry         │
//! 120     4   free          │
//! 124     4   preserved     ┘
//! 128     n   one state byte an object
//! …       8 × ⌈n / 64⌉      free bits, this kernel's: 1 is free and in no magazine
//!
//! desc:   0   8   fingerprint of the objects' layout
//!         8   32  name of the cache, zeroes behind it
//!         40  4   bytes of an object
//!         44  4   alignment
//!         48  4   stride, bytes from one object to the next
//!         52  4   objects
//!         56  4   offset of the first object
//!         60  1   order of the slab
//!         61  1   flags: 1 preserving, 2 red zones
//!         62  2   zero
//! ```
//!
//! Little-endian. What the checksum covers never changes while the slab lives.

use core::ptr::NonNull;

use heirloom_folio::DirectMap;
use heirloom_kho::PageSize;
use heirloom_kho::narrow::{u32_to_usize, u64_to_usize, usize_to_u32};
use heirloom_kho::sync::Ordering::Relaxed;
use heirloom_kho::sync::{AtomicU8, AtomicU32, AtomicU64, written};
use heirloom_kho::{Block, PhysAddr};
use intrusive_collections::{LinkedListLink, UnsafeRef, intrusive_adapter};
use xxhash_rust::xxh3::xxh3_64;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use crate::error::SlabFault;
use crate::geometry::{Geometry, HEADER_BYTES, ObjectIndex};
use crate::magazine::Round;
use crate::name::Name;

const MAGIC: [u8; 8] = *b"hl-slab1";

/// Which cache a slab belongs to, and how its objects lie, as it is stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct SlabDesc {
    pub(crate) fingerprint: U64,
    name: [u8; Name::BYTES],
    size: U32,
    align: U32,
    stride: U32,
    objects: U32,
    offset: U32,
    order: u8,
    flags: u8,
    zero: [u8; 2],
}

const PRESERVING: u8 = 1;
const REDZONE: u8 = 2;

impl SlabDesc {
    pub(crate) fn new(name: Name, geometry: &Geometry, preserving: bool, fingerprint: u64) -> Self {
        let flags =
            if preserving { PRESERVING } else { 0 } | if geometry.redzone { REDZONE } else { 0 };
        Self {
            fingerprint: fingerprint.into(),
            name: name.to_bytes(),
            size: geometry.size.into(),
            align: geometry.align.into(),
            stride: geometry.stride.into(),
            objects: geometry.objects.into(),
            offset: geometry.offset.into(),
            order: geometry.order.get(),
            flags,
            zero: [0; 2],
        }
    }

    /// Returns whether this is the name.
    pub(crate) fn is_named(&self, name: &Name) -> bool {
        self.name == name.to_bytes()
    }

    /// Returns the name, if it is one.
    pub(crate) fn name(&self) -> Option<Name> {
        Name::from_bytes(self.name)
    }

    /// Returns the geometry, recomputed; `None` if no slab lies as the slab description says, which a kernel
    /// with pages of this size wrote.
    pub(crate) fn geometry(&self, page: PageSize) -> Option<Geometry> {
        let (size, align) = (u32_to_usize(self.size.get()), u32_to_usize(self.align.get()));
        let redzone = self.flags & REDZONE != 0;
        let geometry = Geometry::new(size, align, page.order_of(self.order)?, redzone)?;
        let name = self.name()?;
        let same = Self::new(name, &geometry, self.is_preserving(), self.fingerprint.get());
        // Orders are counted in its pages there.
        let same = Self { order: self.order, ..same } == *self;
        same.then_some(geometry)
    }

    pub(crate) const fn is_preserving(&self) -> bool {
        self.flags & PRESERVING != 0
    }
}

/// The part of a header that does not change.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct SlabHeaderDisk {
    magic: [u8; 8],
    checksum: U64,
    phys: U64,
    pub(crate) desc: SlabDesc,
}

const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<SlabDesc>() == 64 && size_of::<SlabHeaderDisk>() == 88);
    assert!(offset_of!(SlabDesc, size) == 40 && offset_of!(SlabDesc, order) == 60);
    assert!(offset_of!(SlabHeaderDisk, phys) == 16 && offset_of!(SlabHeaderDisk, desc) == 24);
    assert!(offset_of!(SlabHeader, owner) == 88 && size_of::<SlabHeader>() <= HEADER_BYTES);
};

impl SlabHeaderDisk {
    pub(crate) fn new(phys: PhysAddr, desc: SlabDesc) -> Self {
        let fixed = Self { magic: MAGIC, checksum: U64::ZERO, phys: phys.get().into(), desc };
        Self { checksum: fixed.sum().into(), ..fixed }
    }

    fn sum(&self) -> u64 {
        xxh3_64(Self { checksum: U64::ZERO, ..*self }.as_bytes())
    }

    /// Reads a header that is not trusted.
    pub(crate) fn read(words: &[AtomicU64]) -> Self {
        let mut fixed = Self::new_zeroed();
        for (bytes, word) in fixed.as_mut_bytes().chunks_exact_mut(8).zip(words) {
            bytes.copy_from_slice(&word.load(Relaxed).to_ne_bytes());
        }
        fixed
    }

    /// Checks that this is the header of a slab at `phys` of a cache of this `desc`.
    pub(crate) fn check(&self, phys: PhysAddr, desc: &SlabDesc) -> Result<(), SlabFault> {
        if self.magic != MAGIC {
            return Err(SlabFault::Magic { found: u64::from_le_bytes(self.magic) });
        }
        let (expected, found) = (self.sum(), self.checksum.get());
        if expected != found {
            return Err(SlabFault::Checksum { expected, found });
        }
        if self.phys.get() != phys.get() {
            return Err(SlabFault::Address { found: PhysAddr::new(self.phys.get()) });
        }
        if self.desc != *desc {
            return Err(SlabFault::Desc);
        }
        Ok(())
    }
}

/// A slab's header as it lies in memory.
#[repr(C)]
pub(crate) struct SlabHeader {
    pub(crate) fixed: SlabHeaderDisk,
    /// Which cache of which instance the slab belongs to; see [`crate::registry`].
    pub(crate) owner: AtomicU64,
    /// Where in its cache's lists it is. Under the cache's lock.
    link: LinkedListLink,
    /// The address of the slab's entry in the cache directory, or 0. Under the cache's lock. A successor takes it
    /// for a hint.
    pub(crate) entry: AtomicU64,
    /// Free bits that are set. Written under the cache's lock.
    pub(crate) free: AtomicU32,
    /// Objects that are [`Preserved`](crate::ObjectState::Preserved),
    /// [`Held`](crate::ObjectState::Held) or [`Unclaimed`](crate::ObjectState::Unclaimed) and keep
    /// the slab preserved. In a preserving cache always 0. Leaves 0, and comes back to it, under the
    /// cache's lock, but where the slab is adopted.
    pub(crate) preserved: AtomicU32,
}

#[allow(clippy::expl_impl_clone_on_copy, reason = "the macro's")]
mod adapter {
    use super::{LinkedListLink, SlabHeader, UnsafeRef, intrusive_adapter};

    intrusive_adapter!(pub(crate) Links = UnsafeRef<SlabHeader>: SlabHeader { link => LinkedListLink });
}

pub(crate) use adapter::Links;

/// A slab of this instance: its memory is a header, state bytes, free bits and objects.
#[derive(Clone, Copy)]
pub(crate) struct Slab {
    base: NonNull<u8>,
    phys: PhysAddr,
}

impl Slab {
    /// Returns the slab at `phys`.
    ///
    /// # Safety
    /// A slab of this instance starts there (it was built or adopted, or the caller is about to),
    /// and is not given back while the value is in use.
    #[inline]
    pub(crate) unsafe fn at(map: &impl DirectMap, phys: PhysAddr) -> Self {
        Self { base: map.ptr(phys), phys }
    }

    /// Returns the slab whose header is linked here.
    pub(crate) fn of(map: &impl DirectMap, header: &SlabHeader) -> Option<Self> {
        let phys = map.phys(NonNull::from(header).cast())?;
        // SAFETY: a linked header is that of a slab of this instance, which stays while it is linked.
        Some(unsafe { Self::at(map, phys) })
    }

    /// Returns the slab at `phys`, whose first byte is at `base`.
    ///
    /// # Safety
    /// As for [`Slab::at`]; `base` is good for all of the slab.
    #[inline]
    pub(crate) const unsafe fn at_both(base: NonNull<u8>, phys: PhysAddr) -> Self {
        Self { base, phys }
    }

    /// Returns the owner word of the slab that starts at `base`.
    ///
    /// # Safety
    /// A slab starts there, of this instance or of one that it inherited from.
    #[inline]
    pub(crate) unsafe fn owner_at(base: NonNull<u8>) -> u64 {
        // SAFETY: the header is in the slab's memory, and only atomics touch this word of it once
        // the slab is built.
        let owner = unsafe { &(*base.cast::<SlabHeader>().as_ptr()).owner };
        owner.load(Relaxed)
    }

    /// Returns the byte of object `index` of the slab that starts at `base`.
    ///
    /// # Safety
    /// A slab that has such an object starts there.
    #[inline]
    pub(crate) unsafe fn state_at<'a>(base: NonNull<u8>, index: ObjectIndex) -> &'a AtomicU8 {
        // SAFETY: the byte lies in the slab's memory, and only atomics touch it.
        unsafe { base.add(HEADER_BYTES + index.index()).cast::<AtomicU8>().as_ref() }
    }

    /// Returns which object of this slab it is, if it is one.
    #[inline]
    pub(crate) fn holds(self, geometry: &Geometry, round: Round) -> Option<ObjectIndex> {
        let index = round.state.addr().get().wrapping_sub(self.base.addr().get() + HEADER_BYTES);
        (index < u32_to_usize(geometry.objects)).then_some(ObjectIndex::new(usize_to_u32(index)))
    }

    /// Returns a free object for a magazine.
    #[inline]
    pub(crate) fn round(self, geometry: &Geometry, index: ObjectIndex) -> Round {
        let state = NonNull::from(self.state(geometry, index));
        Round { object: self.object(geometry, index), state }
    }

    /// Returns where it starts.
    #[inline]
    pub(crate) const fn phys(self) -> PhysAddr {
        self.phys
    }

    /// Returns its frames.
    pub(crate) const fn block(self, geometry: &Geometry) -> Block {
        Block::containing(self.phys.pfn(), geometry.order)
    }

    /// Returns its header.
    #[inline]
    pub(crate) fn header<'a>(self) -> &'a SlabHeader {
        // SAFETY: promised to `at`. The fixed part is not written while the slab lives; the rest
        // is atomics, and cells that are touched under the cache's lock.
        unsafe { self.base.cast::<SlabHeader>().as_ref() }
    }

    /// Returns its header, to be linked.
    pub(crate) fn link(self) -> UnsafeRef<SlabHeader> {
        // SAFETY: promised to `at`; a linked slab lives until it is unlinked.
        unsafe { UnsafeRef::from_raw(self.base.cast::<SlabHeader>().as_ptr()) }
    }

    /// Returns the byte of object `index`.
    #[inline]
    pub(crate) fn state<'a>(self, geometry: &Geometry, index: ObjectIndex) -> &'a AtomicU8 {
        debug_assert!(geometry.has(index));
        // SAFETY: `index` is an object of the slab: every caller has it from the geometry.
        unsafe { Self::state_at(self.base, index) }
    }

    /// Returns the state bytes.
    pub(crate) fn states<'a>(self, geometry: &Geometry) -> &'a [AtomicU8] {
        // SAFETY: the geometry has that many bytes behind the header; only atomics touch them.
        unsafe {
            let first = self.base.add(HEADER_BYTES).cast::<AtomicU8>();
            core::slice::from_raw_parts(first.as_ptr(), u32_to_usize(geometry.objects))
        }
    }

    /// Returns the free bits.
    pub(crate) fn words<'a>(self, geometry: &Geometry) -> &'a [AtomicU64] {
        // SAFETY: the geometry has that many words there, at a multiple of 8 from the start of a
        // frame; only atomics touch them.
        unsafe {
            let first = self.base.add(geometry.words_at()).cast::<AtomicU64>();
            core::slice::from_raw_parts(first.as_ptr(), geometry.words())
        }
    }

    /// Returns the object `index`.
    #[inline]
    pub(crate) fn object(self, geometry: &Geometry, index: ObjectIndex) -> NonNull<u8> {
        // SAFETY: the geometry's objects lie in the slab.
        unsafe { self.base.add(u64_to_usize(geometry.at(index))) }
    }

    /// Returns the address of object `index`.
    #[inline]
    pub(crate) const fn addr(self, geometry: &Geometry, index: ObjectIndex) -> PhysAddr {
        PhysAddr::new(self.phys.get() + geometry.at(index))
    }

    /// Writes a new slab: all objects free.
    ///
    /// # Safety
    /// The slab's frames are the caller's alone.
    pub(crate) unsafe fn build(self, geometry: &Geometry, desc: SlabDesc, owner: u64) {
        // SAFETY: the frames are the caller's; header and state bytes lie in them.
        unsafe {
            self.base.cast::<SlabHeaderDisk>().write(SlabHeaderDisk::new(self.phys, desc));
            self.base.add(HEADER_BYTES).write_bytes(0, u32_to_usize(geometry.objects));
            self.begin(owner);
        }
        written(self.base, HEADER_BYTES + u32_to_usize(geometry.objects));
        for (first, word) in (0..geometry.objects).step_by(64).zip(self.words(geometry)) {
            word.store(u64::MAX >> (64 - (geometry.objects - first).min(64)), Relaxed);
        }
        self.header().free.store(geometry.objects, Relaxed);
    }

    /// Writes this kernel's part of the header anew.
    ///
    /// # Safety
    /// The slab's frames are the caller's alone.
    pub(crate) unsafe fn begin(self, owner: u64) {
        let head = self.base.cast::<SlabHeader>().as_ptr();
        // SAFETY: the frames are the caller's, and the header lies in them; the fields are
        // reached without a reference to the header.
        unsafe {
            (&raw mut (*head).owner).write(AtomicU64::new(owner));
            (&raw mut (*head).link).write(LinkedListLink::new());
            (&raw mut (*head).entry).write(AtomicU64::new(0));
            (&raw mut (*head).free).write(AtomicU32::new(0));
            (&raw mut (*head).preserved).write(AtomicU32::new(0));
        }
        written(self.base, HEADER_BYTES);
    }

    /// Begins, as [`Slab::begin`], a slab that a predecessor left, and that is no cache's until its
    /// owner is written: a reader that looks for the owner of a pointer may read the word at the
    /// same time.
    ///
    /// # Safety
    /// The slab is claimed, and the caller's alone.
    pub(crate) unsafe fn begin_anew(self, named_at: PhysAddr) {
        let head = self.base.cast::<SlabHeader>().as_ptr();
        // SAFETY: the header lies in the slab, whose bytes are initialised; only the owner word is
        // read by others, atomically as it is written.
        unsafe {
            let SlabHeader { owner, entry, free, preserved, .. } = &*head;
            owner.store(0, Relaxed);
            entry.store(named_at.get(), Relaxed);
            free.store(0, Relaxed);
            preserved.store(0, Relaxed);
            (&raw mut (*head).link).write(LinkedListLink::new());
            written(NonNull::from(&(*head).link).cast(), size_of::<LinkedListLink>());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixed() -> (SlabHeaderDisk, PhysAddr, SlabDesc) {
        let geometry = Geometry::choose(96, 16, false).unwrap();
        let desc = SlabDesc::new(Name::new("inode").unwrap(), &geometry, true, 0x1234);
        let at = PhysAddr::new(0x4_0001_0000);
        (SlabHeaderDisk::new(at, desc), at, desc)
    }

    #[test]
    fn every_flipped_bit_of_a_header_is_found() {
        let (fixed, at, desc) = fixed();
        assert_eq!(fixed.check(at, &desc), Ok(()));
        for bit in 0..size_of::<SlabHeaderDisk>() * 8 {
            let mut broken = fixed;
            broken.as_mut_bytes()[bit / 8] ^= 1 << (bit % 8);
            assert!(broken.check(at, &desc).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_header_is_good_in_its_place_and_cache_alone() {
        let (fixed, at, desc) = fixed();
        let elsewhere = PhysAddr::new(at.get() + 0x1_0000);
        assert_eq!(fixed.check(elsewhere, &desc), Err(SlabFault::Address { found: at }));
        let other = SlabDesc { fingerprint: 1.into(), ..desc };
        assert_eq!(fixed.check(at, &other), Err(SlabFault::Desc));
    }

    #[test]
    fn a_shape_is_believed_only_if_it_is_what_would_be_computed() {
        let (_, _, desc) = fixed();
        let geometry = Geometry::choose(96, 16, false).unwrap();
        assert_eq!(desc.geometry(PageSize::BUILD), Some(geometry));
        for bit in 0..size_of::<SlabDesc>() * 8 {
            let mut broken = desc;
            broken.as_mut_bytes()[bit / 8] ^= 1 << (bit % 8);
            // Another name, fingerprint or flag may be sound; another layout only whole.
            if let Some(other) = broken.geometry(PageSize::BUILD) {
                let Geometry { size, align, order, redzone, .. } = other;
                assert_eq!(
                    Geometry::new(size as usize, align as usize, order, redzone),
                    Some(other)
                );
            }
        }
    }
}
