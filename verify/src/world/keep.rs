//! One preserved thing of each kind, stamped with what can be told apart.

use std::alloc::Layout;

use heirloom::folio::{DirectMap, Folio, Order, PhysAddr, Request};
use heirloom::restore::{Error, Handle, Parts, PreservedArea, Records};
use heirloom::slab::{AllocOptions, Cache};

use super::{CountedRam, Kernel};

/// Something that was preserved.
#[derive(Clone, Copy, Debug)]
pub struct Kept {
    /// What names it.
    pub handle: Handle,
    /// What it was stamped with.
    pub seed: u64,
}

/// Fills memory with what only `seed` gives.
pub fn stamp(bytes: &mut [u8], seed: u64) {
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte = stamp_byte(seed, i);
    }
}

/// Whether memory is as [`stamp`] left it.
pub fn stamped(bytes: &[u8], seed: u64) -> bool {
    bytes.iter().enumerate().all(|(i, byte)| *byte == stamp_byte(seed, i))
}

const fn stamp_byte(seed: u64, i: usize) -> u8 {
    let x = (seed ^ (i as u64 / 64)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (x >> 56) as u8 ^ i as u8
}

/// Writes a stamp into memory that the caller owns.
fn stamp_at(kernel: &Kernel<'_>, addr: PhysAddr, bytes: usize, seed: u64) {
    let start = kernel.memory().machine().ptr(addr);
    // SAFETY: allocated by the callers below, who own that many bytes there.
    stamp(unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), bytes) }, seed);
}

/// A preserved folio of order `n`.
///
/// # Errors
/// No memory.
///
/// # Panics
/// If there is no such order.
pub fn keep_folio(kernel: &Kernel<'_>, n: u8, seed: u64) -> Result<Kept, Error> {
    let mut folio = kernel.memory().folio(Request::new(Order::new(n).expect("an order")))?;
    stamp(folio.bytes_mut(), seed);
    let folio = folio.preserve().map_err(|refused| refused.error)?;
    let handle = kernel.folio_handle(&folio)?;
    folio.into_raw();
    Ok(Kept { handle, seed })
}

/// A preserved run.
///
/// # Errors
/// No memory.
pub fn keep_run(kernel: &Kernel<'_>, frames: u64, seed: u64) -> Result<Kept, Error> {
    let mut run = kernel.memory().run(frames, Request::new(Order::ZERO))?;
    stamp(run.bytes_mut(), seed);
    let run = run.preserve().map_err(|refused| refused.error)?;
    let handle = kernel.run_handle(&run)?;
    run.into_raw();
    Ok(Kept { handle, seed })
}

/// A preserved buffer. `born`: preserved from birth.
///
/// # Errors
/// No memory.
///
/// # Panics
/// If no layout has so many bytes.
pub fn keep_buffer(
    kernel: &Kernel<'_>,
    bytes: usize,
    born: bool,
    seed: u64,
) -> Result<Kept, Error> {
    let layout = Layout::from_size_align(bytes, 8).expect("a layout");
    let ptr = kernel.slabs().alloc(layout, AllocOptions { preserving: born, zeroed: false })?;
    let addr = kernel.memory().machine().phys(ptr).expect("a buffer is memory");
    // All that the handle will name, which is more than was asked for.
    stamp_at(kernel, addr, kernel.slabs().size_of(ptr).unwrap_or(bytes), seed);
    // SAFETY: in use, and nothing frees it meanwhile.
    let handle = if born { kernel.handle_of(ptr) } else { unsafe { kernel.preserve(ptr) } }?;
    Ok(Kept { handle, seed })
}

/// A preserved object of a cache.
///
/// # Errors
/// No memory.
///
/// # Panics
/// Never: an object is memory.
pub fn keep_object(
    kernel: &Kernel<'_>,
    cache: &Cache<'_, &CountedRam>,
    seed: u64,
) -> Result<Kept, Error> {
    let ptr = cache.alloc()?;
    let addr = kernel.memory().machine().phys(ptr).expect("an object is memory");
    stamp_at(kernel, addr, cache.object_size(), seed);
    let handle = if cache.is_preserving() {
        kernel.handle_of(ptr)
    } else {
        // SAFETY: in use, and nothing frees it meanwhile.
        unsafe { kernel.preserve(ptr) }
    }?;
    Ok(Kept { handle, seed })
}

/// A preserved area of `blocks` blocks of order `n`.
///
/// # Errors
/// No memory.
///
/// # Panics
/// If there is no such order.
pub fn keep_area(kernel: &Kernel<'_>, blocks: u64, n: u8, seed: u64) -> Result<Kept, Error> {
    let order = Order::new(n).expect("an order");
    let mut folios = Vec::new();
    for i in 0..blocks {
        let mut folio = kernel.memory().folio(Request::new(order))?;
        stamp(folio.bytes_mut(), seed + i);
        folios.push(folio);
    }
    let list = folios.iter().map(Folio::block);
    // SAFETY: the blocks are this kernel's, and only what let the area go frees them.
    let area = unsafe { PreservedArea::preserve(kernel.memory(), list, order, false) }?;
    for folio in folios {
        folio.into_raw();
    }
    Ok(Kept { handle: Handle::new(Parts::Area(area.into_raw()))?, seed })
}

/// A preserved list of `count` records of two words.
///
/// # Errors
/// No memory.
pub fn keep_records(kernel: &Kernel<'_>, count: u64, seed: u64) -> Result<Kept, Error> {
    let mut records = Records::<_, [u64; 2]>::new(kernel.memory())?;
    for i in 0..count {
        records.push(&[seed, i])?;
    }
    let first = records.first();
    Ok(Kept { handle: Handle::new(Parts::Records { first, entry: 16 })?, seed })
}
