//! A successor's image, put into scratch with a device tree, and entered by Linux's boot protocol for arm64.

use core::arch::asm;

use heirloom::{DirectMap, Entry, PAGE_SIZE, PhysAddr, Run};
use heirloom_x86::map::Map;
use heirloom_x86::{Error, MemoryType, Region};

use super::tree::{self, Chosen};
use crate::machine::Port;
use crate::serial::fail;
use crate::told::Told;
use crate::work::bytes;

/// What Linux's command line begins with: it follows on x86-64 alone.
pub const LINUX: &str = "";

/// What an image starts at a multiple of.
const ALIGN: u64 = 2 << 20;

/// A word of the flash that `virt` begins with, which nothing else reads.
const LOOKED_AT: u64 = 0x1000;

/// An Image, as long as the memory that it takes: what is zero at its start is there too.
#[derive(Clone, Copy)]
pub struct Image<'i>(&'i [u8]);

impl<'i> Image<'i> {
    pub fn whole(&self) -> &'i [u8] {
        self.0
    }
}

/// The image that these bytes begin with: see Linux's `Documentation/arch/arm64/booting.rst`.
pub fn parse(bytes: &[u8]) -> Option<Image<'_>> {
    let size = u64::from_le_bytes(*bytes.get(16..24)?.first_chunk()?);
    let marked = bytes.get(56..60)? == b"ARM\x64";
    marked.then(|| bytes.get(..usize::try_from(size).ok()?).map(Image))?
}

/// An image in memory, ready to be entered.
pub struct Loaded {
    pub image: Run,
    /// Its device tree's.
    pub params: Run,
}

/// Puts an image into one of the areas, beside what is busy, and writes what it is told.
///
/// # Safety
/// What is not busy of the areas is memory in no use.
pub unsafe fn place(
    told: &Told,
    (image, line, images, entry): (Image<'_>, &[u8], (PhysAddr, u64), Entry),
    areas: impl Iterator<Item = Run>,
    busy: &[Run],
) -> Result<Loaded, Error> {
    // ANCHOR: load
    let mut map = Map::<16>::new();
    for area in areas {
        map.add_memory(Region::new(area.addr().get(), area.bytes(), MemoryType::RAM))?;
    }
    let limit = PhysAddr::new(crate::machine::MAPPED << 30);
    let code = map.place(image.whole().len() as u64, ALIGN, limit, busy)?;
    map.remove(code)?;
    let params = map.place(tree::LARGEST as u64, PAGE_SIZE as u64, limit, busy)?;
    // SAFETY: in no use (contract), and mapped; the two are not the same.
    let (to, described) = unsafe { (place_of(code), place_of(params)) };
    to[..image.whole().len()].copy_from_slice(image.whole());
    let written = tree::write(&told.own.tree, &Chosen { line, images, entry }, described);
    // ANCHOR_END: load
    match written {
        Ok(length) if length <= described.len() => {}
        Ok(length) => fail(format_args!("a device tree of {length} bytes")),
        Err(error) => fail(format_args!("{error}")),
    }
    [code, params].into_iter().for_each(clean);
    Ok(Loaded { image: code, params })
}

/// Reads a word that a debugger watches. It finds in X0 to X3 what was handed over, and to which kernel.
pub fn show(Entry { root, scratch, scratch_bytes }: Entry, step: usize) {
    // SAFETY: changes nothing.
    unsafe {
        asm!("ldr {word:w}, [{word}]", word = inout(reg) LOOKED_AT => _, in("x0") root.get(),
            in("x1") scratch.get(), in("x2") scratch_bytes, in("x3") step, options(nostack));
    }
}

/// The bytes of frames.
///
/// # Safety
/// They are the caller's, and nothing else uses them meanwhile.
unsafe fn place_of<'b>(run: Run) -> &'b mut [u8] {
    // SAFETY: the caller's promise.
    unsafe { bytes(Port.ptr(run.addr()), run.bytes() as usize) }
}

/// Writes back the data caches' lines of frames, so that a CPU with its caches off reads them from memory.
fn clean(run: Run) {
    let kind: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mrs {}, ctr_el0", out(reg) kind, options(nomem, nostack)) };
    let line = 4 << (kind >> 16 & 15);
    let (start, end) = (run.addr().get(), run.addr().get() + run.bytes());
    for at in (start..end).step_by(line) {
        // SAFETY: changes nothing that can be seen.
        unsafe { asm!("dc civac, {}", in(reg) at, options(nostack)) };
    }
    // SAFETY: as above.
    unsafe { asm!("dsb sy", options(nostack)) };
}

impl Loaded {
    /// Enters it, with caches and address translation off: memory is at its own addresses with and without.
    ///
    /// # Safety
    /// What was loaded is there unchanged. All other CPUs have stopped.
    pub unsafe fn enter(&self) -> ! {
        // SAFETY: the code at the entry is the image's, and X0 holds the address of its device tree, as the protocol
        // says. Nothing here uses the stack, which may be in the caches alone.
        unsafe {
            asm!(
                "msr daifset, #15",
                "dsb sy",
                "mrs x9, sctlr_el1",
                "bic x9, x9, #1",
                "bic x9, x9, #4",
                "bic x9, x9, #(1 << 12)",
                "msr sctlr_el1, x9",
                "isb",
                "ic iallu",
                "tlbi vmalle1",
                "dsb sy",
                "isb",
                "br x10",
                in("x10") self.image.addr().get(),
                in("x0") self.params.addr().get(),
                in("x1") 0_u64,
                in("x2") 0_u64,
                in("x3") 0_u64,
                options(noreturn),
            )
        }
    }
}
