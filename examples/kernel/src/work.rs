//! What keeps heirloom busy: work on each CPU, in its timer's handler and in its NMI's.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::vec::Vec;
use core::ptr::NonNull;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::Relaxed;

use heirloom::folio::Preserved;
use heirloom::{Block, Error, Handle, Order, Pfn, PhysAddr, Request};

use crate::layout::{Session, session};
use crate::ledger::{Kind, Slot};
use crate::machine::Port;
use crate::pattern::{fill, is, length};
use crate::{cpu, kernel, ledger, sessions};

/// The longest buffer of a session, and of a timer's handler.
pub const LONGEST: u64 = 6000;
pub const SHORT: u64 = 500;

/// Bytes that were not as they should be, and calls that were refused for want of memory.
pub static WRONG: AtomicU64 = AtomicU64::new(0);
pub static REFUSED: AtomicU64 = AtomicU64::new(0);

/// Notes what did not succeed: where memory is short, the next try may.
fn note(result: Result<(), Error>) {
    match result {
        Ok(()) => {}
        Err(error) if error.is_out_of_memory() => {
            REFUSED.fetch_add(1, Relaxed);
        }
        Err(error) => crate::serial::fail(format_args!("{error}")),
    }
}

fn expect(sound: bool) {
    if !sound {
        WRONG.fetch_add(1, Relaxed);
    }
}

/// The lane of this CPU's work, of its timer's handler, or of its NMI's.
fn lane(kind: Kind) -> usize {
    cpu::this().number.load(Relaxed) as usize * 3 + kind as usize
}

/// A handle in two words, and back.
fn words(handle: Handle) -> [u64; 2] {
    zerocopy::transmute!(<[u8; 16]>::from(handle))
}

pub fn handle(words: [u64; 2]) -> Handle {
    <Handle as From<[u8; 16]>>::from(zerocopy::transmute!(words))
}

/// An object by its address and its reuse tag, in one word: it is named by one store.
pub fn object(addr: PhysAddr, tag: u8) -> u64 {
    addr.get() | u64::from(tag) << 56
}

pub fn object_parts(word: u64) -> (PhysAddr, u8) {
    (PhysAddr::new(word & ((1 << 56) - 1)), (word >> 56) as u8)
}

/// The folio of a number that starts here.
pub fn block(id: u64, pfn: u64) -> Block {
    Block::containing(Pfn::new(pfn), Order::for_frames(1 + id % 2).unwrap_or_default())
}

/// A buffer as bytes.
///
/// # Safety
/// It has as many, is the caller's, and nothing else uses it meanwhile.
pub unsafe fn bytes<'b>(buffer: NonNull<u8>, length: usize) -> &'b mut [u8] {
    // SAFETY: the caller's promise.
    unsafe { core::slice::from_raw_parts_mut(buffer.as_ptr(), length) }
}

/// One step of a CPU's work: a session comes or goes, and the heap is used as a heap is.
pub fn step(round: u64) {
    let (lane, ledger) = (lane(Kind::Work), ledger());
    let slot = ledger.slot(lane, round.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32);
    note(match slot.get() {
        Some((id, [word, _])) => end_session(slot, id, word),
        None => new_session(slot, ledger.id(lane)),
    });
    let mut map = BTreeMap::new();
    for i in 0..round % 17 {
        map.insert(i * round, format!("{i} of {round}"));
    }
    let lengths: Vec<usize> = map.values().map(|text| text.len()).collect();
    expect(lengths.iter().sum::<usize>() == map.values().map(|text| text.len()).sum());
}

/// A buffer of a number, filled and preserved.
fn new_buffer(id: u64, length: usize) -> Result<Handle, Error> {
    let buffer = kernel().alloc(length)?;
    // SAFETY: allocated just now, and not used elsewhere.
    fill(id, unsafe { bytes(buffer, length) });
    // SAFETY: ours, and in use; where that is refused, not used any more.
    unsafe {
        let preserved = kernel().preserve(buffer);
        if preserved.is_err() {
            kernel().free(buffer)?;
        }
        preserved
    }
}

/// Compares the bytes of a buffer, has `forget` take its name away, and frees it.
///
/// # Safety
/// It is the caller's, and has so many bytes.
unsafe fn end_buffer(
    id: u64,
    at: Handle,
    length: usize,
    forget: impl FnOnce(),
) -> Result<(), Error> {
    let buffer = kernel().find(at)?;
    // SAFETY: the caller's promise.
    expect(is(id, unsafe { bytes(buffer, length) }));
    forget();
    // SAFETY: as above; not used any more.
    unsafe {
        kernel().unpreserve(buffer)?;
        kernel().free(buffer)
    }
}

fn new_session(slot: &Slot, id: u64) -> Result<(), Error> {
    let length = length(id, LONGEST);
    let handle = new_buffer(id, length)?;
    match sessions().insert(session(id, handle.into(), length as u64)) {
        Ok(session) => {
            let (addr, tag) = session.handle_parts();
            session.leak();
            slot.fill(id, [object(addr, tag), 0]);
            Ok(())
        }
        Err(error) => {
            // SAFETY: made above; nothing names it.
            unsafe { end_buffer(id, handle, length, || ()) }?;
            Err(error.into())
        }
    }
}

fn end_session(slot: &Slot, id: u64, word: u64) -> Result<(), Error> {
    slot.clear();
    let (addr, _) = object_parts(word);
    // SAFETY: the slot named it, and does not any more: it is owned here alone.
    let session = unsafe { sessions().from_raw(addr) };
    expect(session.id == id);
    let Session { buffer, bytes: length, .. } = *session;
    // SAFETY: the session's, which is ours.
    unsafe { end_buffer(id, Handle::from(buffer), length as usize, || drop(session)) }
}

/// What the timer's handler does: a buffer comes or goes, and the heap is used.
pub fn tick(ticks: u64) {
    let (lane, ledger) = (lane(Kind::Timer), ledger());
    let slot = ledger.slot(lane, ticks);
    note(match slot.get() {
        // SAFETY: the slot names it: ours.
        Some((id, words)) => unsafe {
            end_buffer(id, handle(words), length(id, SHORT), || slot.clear())
        },
        None => {
            let id = ledger.id(lane);
            let made = new_buffer(id, length(id, SHORT));
            made.map(|handle| slot.fill(id, words(handle)))
        }
    });
    let boxed = Box::new([ticks; 7]);
    expect(boxed.iter().all(|found| *found == ticks));
}

/// What the NMI's handler does, which comes in the middle of anything: a folio comes or goes. Objects may need a
/// lock that the CPU holds; frames need none.
pub fn nmi() {
    if !crate::is_working() {
        return;
    }
    let nmis = cpu::this().nmis.load(Relaxed);
    let (lane, ledger) = (lane(Kind::Nmi), ledger());
    let slot = ledger.slot(lane, nmis);
    note(match slot.get() {
        Some((id, [pfn, _])) => end_folio(slot, block(id, pfn)),
        None => new_folio(slot, ledger.id(lane)),
    });
}

fn new_folio(slot: &Slot, id: u64) -> Result<(), Error> {
    let order = block(id, 0).order();
    let mut folio = kernel().memory().alloc_folio(Request::new(order))?;
    fill(id, folio.bytes_mut());
    // A folio that is refused is freed.
    let folio = folio.preserve().map_err(|refused| refused.error)?;
    slot.fill(id, [folio.into_raw().pfn().get(), 0]);
    Ok(())
}

fn end_folio(slot: &Slot, block: Block) -> Result<(), Error> {
    let id = slot.get().map_or(0, |(id, _)| id);
    slot.clear();
    // SAFETY: the slot named it, and does not any more: it is owned here alone.
    let folio: Preserved<'_, Block, Port> =
        unsafe { Preserved::from_raw(kernel().memory(), block) };
    expect(is(id, folio.bytes()));
    Ok(folio.unpreserve().map(drop).map_err(|refused| refused.error)?)
}
