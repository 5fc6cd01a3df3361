//! Calls about what heirloom keeps for its owners: lists of records, names, the seal.

use heirloom::kho::PAGE_SIZE;
use heirloom::restore::Error;
use heirloom_testkit::{ObjectKind, Recipe, TestObject};

use super::super::caches::{name, root_bytes};
use super::super::journal::Call;
use super::{Actor, Owned, slack};

impl Actor<'_, '_> {
    pub(super) fn new_records(&mut self) -> Result<(), Error> {
        self.open(Call::Records, slack(1, 1, 0));
        let records = TestObject::create(self.kernel, Recipe::Records(0))?;
        let (id, seed) = self.id();
        let thing = records.stamped(seed);
        self.is(id, Some(thing));
        self.own(id, thing, true);
        Ok(())
    }

    pub(super) fn push(&mut self, number: u64, entries: u64) -> Result<(), Error> {
        let Some(i) = self.pick_kind(number, ObjectKind::Records) else { return Ok(()) };
        let Owned { id, thing, .. } = self.owned[i];
        let seed = thing.seed.expect("a list is stamped");
        let mut records = thing.records(self.kernel);
        for n in thing.bytes..thing.bytes + entries {
            let more = thing.sized(n + 1);
            self.open(Call::Push, slack(1, 1, 0));
            self.may(id, Some(more));
            if let Err(error) = records.push(&[seed, n, !n]) {
                self.is(id, Some(thing.sized(n)));
                return Err(error);
            }
            self.is(id, Some(more));
            self.owned[i].thing = more;
            self.close();
        }
        Ok(())
    }

    pub(super) fn records_gone(&mut self, number: u64) -> Result<(), Error> {
        let Some(i) = self.pick_kind(number, ObjectKind::Records) else { return Ok(()) };
        let Owned { id, thing, .. } = self.owned.swap_remove(i);
        let blocks = 2 + thing.bytes / 100;
        self.open(Call::RecordsGone, slack(blocks, blocks, 0));
        self.may(id, None);
        thing.records(self.kernel).free().map_err(|(_, error)| error)?;
        self.is(id, None);
        Ok(())
    }

    /// The number of the thread's name: one that it claimed, or its own.
    pub(super) fn named(&self, which: u8) -> u32 {
        let root =
            |o: &&Owned| o.thing.kind == ObjectKind::Root && o.thing.index == which && !o.left;
        if let Some(owned) = self.owned.iter().find(root) {
            return owned.id;
        }
        self.next / Self::IDS * Self::IDS + u32::from(which) % Self::NAMES
    }

    pub(super) fn publish(&mut self, which: u8, bytes: u64) -> Result<(), Error> {
        let id = self.named(which);
        let there = self.owned.iter().position(|owned| owned.id == id);
        let before = there.map_or(0, |i| self.owned[i].thing.bytes);
        let frames = before.max(bytes).max(1).div_ceil(PAGE_SIZE as u64).next_power_of_two();
        self.open(Call::Publish, slack(4, 2 * frames, 0));
        let (_, seed) = self.id();
        let thing = TestObject::named(ObjectKind::Root, which, bytes, seed);
        self.may(id, Some(thing));
        let done = self.kernel.publish(&name(ObjectKind::Root, id), &root_bytes(seed, bytes));
        if let Err(error) = done {
            self.is(id, there.map(|i| self.owned[i].thing));
            return Err(error);
        }
        self.is(id, Some(thing));
        if let Some(i) = there {
            self.owned.swap_remove(i);
        }
        let (kept, held, left, pinned) = (true, false, false, true);
        self.owned.push(Owned { id, thing, kept, held, left, pinned });
        Ok(())
    }

    pub(super) fn unpublish(&mut self, which: u8) -> Result<(), Error> {
        let id = self.named(which);
        let Some(i) = self.owned.iter().position(|owned| owned.id == id) else { return Ok(()) };
        let Owned { thing, .. } = self.owned.swap_remove(i);
        let frames = thing.bytes.max(1).div_ceil(PAGE_SIZE as u64).next_power_of_two();
        self.open(Call::Unpublish, slack(4, frames, 0));
        self.may(id, None);
        self.kernel.unpublish(&name(ObjectKind::Root, id))?;
        self.is(id, None);
        Ok(())
    }

    /// A name for a preserved folio, which is pinned by that.
    pub(super) fn subtree(&mut self, number: u64) -> Result<(), Error> {
        let folio = |owned: &Owned| owned.kept && owned.thing.kind == ObjectKind::Folio;
        let Some(i) = self.pick(number, folio) else { return Ok(()) };
        let (id, _) = self.id();
        let TestObject { bytes, .. } = self.owned[i].thing;
        let addr = self.owned[i].thing.block().addr();
        // The seed is the address that the name leads to.
        let thing = TestObject::named(ObjectKind::Subtree, 0, bytes, addr.get());
        self.open(Call::Subtree, slack(4, 4, 0));
        self.may(id, Some(thing));
        let done = self.kernel.add_subtree(&name(ObjectKind::Subtree, id), addr, bytes);
        self.is(id, done.is_ok().then_some(thing));
        done?;
        self.owned[i].pinned = true;
        let (kept, held, left, pinned) = (true, false, false, true);
        self.owned.push(Owned { id, thing, kept, held, left, pinned });
        Ok(())
    }

    pub(super) fn subtree_gone(&mut self, number: u64) -> Result<(), Error> {
        let is_name = |o: &Owned| o.thing.kind == ObjectKind::Subtree && !o.left;
        let names: Vec<_> = (0..self.owned.len()).filter(|i| is_name(&self.owned[*i])).collect();
        let Some(which) = number.checked_rem(names.len() as u64) else { return Ok(()) };
        let Owned { id, thing, .. } = self.owned.swap_remove(names[which as usize]);
        self.open(Call::SubtreeGone, slack(4, 4, 0));
        self.may(id, None);
        self.kernel.remove_subtree(&name(ObjectKind::Subtree, id))?;
        self.is(id, None);
        for owned in &mut self.owned {
            let folio = owned.thing.kind == ObjectKind::Folio;
            if folio && Some(owned.thing.block().addr().get()) == thing.seed {
                owned.pinned = false;
            }
        }
        Ok(())
    }

    /// Nothing is changed under the seal: it is broken before the next call that would.
    pub(super) fn seal(&mut self) -> Result<(), Error> {
        self.open(Call::Seal, slack(6, 6, 0));
        self.kernel.seal()
    }

    pub(super) fn unseal(&mut self) -> Result<(), Error> {
        self.open(Call::Unseal, slack(6, 6, 0));
        self.kernel.unseal()
    }

    pub(super) fn shrink(&self) {
        self.open(Call::Shrink, slack(1, 1, 0));
        self.kernel.slabs().shrink();
    }
}
