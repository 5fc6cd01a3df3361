//! Tables as bytes: looked for in memory, and loaded word by word.

use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::addr::{Block, Order, PhysAddr, Run};
use crate::error::Error;
use crate::excerpt::Excerpt;
use crate::fault::{Fault, Table};
use crate::narrow::usize_to_u64;
use crate::pages::Pages;
use crate::sync::AtomicU64;
use crate::sync::Ordering::Relaxed;

/// The frames of `bytes` bytes at `addr`, all in memory and preserved. `from` says where the address
/// stands.
pub(crate) fn preserved(
    pages: &impl Pages,
    addr: PhysAddr,
    bytes: u64,
    from: (Table, PhysAddr, usize),
) -> Result<Run, Error> {
    let fail = |fault: Fault| fault.in_table(from.0, from.1, from.2);
    let run = Run::covering(addr, bytes).filter(|run| pages.is_memory(*run));
    let run = run.ok_or(fail(Fault::OutsideMemory { addr }))?;
    match pages.first_unpreserved(run) {
        None => Ok(run),
        Some(missing) => {
            let block = Block::containing(missing, Order::ZERO);
            Err(fail(Fault::NotPreserved { block }))
        }
    }
}

/// The same bytes as words.
pub(crate) fn words(
    pages: &impl Pages,
    addr: PhysAddr,
    bytes: usize,
    from: (Table, PhysAddr, usize),
) -> Result<&[AtomicU64], Error> {
    preserved(pages, addr, usize_to_u64(bytes), from)?;
    if !addr.get().is_multiple_of(8) {
        return Err(Fault::Misaligned { addr }.in_table(from.0, from.1, from.2));
    }
    let words = pages.words(addr, bytes);
    words.ok_or(Fault::OutsideMemory { addr }.in_table(from.0, from.1, from.2))
}

/// The value that starts with these words.
pub(crate) fn load<T: FromBytes + IntoBytes + Immutable>(words: &[AtomicU64]) -> T {
    let mut value = T::new_zeroed();
    for (bytes, word) in value.as_mut_bytes().chunks_mut(8).zip(words) {
        let word = word.load(Relaxed).to_ne_bytes();
        bytes.copy_from_slice(word.get(..bytes.len()).unwrap_or(&[]));
    }
    value
}

/// Whether `text` is `expected`: `family` and a version. Another number there is another version,
/// anything else a format of another make, whatever it starts with.
pub(crate) fn compatible(text: &[u8], family: &str, expected: &'static str) -> Result<(), Fault> {
    if text == expected.as_bytes() {
        return Ok(());
    }
    let number = |text: &[u8]| {
        let digits = text.strip_prefix(family.as_bytes())?;
        let plain = digits.iter().all(u8::is_ascii_digit) && !digits.starts_with(b"0");
        core::str::from_utf8(digits).ok().filter(|_| plain)?.parse().ok()
    };
    Err(match number(text).zip(number(expected.as_bytes())) {
        Some((found, known)) => Fault::Version { found, known },
        None => Fault::Unknown { found: Excerpt::of(text.iter().copied()), expected },
    })
}

/// `bytes` up to the first zero.
pub(crate) fn until_zero(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or(&[])
}
