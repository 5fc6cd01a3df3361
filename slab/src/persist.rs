//! What typed objects must promise to survive: plain bytes, and a fingerprint of their layout.

use heirloom_kho::narrow::{u8_to_u32, u32_to_u64, u64_to_usize, usize_to_u64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A type whose values can be left to a successor that is another build.
///
/// Any bytes are a value of it, and it has no padding: zerocopy's traits say so. The fingerprint
/// says whether two builds mean the same by those bytes; implement the trait with
/// [`persist!`](crate::persist!), which takes it from the fields.
///
/// # Examples
/// ```
/// use heirloom_slab::{Persist, persist};
/// use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};
///
/// #[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
/// #[repr(C)]
/// struct Inode {
///     number: u64,
///     links: u32,
///     mode: u32,
/// }
/// persist!(Inode { number, links, mode });
///
/// assert_ne!(Inode::FINGERPRINT, 0);
/// ```
pub trait Persist: FromBytes + IntoBytes + Immutable + KnownLayout {
    /// What tells this layout from others. Two builds that lay fields out differently, or call
    /// them differently, must not have the same. That of the caches that `heirloom-collections` has for itself is refused by
    /// the compiler, where a typed cache is asked for:
    /// ```compile_fail,E0080
    /// # use heirloom_folio::harness::Ram;
    /// # use heirloom_slab::{Persist, Slabs};
    /// # use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};
    /// #[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
    /// #[repr(C, align(16))]
    /// struct Entry {
    ///     words: [u64; 8],
    /// }
    /// impl Persist for Entry {
    ///     const FINGERPRINT: u64 = u64::from_le_bytes(*b"hl-coll1");
    /// }
    /// # let slabs = Slabs::new(Ram::memory(&Ram::frames(1024))?)?;
    /// let entries = slabs.typed::<Entry>("collections-64", true)?;
    /// # Ok::<(), heirloom_slab::Error>(())
    /// ```
    const FINGERPRINT: u64;
}

/// Returns a fingerprint of fields, each its name, its offset and its size, in bytes: FNV-1a over
/// all of it.
///
/// # Examples
/// ```
/// use heirloom_slab::fingerprint_of;
/// const A: u64 = fingerprint_of(&[("start", 0, 8), ("end", 8, 8)]);
/// const B: u64 = fingerprint_of(&[("end", 0, 8), ("start", 8, 8)]);
/// assert_ne!(A, B);
/// ```
pub const fn fingerprint_of(fields: &[(&str, usize, usize)]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325;
    let mut i = 0;
    while i < fields.len() {
        let (name, offset, size) = fields[i];
        let name = name.as_bytes();
        let mut at = 0;
        while at < name.len() {
            hash = step(hash, name[at]);
            at += 1;
        }
        // A byte that UTF-8 has not, so that a name does not run into what follows it.
        hash = step(hash, 0xff);
        hash = number(hash, usize_to_u64(offset));
        hash = number(hash, usize_to_u64(size));
        i += 1;
    }
    hash
}

const fn number(mut hash: u64, value: u64) -> u64 {
    let bytes = value.to_le_bytes();
    let mut at = 0;
    while at < bytes.len() {
        hash = step(hash, bytes[at]);
        at += 1;
    }
    hash
}

const fn step(hash: u64, byte: u8) -> u64 {
    (hash ^ u32_to_u64(u8_to_u32(byte))).wrapping_mul(0x100_0000_01b3)
}

/// Returns the bytes of the field that `_of` reaches; for [`persist!`](crate::persist!).
#[doc(hidden)]
pub const fn size_of_field<T, F>(_of: fn(&T) -> &F) -> usize {
    size_of::<F>()
}

/// Returns a fingerprint as an entry of [`fingerprint_of`]; for [`persist!`](crate::persist!).
#[doc(hidden)]
pub const fn part_of(name: &'static str, fingerprint: u64) -> (&'static str, usize, usize) {
    let (high, low) = (fingerprint >> 32, fingerprint & 0xffff_ffff);
    (name, u64_to_usize(high), u64_to_usize(low))
}

/// Implements [`Persist`] for a struct, with a fingerprint of its name and the fields' names,
/// offsets and sizes. Every field is to be listed; one that does not exist does not compile.
///
/// Of a field that is a struct itself, what lies within it is seen only if its type is said, as one that is [`Persist`]: then its
/// fingerprint is a part of this one. Without, two builds that lay it out differently, in as many bytes, have the same.
///
/// # Examples
/// ```
/// use heirloom_slab::{Persist, persist};
/// use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};
///
/// #[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
/// #[repr(C)]
/// struct Span {
///     start: u64,
///     end: u64,
/// }
/// persist!(Span { start, end });
///
/// #[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
/// #[repr(C)]
/// struct Lease {
///     owner: u64,
///     of: Span,
/// }
/// persist!(Lease { owner, of: Span });
///
/// assert_ne!(Lease::FINGERPRINT, Span::FINGERPRINT);
/// ```
#[macro_export]
macro_rules! persist {
    ($type:ident { $($field:ident $(: $part:ty)?),* $(,)? }) => {
        impl $crate::Persist for $type {
            const FINGERPRINT: u64 = {
                // A field that is not listed does not compile.
                #[allow(dead_code)]
                fn all_fields(of: &$type) {
                    let $type { $($field: _),* } = of;
                }
                $crate::fingerprint_of(&[
                    (stringify!($type), 0, ::core::mem::size_of::<$type>()),
                    $(
                        (
                            stringify!($field),
                            ::core::mem::offset_of!($type, $field),
                            $crate::size_of_field(|of: &$type| &of.$field),
                        ),
                        $($crate::part_of(stringify!($field), {
                            // A field of another type does not compile.
                            $crate::size_of_field::<$type, $part>(|of| &of.$field);
                            <$part as $crate::Persist>::FINGERPRINT
                        }),)?
                    )*
                ])
            };
        }
    };
}

#[cfg(test)]
mod tests {
    use zerocopy_derive_test::*;

    use super::*;

    /// Two layouts of one name.
    mod zerocopy_derive_test {
        use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

        pub(super) mod old {
            #[derive(super::FromBytes, super::IntoBytes, super::Immutable, super::KnownLayout)]
            #[repr(C)]
            pub(in super::super) struct Pair {
                pub(in super::super) first: u32,
                pub(in super::super) second: u32,
            }
        }

        pub(super) mod new {
            #[derive(super::FromBytes, super::IntoBytes, super::Immutable, super::KnownLayout)]
            #[repr(C)]
            pub(in super::super) struct Pair {
                pub(in super::super) second: u32,
                pub(in super::super) first: u32,
            }
        }
    }

    mod impls {
        use super::{new, old};
        mod a {
            use super::old::Pair;
            crate::persist!(Pair { first, second });
        }
        mod b {
            use super::new::Pair;
            crate::persist!(Pair { first, second });
        }
    }

    #[test]
    fn layouts_of_one_name_and_size_are_told_apart() {
        assert_ne!(old::Pair::FINGERPRINT, new::Pair::FINGERPRINT);
    }

    /// One layout, with a part of another each time.
    mod nested {
        pub(super) mod of_old {
            use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

            use super::super::old::Pair;

            #[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
            #[repr(C)]
            pub(in super::super) struct Whole {
                part: Pair,
            }
            crate::persist!(Whole { part: Pair });
        }

        pub(super) mod of_new {
            use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

            use super::super::new::Pair;

            #[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
            #[repr(C)]
            pub(in super::super) struct Whole {
                part: Pair,
            }
            crate::persist!(Whole { part: Pair });
        }
    }

    #[test]
    fn what_lies_within_a_field_counts_where_its_type_is_said() {
        assert_ne!(nested::of_old::Whole::FINGERPRINT, nested::of_new::Whole::FINGERPRINT);
    }

    #[test]
    fn names_offsets_and_sizes_count() {
        let all = [
            fingerprint_of(&[]),
            fingerprint_of(&[("a", 0, 4)]),
            fingerprint_of(&[("b", 0, 4)]),
            fingerprint_of(&[("a", 4, 4)]),
            fingerprint_of(&[("a", 0, 8)]),
            fingerprint_of(&[("a", 0, 4), ("b", 4, 4)]),
        ];
        for (i, a) in all.iter().enumerate() {
            assert!(all.iter().skip(i + 1).all(|b| a != b));
        }
    }
}
