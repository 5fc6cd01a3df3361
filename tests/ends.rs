//! Units and lengths at their ends, over safe calls: nothing panics, and nothing wraps.

use std::fmt::Debug;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, AtomicU64};

use heirloom::Heirloom;
use heirloom::folio::harness::Ram;
use heirloom::folio::internal::BlockMatcher;
use heirloom::folio::{DirectMap, FrameType, Linear, Memory, NodeId, OneCpu, Request, joined};
use heirloom::kho::tree::{FolioRange, FramesOf, Geometry, Key};
use heirloom::kho::{
    AreaInfo, Block, DeviceTree, Excerpt, Handle, Header, HeaderPage, Order, PageSize, Parts, Pfn,
    PhysAddr, Producer, RootPage, RootView, Run, ScratchList, ScratchWords, SealState, Sealed,
    Table,
};
use heirloom::restore::{PreservedArea, Records, Sealer};
use heirloom::slab::{AllocOptions, CacheSpec};

fn ends() -> Vec<u64> {
    let mut all =
        vec![0, 1, 7, 8, 4095, 4096, u64::MAX, u64::MAX - 1, u64::MAX - 7, u64::MAX - 4095];
    for bit in [20, 31, 32, 44, 51, 52, 53, 62, 63] {
        all.extend([(1 << bit) - 1, 1 << bit, (1 << bit) + 1]);
    }
    all.extend([(4 << 30) - 1, 4 << 30, (4 << 30) + 8, 0x10_0000, 0x10_0100 - 1, 0x10_0100]);
    all
}

fn orders() -> Vec<Order> {
    [0, 1, 9, 17, 18, 19, 30, 50, 51].into_iter().filter_map(Order::new).collect()
}

struct Tried(Vec<String>);

impl Tried {
    fn call<T>(&mut self, what: impl Debug, f: impl FnOnce() -> T) {
        if catch_unwind(AssertUnwindSafe(f)).is_err() {
            self.0.push(format!("{what:?}"));
        }
    }

    fn end(self) {
        let Self(all) = self;
        let mut kinds: Vec<_> =
            all.iter().map(|s| s.split(',').next().unwrap_or("").to_owned()).collect();
        kinds.sort();
        kinds.dedup();
        let first: Vec<_> =
            kinds.iter().map(|k| all.iter().find(|s| s.starts_with(k.as_str())).unwrap()).collect();
        assert!(all.is_empty(), "{} calls panicked: {first:#?}", all.len());
    }
}

#[test]
fn types() {
    let mut t = Tried(Vec::new());
    for a in ends() {
        for level in [0, 1, 5, 6, 7, 31, 63, 64, 100, u32::MAX] {
            t.call(("key.index", a, level), || Key::new(a).index(level));
        }
        t.call(("key.block", a), || Key::new(a).block());
        t.call(("geometry", a), || Geometry::new(a as u32));
        for b in ends() {
            t.call(("covering", a, b), || Run::covering(PhysAddr::new(a), b));
            t.call(("between", a, b), || Run::between(Pfn::new(a), Pfn::new(b)));
            t.call(("pfn", a, b), || Pfn::new(a).add(b).addr().pfn());
            if let Some(run) = Run::new(Pfn::new(a), b) {
                t.call(("run", a, b), || {
                    let blocks = run.blocks().take(200).count();
                    let _ = (run.end(), run.bytes(), run.addr(), blocks);
                    let _ = (run.contains(Pfn::new(b)), run.common(run), run.covers(run));
                    let _ = run.blocks().next_back();
                    let _ = joined(&[(run, NodeId(0)), (run, NodeId(0))]).count();
                });
                t.call(("range_bytes", a, b), || Memory::<Ram>::range_bytes(run));
                t.call(("frames", a, b), || FramesOf::words(run));
                t.call(("scratch_bytes", a, b), || {
                    Heirloom::<Ram>::scratch_bytes(&[(run, NodeId(0)), (run, NodeId(1))], 4)
                });
                t.call(("scratch_words", a, b), || {
                    let words = [const { AtomicU64::new(0) }; 4];
                    ScratchWords::new(&words, PhysAddr::new(a)).write([run, run]).is_ok()
                });
            }
        }
        t.call(("cpu_bytes", a), || Memory::<Ram>::cpu_bytes(a as usize));
        t.call(("scratch_bytes of cpus", a), || {
            let bytes = Heirloom::<Ram>::scratch_bytes(&Ram::frames(16), a as usize);
            assert!(bytes as u64 >= a, "{bytes} bytes for {a} processors");
        });
        t.call(("scratch words bytes", a), || ScratchWords::bytes(a as usize));
        for order in orders() {
            t.call(("block", a, order), || {
                let block = Block::containing(Pfn::new(a), order);
                let _ = (block.run().end(), block.addr(), Key::of(block).block());
                for n in ends() {
                    if let Some(row) = FolioRange::new(block, n) {
                        let _ = (row.run().end(), row.count());
                    }
                }
            });
            for b in ends() {
                t.call(("area", a, b, order), || {
                    AreaInfo::new(PhysAddr::new(a), b as u32, order, true).map(|info| {
                        (
                            info.blocks(),
                            info.descriptor().info(PhysAddr::new(a), PageSize::BUILD),
                            info.descriptor().info(PhysAddr::new(a), PageSize::MAX),
                            Handle::new(Parts::Area(info)),
                        )
                    })
                });
            }
        }
    }
    t.end();
}

#[test]
fn tables_over_any_words() {
    let mut t = Tried(Vec::new());
    let tree: Vec<AtomicU32> = {
        let words: Vec<AtomicU32> = (0..1024).map(|_| AtomicU32::new(0)).collect();
        let at = PhysAddr::new(0x10_0000);
        RootPage::create(&words, at, at).unwrap();
        words
    };
    let tree = DeviceTree::open(&tree, Table::Root, PhysAddr::new(0x10_0000)).unwrap();
    for a in ends() {
        t.call(("next", a), || tree.next(&mut (a as usize)).is_ok());
        t.call(("value", a), || (tree.value(a as usize), tree.value32(a as usize)));
        t.call(("string_is", a), || tree.string_is(a as u32, "compatible"));
        t.call(("page", a), || {
            let page = PageSize::new(a).unwrap_or(PageSize::MAX);
            (page.page_of(Pfn::new(a)), page.pages(a), page.order_of(a as u8))
        });
        for b in ends() {
            t.call(("pages", a, b), || PageSize::MAX.covering(PhysAddr::new(a), b));
            t.call(("bytes", a, b), || tree.bytes(a as usize..b as usize).take(10_000).count());
        }
        for length in [0, 1, 2, 3, 9, 10, 21, 40, 63, 511, 512, 1023, 1024, 1025, 4096] {
            let at = PhysAddr::new(a);
            let narrow: Vec<AtomicU32> = (0..length).map(|_| AtomicU32::new(0)).collect();
            let wide: Vec<AtomicU64> = (0..length).map(|_| AtomicU64::new(!0)).collect();
            t.call(("root", a, length), || {
                let _ = RootView::new(&narrow, at).is_ok();
                let _ = RootView::sized(PageSize::MAX, &narrow, at).is_ok();
                let _ = RootPage::reopen(&narrow, at).is_ok();
                let _ = RootPage::create(&narrow, at, at).is_ok();
            });
            t.call(("header", a, length), || {
                let says = Header {
                    generation: a,
                    cache_directory: Some(at),
                    before: Some(at),
                    producer: Producer::new("x"),
                    seal: SealState::Unsealed,
                    longer: false,
                };
                let _ = Header::read(&wide, at).is_ok();
                let _ = Header::sized(PageSize::MAX, &wide, at).is_ok();
                let _ = HeaderPage::reopen(&wide, at).is_ok();
                if let Ok(mut page) = HeaderPage::create(&wide, at, &says) {
                    page.seal(None);
                    page.open();
                    let _ = page.renew(&Header { producer: Producer::new("y"), ..says }).is_ok();
                    let _ = page.read().is_ok();
                }
            });
            t.call(("scratch", a, length), || {
                let _ = ScratchList::new(&wide, at, |_| true).map(|list| list.runs().count());
                let large = ScratchList::sized(PageSize::MAX, &wide, at, |_| true);
                let _ = large.map(|list| list.runs().count());
                let run = Run::new(Pfn::new(0), 1).unwrap();
                let _ = ScratchWords::new(&wide, at).write(vec![run; length]);
            });
        }
    }
    let _ = Excerpt::of(0..255).as_bytes().len();
    t.end();
}

#[test]
#[expect(clippy::too_many_lines, reason = "one after another")]
fn calls() {
    let mut t = Tried(Vec::new());
    let memory = Ram::memory(&Ram::frames(512)).unwrap();
    let hand = Heirloom::boot_memory(memory, &[], "units").unwrap();
    let (slabs, memory) = (hand.slabs(), hand.memory());
    let cache = slabs.cache(CacheSpec::new("units", 24)).unwrap();
    let kinds = [
        FrameType::Folio,
        FrameType::Run,
        FrameType::Slab,
        FrameType::Buffer,
        FrameType::Table,
        FrameType::Tail,
    ];
    let list = Records::<_, u64>::new(memory).unwrap();
    for a in ends() {
        let (pfn, addr) = (Pfn::new(a), PhysAddr::new(a));
        t.call(("state", a), || {
            (
                memory.state(pfn),
                memory.owning_block(pfn),
                memory.node_of(pfn),
                memory.predecessor().block_at(pfn),
            )
        });
        t.call(("owner", a), || {
            (
                slabs.owner_at(addr),
                slabs.claim(addr, a, a as u8).is_ok(),
                cache.claim(addr).is_ok(),
                cache.discard(addr).is_ok(),
            )
        });
        t.call(("ptr", a), || {
            let ptr = memory.machine().ptr(addr);
            let _ = (
                slabs.size_of(ptr),
                slabs.reuse_tag_of(ptr),
                slabs.owner_of(ptr),
                hand.handle_of(ptr).is_ok(),
            );
            for kind in kinds {
                for order in orders() {
                    let _ = memory.lookup(ptr, &BlockMatcher::new(kind, order));
                }
            }
        });
        t.call(("spec", a), || {
            let _ = slabs.cache(CacheSpec::new("x", a as usize).align(a as usize)).is_ok();
            let _ = slabs.cache(CacheSpec::new("y", 24).align(a as usize)).is_ok();
        });
        t.call(("alloc", a), || hand.alloc(a as usize).is_ok());
        for align in [0, 3, 12, 20, 40, 62] {
            if let Ok(layout) = std::alloc::Layout::from_size_align(a as usize, 1 << align) {
                t.call(("layout", a, align), || {
                    slabs
                        .alloc(layout, AllocOptions { preserving: a & 1 == 1, zeroed: false })
                        .is_ok()
                });
            }
        }
        for kind in kinds {
            t.call(("run_at", a, kind), || memory.run_at(pfn, kind).is_ok());
            for order in orders() {
                let block = Block::containing(pfn, order);
                t.call(("raw", a, kind, order), || {
                    let _ = memory.alloc_run(a, Request::new(order).frame_type(kind)).is_ok();
                    let _ = memory.alloc(Request::new(order).frame_type(kind)).is_ok();
                    let _ = (memory.alloc_at_as(block, kind).is_ok(), memory.claim(block).is_ok());
                    // SAFETY: no folio or run here has another owner.
                    let _ = unsafe { (memory.preserve(block).is_ok(), memory.unpreserve(block).is_ok()) };
                    let _ = (
                        memory.preserved().contains(block),
                        memory.predecessor().contains(block),
                        memory.predecessor().label_of(block),
                    );
                    let _ =
                        // SAFETY: no folio or run here has another owner.
                        (unsafe { memory.preserve(&[block]) }.is_ok(), memory.claim(&[block]).is_ok());
                    // SAFETY: no folio or run here has another owner.
                    let _ = unsafe { PreservedArea::preserve(memory, [block], order, true) }
                        .map(PreservedArea::into_raw);
                    for n in ends() {
                        if let Some(row) = FolioRange::new(block, n) {
                            let _ = (
                                // SAFETY: no folio or run here has another owner.
                                unsafe { memory.preserve(row) }.is_ok(),
                                // SAFETY: no folio or run here has another owner.
                                unsafe { memory.unpreserve(row) }.is_ok(),
                            );
                        }
                    }
                });
            }
        }
        for b in ends() {
            t.call(("add_subtree", a, b), || hand.add_subtree("z", addr, b).is_ok());
            t.call(("claim_large", a, b), || slabs.claim_large(addr, b).is_ok());
            for parts in [
                Parts::Buffer { addr, bytes: b },
                Parts::Object { addr, bytes: b, tag: 3 },
                Parts::Records { first: addr, entry: b },
                Parts::Blob { addr, bytes: b },
            ] {
                t.call(("handle", a, b, parts), || {
                    if let Ok(handle) = Handle::new(parts) {
                        let _ = hand.restore(handle).is_ok();
                        let _ = hand.claim_records::<u64>(handle).is_ok();
                    }
                });
            }
            let Some(run) = Run::new(pfn, b) else { continue };
            t.call(("gap", a, b), || {
                (memory.preserved().next_gap(a, run), memory.preserved().next_gap(b, run))
            });
            t.call(("contains", a, b), || (memory.contains(run), memory.ptr(run)));
            t.call(("runs", a, b), || {
                let _ = (
                    // SAFETY: no folio or run here has another owner.
                    unsafe { memory.preserve(run) }.is_ok(),
                    // SAFETY: no folio or run here has another owner.
                    unsafe { memory.unpreserve(run) }.is_ok(),
                );
                let _ = memory.claim(run).is_ok();
            });
            for kind in kinds {
                t.call(("run", a, b, kind), || memory.alloc_at_as(run, kind).is_ok());
            }
            if let Ok(handle) = Handle::new(Parts::Run(run)) {
                t.call(("claim_run", a, b), || hand.claim_run(handle).is_ok());
            }
            t.call(("cover", a, b), || {
                let Ok(mut sealer) = Sealer::new(memory, 1) else { return };
                let _ = sealer.cover(Sealed::Root, addr, b as u32);
                sealer.abandon();
            });
        }
        t.call(("sealer", a), || Sealer::new(memory, a).map(Sealer::abandon).is_ok());
    }
    let _ = (list.len(), memory.audit().unwrap());
    t.end();
}

#[test]
fn linear_and_one_cpu() {
    let ram = Ram::over(&Ram::frames(2));
    let _: Option<OneCpu<Linear>> = None;
    for a in ends() {
        let _ = ram.phys(ram.ptr(PhysAddr::new(a)));
    }
}
