//! Areas, lists of records, and what is published: what is asked of the restore layer.

use heirloom::folio::{DirectMap, Error as FolioError, Folio, FrameType, Request};
use heirloom::kho::{Block, Handle, Order, Parts, PhysAddr};
use heirloom::restore::{Error, PreservedArea, Records};
use heirloom_testkit::{Kernel, TestMachine};

use super::folios::frames_of;
use super::state::{ModelKind, ModelObject, PAGE, Published, State};

/// An entry of a list.
pub(super) type Entry = [u64; 2];

/// The blocks of a list of ours, by its links.
pub(super) fn blocks_of(kernel: &Kernel<'_>, first: PhysAddr) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut at = first;
    while at.get() != 0 {
        blocks.push(Block::containing(at.pfn(), Order::ZERO));
        let link = kernel.memory().machine().ptr(at).cast::<u64>();
        // SAFETY: a block of a list that the model owns, which nobody writes now.
        at = PhysAddr::new(unsafe { link.read() });
    }
    blocks
}

/// The list of a thing that is one.
fn list<'k, 'g>(
    kernel: &'k Kernel<'g>,
    thing: &ModelObject,
) -> Records<'k, &'g TestMachine, Entry> {
    // SAFETY: the model owns the list, and lets this value go before it makes another.
    unsafe { Records::from_raw(kernel.memory(), thing.addr) }.expect("its own list")
}

/// The area of a thing that is one.
fn area<'k, 'g>(kernel: &'k Kernel<'g>, thing: &ModelObject) -> PreservedArea<'k, &'g TestMachine> {
    let Some(Ok(Parts::Area(info))) = thing.handle.map(|handle| handle.parts()) else {
        panic!("{thing:?}")
    };
    // SAFETY: the model owns the area, and lets this value go before it makes another.
    unsafe { PreservedArea::from_raw(kernel.memory(), info) }
}

/// What is preserved by its making, in these blocks.
fn table(what: ModelKind, names: Parts, parts: Vec<Block>, seed: u64) -> ModelObject {
    let (addr, handle) = (parts[0].addr(), Handle::new(names).ok());
    ModelObject { what, addr, bytes: 0, preserved: true, seed, handle, parts }
}

/// The names that are published under.
fn name(n: u64) -> String {
    format!("root-{}", n % 5)
}

impl State {
    /// Builds an area over new folios.
    pub(super) fn area(&mut self, kernel: &Kernel<'_>, a: u64, b: u64) {
        let memory = kernel.memory();
        let order = Order::new((a % 3) as u8).unwrap_or_default();
        let count = if b.is_multiple_of(64) { 60 + b % 5 } else { 1 + b % 7 };
        let folios: Vec<_> =
            (0..count).map_while(|_| memory.alloc_folio(Request::new(order)).ok()).collect();
        if folios.len() < count as usize {
            // They are freed where they are dropped.
            self.figures.starved += 1;
            return;
        }
        let mut blocks: Vec<_> = folios.iter().map(Folio::extent).collect();
        let wrong = (b / 64).is_multiple_of(8);
        if wrong {
            blocks.push(blocks[0]);
        }
        let huge = b & 1 == 1;
        // SAFETY: the blocks are this kernel's, and only what let the area go frees them.
        match unsafe { PreservedArea::preserve(memory, blocks.iter().copied(), order, huge) } {
            Ok(area) => {
                assert!(!wrong);
                let info = area.into_raw();
                assert_eq!((info.order(), info.blocks(), info.huge()), (order, count, huge));
                let chunk = Block::containing(info.first().pfn(), Order::ZERO);
                let seed = self.next_seed();
                let parts = std::iter::once(chunk).chain(blocks).collect();
                let thing = table(ModelKind::Area(order), Parts::Area(info), parts, seed);
                for folio in folios {
                    folio.into_raw();
                }
                self.own(kernel, thing);
            }
            Err(Error::Folio(FolioError::AlreadyPreserved { block })) => {
                assert!(wrong && block == blocks[0]);
                self.refused();
            }
            Err(error) => {
                drop(folios);
                self.starved(kernel, error, (count << order.get()) + 1 + 6 * (count + 1));
            }
        }
    }

    /// Lets an area go and frees its blocks, or makes folios of them.
    pub(super) fn free_area(&mut self, kernel: &Kernel<'_>, i: usize, b: u64) {
        let thing = self.owned[i].clone();
        let mut blocks = Vec::new();
        let released = area(kernel, &thing).unpreserve(|block| blocks.push(block));
        assert!(released.is_ok(), "{thing:?}");
        assert_eq!(blocks, thing.parts[1..], "{thing:?}");
        self.disown(i);
        for (block, seed) in blocks.into_iter().zip(thing.seed..) {
            if b & 2 == 0 {
                // SAFETY: the area's block, which is the model's since it was let go.
                drop(unsafe { Folio::from_raw(kernel.memory(), block) });
                continue;
            }
            self.owned.push(frames_of(ModelKind::Folio(block.order()), block.run(), seed));
        }
    }

    /// A list of records, empty.
    pub(super) fn records(&mut self, kernel: &Kernel<'_>) {
        match Records::<_, Entry>::new(kernel.memory()) {
            Ok(list) => {
                let addr = list.first();
                let parts = Parts::Records { first: addr, entry: size_of::<Entry>() as u64 };
                let seed = self.next_seed();
                let blocks = vec![Block::containing(addr.pfn(), Order::ZERO)];
                self.own(kernel, table(ModelKind::Records(0), parts, blocks, seed));
            }
            Err(error) => self.starved(kernel, error, 7),
        }
    }

    /// More entries for a list.
    pub(super) fn push(&mut self, kernel: &Kernel<'_>, a: u64, b: u64) {
        let Some(i) = self.pick(a, |thing| matches!(thing.what, ModelKind::Records(_))) else {
            return;
        };
        let thing = self.owned[i].clone();
        let ModelKind::Records(mut count) = thing.what else { return };
        let mut list = list(kernel, &thing);
        let mut refused = None;
        for _ in 0..=b % 300 {
            if let Err(error) = list.push(&[thing.seed, count]) {
                refused = Some(error);
                break;
            }
            count += 1;
        }
        assert_eq!(list.len(), count);
        drop(list);
        self.owned[i].parts = blocks_of(kernel, thing.addr);
        self.owned[i].what = ModelKind::Records(count);
        if let Some(error) = refused {
            self.starved(kernel, error, 7);
        }
    }

    /// Frees a list.
    pub(super) fn free_records(&mut self, kernel: &Kernel<'_>, i: usize) {
        let freed = list(kernel, &self.owned[i]).free();
        assert!(freed.is_ok(), "{:?}", self.owned[i]);
        self.disown(i);
    }

    /// Checks that an area names its blocks, and a list its entries.
    pub(super) fn check_table(kernel: &Kernel<'_>, thing: &ModelObject) {
        match thing.what {
            ModelKind::Area(_) => {
                let mut blocks = Vec::new();
                area(kernel, thing).for_each(|block| blocks.push(block)).expect("its own area");
                assert_eq!(blocks, thing.parts[1..], "{thing:?}");
            }
            ModelKind::Records(count) => {
                let mut entries = Vec::new();
                let list = list(kernel, thing);
                list.for_each(|entry: Entry| entries.push(entry)).expect("its own list");
                let expected: Vec<_> = (0..count).map(|n| [thing.seed, n]).collect();
                assert_eq!(entries, expected, "{thing:?}");
            }
            _ => {}
        }
    }

    /// The seal is what the library says it is: there, or broken by what was just done.
    fn look_at_seal(&mut self, kernel: &Kernel<'_>) {
        if !kernel.is_sealed() {
            self.seal.clear();
        }
    }

    /// Publishes bytes.
    pub(super) fn publish(&mut self, kernel: &Kernel<'_>, a: u64, b: u64) {
        let name = name(a);
        let length = if b.is_multiple_of(5) { b % 20_000 } else { b % 300 };
        let bytes: Vec<u8> = (0..length).map(|i| (i * 7 + a) as u8).collect();
        let done = kernel.publish(&name, &bytes);
        self.look_at_seal(kernel);
        match done {
            Ok(()) => {
                assert!(!self.subtrees.contains_key(&name));
                assert!(!self.left_roots.contains_key(&name), "{name} is still to be claimed");
                self.drop_published(&name);
                let mut at = None;
                let each = |found: &str, addr: PhysAddr, _| {
                    if found == name {
                        at = Some(addr);
                    }
                };
                kernel.for_each_subtree(each).expect("our own root page");
                let order = Order::for_frames(length.div_ceil(PAGE).max(1)).expect("few frames");
                let block = Block::containing(at.expect("published just now").pfn(), order);
                self.published.insert(name, Published { block, bytes });
                self.figures.made += 1;
            }
            Err(Error::NameTaken { .. }) => {
                assert!(self.subtrees.contains_key(&name) || self.left_roots.contains_key(&name));
                self.refused();
            }
            Err(error) => self.starved(kernel, error, length.div_ceil(PAGE) * 2 + 7),
        }
    }

    /// Takes back what was published.
    pub(super) fn unpublish(&mut self, kernel: &Kernel<'_>, a: u64) {
        let name = name(a);
        let done = kernel.unpublish(&name);
        self.look_at_seal(kernel);
        match done {
            Ok(()) => assert!(self.drop_published(&name), "{name}"),
            Err(Error::NoSuchSubtree { .. }) => {
                assert!(!self.published.contains_key(&name));
                self.refused();
            }
            Err(error) => panic!("{name}: {error}"),
        }
    }

    /// What was published under a name is so no more: whether it was. Its block stays if another name
    /// leads there.
    fn drop_published(&mut self, name: &str) -> bool {
        let Some(gone) = self.published.remove(name) else { return false };
        if self.is_named(gone.block) {
            self.tables.push(gone.block);
        }
        true
    }

    /// Adds something that is preserved as a subtree, or removes one.
    pub(super) fn subtree(&mut self, kernel: &Kernel<'_>, a: u64, b: u64) {
        let name = name(a);
        if b.is_multiple_of(3) {
            let done = kernel.remove_subtree(&name);
            self.look_at_seal(kernel);
            let there =
                self.subtrees.remove(&name).is_some() || self.left_roots.remove(&name).is_some();
            assert_eq!(done.is_ok(), there, "{name}: {done:?}");
            return;
        }
        let Some(i) = self.pick(b / 3, |thing| thing.run().is_some()) else { return };
        let thing = &self.owned[i];
        let (addr, bytes) = (thing.addr, thing.bytes - b % PAGE.min(thing.bytes));
        let done = kernel.add_subtree(&name, addr, bytes);
        let (preserved, large) = (thing.preserved, matches!(thing.what, ModelKind::Large { .. }));
        self.look_at_seal(kernel);
        match done {
            Ok(()) => {
                assert!(preserved && !large && !self.published.contains_key(&name));
                if let Some(left) = self.left_roots.remove(&name) {
                    assert_eq!((left.addr, left.length), (addr, bytes), "{name} is taken over");
                }
                assert!(self.subtrees.insert(name, (addr, bytes)).is_none());
            }
            Err(Error::NotPreserved { at }) => {
                assert!(!preserved && at == addr);
                self.refused();
            }
            Err(Error::NameTaken { .. }) => {
                let left = self.left_roots.contains_key(&name);
                let ours = self.published.contains_key(&name) || self.subtrees.contains_key(&name);
                assert!(ours || left, "{name}");
                self.refused();
            }
            // A buffer can be freed at any time.
            Err(Error::Folio(FolioError::WrongType { .. })) if large => self.refused(),
            Err(error) => panic!("{name}: {error}"),
        }
    }

    /// Removes the subtrees at an address, whose memory is to be let go.
    pub(super) fn drop_subtree(&mut self, kernel: &Kernel<'_>, at: PhysAddr) {
        let ours = self.subtrees.iter().map(|(name, (addr, _))| (name, *addr));
        let left = self.left_roots.iter().map(|(name, left)| (name, left.addr));
        let there = ours.chain(left).filter(|(_, addr)| *addr == at);
        for name in there.map(|(name, _)| name.clone()).collect::<Vec<_>>() {
            kernel.remove_subtree(&name).expect("it was added");
            self.subtrees.remove(&name);
            self.left_roots.remove(&name);
            self.look_at_seal(kernel);
        }
    }

    /// Checks that what stands in the root page is what was published and added.
    pub(super) fn check_subtrees(&self, kernel: &Kernel<'_>) {
        let mut found = std::collections::BTreeMap::new();
        let each = |name: &str, addr, bytes| {
            found.insert(name.to_owned(), (addr, bytes));
        };
        kernel.for_each_subtree(each).expect("our own root page");
        assert!(found.remove("heirloom").is_some());
        let published = self.published.iter().map(|(name, published)| {
            (name.clone(), (published.block.addr(), published.bytes.len() as u64))
        });
        let left = self.left_roots.iter().map(|(name, l)| (name.clone(), (l.addr, l.length)));
        assert_eq!(found, published.chain(self.subtrees.clone()).chain(left).collect());
        for published in self.published.values() {
            assert!(kernel.memory().preserved().contains(published.block));
            let start = kernel.memory().machine().ptr(published.block.addr());
            // SAFETY: published bytes, which nobody writes.
            let bytes =
                unsafe { std::slice::from_raw_parts(start.as_ptr(), published.bytes.len()) };
            assert_eq!(bytes, published.bytes);
        }
    }

    /// Seals the handover, or breaks the seal.
    pub(super) fn seal_or_not(&mut self, kernel: &Kernel<'_>, a: u64) {
        if a.is_multiple_of(4) {
            kernel.unseal().expect("our own seal");
            assert!(!kernel.is_sealed());
            self.seal.clear();
            return;
        }
        self.seal(kernel);
    }

    /// Seals the handover.
    pub(super) fn seal(&mut self, kernel: &Kernel<'_>) {
        let preserved = || {
            let mut blocks = std::collections::BTreeSet::new();
            kernel.memory().preserved().for_each(|block| _ = blocks.insert(block));
            blocks
        };
        kernel.unseal().expect("our own seal");
        self.seal.clear();
        let before = preserved();
        match kernel.seal() {
            Ok(()) => {
                assert!(kernel.is_sealed());
                self.seal = preserved().difference(&before).copied().collect();
                assert!(!self.seal.is_empty());
                for block in &self.seal {
                    let holder = kernel.memory().owning_block(block.pfn());
                    assert_eq!(holder, Some((block.run(), FrameType::Table, true)));
                }
                (self.dirty, self.opened) = (false, false);
            }
            Err(error) => {
                assert!(!kernel.is_sealed());
                assert_eq!(preserved(), before);
                self.starved(kernel, error, 12);
            }
        }
    }
}
