//! Calls about one thing that is an owner's: allocated, preserved, let go, moved, freed.

use std::alloc::Layout;

use heirloom::folio::{DirectMap, Request};
use heirloom::kho::{Handle, PAGE_SIZE, Parts};
use heirloom::restore::Error;
use heirloom::slab::Cache;
use heirloom_testkit::{ObjectKind, Recipe, TestMachine, TestObject};

use super::super::caches::{TYPED, Value, spec};
use super::super::journal::{Call, Slack};
use super::{Actor, Owned, SLAB, slack};

impl<'k, 'a> Actor<'k, 'a> {
    pub(super) fn folio(&mut self, request: Request) -> Result<(), Error> {
        self.open(Call::AllocFolio, Slack::default());
        let folio = self.kernel.memory().alloc_folio(request)?;
        let thing = TestObject::folio(folio.into_raw());
        self.stamp_and_own(thing);
        Ok(())
    }

    /// What was allocated and is not preserved: nothing is promised.
    pub(super) fn stamp_and_own(&mut self, thing: TestObject) {
        let (id, seed) = self.id();
        self.stamp(&thing, seed);
        self.own(id, thing.stamped(seed), false);
    }

    pub(super) fn run(&mut self, frames: u64) -> Result<(), Error> {
        self.open(Call::AllocRun, Slack::default());
        let run = TestObject::create(self.kernel, Recipe::Run(frames))?;
        self.stamp_and_own(run);
        Ok(())
    }

    pub(super) fn buffer(&mut self, bytes: usize, born: bool) -> Result<(), Error> {
        let frames = bytes.div_ceil(PAGE_SIZE) as u64;
        let call = if born { Call::AllocBorn } else { Call::AllocBuffer };
        self.open(call, slack(frames, frames, u64::from(born)));
        let thing = TestObject::create(self.kernel, Recipe::Buffer(bytes, born))?;
        self.born_or_not(thing);
        Ok(())
    }

    /// What was allocated; from birth it survives, and its content from when it is written.
    pub(super) fn born_or_not(&mut self, thing: TestObject) {
        let (id, seed) = self.id();
        if thing.born {
            self.is(id, Some(thing));
        }
        self.stamp(&thing, seed);
        if thing.born {
            self.is(id, Some(thing.stamped(seed)));
        }
        self.own(id, thing.stamped(seed), thing.born);
    }

    pub(crate) fn cache(&self, which: u8) -> Result<Cache<'k, &'a TestMachine>, Error> {
        let cache = self.kernel.slabs().cache(spec(which))?;
        assert!(cache.slab_order().frames() <= SLAB, "{cache:?}");
        Ok(cache)
    }

    pub(super) fn object(&mut self, which: u8) -> Result<(), Error> {
        self.open(Call::AllocObject, slack(1, 1, 1));
        self.cache(which)?;
        let mut thing = TestObject::create(self.kernel, Recipe::Object(spec(which)))?;
        thing.index = which;
        self.born_or_not(thing);
        Ok(())
    }

    /// A typed object: with its value from the moment that it is there. In the plain cache it is
    /// preserved singly, as a type.
    pub(super) fn insert(&mut self, preserving: bool) -> Result<(), Error> {
        let which = if preserving { 5 } else { 4 };
        self.open(Call::Insert, slack(1, 1, 1));
        let cache =
            self.kernel.slabs().typed::<Value>(TYPED[usize::from(preserving)], preserving)?;
        let (id, seed) = self.id();
        let object = cache.insert(Value::of(seed))?;
        let (addr, tag) = object.handle_parts();
        let bytes = size_of::<Value>() as u64;
        let handle = Handle::new(Parts::Object { addr, bytes, tag })?;
        let thing = TestObject::new(ObjectKind::Object, which, handle, bytes);
        let thing = thing.born(preserving).stamped(seed);
        if preserving {
            self.is(id, Some(thing));
            object.leak();
            self.own(id, thing, true);
            return Ok(());
        }
        self.may(id, Some(thing));
        match object.preserve() {
            Ok(kept) => {
                self.is(id, Some(thing));
                kept.into_raw();
                self.own(id, thing, true);
                Ok(())
            }
            Err(refused) => {
                self.is(id, None);
                Err(refused.error.into())
            }
        }
    }

    pub(super) fn preserve(&mut self, number: u64) -> Result<(), Error> {
        // What is held until a plain free can be preserved singly.
        let fits = |o: &Owned| !o.kept || o.held && !o.thing.is_born_small();
        let Some(i) = self.pick(number, fits) else { return Ok(()) };
        let Owned { id, thing, kept, held, .. } = self.owned[i];
        self.open(Call::Preserve, slack(1, 1, 0));
        if !kept {
            self.may(id, Some(thing));
        }
        let done = thing.preserve(self.kernel);
        self.is(id, (kept || done.is_ok()).then_some(thing));
        self.owned[i].kept = kept || done.is_ok();
        self.owned[i].held = held && done.is_err();
        done?;
        Ok(())
    }

    pub(super) fn unpreserve(&mut self, number: u64) -> Result<(), Error> {
        let singly = |owned: &Owned| {
            owned.kept
                && matches!(
                    owned.thing.kind,
                    ObjectKind::Folio | ObjectKind::Run | ObjectKind::Buffer | ObjectKind::Object
                )
                && !owned.thing.is_born_small()
        };
        let Some(i) = self.pick(number, singly) else { return Ok(()) };
        let Owned { id, thing, .. } = self.owned[i];
        // A run that is half let go is blocks of nobody's.
        self.open(Call::Unpreserve, slack(thing.frames(), thing.frames(), 0));
        self.may(id, None);
        thing.unpreserve(self.kernel)?;
        self.is(id, None);
        (self.owned[i].kept, self.owned[i].held) = (false, false);
        self.owned[i].thing.born = false;
        Ok(())
    }

    pub(super) fn free(&mut self, number: u64) -> Result<(), Error> {
        let freed = |owned: &Owned| {
            !owned.singly() && !matches!(owned.thing.kind, ObjectKind::Area | ObjectKind::Records)
        };
        let Some(i) = self.pick(number, freed) else { return Ok(()) };
        let Owned { id, thing, kept, .. } = self.owned.swap_remove(i);
        assert!(thing.is_whole(self.kernel), "written by somebody else: {thing:?}");
        let frames = if kept { thing.frames() } else { 0 };
        self.open(Call::Free, slack(frames, frames, 0));
        if kept {
            self.may(id, None);
        }
        thing.free(self.kernel)?;
        if kept {
            self.is(id, None);
        }
        Ok(())
    }

    pub(super) fn realloc(&mut self, number: u64, bytes: usize) -> Result<(), Error> {
        let fits = |o: &Owned| o.thing.kind == ObjectKind::Buffer && !o.singly();
        let Some(i) = self.pick(number, fits) else { return Ok(()) };
        let Owned { id, thing, kept, .. } = self.owned[i];
        let frames = (bytes.div_ceil(PAGE_SIZE) as u64).max(thing.frames());
        self.open(Call::Realloc, slack(2 * frames, 2 * frames, 1));
        if kept {
            // It may be where it was, or where nobody knows yet.
            self.may(id, None);
        }
        let layout = Layout::from_size_align(bytes, 8).expect("a layout");
        let ptr = self.kernel.memory().machine().ptr(thing.addr().expect("a buffer"));
        // SAFETY: the buffer is ours; what is returned takes its place.
        let moved = unsafe { self.kernel.slabs().realloc(ptr, layout) };
        let ptr = match moved {
            Ok(ptr) => ptr,
            Err(error) => {
                if kept {
                    self.is(id, Some(thing));
                }
                return Err(error.into());
            }
        };
        let handle = self.kernel.handle_of(ptr)?;
        let seed = u64::from(id) << 8;
        // What survives until it is freed goes where all does that is preserved from birth.
        let moved = handle != thing.handle();
        let now = TestObject::new(ObjectKind::Buffer, 0, handle, bytes as u64);
        let now = now.born(if moved { kept } else { thing.born });
        // What a kernel did not come to write has no content.
        let both = now.sized(thing.bytes.min(bytes as u64) & !7);
        let both = if thing.seed.is_some() { both.stamped(seed) } else { both };
        assert!(both.is_whole(self.kernel), "moved with its content: {thing:?} to {bytes}");
        if kept {
            self.is(id, Some(both));
        }
        self.stamp(&now, seed);
        if kept {
            self.is(id, Some(now.stamped(seed)));
        }
        self.owned[i].thing = now.stamped(seed);
        Ok(())
    }
}
