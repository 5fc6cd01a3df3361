//! Whole handovers of every kind, with every table that their successors read.

use std::collections::BTreeSet;

use heirloom::folio::Disposition;
use heirloom::kho::{
    AreaPart, Chain, Handle, Header, Left as LeftPages, Name, Parts, PhysAddr, RootView, SUBTREE,
};
use heirloom::restore::{Entry, Error};
use heirloom::slab::CacheSpec;
use heirloom::slab::internal::ImageCaches;

use super::{Kernel, PAGE, Recipe, Record, TestMachine, TestObject, end};

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
    /// A page of the cache directory: records of caches.
    Directory,
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

heirloom_testkit::listed! {
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
}

impl Shape {
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
    pub fn build(self, sealed: bool) -> (TestMachine, Left) {
        let machine = TestMachine::new(self.frames());
        let left = self.leave(&machine, sealed);
        (machine, left)
    }

    /// Leaves such a handover in `world`, from a fresh boot.
    ///
    /// # Panics
    /// If the world is too small.
    pub fn leave(self, machine: &TestMachine, sealed: bool) -> Left {
        let mut kernel = machine.boot();
        let mut kept = self.keep(&kernel).expect("a machine that holds the shape");
        if self == Self::Generations {
            for _ in 0..3 {
                kernel = machine.jump(kernel);
                for cache in [THINGS, PLAIN] {
                    kernel.slabs().adopt(cache).expect("what was left is sound");
                }
                // One in five is claimed and let go; a folio more, and the rest goes on.
                let (gone, rest): (Vec<_>, Vec<_>) =
                    kept.into_iter().enumerate().partition(|(i, _)| i % 5 == 1);
                for (_, kept) in gone {
                    kept.take(&kernel).and_then(|()| kept.drop(&kernel)).expect("left");
                }
                kept = rest.into_iter().map(|(_, kept)| kept).collect();
                kept.push(TestObject::keep(&kernel, Recipe::Folio(1), 77).expect("room"));
                kept.push(TestObject::keep(&kernel, Recipe::Buffer(40, false), 78).expect("room"));
                kernel.finish(|_| Disposition::Keep).expect("room");
            }
            drop(kernel.claim_root("root").expect("published"));
            kernel.publish("root", &<[u8; 16]>::from(kept[0].handle())).expect("room");
        }
        if sealed {
            kernel.seal().expect("room for a seal");
        }
        let entry = end(kernel);
        let mut left = Left { entry, sealed, kept, tables: Vec::new(), saved: machine.save() };
        left.tables = tables_of(machine, entry, left.kept.iter().map(TestObject::handle));
        left.forget_the_rest(machine);
        left
    }

    /// What its owners keep, each with the seed of its content.
    fn recipes(self) -> Vec<(Recipe, u64)> {
        use Recipe::{Area, Buffer, Folio, Object, Records, Run};
        let page = PAGE as usize;
        let mut recipes = Vec::new();
        let all = matches!(self, Self::Whole | Self::Generations);
        if all || self == Self::Folios {
            recipes.extend([0, 2, 0, 1, 3].map(|n| (Folio(n), 1 + u64::from(n))));
        }
        if all || self == Self::Runs {
            recipes.extend([(Run(5), 10), (Run(3), 11)]);
        }
        if all || self == Self::Areas {
            recipes.extend([(Area(3, 0), 20), (Area(2, 1), 30)]);
        }
        if self == Self::Areas {
            recipes.push((Area(520, 0), 40));
        }
        if all || self == Self::Records {
            recipes.extend([(Records(1), 50), (Records(300), 51)]);
        }
        if all || self == Self::Buffers {
            recipes.extend([(Buffer(100, false), 60), (Buffer(100, true), 61)]);
            recipes.extend([(Buffer(2000, true), 62), (Buffer(3 * page, false), 63)]);
            recipes.push((Buffer(2 * page + 1, true), 64));
        }
        if all || self == Self::Caches {
            recipes.extend((70..82).map(|seed| (Object(THINGS), seed)));
            recipes.extend((90..96).map(|seed| (Object(PLAIN), seed)));
        }
        recipes
    }

    fn keep(self, kernel: &Kernel<'_>) -> Result<Vec<TestObject>, Error> {
        let recipes = self.recipes().into_iter();
        let kept: Result<Vec<_>, _> =
            recipes.map(|(recipe, seed)| TestObject::keep(kernel, recipe, seed)).collect();
        let kept = kept?;
        let all = matches!(self, Self::Whole | Self::Generations);
        if all || self == Self::Caches {
            // It does not survive.
            kernel.slabs().cache(PLAIN)?.alloc()?;
        }
        if all || self == Self::Roots {
            let handles = kept.iter().map(|kept| <[u8; 16]>::from(kept.handle()));
            kernel.publish("root", &handles.collect::<Vec<_>>().concat())?;
            kernel.publish("more.of-it", &[7; 5000])?;
        }
        Ok(kept)
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
    pub kept: Vec<TestObject>,
    /// Every table that a successor reads.
    pub tables: Vec<TableAt>,
    /// All of memory.
    pub saved: Vec<u8>,
}

impl Left {
    /// Overwrites what did not survive: pointers and padding in it are others each time, and what an
    /// attack copies from free memory is to be the same.
    fn forget_the_rest(&mut self, machine: &TestMachine) {
        let mut kept: BTreeSet<_> = self.tables.iter().map(|table| table.addr.pfn()).collect();
        let bare = LeftPages::bare(machine);
        let root = RootView::read(&bare, self.entry.root).expect("a sound root");
        for block in LeftPages::new(machine, root.map()).tree().folios() {
            kept.extend((0..block.run().frames()).map(|n| block.run().start().add(n)));
        }
        let start = machine.all().start();
        let pages = (0..).zip(self.saved.chunks_exact_mut(PAGE as usize));
        for (_, page) in pages.filter(|(n, _)| !kept.contains(&start.add(*n))) {
            page.fill(0x5a);
        }
        machine.load(&self.saved);
    }

    /// The handles that its owners have.
    pub fn handles(&self) -> Vec<Handle> {
        self.kept.iter().map(TestObject::handle).collect()
    }
}

/// Every table of the handover at `entry`, as far as it is sound, and the tables that `handles`
/// lead to.
pub fn tables_of(
    machine: &TestMachine,
    entry: Entry,
    handles: impl IntoIterator<Item = Handle>,
) -> Vec<TableAt> {
    let page = PAGE as usize;
    let mut tables = Vec::new();
    let mut add = |place, addr, bytes| tables.push(TableAt { place, addr, bytes });
    add(Place::Root, entry.root, page);
    add(Place::Scratch, entry.scratch, entry.scratch_bytes as usize);
    let bare = LeftPages::bare(machine);
    let Ok(root) = RootView::read(&bare, entry.root) else { return tables };
    let left = LeftPages::new(machine, root.map());
    left.tree().nodes().for_each(|node| add(Place::Node, node.addr, page));
    let own = Name::new(SUBTREE).ok().and_then(|name| root.find(&name).ok());
    let header = own.and_then(|own| {
        add(Place::Header, own.addr, Header::SIZE);
        let words = heirloom::kho::Image::words(machine, own.addr, Header::SIZE)?;
        Header::read(words, own.addr).ok()
    });
    if let Some(seal) = header.and_then(|header| header.seal.info()) {
        // What is not sound ends the walk.
        let _ = Chain::<_, [u64; 3]>::for_each(&left, seal.first, |block| {
            add(Place::Seal, block.addr(), page);
            Ok::<_, Error>(())
        });
    }
    if let Some(roll) = header.and_then(|header| header.cache_directory) {
        let caches = ImageCaches::new(&left, roll);
        let mut records = roll;
        for addr in caches.pages() {
            // The pages of records come first, and each names the next.
            let place = if addr == records { Place::Directory } else { Place::Slabs };
            if addr == records {
                records = PhysAddr::new(machine.word(addr));
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
                let _ = Chain::<_, Record>::for_each(&left, first, |block| {
                    add(Place::Records, block.addr(), page);
                    Ok::<_, Error>(())
                });
            }
            _ => {}
        }
    }
    tables
}
