//! What a cache is to be like.

use core::ffi::c_void;
use core::ptr::NonNull;

use heirloom_kho::Order;
use heirloom_kho::narrow::usize_to_u64;

use crate::error::{Error, Field};
use crate::geometry::Geometry;
use crate::header::SlabDesc;
use crate::name::Name;

/// What the names of the classes' caches start with: of plain ones, and of preserving ones.
pub(crate) const PREFIXES: [&str; 2] = ["buffer-", "preserved-"];

/// Returns whether a name starts like those of the classes' caches, and so is no other cache's.
pub(crate) fn is_reserved(name: &Name) -> bool {
    PREFIXES.iter().any(|prefix| name.as_str().starts_with(prefix))
}

/// Puts the first bytes of an object into place. Run once for each place in a slab, when the slab
/// is built or adopted; see [`CacheSpec::constructor`].
pub type Constructor = fn(NonNull<u8>);

/// Does what a [`Constructor`] does, as a function in C; see [`CacheSpec::c_constructor`]. (One in C++ must not throw: a kernel has
/// nothing that unwinds.)
pub type CConstructor = unsafe extern "C" fn(object: *mut c_void);

/// A constructor, with how it is called.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Construct {
    Rust(Constructor),
    C(CConstructor),
}

impl Construct {
    /// Puts the first bytes of an object into place.
    ///
    /// # Safety
    /// `object` leads to a place of a cache that has this constructor, which no other caller uses.
    pub(crate) unsafe fn run(self, object: NonNull<u8>) {
        match self {
            Self::Rust(construct) => construct(object),
            // SAFETY: what `CacheSpec::c_constructor` was promised: it may be called for such a place.
            Self::C(construct) => unsafe { construct(object.as_ptr().cast()) },
        }
    }
}

/// What a cache is to be like: its name, its objects' size and alignment, and what is special.
///
/// # Examples
/// ```
/// use heirloom_slab::CacheSpec;
/// const INODES: CacheSpec = CacheSpec::new("inode", 640).align(64).preserving(true);
/// # let _ = INODES;
/// ```
#[derive(Clone, Copy, Debug)]
pub struct CacheSpec {
    pub(crate) name: Option<Name>,
    shown: Name,
    /// Bytes of the name, as it was given.
    length: usize,
    pub(crate) size: usize,
    pub(crate) align: usize,
    pub(crate) order: Option<Order>,
    pub(crate) preserving: bool,
    pub(crate) redzone: bool,
    /// It keeps what a predecessor left, of a layout that this kernel's cache of the same name has
    /// not: no cache that a caller asks for.
    pub(crate) kept: bool,
    fingerprint: Option<u64>,
    pub(crate) constructor: Option<Construct>,
}

impl CacheSpec {
    /// Returns a cache called `name` of objects of `size` bytes, aligned to 8 bytes or, if they are
    /// smaller, to as much as their size is a multiple of.
    ///
    /// Names that start with `buffer-` and `preserved-` are those of the size classes, and no other
    /// cache gets one.
    pub const fn new(name: &str, size: usize) -> Self {
        let align = if size == 0 { 1 } else { 1 << size.trailing_zeros() };
        Self {
            name: Name::new(name),
            shown: Name::truncated(name),
            length: name.len(),
            size,
            align: if align < 8 { align } else { 8 },
            order: None,
            preserving: false,
            redzone: cfg!(feature = "debug"),
            kept: false,
            fingerprint: None,
            constructor: None,
        }
    }

    /// Returns the spec with objects aligned to `align` bytes, a power of two up to
    /// [`MAX_OBJECT`](crate::MAX_OBJECT).
    #[must_use]
    pub const fn align(self, align: usize) -> Self {
        Self { align, ..self }
    }

    /// Returns the spec with slabs of this order instead of the one that suits the size: smaller
    /// slabs waste more of themselves, and less memory altogether where objects are few.
    ///
    /// A cache that already exists, or that a predecessor left, is taken with any order unless
    /// one is named here.
    #[must_use]
    pub const fn order(self, order: Order) -> Self {
        Self { order: Some(order), ..self }
    }

    /// Returns the spec with objects that are preserved from birth, at no cost per object, and
    /// freed by a plain `free`; or not, as is the default.
    #[must_use]
    pub const fn preserving(self, preserving: bool) -> Self {
        Self { preserving, ..self }
    }

    /// Returns the spec with this fingerprint of the objects' layout. A successor whose cache has
    /// another is refused the objects. The default tells apart sizes and alignments only.
    #[must_use]
    pub const fn fingerprint(self, fingerprint: u64) -> Self {
        Self { fingerprint: Some(fingerprint), ..self }
    }

    /// Returns the spec with objects that are constructed once per place in a slab, and not at each
    /// allocation (Bonwick 1994): the caller that frees an object has put it back into the
    /// constructed state, and an allocated object has been constructed, once, at some time before.
    ///
    /// It runs with no lock held, and may allocate, free and claim. If it panics, the place is out
    /// of use until the next kernel; objects are not affected.
    #[must_use]
    pub const fn constructor(self, constructor: Constructor) -> Self {
        Self { constructor: Some(Construct::Rust(constructor)), ..self }
    }

    /// Returns the spec with a constructor that is a function in C: as [`CacheSpec::constructor`].
    ///
    /// # Safety
    /// `constructor` may be called with a pointer to as many bytes as an object has, aligned as one, that are its
    /// to write meanwhile: at any time, on several threads or CPUs at once, from wherever a call of the cache is made.
    #[must_use]
    pub const unsafe fn c_constructor(self, constructor: CConstructor) -> Self {
        Self { constructor: Some(Construct::C(constructor)), ..self }
    }

    /// Returns the spec with slabs like those of a cache that a predecessor left: with red zones
    /// behind the objects or without, whatever this build's default.
    pub(crate) const fn slabs_like(self, geometry: &Geometry) -> Self {
        Self { order: Some(geometry.order), redzone: geometry.redzone, ..self }
    }

    /// Returns whether a cache so described has the name.
    pub(crate) fn is_named_as(&self, desc: &SlabDesc) -> bool {
        self.name.is_some_and(|name| desc.is_named(&name))
    }

    /// Returns the spec of a cache that no caller asks for: see the field.
    pub(crate) const fn kept(self) -> Self {
        Self { kept: true, ..self }
    }

    /// Returns the fingerprint, or what stands for it if none was named.
    pub(crate) const fn layout(&self) -> u64 {
        match self.fingerprint {
            Some(fingerprint) => fingerprint,
            None => crate::persist::fingerprint_of(&[("", self.align, self.size)]),
        }
    }

    /// Returns how the objects lie in a slab.
    ///
    /// # Errors
    /// [`Error::BadSpec`] with what cannot be.
    pub(crate) fn geometry(&self) -> Result<(Name, Geometry), Error> {
        let bad = |field, found: usize| {
            Err(Error::BadSpec { cache: self.shown, field, found: usize_to_u64(found) })
        };
        let Some(name) = self.name else {
            return bad(Field::Name, self.length);
        };
        if self.size == 0 || self.size > crate::MAX_OBJECT {
            return bad(Field::Size, self.size);
        }
        if !self.align.is_power_of_two() || self.align > crate::MAX_OBJECT {
            return bad(Field::Align, self.align);
        }
        let geometry = match self.order {
            Some(order) => Geometry::new(self.size, self.align, order, self.redzone),
            None => Geometry::choose(self.size, self.align, self.redzone),
        };
        match geometry {
            Some(geometry) => Ok((name, geometry)),
            None => bad(Field::Order, self.order.unwrap_or_default().index()),
        }
    }

    /// Returns whether a cache made from `there` is one that this spec asks for.
    ///
    /// # Errors
    /// [`Error::Mismatch`] with the first field that differs.
    pub(crate) fn admits(&self, there: &Self, geometry: &Geometry) -> Result<(), Error> {
        self.admits_objects(there, geometry)?;
        let constructed = |spec: &Self| spec.constructor.is_some().into();
        self.same(Field::Constructor, constructed(self), constructed(there))
    }

    /// Returns whether objects of a cache made from `there` can be objects of one made from this.
    ///
    /// # Errors
    /// [`Error::Mismatch`] with the first field that differs.
    pub(crate) fn admits_objects(&self, there: &Self, geometry: &Geometry) -> Result<(), Error> {
        let differs = |field, expected, found| self.same(field, expected, found);
        differs(Field::Size, usize_to_u64(self.size), usize_to_u64(there.size))?;
        differs(Field::Align, usize_to_u64(self.align), usize_to_u64(there.align))?;
        if let Some(order) = self.order {
            differs(Field::Order, order.get().into(), geometry.order.get().into())?;
        }
        differs(Field::Preserving, self.preserving.into(), there.preserving.into())?;
        differs(Field::Fingerprint, self.layout(), there.layout())
    }

    /// Returns the name, for errors.
    pub(crate) const fn shown(&self) -> Name {
        self.shown
    }

    /// Refuses a name that is a size class's.
    ///
    /// # Errors
    /// [`Error::ReservedName`].
    pub(crate) fn own_name(&self) -> Result<(), Error> {
        if is_reserved(&self.shown) {
            return Err(Error::ReservedName { cache: self.shown });
        }
        Ok(())
    }

    /// Refuses two values that differ.
    pub(crate) const fn same(&self, field: Field, expected: u64, found: u64) -> Result<(), Error> {
        if expected == found {
            return Ok(());
        }
        Err(Error::Mismatch { cache: self.shown, field, expected, found, inherited: false })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_is_named() {
        let field = |spec: CacheSpec| match spec.geometry() {
            Err(Error::BadSpec { field, .. }) => field,
            other => panic!("{other:?}"),
        };
        assert_eq!(field(CacheSpec::new("", 8)), Field::Name);
        let long = CacheSpec::new("a name of more than thirty-one bytes", 8).geometry();
        assert!(matches!(long, Err(Error::BadSpec { field: Field::Name, found: 36, .. })));
        assert_eq!(field(CacheSpec::new("none", 0)), Field::Size);
        assert_eq!(field(CacheSpec::new("huge", crate::MAX_OBJECT + 1)), Field::Size);
        assert_eq!(field(CacheSpec::new("odd", 24).align(24)), Field::Align);
        let tight = CacheSpec::new("tight", 1 << 18).order(Order::ZERO);
        assert_eq!(field(tight), Field::Order);
    }

    #[test]
    fn the_first_difference_is_named() {
        let spec = CacheSpec::new("same", 48);
        let (_, geometry) = spec.geometry().unwrap();
        let field = |other: CacheSpec| match other.admits(&spec, &geometry) {
            Err(Error::Mismatch { field, .. }) => Some(field),
            Err(other) => panic!("{other:?}"),
            Ok(()) => None,
        };
        assert_eq!(field(spec), None);
        assert_eq!(field(spec.order(geometry.order)), None);
        assert_eq!(field(CacheSpec::new("same", 56)), Some(Field::Size));
        assert_eq!(field(spec.align(16)), Some(Field::Align));
        let larger = Order::new(geometry.order.get() + 1).unwrap();
        assert_eq!(field(spec.order(larger)), Some(Field::Order));
        assert_eq!(field(spec.preserving(true)), Some(Field::Preserving));
        assert_eq!(field(spec.fingerprint(1)), Some(Field::Fingerprint));
        assert_eq!(field(spec.constructor(|_| ())), Some(Field::Constructor));
    }
}
