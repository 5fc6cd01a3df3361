//! Puts a successor's image into scratch and enters it: the running kernel's part of a jump.
//!
//! ```text
//!   scratch:  │ metadata │ ... │ image: code, what it needs behind │ ... │ 2 pages │
//!                                                                        └ boot parameters
//!                                                                          GDT, KHO node, command line
//! ```
//!
//! One loader serves for an own successor and for Linux: both are entered by the 64-bit boot protocol, and both
//! find in `setup_data` what is handed over. An image is loaded whenever there is time for it, before `revive` even; the
//! jump is then a few instructions, which a handler of interrupts can do.

use core::mem::offset_of;
use core::ptr::NonNull;

use heirloom_folio::DirectMap;
use heirloom_kho::narrow::{u64_to_usize, usize_to_u64};
use heirloom_kho::{PAGE_SIZE, Pfn, PhysAddr, Run};
use heirloom_restore::Entry;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use crate::boot_params::{KhoNode, ZeroPage};
use crate::bzimage::{BzImage, ENTRY};
use crate::error::{Error, Fault, Structure};
use crate::fit;
use crate::region::Region;

/// The longest command line, without the zero at its end.
pub const COMMAND_LINE: usize = 2047;

/// The segments that the protocol wants: code at 0x10, data at 0x18.
const GDT: [u64; 4] = [0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff];

/// Frames that the parameters take.
const PARAMS: u64 = fit::frames(usize_to_u64(size_of::<Params>()));

/// Highest frame for images that do not run above 4 GiB.
const LIMIT: Pfn = PhysAddr::new(4 << 30).pfn();

/// What stands beside the image.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Params {
    page: ZeroPage,
    gdt: [u64; GDT.len()],
    node: KhoNode,
    command_line: [u8; COMMAND_LINE + 1],
}

/// A successor, and what it is told.
#[derive(Clone, Copy, Debug)]
pub struct Successor<'a> {
    /// Its image.
    pub image: BzImage<'a>,
    /// Its command line.
    pub command_line: &'a [u8],
    /// All of memory, as firmware described it: up to 128 regions.
    pub regions: &'a [Region],
    /// An initial file system, or what else it is to find: where, and how many bytes. It must be preserved
    /// memory, or lie in scratch.
    pub initrd: Option<(PhysAddr, u64)>,
    /// Where ACPI's root pointer is, if that is known.
    pub rsdp: Option<PhysAddr>,
    /// What is handed over: [`Heirloom::entry`](heirloom_restore::Heirloom::entry), or, in a kernel that has not taken over yet, the
    /// entry that it was given.
    pub entry: Option<Entry>,
}

/// An image in memory, ready to be entered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Loaded {
    /// The frames of its code, and what it needs behind.
    pub image: Run,
    /// The frames of its boot parameters.
    pub params: Run,
}

impl Loaded {
    /// What must not be written before the jump: what is busy for
    /// [`Placement`](heirloom_restore::Placement) and for the next call of [`load`].
    pub const fn busy(&self) -> [Run; 2] {
        [self.image, self.params]
    }

    /// Where it is entered.
    pub const fn entry(&self) -> PhysAddr {
        PhysAddr::new(self.image.addr().get() + usize_to_u64(ENTRY))
    }

    /// Enters it, with interrupts off, and never returns.
    ///
    /// # Safety
    /// - What [`load`] wrote is there unchanged, and mapped at its own addresses in this CPU's page tables, as are the
    ///   code that runs now and what the image reads before it has page tables of its own.
    /// - All other CPUs have stopped, as have devices that write memory. What this kernel preserved is preserved.
    #[cfg(target_arch = "x86_64")]
    pub unsafe fn enter(&self) -> ! {
        #[repr(C, packed)]
        struct Table {
            limit: u16,
            base: u64,
        }
        let params = self.params.addr().get();
        let limit = u16::try_from(size_of_val(&GDT) - 1).unwrap_or(u16::MAX);
        let table = Table { limit, base: params + usize_to_u64(offset_of!(Params, gdt)) };
        // SAFETY: `load` wrote the descriptors, which are mapped (contract), and the code at the entry is the
        // image's: with flat segments, interrupts off and RSI at the parameters, as the protocol says.
        unsafe {
            core::arch::asm!(
                "cli",
                "cld",
                "lgdt [{table}]",
                "mov ds, {data:x}",
                "mov es, {data:x}",
                "mov fs, {data:x}",
                "mov gs, {data:x}",
                "mov ss, {data:x}",
                "push 0x10",
                "push {entry}",
                "retfq",
                table = in(reg) &raw const table,
                data = in(reg) 0x18_u64,
                entry = in(reg) self.entry().get(),
                in("rsi") params,
                options(noreturn),
            )
        }
    }
}

/// Puts a successor into scratch, at the lowest places of `areas` in which nothing is `busy`, and writes what it is
/// told. Code comes before parameters, not below the address that the image prefers, to which it would move by itself, and below 4 GiB
/// where it must.
///
/// Busy are: this kernel's image, stack and page tables; its [metadata](heirloom_restore::Heirloom::metadata), or, before it
/// has any, as much as it will need; another image that was loaded.
///
/// # Errors
/// [`Fault::NoRoom`], [`Fault::TooLong`]: a command line of more than [`COMMAND_LINE`] bytes, [`Fault::TooMany`]: more than 128
/// regions. Nothing that is written then matters.
///
/// # Safety
/// - Each frame of `areas` that is not in `busy` is memory that `map` covers, and that nothing else uses as long as
///   the image is to be entered.
///
/// # Examples
/// See `examples/kernel`, which loads its successor before it takes over from its predecessor.
pub unsafe fn load(
    map: &impl DirectMap,
    areas: impl IntoIterator<Item = Run, IntoIter: Clone>,
    busy: &[Run],
    successor: &Successor<'_>,
) -> Result<Loaded, Error> {
    let loaded = place(&areas.into_iter(), busy, &successor.image)?;
    let image = successor.image;
    let start = map.ptr(loaded.image.addr());
    let code = image.code();
    let room = u64_to_usize(loaded.image.bytes());
    // SAFETY: `place` chose these frames in an area, beside what is busy: mapped and ours (contract). They hold
    // as many bytes as the image needs, of which the code is a part.
    unsafe {
        start.copy_from_nonoverlapping(NonNull::from(code).cast(), code.len());
        start.add(code.len()).write_bytes(0, room - code.len());
    }
    let params = map.ptr(loaded.params.addr()).cast::<Params>();
    // SAFETY: as above; a page's start is aligned for it, zeroes are one, and nothing else refers to it.
    let params = unsafe {
        params.write_bytes(0, 1);
        &mut *params.as_ptr()
    };
    describe(params, loaded.params.addr(), successor)?;
    Ok(loaded)
}

/// Where an image and its parameters go.
fn place(
    areas: &(impl Iterator<Item = Run> + Clone),
    busy: &[Run],
    image: &BzImage<'_>,
) -> Result<Loaded, Error> {
    let find = |frames, align, lowest: Pfn, limit, taken: Option<Run>| {
        let taken = busy.iter().copied().chain(taken);
        let mut places = areas.clone().filter_map(|area| {
            let area = Run::between(area.start().max(lowest), area.end())?;
            fit::lowest(area, frames, align, limit, &taken)
        });
        let none = Fault::NoRoom { needed: frames * usize_to_u64(PAGE_SIZE) };
        places.next().ok_or(none.of(Structure::Load, PhysAddr::new(0), 0))
    };
    let any = Pfn::new(u64::MAX);
    let limit = if image.runs_above_4g() { any } else { LIMIT };
    let lowest = Pfn::new(fit::frames(image.lowest().get()));
    let (frames, align) = (fit::frames(image.needed()), fit::frames(image.align()));
    let code = find(frames, align, lowest, limit, None)?;
    // The parameters are read through the page tables of either kernel, wherever they are.
    let params = find(PARAMS, 1, Pfn::new(0), any, Some(code))?;
    Ok(Loaded { image: code, params })
}

/// Writes what stands beside the image.
fn describe(params: &mut Params, at: PhysAddr, successor: &Successor<'_>) -> Result<(), Error> {
    let there = |field: usize| PhysAddr::new(at.get() + usize_to_u64(field));
    params.zero();
    params.page.reset(Some(successor.image.header()));
    successor.regions.iter().try_for_each(|region| params.page.push_region(*region))?;
    let line = successor.command_line;
    let (limit, found) = (usize_to_u64(COMMAND_LINE), usize_to_u64(line.len()));
    let too_long = Fault::TooLong { limit, found }.of(Structure::Load, at, 0);
    if line.len() > COMMAND_LINE {
        return Err(too_long);
    }
    let place = params.command_line.get_mut(..line.len()).ok_or(too_long)?;
    place.copy_from_slice(line);
    params.page.set_command_line(there(offset_of!(Params, command_line)));
    if let Some((at, bytes)) = successor.initrd {
        params.page.set_initrd(at, bytes);
    }
    if let Some(rsdp) = successor.rsdp {
        params.page.set_rsdp(rsdp);
    }
    if let Some(entry) = successor.entry {
        params.node = KhoNode::new(entry);
        params.page.set_setup_data(there(offset_of!(Params, node)));
    }
    params.gdt = GDT;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::vec;
    use std::vec::Vec;

    use heirloom_folio::Linear;

    use super::*;
    use crate::boot_params::BootParams;
    use crate::bzimage::{from_elf, size};
    use crate::elf::tests::file;
    use crate::region::MemoryType;
    use crate::source::Bytes;

    const PAGE: u64 = PAGE_SIZE as u64;
    const START: PhysAddr = PhysAddr::new(8 << 30);

    /// 8 MiB at an address that is a multiple of 2 MiB, all bytes of one value.
    fn world() -> (Vec<u64>, *mut u8) {
        let mut words = vec![0xeeee_eeee_eeee_eeee_u64; (10 << 20) / 8];
        let start = words.as_mut_ptr().cast::<u8>();
        let start = start.wrapping_add(start.align_offset(2 << 20));
        (words, start)
    }

    fn image() -> Vec<u8> {
        let code: Vec<u8> = (0..3000_u32).map(|i| i as u8).collect();
        let elf = file(&[(1 << 20, &code, 9000)]);
        let mut image = vec![0; size(&elf).unwrap()];
        from_elf(&elf, &mut image).unwrap();
        image
    }

    fn frames(start: u64, frames: u64) -> Run {
        Run::new(Pfn::new(START.pfn().get() + start), frames).unwrap()
    }

    #[test]
    fn a_successor_finds_what_it_was_told() {
        let image = image();
        let entry = Entry { root: PhysAddr::new(1 << 33), scratch: START, scratch_bytes: 16 };
        let region = Region::new(1 << 20, 1 << 34, MemoryType::RAM);
        let successor = Successor {
            image: BzImage::parse(&image).unwrap(),
            command_line: b"step=2",
            regions: &[region],
            initrd: Some((PhysAddr::new(5 << 32), 77)),
            rsdp: Some(PhysAddr::new(0xe0000)),
            entry: Some(entry),
        };
        let (words, start) = world();
        // SAFETY: the words live as long as the test, and are used through this map and `look` alone.
        let map = unsafe { Linear::new(NonNull::new(start).unwrap(), START, 8 << 20) };
        // What is busy lies before and behind the one place that fits.
        let area = frames(1, (6 << 20) / PAGE - 1);
        let busy = [frames((2 << 20) / PAGE, 1), frames((4 << 20) / PAGE + 3, 100)];
        // SAFETY: the area is covered by the map; nothing else uses it.
        let loaded = unsafe { load(&map, [area], &busy, &successor) }.unwrap();
        assert_eq!(loaded.image, frames((4 << 20) / PAGE, fit::frames(9000)));
        assert_eq!(loaded.params.start().get(), START.pfn().get() + 1);
        assert_eq!(loaded.entry().get(), START.get() + (4 << 20) + 0x200);
        // SAFETY: within the words, which nothing writes any more.
        let all = unsafe { core::slice::from_raw_parts(start, 8 << 20) };
        let code = &all[4 << 20..][..loaded.image.bytes() as usize];
        assert!(code[..3000].iter().enumerate().all(|(i, byte)| *byte == i as u8));
        assert!(code[3008..].iter().all(|byte| *byte == 0));
        let kept = |run: Run| {
            let at = ((run.addr().get() - START.get()) as usize, run.bytes() as usize);
            all[at.0..][..at.1].iter().all(|byte| *byte == 0xee)
        };
        assert!(busy.iter().all(|run| kept(*run)) && kept(frames(0, 1)));
        let source = Bytes::new(START, all);
        let params = BootParams::open(&source, loaded.params.addr()).unwrap();
        assert_eq!(params.entry(), Ok(Some(entry)));
        assert_eq!(params.initrd(), Some((PhysAddr::new(5 << 32), 77)));
        assert_eq!(params.command_line(&mut [0; 64]).unwrap(), b"step=2");
        assert_eq!(params.rsdp(), Some(PhysAddr::new(0xe0000)));
        let mut regions = Vec::new();
        params
            .for_each_region(|region| {
                regions.push(region);
                Ok::<_, Error>(())
            })
            .unwrap()
            .unwrap();
        assert_eq!(regions, [region]);
        drop(words);
    }

    /// A relocatable kernel that is loaded below the address that it prefers moves there, over what is there.
    #[test]
    fn an_image_does_not_lie_below_the_address_that_it_prefers() {
        let mut bytes = image();
        let preferred = START.get() + (3 << 20);
        bytes[0x258..0x260].copy_from_slice(&preferred.to_le_bytes());
        let image = BzImage::parse(&bytes).unwrap();
        let all = frames(0, (8 << 20) / PAGE);
        let loaded = place(&[all].into_iter(), &[], &image).unwrap();
        assert_eq!(loaded.image.start(), frames((4 << 20) / PAGE, 1).start());
        assert_eq!(loaded.params.start(), all.start());
        let below = frames(0, (3 << 20) / PAGE);
        assert!(place(&[below].into_iter(), &[], &image).is_err());
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let bytes = image();
        let mut low = bytes.clone();
        low[0x236] &= !2;
        let [image, low] = [&bytes, &low].map(|bytes| BzImage::parse(bytes).unwrap());
        let area = frames(0, (2 << 20) / PAGE);
        let fault =
            |busy: &[Run], image| place(&[area].into_iter(), busy, image).unwrap_err().fault;
        let needed = fit::frames(9000) * PAGE;
        assert_eq!(fault(&[frames(1, 1)], &image), Fault::NoRoom { needed });
        assert_eq!(fault(&[], &low), Fault::NoRoom { needed }, "above 4 GiB");
        let rest = frames(fit::frames(9000), (2 << 20) / PAGE - fit::frames(9000));
        assert_eq!(fault(&[rest], &image), Fault::NoRoom { needed: PARAMS * PAGE });
        let (long, many) = ([b'x'; 2048], [Region::new(0, 1, MemoryType::RAM); 129]);
        let refused = |command_line: &[u8], regions: &[Region]| {
            let rest = (None, None, None);
            let (initrd, rsdp, entry) = rest;
            let what = Successor { image, command_line, regions, initrd, rsdp, entry };
            let mut params = std::boxed::Box::new(Params::new_zeroed());
            describe(&mut params, START, &what).map_err(|error| error.fault)
        };
        assert_eq!(refused(&long, &[]), Err(Fault::TooLong { limit: 2047, found: 2048 }));
        assert_eq!(refused(&long[..2047], &many[..128]), Ok(()));
        assert_eq!(refused(b"", &many), Err(Fault::TooMany { limit: 128 }));
    }
}
