//! What a slab's header, and the word of its owner, say of where it is known.

use heirloom_folio::harness::Ram;
use heirloom_folio::{DirectMap, Disposition, FrameState, FrameType, Request};
use heirloom_kho::{Block, Order, PhysAddr};
use heirloom_slab::{AllocOptions, CacheSpec, Error, Slabs};

use super::common::{addr, copy, fill, filled, slabs, successor};
use super::{FRAMES, Left, goes_on, header, left, page, specs, word};

/// The header's words that are a kernel's own name the successor's cache, as a predecessor can
/// compute them: the successor's cache directory is the first page it allocates.
#[test]
fn a_forged_owner_word_makes_no_slab_ours() {
    let spec = specs()[1];
    let revive = |left: Left| {
        let memory = left.ram.attach(&Ram::frames(FRAMES)).unwrap();
        let (memory, _) = memory.take_over(left.map).unwrap();
        Slabs::revive(memory, left.directory).unwrap()
    };
    let rehearsed = revive(left()).cache_directory();

    let left = left();
    // The name in the header begins at byte 32.
    let named = |addr: &PhysAddr| left.read(PhysAddr::new(addr.get() + 32)) & 0xff == b's'.into();
    let slab = left.parts.iter().filter_map(header).find(named).unwrap();
    let word = |offset| PhysAddr::new(slab.get() + offset);
    left.write(word(88), rehearsed.pfn().get() << 12);
    // Two objects keep the slab preserved, as far as its header says.
    left.write(word(120), 2 << 32);
    // The first object: unclaimed, reuse tag 1.
    let first = u64::from(u32::try_from(left.read(word(24 + 56)) & 0xffff_ffff).unwrap());
    // SAFETY: no kernel runs on the memory at this moment.
    unsafe { left.ram.ptr(word(128)).write(1 << 3 | 3) };

    let slabs = revive(left);
    let cache = slabs.cache(spec).unwrap();
    let at = PhysAddr::new(slab.get() + first);
    // Not adopted: nothing there can be claimed, whoever it says it belongs to.
    let block = Block::containing(at.pfn(), cache.slab_order());
    assert_eq!(slabs.claim(at, 1000, 1), Err(Error::NotAdopted { addr: at, slab: block }));
    assert_eq!(slabs.owner_at(at), None);
    slabs.finish_inherited(|_| Disposition::Free).unwrap();
    slabs.memory().predecessor().finish(|_| Disposition::Free);
    assert_eq!(slabs.memory().state(block.pfn()).unwrap(), FrameState::Freed);
}

/// A block that safe code prepared is not taken for a slab of a cache.
#[test]
fn only_the_layer_itself_makes_slabs() {
    let slabs = slabs(FRAMES);
    let memory = slabs.memory();
    let order = Order::new(4).unwrap();
    let _cache = slabs.cache(CacheSpec::new("victim", 1000).order(order)).unwrap();
    let mut forged = memory.alloc_folio(Request::new(order).zeroed()).unwrap();
    forged.bytes_mut()[88..96]
        .copy_from_slice(&(slabs.cache_directory().pfn().get() << 12).to_le_bytes());
    let block = forged.extent();
    drop(forged);
    memory.drain();
    let refused = heirloom_folio::Error::BadRequest { frames: order.frames() };
    assert_eq!(memory.alloc_at_as(block, FrameType::Slab), Err(refused));
    assert_eq!(memory.alloc(Request::new(order).frame_type(FrameType::Slab)), Err(refused));
    memory.alloc_at_as(block, FrameType::Table).unwrap();
    assert_eq!(slabs.owner_at(block.addr()), None);
    let start = memory.machine().ptr(block.addr());
    // SAFETY: no slab is there, and nothing else runs.
    let done = unsafe { slabs.unpreserve(start) };
    assert_eq!(done, Err(Error::NotAnObject { ptr: start.addr().get() }));
}

/// Where a slab's header says that its entry is.
const ENTRY: u64 = 112;

/// Claims buffers of 1000 bytes that were left, or finds them once they are resumed, and frees each.
fn take_and_free(
    slabs: &Slabs<Ram>,
    handles: &[(PhysAddr, u64, u8)],
    preserving: bool,
    resumed: bool,
) {
    if resumed {
        slabs.resume_buffers().unwrap();
    }
    for (seed, (at, size, reuse_tag)) in (0..).zip(handles) {
        let buffer = if resumed {
            slabs.at(*at, *size, *reuse_tag)
        } else {
            slabs.claim(*at, *size, *reuse_tag)
        };
        let buffer = buffer.unwrap();
        // SAFETY: in use, and this test's.
        assert!(unsafe { filled(buffer, 1000, seed as u8) });
        // A jump in the middle loses nothing.
        if seed % handles.len().div_ceil(3) == 0 {
            let next = copy(slabs, FRAMES);
            handles.iter().skip(seed).for_each(|(at, size, reuse_tag)| {
                next.claim(*at, *size, *reuse_tag).unwrap();
            });
        }
        // SAFETY: in use, and not used again.
        unsafe {
            if resumed && !preserving {
                slabs.unpreserve(buffer).unwrap();
            }
            slabs.free(buffer).unwrap();
        }
    }
}

/// The header of a slab says where its entry is: what a predecessor wrote there is believed if it is
/// so, and leads nowhere else.
#[test]
fn a_forged_entry_of_a_header_leads_nowhere() {
    let layout = core::alloc::Layout::from_size_align(1000, 8).unwrap();
    let all = (0..13).flat_map(|f| [(f, false), (f, true)]);
    for ((forgery, preserving), resumed) in all.flat_map(|f| [(f, false), (f, true)]) {
        let before = slabs(FRAMES);
        let opts = AllocOptions { preserving, zeroed: false };
        let mut handles = Vec::new();
        let leave = |handles: &mut Vec<_>| {
            let buffer = before.alloc(layout, opts).unwrap();
            // SAFETY: allocated just now.
            unsafe { fill(buffer, 1000, handles.len() as u8) };
            if !preserving {
                // SAFETY: as above.
                unsafe { before.preserve(buffer) }.unwrap();
            }
            let (reuse_tag, size) = before.reuse_tag_of(buffer).unwrap();
            handles.push((addr(&before, buffer), size as u64, reuse_tag));
        };
        while before.caches().map(|cache| cache.stats().slabs).sum::<u64>() < 5 {
            leave(&mut handles);
        }
        // Another cache, and a page that another layer preserved and labels as its table.
        let spec = CacheSpec::new("other", 300).preserving(true);
        for _ in 0..100 {
            before.cache(spec).unwrap().alloc().unwrap();
        }
        let request = Request::new(Order::ZERO).frame_type(FrameType::Table).zeroed();
        let foreign = before.memory().alloc(request).unwrap();
        // SAFETY: allocated just now.
        unsafe { before.memory().preserve_as(foreign, FrameType::Table) }.unwrap();
        let mut parts = Vec::new();
        before.for_each_table(|part| parts.push(part));
        let pages: Vec<_> = parts.iter().filter_map(page).collect();
        let [directory, own, other] = pages[..] else { panic!("{parts:?}") };
        let headers: Vec<_> = parts.iter().filter_map(header).collect();
        let map = before.memory().preserved().tree_root().unwrap();
        let left = Left { ram: before.into_memory().into_machine(), map, directory, parts };
        let count = left.read(word(own, 1));
        assert_eq!(count, 5);
        let slabs_of_own = &headers[..5];
        let mut written = vec![word(directory, 9), word(other, 2), word(foreign.addr(), 2)];
        for (i, slab) in (0..).zip(slabs_of_own) {
            let hint = PhysAddr::new(slab.get() + ENTRY);
            assert_eq!(left.read(hint), word(own, 2 + i).get(), "as it was written");
            let forged = match forgery {
                0 => 0,
                1 => u64::MAX,
                // Into the page of records, and into one of another table.
                2 => word(directory, 9).get(),
                3 => word(other, 2).get(),
                // Into a page that another layer calls its table, and that looks like one of ours.
                4 => word(foreign.addr(), 2 + i).get(),
                // Behind the count, where the slab is named too.
                5 => word(own, 2 + count + i).get(),
                // Another's entry, and the words before the entries.
                6 => word(own, 2 + (i + 1) % count).get(),
                7 => own.get() + 8 * (i % 2),
                // In between, outside memory, in a slab, in the slab itself.
                8 => word(own, 2 + i).get() + 1 + i,
                9 => 1 << (12 + 9 * i),
                // In the page at the very beginning, which no table has.
                12 => 16 + 8 * i,
                10 => slabs_of_own[(i as usize + 1) % 5].get() + 128,
                _ => slab.get() + 88,
            };
            match forgery {
                4 => {
                    left.write(word(foreign.addr(), 1), count);
                    left.write(word(foreign.addr(), 2 + i), slab.get());
                    written.push(word(foreign.addr(), 2 + i));
                }
                5 => {
                    left.write(word(own, 2 + count + i), slab.get());
                    written.push(word(own, 2 + count + i));
                }
                11 => left.write(PhysAddr::new(slab.get() + 88), slab.get()),
                _ => {}
            }
            left.write(hint, forged);
        }
        let memory = left.ram.attach(&Ram::frames(FRAMES)).unwrap();
        let (memory, _) = memory.take_over(map).unwrap();
        // SAFETY: this test is the layer that reads it.
        unsafe { memory.predecessor().label(foreign, FrameType::Table) }.unwrap();
        let slabs = Slabs::revive(memory, directory).unwrap();
        let read = |at: PhysAddr| {
            // SAFETY: in memory; the words are tables', which nothing writes now.
            unsafe { slabs.memory().machine().ptr(at).cast::<u64>().read() }
        };
        let as_was: Vec<_> = written.iter().map(|at| read(*at)).collect();
        take_and_free(&slabs, &handles, preserving, resumed);
        slabs.shrink();
        assert_eq!(written.iter().map(|at| read(*at)).collect::<Vec<_>>(), as_was, "{forgery}");
        assert_eq!(
            slabs.inherited(if preserving { "preserved-1024" } else { "buffer-1024" }),
            None
        );
        // All entries of theirs are struck out: the next one does not come by them.
        let next = successor(slabs, FRAMES).unwrap();
        let mut left = 0;
        next.for_each_inherited(|record| left += usize::from(record.name().as_str() != "other"));
        assert_eq!(left, 0, "{forgery} {preserving}");
        goes_on(next, &[spec]);
    }
}
