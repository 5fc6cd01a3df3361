//! Leaves a handover in a file, for tests of the command: `leave IMAGE`.
//!
//! A kernel boots in memory of 256 pages, makes what a handover can have, seals it and is gone. Beside
//! heirloom's own tables it leaves what Linux would: a session with a memfd of three folios. The file is
//! an ELF core that has what is not zero, and declares the rest: read it with `--zero-excluded`.
//!
//! Built for another page size, it leaves what a kernel of that page size would:
//! ```text
//! RUSTC_WORKSPACE_WRAPPER=$PWD/.ci/page-64k cargo run --target-dir target/64k -p heirloom-cli \
//!     --example leave -- tests/fixtures/pages/64k.elf
//! ```
#![allow(clippy::drop_non_drop, reason = "a kernel ends where it is dropped")]

#[cfg(target_os = "linux")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let file = std::env::args().nth(1).ok_or("leave IMAGE")?;
    Ok(std::fs::write(file, leave::core()?)?)
}

#[cfg(not(target_os = "linux"))]
fn main() {}

#[cfg(target_os = "linux")]
mod dump;

#[cfg(target_os = "linux")]
mod leave {
    use std::error::Error;
    use std::sync::atomic::AtomicU8;
    use std::sync::atomic::Ordering::Relaxed;

    use heirloom::Heirloom;
    use heirloom::folio::harness::Ram;
    use heirloom::folio::{Cpus, DirectMap, Memory, Request};
    use heirloom::kho::{AreaInfo, Block, Handle, Order, PAGE_SIZE, Parts, Pfn, PhysAddr, Run};
    use heirloom::restore::{PreservedArea, Records};
    use heirloom::slab::CacheSpec;

    use super::dump::elf;

    const FRAMES: u64 = 256;
    const PAGE: u64 = PAGE_SIZE as u64;

    type Result<T> = std::result::Result<T, Box<dyn Error>>;

    /// The memory that a kernel left, as an ELF core.
    pub(crate) fn core() -> Result<Vec<u8>> {
        let ranges = Ram::frames(FRAMES);
        let ram = Ram::over(&ranges);
        let scratch_bytes = Heirloom::<&Ram>::scratch_bytes(&ranges, ram.count()) as u64;
        let run = ranges[0].0;
        let scratch = scratch_bytes / PAGE;
        let scratch = Run::new(Pfn::new(run.end().get() - scratch), scratch).ok_or("scratch")?;
        // SAFETY: the machine covers its range, and nothing else uses it.
        let kernel = unsafe { Heirloom::boot(&ram, &ranges, &[scratch], "example 1.0") }?;
        objects(&kernel)?;
        live_update(&kernel)?;
        kernel.publish("greeting", b"hello")?;
        kernel.seal()?;
        drop(kernel);
        let start = ram.ptr(run.addr()).cast::<AtomicU8>();
        // SAFETY: the machine's memory, all of it, and no kernel runs.
        let memory = unsafe { std::slice::from_raw_parts(start.as_ptr(), run.bytes() as usize) };
        let bytes: Vec<u8> = memory.iter().map(|byte| byte.load(Relaxed)).collect();
        Ok(elf(run.addr().get(), &bytes))
    }

    /// Caches, objects, an area, folios of several orders.
    fn objects(kernel: &Heirloom<&Ram>) -> Result<()> {
        let inodes = kernel.slabs().cache(CacheSpec::new("inodes", 96).preserving(true))?;
        let inode = inodes.alloc_zeroed()?;
        for _ in 1..100 {
            inodes.alloc_zeroed()?;
        }
        kernel.publish("inode", &<[u8; 16]>::from(kernel.handle_of(inode)?))?;
        let dentries = kernel.slabs().cache(CacheSpec::new("dentries", 200))?;
        for i in 0..10 {
            let object = dentries.alloc_zeroed()?;
            if i % 2 == 0 {
                // SAFETY: in use, and nothing frees it meanwhile.
                unsafe { kernel.preserve(object) }?;
            }
        }
        let area = area(kernel.memory(), &[1, 1, 1], 0)?;
        kernel.publish("area", &<[u8; 16]>::from(Handle::new(Parts::Area(area))?))?;
        for order in [0, 0, 2, 3] {
            folio(kernel.memory(), order)?;
        }
        Ok(())
    }

    /// Preserves blocks of one order as an area, and writes `fill` into the first bytes of each.
    fn area(memory: &Memory<&Ram>, orders: &[u8], fill: u8) -> Result<AreaInfo> {
        let order = orders.first().and_then(|order| Order::new(*order)).ok_or("an order")?;
        let blocks: Result<Vec<Block>> = orders
            .iter()
            .map(|_| {
                let mut folio = memory.alloc_folio(Request::new(order).zeroed())?;
                if let Some(first) = folio.bytes_mut().first_mut() {
                    *first = fill;
                }
                Ok(folio.into_raw())
            })
            .collect();
        // SAFETY: allocated just now, and told to nothing else.
        Ok(unsafe { PreservedArea::preserve(memory, blocks?, order, false) }?.into_raw())
    }

    /// A preserved folio of this order, with bytes in it.
    fn folio(memory: &Memory<&Ram>, order: u8) -> Result<Block> {
        let order = Order::new(order).ok_or("an order")?;
        let mut folio = memory.alloc_folio(Request::new(order).zeroed())?;
        let length = folio.bytes().len();
        for (i, at) in [0, length / 2, length - 1].into_iter().enumerate() {
            if let Some(byte) = folio.bytes_mut().get_mut(at) {
                *byte = i as u8 + 1;
            }
        }
        Ok(folio.preserve().map_err(|refused| refused.error)?.into_raw())
    }

    /// What Linux leaves of one session with one memfd: folios of one, two and one page, a hole between
    /// them, and the last never written.
    fn live_update(kernel: &Heirloom<&Ram>) -> Result<()> {
        let memory = kernel.memory();
        let list = area(memory, &[0], 0)?;
        // The first block that its first page names.
        let entries = PhysAddr::new(word(memory, list.first().get() + 8));
        let mut words = Vec::new();
        for (order, index, flags) in [(0, 0, 3_u64), (1, 4, 3), (0, 6, 1)] {
            let block = folio(memory, order)?;
            words.extend([block.pfn().get() | flags << 52, index]);
        }
        put(memory, entries.pfn(), &words)?;
        let memfd = memory.alloc_folio(Request::new(Order::ZERO).zeroed())?;
        let memfd = memfd.preserve().map_err(|refused| refused.error)?.into_raw();
        // The descriptor of an area: pages, flags and order in one word.
        let area = u64::from(list.pages()) | 1 << 32 | u64::from(list.order().get()) << 48;
        put(memory, memfd.pfn(), &[0, 8 * PAGE - 5, 0, 3, list.first().get(), area])?;
        let mut files = Records::<_, [u64; 8]>::new(memory)?;
        files.push(&named(b"memfd-v2", [memfd.addr().get(), 7]))?;
        let mut sessions = Records::<_, [u64; 10]>::new(memory)?;
        sessions.push(&named(b"guest", [files.first().get(), 1]))?;
        let luo = [u64::from_ne_bytes(*b"luo-v5\0\0"), 3, sessions.first().get(), 0];
        kernel.publish("LUO", &luo.map(u64::to_ne_bytes).concat())?;
        Ok(())
    }

    /// An entry that begins with a name and ends with two numbers.
    fn named<const N: usize>(name: &[u8], [a, b]: [u64; 2]) -> [u64; N] {
        let mut bytes = name.to_vec();
        bytes.resize((N - 2) * 8, 0);
        let words = bytes.chunks_exact(8).map(|word| {
            let mut value = [0; 8];
            value.copy_from_slice(word);
            u64::from_ne_bytes(value)
        });
        let all: Vec<_> = words.chain([a, b]).collect();
        let mut entry = [0; N];
        entry.copy_from_slice(&all);
        entry
    }

    /// The word at an address in a frame of this kernel's.
    fn word(memory: &Memory<&Ram>, addr: u64) -> u64 {
        // SAFETY: a frame that this program allocated, and nothing writes it meanwhile.
        unsafe { memory.machine().ptr(PhysAddr::new(addr)).cast::<u64>().read() }
    }

    /// Writes words to the start of a frame of this kernel's.
    fn put(memory: &Memory<&Ram>, pfn: Pfn, words: &[u64]) -> Result<()> {
        let page = memory.machine().ptr(pfn.addr()).cast::<u64>();
        if words.len() > PAGE_SIZE / 8 {
            return Err("more than a page".into());
        }
        for (i, word) in words.iter().enumerate() {
            // SAFETY: a frame that this program allocated and reaches by no reference.
            unsafe { page.add(i).write(*word) };
        }
        Ok(())
    }
}
