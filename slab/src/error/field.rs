//! What two caches of one name can differ in.

use core::fmt;

/// What distinguishes caches.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Field {
    /// Its length in bytes, 1 to 31, of which none is zero.
    Name,
    /// Bytes of an object.
    Size,
    /// Alignment of an object in bytes, a power of two.
    Align,
    /// log2 of the frames in a slab.
    Order,
    /// Whether objects are preserved from birth.
    Preserving,
    /// The fingerprint of the layout.
    Fingerprint,
    /// Whether there is a constructor.
    Constructor,
    /// Bytes from one object to the next.
    Stride,
    /// Whether there are red zones behind objects.
    RedZone,
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Name => "name length",
            Self::Size => "object size",
            Self::Align => "alignment",
            Self::Order => "slab order",
            Self::Preserving => "preserving",
            Self::Fingerprint => "fingerprint",
            Self::Constructor => "constructor",
            Self::Stride => "stride",
            Self::RedZone => "red zones",
        })
    }
}

impl Field {
    /// Returns a value of the field, as people write it.
    pub(super) const fn show(self, value: u64) -> Value {
        Value { field: self, value }
    }
}

/// A value of a field.
pub(super) struct Value {
    field: Field,
    value: u64,
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { field, value } = *self;
        match field {
            Field::Fingerprint => write!(f, "{value:#018x}"),
            Field::Preserving | Field::Constructor | Field::RedZone => {
                f.write_str(if value == 0 { "no" } else { "yes" })
            }
            _ => write!(f, "{value}"),
        }
    }
}
