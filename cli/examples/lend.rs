//! Leaves a handover within another one in a file, for tests of the command: `lend IMAGE`.
//!
//! ```text
//!  Linux     [ tables | … | list | … ][ folio ][ folio ]  …  [ folio ]
//!                             └─────────^────────^─────────────^
//!  heirloom                           [ memory         ]     [ memory | scratch ]
//! ```
//!
//! Linux is played by a kernel on heirloom. Its root page has the name `heirloom`, as Linux's has while the module
//! is loaded (`linux/module/loans.c`), and the name leads to the list of the folios that are lent. A second kernel
//! boots in those folios, as the module does, and preserves what a subsystem would; then both end. The program
//! writes an ELF core of all pages that are not zero, which declares the others: read it with `--zero-excluded`.
#![allow(clippy::drop_non_drop, reason = "a kernel ends where it is dropped")]

#[cfg(target_os = "linux")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let file = std::env::args().nth(1).ok_or("lend IMAGE")?;
    Ok(std::fs::write(file, lend::core()?)?)
}

#[cfg(not(target_os = "linux"))]
fn main() {}

#[cfg(target_os = "linux")]
mod dump;

#[cfg(target_os = "linux")]
mod lend {
    use std::error::Error;
    use std::sync::atomic::Ordering::Relaxed;
    use std::sync::atomic::{AtomicU8, AtomicU32};

    use heirloom::Heirloom;
    use heirloom::folio::harness::Ram;
    use heirloom::folio::{Cpus, DirectMap, NodeId, Request};
    use heirloom::kho::linux::Loans;
    use heirloom::kho::{
        Block, Name, Order, PAGE_SHIFT, PAGE_SIZE, Pfn, PhysAddr, RootPage, Run, SUBTREE,
    };
    use heirloom::restore::Entry;
    use heirloom::slab::CacheSpec;

    use super::dump::elf;

    /// Frames, from this one on.
    const FRAMES: u64 = 1024;
    const FIRST: u64 = 256;
    const PAGE: u64 = PAGE_SIZE as u64;
    /// The order of the folios that are lent.
    const ORDER: u8 = 6;

    type Result<T> = std::result::Result<T, Box<dyn Error>>;
    type Kernel<'m> = Heirloom<&'m Ram>;
    /// Stretches of memory, and what they hold.
    type Memory = Vec<(Run, Vec<u8>)>;

    /// The memory of all of it, as an ELF core.
    pub(crate) fn core() -> Result<Vec<u8>> {
        // Low enough for a small guest of an emulator to have all of it.
        let run = Run::new(Pfn::new(FIRST), FRAMES).ok_or("memory")?;
        let ranges = [(run, NodeId(0))];
        let ram = Ram::over(&ranges);
        let linux = boot(&ram, &ranges, "stands for Linux")?;
        let lent = [(); 3].map(|()| folio(&linux, ORDER));
        // One that is not lent, so that they do not all touch.
        let between = lent.get(1).ok_or("three")?.as_ref().map_err(|_| "no room")?.addr();
        let lent = lent.into_iter().filter_map(std::result::Result::ok);
        let lent: Vec<Block> = lent.filter(|block| block.addr() != between).collect();
        let more = folio(&linux, ORDER - 1)?;
        let loans = folio(&linux, 0)?;
        let mut metadata = [1_u32.to_ne_bytes().to_vec(), b"7.3.4\0".to_vec()].concat();
        metadata.resize(4 + 65, 0);
        metadata.extend(2_u32.to_ne_bytes());
        linux.publish("kexec-metadata", &metadata)?;
        let root = linux.entry().root;
        drop(linux);

        let lent = [&lent[..], &[more]].concat();
        let (entry, memory) = within(&lent)?;
        let start = ranges[0].0.addr().get();
        let mut all = bytes(&ram, ranges[0].0);
        let mut put = |at: PhysAddr, bytes: &[u8]| {
            let to = all.iter_mut().skip((at.get() - start) as usize);
            to.zip(bytes).for_each(|(to, from)| *to = *from);
        };
        for (run, bytes) in memory {
            put(run.addr(), &bytes);
        }
        let head = [
            u64::from_le_bytes(*b"HEIRLOAN"),
            u64::from(PAGE_SHIFT) << 32 | u64::from(Loans::VERSION),
            0,
            entry.root.get(),
            entry.scratch.get(),
            entry.scratch_bytes,
            0,
            0,
        ];
        let words = lent.iter().map(|block| block.addr().get() | u64::from(block.order().get()));
        // A place in the middle is free, as when a folio went back.
        let (first, last) = (words.clone().take(1), words.skip(1));
        let words = head.into_iter().chain(first).chain([0]).chain(last);
        put(loans.addr(), &words.flat_map(u64::to_le_bytes).collect::<Vec<_>>());
        let page =
            linux_root(all.get((root.get() - start) as usize..).ok_or("root")?, root, loans)?;
        let to = all.iter_mut().skip((root.get() - start) as usize);
        to.zip(page).for_each(|(to, from)| *to = from);
        Ok(elf(start, &all))
    }

    /// A kernel in this memory.
    fn boot<'m>(ram: &'m Ram, ranges: &[(Run, NodeId)], name: &str) -> Result<Kernel<'m>> {
        let bytes = Kernel::scratch_bytes(ranges, ram.count()) as u64;
        let last = ranges.last().ok_or("memory")?.0;
        let start = Pfn::new(last.end().get() - bytes / PAGE);
        let scratch = Run::between(start, last.end()).ok_or("scratch")?;
        // SAFETY: the machine covers its ranges, and nothing else uses it.
        Ok(unsafe { Heirloom::boot(ram, ranges, &[scratch], name) }?)
    }

    /// A preserved folio.
    fn folio(kernel: &Kernel<'_>, order: u8) -> Result<Block> {
        let order = Order::new(order).ok_or("an order")?;
        let folio = kernel.memory().alloc_folio(Request::new(order).zeroed())?;
        Ok(folio.preserve().map_err(|refused| refused.error)?.into_raw())
    }

    /// What a kernel leaves in these folios: where it starts, and the folios' bytes.
    fn within(lent: &[Block]) -> Result<(Entry, Memory)> {
        let mut ranges: Vec<_> = lent.iter().map(|block| (block.run(), NodeId(0))).collect();
        ranges.sort_by_key(|(run, _)| run.start());
        let ram = Ram::over(&ranges);
        let kernel = boot(&ram, &ranges, "heirloom.ko")?;
        let sessions = kernel.slabs().cache(CacheSpec::new("sessions", 120).preserving(true))?;
        let first = sessions.alloc_zeroed()?;
        for _ in 1..40 {
            sessions.alloc_zeroed()?;
        }
        kernel.publish("first", &<[u8; 16]>::from(kernel.handle_of(first)?))?;
        kernel.publish("greeting", b"hello")?;
        folio(&kernel, 2)?;
        kernel.seal()?;
        let entry = kernel.entry();
        drop(kernel);
        Ok((entry, ranges.iter().map(|(run, _)| (*run, bytes(&ram, *run))).collect()))
    }

    /// The root page in these bytes, with the list of loans in place of heirloom's own header.
    fn linux_root(bytes: &[u8], at: PhysAddr, list: Block) -> Result<Vec<u8>> {
        let halves = bytes.as_chunks().0.iter().take(PAGE_SIZE / 4);
        let words: Vec<_> = halves.map(|half| AtomicU32::new(u32::from_ne_bytes(*half))).collect();
        let mut page = RootPage::reopen(&words, at)?;
        page.replace(Name::new(SUBTREE)?, list.addr(), PAGE)?;
        Ok(words.iter().flat_map(|word| word.load(Relaxed).to_ne_bytes()).collect())
    }

    /// The bytes of a machine in which no kernel runs.
    fn bytes(ram: &Ram, run: Run) -> Vec<u8> {
        let start = ram.ptr(run.addr()).cast::<AtomicU8>();
        // SAFETY: the machine's memory, and no kernel runs.
        let memory = unsafe { std::slice::from_raw_parts(start.as_ptr(), run.bytes() as usize) };
        memory.iter().map(|byte| byte.load(Relaxed)).collect()
    }
}
