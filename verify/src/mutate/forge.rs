//! Handles that nobody was given.

use arbitrary::Arbitrary;
use heirloom::kho::Handle;
use xxhash_rust::xxh3::xxh3_64;

use super::{Bytes, Subject, Value};

/// A handle, or sixteen bytes that are none.
#[derive(Clone, Copy, Debug, Arbitrary)]
pub enum Forged {
    /// One that somebody has.
    Own(u8),
    /// One that somebody has, with another address.
    Moved(u8, Value),
    /// One that somebody has, with another kind, length or tag.
    Altered(u8, Option<u8>, Option<u16>, Option<u8>),
    /// All of it made up, but for the check byte.
    Made(Value, u8, u64, u8),
    /// Any bytes.
    Raw([u8; 16]),
}

const LENGTH_BITS: u32 = 44;

impl Forged {
    /// The handle; `own` are those that somebody has.
    pub fn handle<B: Bytes>(&self, own: &[Handle], subject: &Subject<'_, B>) -> Handle {
        let of = |n: u8| own.get(usize::from(n) % own.len().max(1)).map_or((0, 0), parts);
        match *self {
            Self::Own(n) => {
                let (addr, meta) = of(n);
                checked(addr, meta)
            }
            Self::Moved(n, value) => {
                let (addr, meta) = of(n);
                checked(subject.value(value, addr), meta)
            }
            Self::Altered(n, kind, length, tag) => {
                let (addr, mut meta) = of(n);
                if let Some(kind) = kind {
                    meta = meta & !(0xf << LENGTH_BITS) | u64::from(kind & 0xf) << LENGTH_BITS;
                }
                if let Some(length) = length {
                    meta = meta & !((1 << LENGTH_BITS) - 1) | u64::from(length);
                }
                if let Some(tag) = tag {
                    meta = meta & !(0xff << 48) | u64::from(tag) << 48;
                }
                checked(addr, meta)
            }
            Self::Made(addr, kind, length, tag) => {
                let kind = u64::from(kind & 0xf) << LENGTH_BITS;
                let meta = length & ((1 << LENGTH_BITS) - 1) | kind | u64::from(tag) << 48;
                checked(subject.value(addr, 0), meta)
            }
            Self::Raw(bytes) => Handle::from(bytes),
        }
    }
}

/// Address and the rest, as a handle's bytes have them.
fn parts(handle: &Handle) -> (u64, u64) {
    let bytes = u128::from_le_bytes((*handle).into());
    (bytes as u64, (bytes >> 64) as u64)
}

/// The handle of these words, its check byte right.
fn checked(addr: u64, meta: u64) -> Handle {
    let bytes = (u128::from(addr) | u128::from(meta) << 64).to_le_bytes();
    let mut checked = bytes;
    checked[15] = xxh3_64(&bytes[..15]) as u8;
    Handle::from(checked)
}
