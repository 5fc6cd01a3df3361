//! Reading what a predecessor left costs what its frames cost to read, and not what its tables refer
//! to: one frame that many entries name is one frame. Counted in bytes that a reader asks for.

mod common;

use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::Relaxed;
use std::cell::Cell;

use common::memory;
use heirloom_folio::harness::Ram;
use heirloom_folio::{DirectMap, Request};
use heirloom_kho::tree::{Frames, FramesOf};
use heirloom_kho::{
    AreaInfo, AreaPart, Block, Fault, Header, HeaderPage, Image, Order, PAGE_SIZE, PhysAddr, Run,
    SealInfo, SealState, Sealed, Table, TableError,
};
use heirloom_restore::{Error, Heirloom, SealPolicy, Sealer, survey};

const FRAMES: u64 = 1024;
const PAGE: u64 = PAGE_SIZE as u64;

/// More names than a root page of 4 KiB holds. One of 64 KiB holds some thousand, each of which is
/// compared with those before it.
const MOST: usize = 200;

fn boot(ram: &Ram) -> Heirloom<&Ram> {
    Heirloom::<&Ram>::boot_memory(memory(ram, FRAMES), &[], "first").unwrap()
}

/// The words at an address, in memory that nothing writes but by atomics.
fn words(ram: &Ram, at: PhysAddr, bytes: usize) -> &[AtomicU64] {
    let start = ram.ptr(at).cast::<AtomicU64>();
    // SAFETY: in the machine's memory, aligned; this test runs no kernel meanwhile.
    unsafe { core::slice::from_raw_parts(start.as_ptr(), bytes.div_ceil(8)) }
}

/// The machine's memory as an image, and how many frames were asked for.
struct Counted<'r> {
    ram: &'r Ram,
    frames: Cell<u64>,
}

impl<'r> Counted<'r> {
    fn of(ram: &'r Ram) -> Self {
        Self { ram, frames: Cell::new(0) }
    }
}

impl Image for Counted<'_> {
    fn words(&self, addr: PhysAddr, bytes: usize) -> Option<&[AtomicU64]> {
        let run = Run::covering(addr, bytes as u64).filter(|run| self.is_memory(*run))?;
        self.frames.set(self.frames.get() + run.frames());
        addr.get().is_multiple_of(8).then(|| words(self.ram, addr, bytes))
    }

    fn is_memory(&self, run: Run) -> bool {
        Ram::frames(FRAMES)[0].0.covers(run)
    }
}

/// What a survey finds, and how many frames it looks at.
fn surveyed(ram: &Ram, kernel_left: heirloom_restore::Entry) -> (Vec<Error>, u64) {
    let image = Counted::of(ram);
    let all = Ram::frames(FRAMES)[0].0;
    let mut taken = vec![0; FramesOf::words(all).unwrap()];
    let mut stretches = [FramesOf::new(all, &mut taken).unwrap()];
    let mut findings = Vec::new();
    survey(&image, kernel_left, &mut Frames::new(&mut stretches), |finding| {
        findings.push(finding);
        Ok::<_, Error>(())
    })
    .unwrap();
    (findings, image.frames.get())
}

/// Where the page of heirloom's own subtree lies.
fn header_of(kernel: &Heirloom<&Ram>) -> PhysAddr {
    let mut at = None;
    kernel
        .for_each_subtree(|name, addr, _| {
            if name == "heirloom" {
                at = Some(addr);
            }
        })
        .unwrap();
    at.unwrap()
}

/// Says that the handover is sealed by `seal`.
fn seal_with(ram: &Ram, header: PhysAddr, seal: SealInfo) {
    let page = words(ram, header, PAGE_SIZE);
    let says = Header::read(page, header).unwrap();
    HeaderPage::create(page, header, &Header { seal: SealState::Sealed(seal), ..says }).unwrap();
}

/// Reads the machine's memory, in which every block is preserved.
struct All<'r>(&'r Ram);

impl heirloom_kho::Pages for All<'_> {
    fn words(&self, addr: PhysAddr, bytes: usize) -> Option<&[AtomicU64]> {
        addr.get().is_multiple_of(8).then(|| words(self.0, addr, bytes))
    }

    fn holds(&self, _: Block) -> bool {
        true
    }
}

#[test]
fn a_seal_over_one_block_again_and_again_is_refused_for_the_price_of_the_frames() {
    // More frames in all than a survey may look at; larger ones take as much longer to seal.
    let (order, times) = if PAGE_SIZE == 4096 { (6, 1000) } else { (4, 320) };
    assert!(times << order > 4 * FRAMES);
    for kind in [Sealed::Subtree, Sealed::Slab, Sealed::Node] {
        let ram = Ram::over(&Ram::frames(FRAMES));
        let kernel = boot(&ram);
        let folio = kernel.memory().alloc_folio(Request::new(Order::new(order).unwrap())).unwrap();
        let folio = folio.preserve().unwrap_or_else(|refused| panic!("{}", refused.error));
        let (at, bytes) = (folio.extent().addr(), folio.extent().order().bytes());
        let mut sealer = Sealer::new(kernel.memory(), times).unwrap();
        for _ in 0..times {
            sealer.cover(kind, at, u32::try_from(bytes).unwrap()).unwrap();
        }
        let info = sealer.close(&All(&ram)).unwrap().info();
        seal_with(&ram, header_of(&kernel), info);
        let entry = kernel.entry();
        let _ = folio.into_raw();
        let (findings, frames) = surveyed(&ram, entry);
        assert!(frames <= 4 * FRAMES, "{kind}: {frames} frames looked at, there are {FRAMES}");
        let seal = |error: &Error| matches!(error, Error::Table(e) if e.table == Table::Seal);
        assert!(findings.iter().any(seal), "{kind}: {findings:?}");
        let refused = Heirloom::<&Ram>::revive_memory(
            memory(&ram, FRAMES),
            entry,
            "next",
            SealPolicy::Checked,
        );
        let refused = refused.err().expect("such a seal is none of ours");
        assert!(seal(&refused), "{kind}: {refused}");
    }
}

#[test]
fn subtrees_over_one_another_are_looked_at_once() {
    let ram = Ram::over(&Ram::frames(FRAMES));
    let kernel = boot(&ram);
    let frames = FRAMES / 2;
    let single = Request::new(Order::ZERO);
    let blocks: Vec<Block> = (0..frames).map(|_| kernel.memory().alloc(single).unwrap()).collect();
    for block in &blocks {
        // SAFETY: allocated by this test, and told to nothing else.
        unsafe { kernel.memory().preserve(*block) }.unwrap();
    }
    let mut sorted: Vec<PhysAddr> = blocks.iter().map(|block| block.addr()).collect();
    sorted.sort_unstable();
    // As many in a row as there are.
    let rows = sorted.chunk_by(|one, next| next.get() - one.get() == PAGE);
    let row = rows.max_by_key(|row| row.len()).unwrap();
    assert!(row.len() as u64 > frames / 4, "{} frames in a row", row.len());
    let (start, row) = (row[0], row.len());
    let mut names = 0;
    while names < MOST && kernel.add_subtree(&format!("s{names}"), start, row as u64 * PAGE).is_ok()
    {
        names += 1;
    }
    assert!(names > 20, "{names} subtrees");
    let (findings, looked) = surveyed(&ram, kernel.entry());
    assert_eq!(findings, []);
    // A frame is asked for in the tree, from its root down, once for each order.
    println!("{names} subtrees of {row} frames: {looked} frames looked at");
    let limit = 8 * FRAMES;
    assert!(looked <= limit, "{looked} frames looked at for {names} subtrees of {row} frames");
    Heirloom::<&Ram>::revive_memory(
        memory(&ram, FRAMES),
        kernel.entry(),
        "next",
        SealPolicy::Checked,
    )
    .unwrap();
}

#[test]
fn an_area_whose_chunks_lead_back_is_no_longer_than_its_chunks() {
    let ram = Ram::over(&Ram::frames(FRAMES));
    let at = |n: u64| PhysAddr::new((4 << 30) + n * PAGE);
    // Two full chunks, each of which names the other as the next.
    for (chunk, next) in [(0, 1), (1, 0)] {
        let page = words(&ram, at(chunk), PAGE_SIZE);
        page[0].store(at(next).get(), Relaxed);
        page[1..].iter().for_each(|word| word.store(at(2).get(), Relaxed));
    }
    let info = AreaInfo::new(at(0), u32::MAX, Order::ZERO, false).unwrap();
    let mut parts = 0_u64;
    let walked = info.walk(&All(&ram), |part| {
        parts += u64::from(matches!(part, AreaPart::Block(_)));
        if parts > 1 << 20 {
            return Err(Error::NotSealed { opened: false });
        }
        Ok(())
    });
    let fault = match walked {
        Err(Error::Table(TableError { table: Table::Area, fault, .. })) => fault,
        other => panic!("{parts} parts, {other:?}"),
    };
    assert!(matches!(fault, Fault::Malformed { .. }), "{fault}");
    assert!(parts <= 4 * PAGE / 8, "{parts} parts of two chunks");
}

#[test]
fn a_root_page_of_the_most_subtrees_costs_itself() {
    let ram = Ram::over(&Ram::frames(FRAMES));
    let kernel = boot(&ram);
    let mut names = 0;
    while names < MOST && kernel.publish(&format!("{names}"), &[1]).is_ok() {
        names += 1;
    }
    let (findings, frames) = surveyed(&ram, kernel.entry());
    assert_eq!(findings, []);
    assert!(frames <= 4 * FRAMES, "{frames} frames looked at for {names} subtrees");
    let mut left = 0;
    kernel.for_each_subtree(|_, _, _| left += 1).unwrap();
    assert_eq!(left, names + 1);
}
