//! Tables as bytes: looked for in memory, and loaded word by word.

use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::addr::{PhysAddr, Run};
use crate::error::Error;
use crate::fault::{Fault, Table};
use crate::narrow::usize_to_u64;
use crate::pages::Pages;
use crate::store;
use crate::sync::AtomicU64;
use crate::sync::Ordering::Relaxed;

/// Returns the frames of `bytes` bytes at `addr`, all in memory and preserved. `from` says where the
/// address stands.
pub(crate) fn preserved(
    pages: &impl Pages,
    addr: PhysAddr,
    bytes: u64,
    from: (Table, PhysAddr, usize),
) -> Result<Run, Error> {
    let fail = |fault: Fault| fault.in_table(from.0, from.1, from.2);
    let page = pages.page_size();
    let run = page.covering(addr, bytes).filter(|run| pages.is_memory(*run));
    let run = run.ok_or(fail(Fault::OutsideMemory { addr }))?;
    match pages.first_unpreserved(run) {
        None => Ok(run),
        Some(missing) => {
            let block = page.page_of(missing);
            Err(fail(Fault::NotPreserved { block }))
        }
    }
}

/// Returns the bytes that [`preserved`] checks, as words.
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

/// Returns the value that starts with these words.
pub(crate) fn load<T: FromBytes + IntoBytes + Immutable>(words: &[AtomicU64]) -> T {
    let mut value = T::new_zeroed();
    for (bytes, word) in value.as_mut_bytes().chunks_mut(8).zip(words) {
        let word = word.load(Relaxed).to_ne_bytes();
        bytes.copy_from_slice(word.get(..bytes.len()).unwrap_or(&[]));
    }
    value
}

/// Stores a value into the words that it starts with, the last one filled up with zeroes.
pub(crate) fn save(words: &[AtomicU64], value: &(impl IntoBytes + Immutable)) {
    for (word, bytes) in words.iter().zip(value.as_bytes().chunks(8)) {
        let mut whole = [0; 8];
        whole.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        store::word64(word, u64::from_ne_bytes(whole), Relaxed);
    }
}

/// `bytes` up to the first zero.
pub(crate) fn until_zero(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or(&[])
}
