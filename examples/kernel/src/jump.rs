//! The successor: its image found among those that came with the first kernel, put into scratch.

use alloc::format;

use heirloom::{DirectMap, Entry, PhysAddr, Run};

use crate::arch::jump::{Image, LINUX, parse, place};
pub use crate::arch::jump::{Loaded, show};
use crate::machine::Port;
use crate::serial::fail;
use crate::told::Told;
use crate::work::bytes;

/// The images, one behind the other.
///
/// # Safety
/// They are where they are said to be, and nothing changes them.
unsafe fn images<'i>((at, length): (PhysAddr, u64)) -> impl Iterator<Item = Image<'i>> {
    // SAFETY: the caller's promise.
    let mut rest: &[u8] = unsafe { bytes(Port.ptr(at), length as usize) };
    core::iter::from_fn(move || {
        let image = parse(rest)?;
        rest = &rest[image.whole().len()..];
        Some(image)
    })
}

/// Loads the build that is to follow this kernel, into one of the areas, beside what is busy.
///
/// # Safety
/// What is not busy of the areas is in no use; the images are where they are said to be.
pub unsafe fn load(
    told: &Told,
    areas: impl Iterator<Item = Run> + Clone,
    busy: &[Run],
    at: (PhysAddr, u64),
    entry: Entry,
) -> Loaded {
    let step = told.number("step", 0) + 1;
    let (plan, cpus) = (told.word("plan").unwrap_or("e"), told.number("cpus", 1));
    // Linux is the third, where it is to follow.
    let linux = plan.as_bytes().get(step) == Some(&b'l');
    // SAFETY: the caller's promise.
    let found = unsafe { images(at) }.nth(if linux { 2 } else { step % 2 });
    let image = found.unwrap_or_else(|| fail(format_args!("no image for step {step}")));
    let (seed, look) = (told.number("seed", 1), told.number("look", 0));
    let mut line = format!("plan={plan} step={step} cpus={cpus} seed={seed} look={look}");
    let mut initrd = at;
    if linux {
        line.insert_str(0, LINUX);
        // What Linux begins with lies behind the images.
        // SAFETY: the caller's promise.
        let images: u64 = unsafe { images(at) }.map(|image| image.whole().len() as u64).sum();
        initrd = (PhysAddr::new(at.0.get() + images), at.1 - images);
    }
    let successor = (image, line.as_bytes(), initrd, entry);
    // SAFETY: the caller's promise; the areas are memory.
    crate::sure(unsafe { place(told, successor, areas, busy) })
}

/// Whether the images that were claimed are those that the kernel was told of, and sound. Returns how many bytes.
pub fn check(told: (PhysAddr, u64), claimed: (PhysAddr, u64)) -> u64 {
    // SAFETY: claimed, and never changed.
    if told != claimed || unsafe { images(claimed) }.count() < 2 {
        fail(format_args!("the images are elsewhere, or not sound"));
    }
    claimed.1
}
