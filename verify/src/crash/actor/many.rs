//! Calls about several folios: preserved at once, in a row, or as an area.

use heirloom::folio::Request;
use heirloom::kho::tree::FolioRange;
use heirloom::kho::{Block, Handle, Order, PAGE_SIZE, Parts};
use heirloom::restore::{Error, PreservedArea};
use heirloom_testkit::{ObjectKind, TestObject};

use super::super::journal::{Call, Slack};
use super::{Actor, Owned, at_most, slack};
use crate::world::Owned as _;

impl Actor<'_, '_> {
    /// New folios of several orders, preserved in one call.
    pub(super) fn preserve_all(&mut self, count: u8) -> Result<(), Error> {
        self.open(Call::PreserveAll, Slack::default());
        let orders = (0..count).map(|i| Request::new(at_most(i % 3)));
        let blocks: Result<Vec<_>, _> = orders.map(|r| self.kernel.memory().alloc(r)).collect();
        let blocks = blocks?;
        let things = self.new_folios(&blocks);
        let done = self.kernel.memory().keep(&blocks[..]);
        self.all_are(&things, done.is_ok());
        done?;
        Ok(())
    }

    /// Stamps blocks that are about to be preserved, as things that may be from here on.
    pub(super) fn new_folios(&mut self, blocks: &[Block]) -> Vec<(u32, TestObject)> {
        let mut things = Vec::new();
        for block in blocks {
            let (id, seed) = self.id();
            let thing = TestObject::folio(*block);
            self.stamp(&thing, seed);
            things.push((id, thing.stamped(seed)));
        }
        for (id, thing) in &things {
            self.may(*id, Some(*thing));
        }
        things
    }

    pub(super) fn all_are(&mut self, things: &[(u32, TestObject)], kept: bool) {
        for (id, thing) in things {
            self.is(*id, kept.then_some(*thing));
            self.own(*id, *thing, kept);
        }
    }

    pub(super) fn unpreserve_all(&mut self) -> Result<(), Error> {
        let kept = |o: &Owned| o.kept && !o.left && !o.pinned && o.thing.kind == ObjectKind::Folio;
        let which: Vec<_> = (0..self.owned.len()).filter(|i| kept(&self.owned[*i])).collect();
        self.open(Call::UnpreserveAll, Slack::default());
        for i in &which {
            self.may(self.owned[*i].id, None);
        }
        let blocks: Vec<_> = which.iter().map(|i| self.owned[*i].thing.block()).collect();
        self.kernel.memory().let_go(&blocks[..])?;
        for i in which {
            self.is(self.owned[i].id, None);
            self.owned[i].kept = false;
        }
        Ok(())
    }

    /// Eight folios in a row, preserved in one call.
    pub(super) fn preserve_range(&mut self, order: Order) -> Result<(), Error> {
        const COUNT: u64 = 8;
        self.open(Call::PreserveRange, Slack::default());
        let memory = self.kernel.memory();
        let whole = Order::for_frames(order.frames() * COUNT).unwrap_or(Order::MAX_FOLIO);
        let place = memory.alloc(Request::new(whole))?;
        // SAFETY: allocated just now, and not used.
        unsafe { memory.free(place) }?;
        let at = |i| Block::containing(place.pfn().add(i * order.frames()), order);
        let mut blocks = Vec::new();
        for block in (0..COUNT).map(at) {
            // Another thread may have been faster.
            if memory.alloc_at(block).is_ok() {
                blocks.push(block);
            }
        }
        if blocks.len() < COUNT as usize {
            for block in blocks {
                // SAFETY: allocated just now, and not used.
                unsafe { memory.free(block) }?;
            }
            return Ok(());
        }
        let things = self.new_folios(&blocks);
        let row = FolioRange::new(blocks[0], COUNT).expect("a row of folios");
        let done = self.kernel.memory().keep(row);
        self.all_are(&things, done.is_ok());
        done?;
        Ok(())
    }

    pub(super) fn area(&mut self, blocks: u64, order: Order) -> Result<(), Error> {
        self.open(Call::Area, slack(2, 2, 0));
        let request = Request::new(order);
        let blocks: Result<Vec<_>, _> =
            (0..blocks).map(|_| self.kernel.memory().alloc(request)).collect();
        let blocks = blocks?;
        let things = self.new_folios(&blocks);
        let (id, seed) = self.id();
        // From here on they are parts of one content.
        for (block, seed) in blocks.iter().zip(seed..) {
            self.stamp(&TestObject::folio(*block), seed);
        }
        for ((id, thing), seed) in things.iter().zip(seed..) {
            self.is(*id, None);
            self.may(*id, Some(thing.stamped(seed)));
        }
        let memory = self.kernel.memory();
        // SAFETY: the blocks are this kernel's, and only what let the area go frees them.
        match unsafe { PreservedArea::preserve(memory, blocks.iter().copied(), order, false) } {
            Ok(area) => {
                let info = area.into_raw();
                let handle = Handle::new(Parts::Area(info))?;
                let bytes = u64::from(info.pages()) * PAGE_SIZE as u64;
                let area =
                    TestObject::new(ObjectKind::Area, order.get(), handle, bytes).stamped(seed);
                self.is(id, Some(area));
                for (id, _) in &things {
                    self.is(*id, None);
                }
                self.own(id, area, true);
                Ok(())
            }
            Err(error) => {
                for ((id, thing), seed) in things.into_iter().zip(seed..) {
                    self.is(id, None);
                    self.own(id, thing.stamped(seed), false);
                }
                Err(error)
            }
        }
    }

    pub(super) fn area_gone(&mut self, number: u64) -> Result<(), Error> {
        let Some(i) = self.pick_kind(number, ObjectKind::Area) else { return Ok(()) };
        let Owned { id, thing, .. } = self.owned.swap_remove(i);
        self.open(Call::AreaGone, slack(2, 2, 0));
        let seed = thing.seed.expect("an area is stamped");
        let mut blocks = Vec::new();
        for (block, seed) in thing.blocks(self.kernel).into_iter().zip(seed..) {
            let (id, _) = self.id();
            blocks.push((id, TestObject::folio(block).stamped(seed)));
        }
        for (id, block) in &blocks {
            self.may(*id, Some(*block));
        }
        self.may(id, None);
        let Parts::Area(info) = thing.parts() else { panic!("{thing:?}") };
        // SAFETY: the area is ours; its blocks are, one by one, from here on.
        let area = unsafe { PreservedArea::from_raw(self.kernel.memory(), info) };
        let mut gone = 0;
        area.unpreserve(|_| gone += 1).map_err(|(_, error)| error)?;
        assert_eq!(gone, blocks.len());
        self.is(id, None);
        self.all_are(&blocks, false);
        Ok(())
    }
}
