//! A cache as the cache directory describes it.

use heirloom_kho::PageSize;
use heirloom_kho::narrow::u32_to_usize;
use heirloom_kho::{Order, PhysAddr};
use xxhash_rust::xxh3::xxh3_64;
use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::error::{DirectoryFault, Error};
use crate::geometry::Geometry;
use crate::header::SlabDesc;
use crate::name::Name;
use crate::spec::CacheSpec;

/// A record as it is stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Stored {
    checksum: U64,
    slabs: U64,
    desc: SlabDesc,
    zero: [u8; 48],
}

const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<Stored>() == 128 && align_of::<Stored>() == 1);
    assert!(offset_of!(Stored, slabs) == 8 && offset_of!(Stored, desc) == 16);
};

/// The checksum where no record stands: it is not written yet, or struck out.
pub(super) const NONE: u64 = 0;

/// Returns what is written for a checksum: never [`NONE`].
const fn not_none(sum: u64) -> u64 {
    if sum == NONE { 1 } else { sum }
}

impl Stored {
    pub(crate) fn new(desc: SlabDesc, slabs: PhysAddr) -> Self {
        let slabs = slabs.get().into();
        let stored = Self { checksum: U64::ZERO, slabs, desc, zero: [0; 48] };
        Self { checksum: stored.sum().into(), ..stored }
    }

    fn sum(&self) -> u64 {
        not_none(xxh3_64(Self { checksum: U64::ZERO, ..*self }.as_bytes()))
    }

    /// Returns what it says of the cache; not checked.
    pub(super) const fn desc(&self) -> &SlabDesc {
        &self.desc
    }

    /// Returns the record; `None` where none stands.
    pub(crate) fn check(&self, page: PageSize) -> Result<Option<CacheRecord>, DirectoryFault> {
        let (expected, found) = (self.sum(), self.checksum.get());
        if found == NONE {
            return Ok(None);
        }
        if expected != found {
            return Err(DirectoryFault::Checksum { expected, found });
        }
        let name = self.desc.name().ok_or(DirectoryFault::Name)?;
        let geometry = self.desc.geometry(page).ok_or(DirectoryFault::Geometry)?;
        let table = PhysAddr::new(self.slabs.get());
        Ok(Some(CacheRecord { name, geometry, desc: self.desc, table }))
    }
}

/// A cache that a predecessor left, as its cache directory describes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CacheRecord {
    name: Name,
    geometry: Geometry,
    desc: SlabDesc,
    table: PhysAddr,
}

impl CacheRecord {
    /// Returns what the record of a cache that has a slab so described says, but for where its
    /// table is.
    pub(crate) fn of_slab(desc: SlabDesc) -> Option<Self> {
        let (name, geometry) = (desc.name()?, desc.geometry(PageSize::BUILD)?);
        Some(Self { name, geometry, desc, table: PhysAddr::new(0) })
    }

    /// Returns the cache's name.
    pub const fn name(&self) -> Name {
        self.name
    }

    /// Returns the bytes of an object.
    pub const fn object_size(&self) -> usize {
        u32_to_usize(self.geometry.size)
    }

    /// Returns the alignment of an object, in bytes.
    pub const fn align(&self) -> usize {
        u32_to_usize(self.geometry.align)
    }

    /// Returns the bytes from one object to the next.
    #[doc(hidden)]
    pub const fn stride(&self) -> usize {
        u32_to_usize(self.geometry.stride)
    }

    /// Returns how many objects are in a slab.
    pub const fn objects_per_slab(&self) -> u32 {
        self.geometry.objects
    }

    /// Returns the order of a slab.
    pub const fn order(&self) -> Order {
        self.geometry.order
    }

    /// Returns whether its objects were preserved from birth.
    pub const fn is_preserving(&self) -> bool {
        self.desc.is_preserving()
    }

    /// Returns the fingerprint of the objects' layout.
    pub fn fingerprint(&self) -> u64 {
        self.desc.fingerprint.get()
    }

    /// Returns the address of the first page of the cache's slab table.
    #[doc(hidden)]
    pub const fn table(&self) -> PhysAddr {
        self.table
    }

    /// Returns the spec of a cache that can adopt the slabs, for a kernel that keeps what it does
    /// not know: with the same slabs, and no constructor.
    pub fn spec(&self) -> CacheSpec {
        CacheSpec::new(self.name.as_str(), self.object_size())
            .align(self.align())
            .preserving(self.is_preserving())
            .fingerprint(self.fingerprint())
            .slabs_like(&self.geometry)
    }

    /// Returns whether a cache like `spec` can adopt the slabs.
    ///
    /// # Errors
    /// [`Error::Mismatch`] with the first field that differs.
    pub fn admits(&self, spec: &CacheSpec) -> Result<(), Error> {
        spec.admits_objects(&self.spec(), &self.geometry).map_err(Error::of_inherited)
    }

    pub(crate) const fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    pub(crate) const fn desc(&self) -> &SlabDesc {
        &self.desc
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_of_a_record_is_found() {
        let geometry = Geometry::choose(200, 8, true).unwrap();
        let desc = SlabDesc::new(Name::new("files").unwrap(), &geometry, true, 7);
        let stored = Stored::new(desc, PhysAddr::new(0x1000));
        let record = stored.check(PageSize::BUILD).unwrap().unwrap();
        assert_eq!((record.name().as_str(), record.object_size()), ("files", 200));
        assert_eq!(record.spec().geometry(), Ok((record.name(), geometry)));
        for bit in 0..size_of::<Stored>() * 8 {
            let mut broken = stored;
            broken.as_mut_bytes()[bit / 8] ^= 1 << (bit % 8);
            assert!(broken.check(PageSize::BUILD).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_checksum_of_zero_is_no_record() {
        let geometry = Geometry::choose(200, 8, true).unwrap();
        let desc = SlabDesc::new(Name::new("files").unwrap(), &geometry, true, 7);
        let stored = Stored::new(desc, PhysAddr::new(0x1000));
        assert_eq!(Stored { checksum: U64::ZERO, ..stored }.check(PageSize::BUILD), Ok(None));
        assert_eq!([0, 1, 2, u64::MAX].map(not_none), [1, 1, 2, u64::MAX]);
    }
}
