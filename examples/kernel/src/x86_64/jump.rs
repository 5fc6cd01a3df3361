//! A successor's image, put into scratch by `heirloom-x86`: an own build, or Linux.

use core::arch::asm;

use heirloom::{Entry, PhysAddr, Run};
use heirloom_x86::Error;
use heirloom_x86::bzimage::BzImage;
pub use heirloom_x86::bzimage::BzImage as Image;
pub use heirloom_x86::loader::Loaded;
use heirloom_x86::loader::{Successor, load};

use crate::machine::Port;
use crate::told::Told;

/// What Linux's command line begins with.
pub const LINUX: &str = "console=ttyS0 panic=-1 nox2apic kho=on liveupdate=on retain_initrd ";

/// The image that these bytes begin with.
pub fn parse(bytes: &[u8]) -> Option<Image<'_>> {
    BzImage::parse(bytes).ok()
}

/// A word where a PC without a display has nothing.
const LOOKED_AT: u64 = 0xa_1000;

/// Reads a word that a debugger watches. It finds in RDI, RSI, RDX and RCX what was handed over, and to which kernel.
pub fn show(Entry { root, scratch, scratch_bytes }: Entry, step: usize) {
    // SAFETY: changes nothing.
    unsafe {
        asm!("mov {word:e}, [{word}]", word = inout(reg) LOOKED_AT => _, in("rdi") root.get(),
            in("rsi") scratch.get(), in("rdx") scratch_bytes, in("rcx") step, options(nostack));
    }
}

/// Puts an image into one of the areas, beside what is busy, and writes what it is told.
///
/// # Safety
/// What is not busy of the areas is memory in no use.
pub unsafe fn place(
    told: &Told,
    (image, line, initrd, entry): (Image<'_>, &[u8], (PhysAddr, u64), Entry),
    areas: impl Iterator<Item = Run> + Clone,
    busy: &[Run],
) -> Result<Loaded, Error> {
    // ANCHOR: load
    let successor = Successor {
        image,
        command_line: line,
        regions: told.regions(),
        initrd: Some(initrd),
        rsdp: told.own.rsdp,
        entry: Some(entry),
    };
    // SAFETY: the caller's promise; the page tables show the areas.
    unsafe { load(&Port, areas, busy, &successor) }
    // ANCHOR_END: load
}
