//! What becomes of an object: created, stamped, preserved, restored, checked, dropped.

use std::alloc::Layout;
use std::slice;

use heirloom::folio::{DirectMap, Folio, Request};
use heirloom::kho::{Block, Handle, Order, Parts, PhysAddr};
use heirloom::restore::{Error, PreservedArea, Records};
use heirloom::slab::AllocOptions;

use super::{ObjectKind, Recipe, Record, TestObject};
use crate::machine::{Kernel, PAGE, TestMachine};
use crate::stamp::{is_stamped, stamp};

fn order(n: u8) -> Order {
    Order::new(n).expect("an order")
}

fn stamp_at(machine: &TestMachine, addr: PhysAddr, bytes: u64, seed: u64) {
    let start = machine.ptr(addr).as_ptr();
    // SAFETY: memory of the machine's, which the caller's object has to itself.
    stamp(unsafe { slice::from_raw_parts_mut(start, bytes as usize) }, seed);
}

fn is_stamped_at(machine: &TestMachine, addr: PhysAddr, bytes: u64, seed: u64) -> bool {
    let start = machine.ptr(addr).as_ptr();
    // SAFETY: memory of the machine's, which no owner writes meanwhile.
    is_stamped(unsafe { slice::from_raw_parts(start, bytes as usize) }, seed)
}

/// What becomes of it: create, stamp, preserve, restore, check, drop.
impl TestObject {
    /// Makes an object, not stamped yet, and preserved only if its kind is by its making.
    ///
    /// # Errors
    /// No memory.
    ///
    /// # Panics
    /// If no order, or no layout, is like this.
    pub fn create(kernel: &Kernel<'_>, recipe: Recipe) -> Result<Self, Error> {
        let frames = kernel.memory();
        Ok(match recipe {
            Recipe::Folio(n) => Self::folio(frames.alloc_folio(Request::new(order(n)))?.into_raw()),
            Recipe::Run(n) => {
                let run = frames.alloc_owned_run(n, Request::new(Order::ZERO))?.into_raw();
                Self::new(ObjectKind::Run, 0, Handle::new(Parts::Run(run))?, run.bytes())
            }
            Recipe::Buffer(bytes, born) => {
                let layout = Layout::from_size_align(bytes, 8).expect("a layout");
                let opts = AllocOptions { preserving: born, zeroed: false };
                let handle = kernel.handle_of(kernel.slabs().alloc(layout, opts)?)?;
                Self::new(ObjectKind::Buffer, 0, handle, bytes as u64).born(born)
            }
            Recipe::Object(spec) => {
                let cache = kernel.slabs().cache(spec)?;
                let (handle, bytes) = (kernel.handle_of(cache.alloc()?)?, cache.object_size());
                let object = Self::new(ObjectKind::Object, 0, handle, bytes as u64);
                object.born(cache.is_preserving())
            }
            Recipe::Area(blocks, n) => {
                let order = order(n);
                let folios: Result<Vec<_>, _> =
                    (0..blocks).map(|_| frames.alloc_folio(Request::new(order))).collect();
                let folios = folios?;
                let list = folios.iter().map(Folio::extent);
                // SAFETY: the blocks are this kernel's, and only what lets the area go frees them.
                let area = unsafe { PreservedArea::preserve(frames, list, order, false) }?;
                for folio in folios {
                    folio.into_raw();
                }
                let info = area.into_raw();
                let bytes = u64::from(info.pages()) * PAGE;
                Self::new(ObjectKind::Area, n, Handle::new(Parts::Area(info))?, bytes)
            }
            Recipe::Records(_) => {
                let (first, entry) =
                    (Records::<_, Record>::new(frames)?.first(), size_of::<Record>() as u64);
                Self::new(ObjectKind::Records, 0, Handle::new(Parts::Records { first, entry })?, 0)
            }
        })
    }

    /// Makes an object, stamps it, and preserves it.
    ///
    /// # Errors
    /// No memory: then there is nothing.
    ///
    /// # Panics
    /// As for [`TestObject::create`].
    pub fn keep(kernel: &Kernel<'_>, recipe: Recipe, seed: u64) -> Result<Self, Error> {
        let mut object = Self::create(kernel, recipe)?;
        if let (Recipe::Buffer(..), Some((_, bytes))) = (recipe, object.extent()) {
            // All that the handle names, which is more than was asked for.
            object.bytes = bytes;
        }
        object.stamp(kernel, seed);
        object = object.stamped(seed);
        let done = match recipe {
            Recipe::Records(count) => object.push(kernel, count).map(|longer| object = longer),
            _ if object.born || object.is_preserved_by_its_making() => Ok(()),
            _ => object.preserve(kernel),
        };
        if let Err(error) = done {
            object.release(kernel, false)?;
            return Err(error);
        }
        Ok(object)
    }

    /// Writes its content: of what has bytes of its own.
    pub fn stamp(&self, kernel: &Kernel<'_>, seed: u64) {
        let machine = kernel.memory().machine();
        if self.kind == ObjectKind::Area {
            for (block, seed) in self.blocks(kernel).into_iter().zip(seed..) {
                stamp_at(machine, block.addr(), block.order().bytes(), seed);
            }
        } else if let Some(addr) = self.addr() {
            stamp_at(machine, addr, self.bytes, seed);
        }
    }

    /// Whether its content is there, as far as it was written.
    pub fn is_whole(&self, kernel: &Kernel<'_>) -> bool {
        let machine = kernel.memory().machine();
        let Some(seed) = self.seed else { return true };
        match self.kind {
            ObjectKind::Area => self.blocks(kernel).into_iter().zip(seed..).all(|(block, seed)| {
                is_stamped_at(machine, block.addr(), block.order().bytes(), seed)
            }),
            ObjectKind::Records => {
                let mut found = Vec::new();
                let read = self.records(kernel).for_each(|entry| found.push(entry));
                let written = (0..self.bytes).map(|i| [seed, i, !i]);
                read.is_ok() && found.into_iter().eq(written)
            }
            _ => self.addr().is_none_or(|at| is_stamped_at(machine, at, self.bytes, seed)),
        }
    }

    /// Checks that its content is there.
    ///
    /// # Panics
    /// If it is not: another owner wrote there.
    pub fn check(&self, kernel: &Kernel<'_>) {
        assert!(self.is_whole(kernel), "written by another owner: {self:?}");
    }

    /// Adds entries to a list. Returns the longer one.
    ///
    /// # Errors
    /// No memory: some may have been added.
    ///
    /// # Panics
    /// If it is no list, or has no seed.
    pub fn push(self, kernel: &Kernel<'_>, entries: u64) -> Result<Self, Error> {
        let seed = self.seed.expect("a list is stamped");
        let mut records = self.records(kernel);
        (self.bytes..self.bytes + entries).try_for_each(|n| records.push(&[seed, n, !n]))?;
        Ok(self.sized(self.bytes + entries))
    }

    /// Returns the blocks of an area that is this kernel's.
    ///
    /// # Panics
    /// If it is not.
    pub fn blocks(&self, kernel: &Kernel<'_>) -> Vec<Block> {
        let mut blocks = Vec::new();
        let area = self.area(kernel);
        area.for_each(|block| blocks.push(block)).expect("an area that is ours is whole");
        area.into_raw();
        blocks
    }

    /// Returns an area that is this kernel's.
    fn area<'k, 'm>(&self, kernel: &'k Kernel<'m>) -> PreservedArea<'k, &'m TestMachine> {
        let Parts::Area(info) = self.parts() else { panic!("no area: {self:?}") };
        // SAFETY: the area is this kernel's; callers let the value go without unpreserving it, or end
        // the area with it.
        unsafe { PreservedArea::from_raw(kernel.memory(), info) }
    }

    /// Returns the list of records, which is this kernel's.
    ///
    /// # Panics
    /// If it is not.
    pub fn records<'k, 'm>(&self, kernel: &'k Kernel<'m>) -> Records<'k, &'m TestMachine, Record> {
        let Parts::Records { first, .. } = self.parts() else { panic!("no list: {self:?}") };
        // SAFETY: the list is this kernel's, and this is the one value for it.
        unsafe { Records::from_raw(kernel.memory(), first) }.expect("a list that is ours is whole")
    }

    /// Makes it survive.
    ///
    /// # Errors
    /// No memory, or it does already.
    ///
    /// # Panics
    /// If it is preserved by its making.
    pub fn preserve(&self, kernel: &Kernel<'_>) -> Result<(), Error> {
        let memory = kernel.memory();
        // SAFETY: this kernel's, in use, and nothing frees it meanwhile.
        unsafe {
            match self.parts() {
                Parts::Folio(block) => Ok(memory.preserve(block)?),
                Parts::Run(run) => Ok(memory.preserve(run)?),
                Parts::Buffer { addr, .. } | Parts::Object { addr, .. } => {
                    let handle = kernel.preserve(memory.machine().ptr(addr))?;
                    assert_eq!(handle, self.handle(), "a handle stays the same: {self:?}");
                    Ok(())
                }
                other => panic!("preserved by its making: {other:?}"),
            }
        }
    }

    /// Lets it go.
    ///
    /// # Errors
    /// It is not preserved.
    ///
    /// # Panics
    /// If it is preserved by its making.
    pub fn unpreserve(&self, kernel: &Kernel<'_>) -> Result<(), Error> {
        let memory = kernel.memory();
        // SAFETY: this kernel's, in use, and nothing frees it meanwhile.
        unsafe {
            match self.parts() {
                Parts::Folio(block) => Ok(memory.unpreserve(block)?),
                Parts::Run(run) => Ok(memory.unpreserve(run)?),
                Parts::Buffer { addr, .. } | Parts::Object { addr, .. } => {
                    kernel.unpreserve(memory.machine().ptr(addr))
                }
                other => panic!("let go as a whole: {other:?}"),
            }
        }
    }

    /// Restores what the predecessor left: what is not a name. It is preserved as before.
    ///
    /// # Errors
    /// It is not there, or no memory.
    ///
    /// # Panics
    /// If it is a name, which is looked up.
    pub fn restore(&self, kernel: &Kernel<'_>) -> Result<(), Error> {
        let handle = self.handle();
        match self.kind {
            ObjectKind::Folio => drop(kernel.claim_folio(handle)?.into_raw()),
            ObjectKind::Run => drop(kernel.claim_run(handle)?.into_raw()),
            ObjectKind::Buffer | ObjectKind::Object => drop(kernel.restore(handle)?),
            ObjectKind::Area => drop(kernel.claim_area(handle)?.into_raw()),
            ObjectKind::Records => drop(kernel.claim_records::<Record>(handle)?),
            ObjectKind::Root | ObjectKind::Subtree => panic!("names are looked up: {self:?}"),
        }
        Ok(())
    }

    /// Finds an object that is in use, as its cache was resumed, or else restores it.
    ///
    /// # Errors
    /// As for [`TestObject::restore`].
    pub fn restore_or_find(&self, kernel: &Kernel<'_>) -> Result<(), Error> {
        match self.kind {
            ObjectKind::Object if kernel.find(self.handle()).is_ok() => Ok(()),
            _ => self.restore(kernel),
        }
    }

    /// Restores it, once: it is whole, and a second time there is none.
    ///
    /// # Errors
    /// As for [`TestObject::restore`].
    ///
    /// # Panics
    /// If it is not whole, or had twice.
    pub fn take(&self, kernel: &Kernel<'_>) -> Result<(), Error> {
        self.restore(kernel)?;
        self.check(kernel);
        assert!(self.restore(kernel).is_err(), "restored twice: {self:?}");
        Ok(())
    }

    /// Frees it: what is not preserved, or is held.
    ///
    /// # Errors
    /// It is neither.
    ///
    /// # Panics
    /// If it is freed as a whole.
    pub fn free(&self, kernel: &Kernel<'_>) -> Result<(), Error> {
        let memory = kernel.memory();
        // SAFETY: the object is this kernel's, and ends here.
        unsafe {
            match self.parts() {
                Parts::Folio(block) => Ok(memory.free(block)?),
                Parts::Run(run) => Ok(memory.free(run)?),
                Parts::Buffer { addr, .. } | Parts::Object { addr, .. } => {
                    kernel.free(memory.machine().ptr(addr))
                }
                other => panic!("freed as a whole: {other:?}"),
            }
        }
    }

    /// Gives it back in whatever way it takes; `singly`: it is preserved, and no plain free frees it.
    ///
    /// # Errors
    /// It is not so.
    pub fn release(&self, kernel: &Kernel<'_>, singly: bool) -> Result<(), Error> {
        match self.kind {
            ObjectKind::Root | ObjectKind::Subtree => Ok(()),
            ObjectKind::Area => self
                .area(kernel)
                .unpreserve(|block| {
                    // SAFETY: the area's block, which is this kernel's since it was let go.
                    drop(unsafe { Folio::from_raw(kernel.memory(), block) });
                })
                .map_err(|(_, error)| error),
            ObjectKind::Records => self.records(kernel).free().map_err(|(_, error)| error),
            _ => {
                if singly {
                    self.unpreserve(kernel)?;
                }
                self.free(kernel)
            }
        }
    }

    /// Gives back what was restored.
    ///
    /// # Errors
    /// It was not.
    pub fn drop(&self, kernel: &Kernel<'_>) -> Result<(), Error> {
        self.release(kernel, !self.is_held())
    }
}
