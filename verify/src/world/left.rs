//! Whole handovers of every kind, with every table that their successors read.

use std::collections::BTreeSet;

use heirloom::folio::{Fate, PhysAddr};
use heirloom::restore::{
    AreaPart, Chain, Entry, Error, Handle, Header, Left as LeftPages, Name, Parts, RootView,
    SUBTREE,
};
use heirloom::slab::{CacheSpec, ImageCaches};

use super::{
    Kept, Kernel, PAGE, World, end, keep_area, keep_buffer, keep_folio, keep_object, keep_records,
    keep_run,
};

/// A preserving cache.
pub const THINGS: CacheSpec = CacheSpec::new("things", 400).preserving(true);
/// A cache in which objects are preserved one by one.
pub const PLAIN: CacheSpec = CacheSpec::new("plain", 1000);

/// What a table is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Place {
    /// The root page.
    Root,
    /// The scratch list.
    Scratch,
    /// A node of the tree.
    Node,
    /// The page of the `heirloom` subtree.
    Header,
    /// A page of the roll: records of caches.
    Roll,
    /// A page of a cache's slab table.
    Slabs,
    /// A slab's header: what its checksum covers.
    Slab,
    /// The states of a slab's objects.
    States,
    /// A block of the seal's table.
    Seal,
    /// A chunk page of an area.
    Area,
    /// A block of records.
    Records,
    /// A table that Linux registered.
    Linux,
    /// A header of an image's file.
    File,
}

/// A table that a successor reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TableAt {
    /// What it is.
    pub place: Place,
    /// Its first byte, a multiple of 8.
    pub addr: PhysAddr,
    /// How many bytes of it count.
    pub bytes: usize,
}

/// A kind of handover.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shape {
    /// Nothing but itself.
    Bare,
    /// Folios of several orders.
    Folios,
    /// Runs whose lengths are no powers of two.
    Runs,
    /// Areas, one of more blocks than a chunk page names.
    Areas,
    /// Lists of records, one of several blocks.
    Records,
    /// Small and large buffers, preserved from birth and later.
    Buffers,
    /// A preserving and a plain cache.
    Caches,
    /// Published roots.
    Roots,
    /// Some of everything.
    Whole,
    /// Some of everything after three more generations, which claimed, kept and freed.
    Generations,
}

impl Shape {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Bare,
        Self::Folios,
        Self::Runs,
        Self::Areas,
        Self::Records,
        Self::Buffers,
        Self::Caches,
        Self::Roots,
        Self::Whole,
        Self::Generations,
    ];

    /// The frames of a world that holds it.
    pub const fn frames(self) -> u64 {
        match self {
            Self::Areas => 800,
            Self::Whole | Self::Generations => 288,
            _ => 192,
        }
    }

    /// Such a handover in a world of its own.
    ///
    /// # Panics
    /// If the world is too small.
    pub fn build(self, sealed: bool) -> (World, Left) {
        let world = World::new(self.frames());
        let left = self.leave(&world, sealed);
        (world, left)
    }

    /// Leaves such a handover in `world`, from a fresh boot.
    ///
    /// # Panics
    /// If the world is too small.
    pub fn leave(self, world: &World, sealed: bool) -> Left {
        let mut kernel = world.boot();
        let mut kept = self.keep(&kernel).expect("a world that holds the shape");
        if self == Self::Generations {
            for _ in 0..3 {
                kernel = world.jump(kernel);
                for cache in [THINGS, PLAIN] {
                    kernel.slabs().adopt(cache).expect("what was left is sound");
                }
                // One in five is claimed and let go; a folio more, and the rest goes on.
                let (gone, rest): (Vec<_>, Vec<_>) =
                    kept.into_iter().enumerate().partition(|(i, _)| i % 5 == 1);
                for (_, kept) in gone {
                    let_go(&kernel, kept.handle);
                }
                kept = rest.into_iter().map(|(_, kept)| kept).collect();
                kept.push(keep_folio(&kernel, 1, 77).expect("room"));
                kept.push(keep_buffer(&kernel, 40, false, 78).expect("room"));
                kernel.finish(|_| Fate::Keep).expect("room");
            }
            drop(kernel.claim_root("root").expect("published"));
            kernel.publish("root", &<[u8; 16]>::from(kept[0].handle)).expect("room");
        }
        if sealed {
            kernel.seal().expect("room for a seal");
        }
        let entry = end(kernel);
        let mut left = Left { entry, sealed, kept, tables: Vec::new(), saved: world.save() };
        left.tables = tables_of(world, entry, left.kept.iter().map(|kept| kept.handle));
        left.forget_the_rest(world);
        left
    }

    fn keep(self, kernel: &Kernel<'_>) -> Result<Vec<Kept>, Error> {
        let all = matches!(self, Self::Whole | Self::Generations);
        let mut kept = Vec::new();
        if all || self == Self::Folios {
            for n in [0, 2, 0, 1, 3] {
                kept.push(keep_folio(kernel, n, 1 + u64::from(n))?);
            }
        }
        if all || self == Self::Runs {
            kept.extend([keep_run(kernel, 5, 10)?, keep_run(kernel, 3, 11)?]);
        }
        if all || self == Self::Areas {
            kept.push(keep_area(kernel, 3, 0, 20)?);
            kept.push(keep_area(kernel, 2, 1, 30)?);
        }
        if self == Self::Areas {
            kept.push(keep_area(kernel, 520, 0, 40)?);
        }
        if all || self == Self::Records {
            kept.push(keep_records(kernel, 1, 50)?);
            kept.push(keep_records(kernel, 300, 51)?);
        }
        if all || self == Self::Buffers {
            kept.push(keep_buffer(kernel, 100, false, 60)?);
            kept.push(keep_buffer(kernel, 100, true, 61)?);
            kept.push(keep_buffer(kernel, 2000, true, 62)?);
            kept.push(keep_buffer(kernel, 3 * PAGE as usize, false, 63)?);
            kept.push(keep_buffer(kernel, 2 * PAGE as usize + 1, true, 64)?);
        }
        if all || self == Self::Caches {
            let things = kernel.slabs().cache(THINGS)?;
            let plain = kernel.slabs().cache(PLAIN)?;
            for i in 0..12 {
                kept.push(keep_object(kernel, &things, 70 + i)?);
            }
            for i in 0..6 {
                kept.push(keep_object(kernel, &plain, 90 + i)?);
            }
            // Neither of these survives.
            plain.alloc()?;
        }
        if all || self == Self::Roots {
            let bytes: Vec<u8> =
                kept.iter().flat_map(|kept| <[u8; 16]>::from(kept.handle)).collect();
            kernel.publish("root", &bytes)?;
            kernel.publish("more.of-it", &[7; 5000])?;
        }
        Ok(kept)
    }
}

/// Claims what a handle names and frees it.
fn let_go(kernel: &Kernel<'_>, handle: Handle) {
    match handle.parts() {
        Ok(Parts::Folio(_)) => {
            let folio = kernel.claim_folio(handle).expect("left");
            drop(folio.unpreserve().expect("ours"));
        }
        Ok(Parts::Run(_)) => {
            let run = kernel.claim_run(handle).expect("left");
            drop(run.unpreserve().expect("ours"));
        }
        Ok(Parts::Area(_)) => {
            if let Ok(area) = kernel.claim_area(handle) {
                let mut blocks = Vec::new();
                area.unpreserve(|block| blocks.push(block)).expect("a sound area");
                for block in blocks {
                    // SAFETY: the area's block, which is ours since it was let go.
                    drop(unsafe { heirloom::folio::Folio::from_raw(kernel.memory(), block) });
                }
            }
        }
        Ok(Parts::Records { .. }) => {
            if let Ok(records) = kernel.claim_records::<[u64; 2]>(handle) {
                records.free().map_err(|(_, error)| error).expect("a sound list");
            }
        }
        Ok(Parts::Buffer { .. } | Parts::Object { .. }) => {
            if let Ok(ptr) = kernel.restore(handle) {
                // SAFETY: claimed just now.
                unsafe { kernel.free(ptr) }.expect("ours");
            }
        }
        _ => {}
    }
}

/// What a kernel left.
#[derive(Clone, Debug)]
pub struct Left {
    /// Where a successor begins.
    pub entry: Entry,
    /// Whether it is sealed.
    pub sealed: bool,
    /// What was preserved, as its owners know it.
    pub kept: Vec<Kept>,
    /// Every table that a successor reads.
    pub tables: Vec<TableAt>,
    /// All of memory.
    pub saved: Vec<u8>,
}

impl Left {
    /// Overwrites what did not survive: pointers and padding in it are others each time, and what an
    /// attack copies from free memory is to be the same.
    fn forget_the_rest(&mut self, world: &World) {
        let mut kept: BTreeSet<_> = self.tables.iter().map(|table| table.addr.pfn()).collect();
        let bare = LeftPages::bare(world);
        let root = RootView::read(&bare, self.entry.root).expect("a sound root");
        for block in LeftPages::new(world, root.map()).tree().folios() {
            kept.extend((0..block.run().frames()).map(|n| block.run().start().add(n)));
        }
        let start = world.all().start();
        let pages = (0..).zip(self.saved.chunks_exact_mut(PAGE as usize));
        for (_, page) in pages.filter(|(n, _)| !kept.contains(&start.add(*n))) {
            page.fill(0x5a);
        }
        world.load(&self.saved);
    }

    /// The handles that its owners have.
    pub fn handles(&self) -> Vec<Handle> {
        self.kept.iter().map(|kept| kept.handle).collect()
    }
}

/// Every table of the handover at `entry`, as far as it is sound, and the tables that `handles`
/// lead to.
pub fn tables_of(
    world: &World,
    entry: Entry,
    handles: impl IntoIterator<Item = Handle>,
) -> Vec<TableAt> {
    let page = PAGE as usize;
    let mut tables = Vec::new();
    let mut add = |place, addr, bytes| tables.push(TableAt { place, addr, bytes });
    add(Place::Root, entry.root, page);
    add(Place::Scratch, entry.scratch, entry.scratch_bytes as usize);
    let bare = LeftPages::bare(world);
    let Ok(root) = RootView::read(&bare, entry.root) else { return tables };
    let left = LeftPages::new(world, root.map());
    left.tree().nodes().for_each(|node| add(Place::Node, node.addr, page));
    let own = Name::new(SUBTREE).ok().and_then(|name| root.find(&name).ok());
    let header = own.and_then(|own| {
        add(Place::Header, own.addr, Header::SIZE);
        let words = heirloom::restore::Image::words(world, own.addr, Header::SIZE)?;
        Header::read(words, own.addr).ok()
    });
    if let Some(seal) = header.and_then(|header| header.seal.info()) {
        // What is not sound ends the walk.
        let _ = Chain::<_, [u64; 3]>::for_each(&left, seal.first, |block| {
            add(Place::Seal, block.addr(), page);
            Ok::<_, Error>(())
        });
    }
    if let Some(roll) = header.and_then(|header| header.roll) {
        let caches = ImageCaches::new(&left, roll);
        let mut records = roll;
        for addr in caches.pages() {
            // The pages of records come first, and each names the next.
            let place = if addr == records { Place::Roll } else { Place::Slabs };
            if addr == records {
                records = PhysAddr::new(world.word(addr));
            }
            add(place, addr, page);
        }
        for cache in caches.caches() {
            for addr in caches.slabs(&cache) {
                add(Place::Slab, addr, 88);
                let states = PhysAddr::new(addr.get() + 128);
                add(Place::States, states, (cache.objects_per_slab() as usize).next_multiple_of(8));
            }
        }
    }
    for handle in handles {
        match handle.parts() {
            Ok(Parts::Area(area)) => {
                let _ = area.walk(&left, |part| {
                    if let AreaPart::Chunk(block) = part {
                        add(Place::Area, block.addr(), page);
                    }
                    Ok::<_, Error>(())
                });
            }
            Ok(Parts::Records { first, .. }) => {
                let _ = Chain::<_, [u64; 2]>::for_each(&left, first, |block| {
                    add(Place::Records, block.addr(), page);
                    Ok::<_, Error>(())
                });
            }
            _ => {}
        }
    }
    tables
}
