//! Random programs over several generations against a model of maps: who owns what, what of it is
//! preserved, what the predecessor left, and what stands in each byte.
#![cfg(feature = "std")]
#![allow(clippy::drop_non_drop, reason = "a kernel ends where it is dropped")]

mod common;

use std::alloc::Layout;
use std::collections::BTreeMap;

use heirloom::folio::{DirectMap, Fate, PhysAddr};
use heirloom::restore::{Handle, Parts, SealPolicy, Unclaimed};
use heirloom::slab::{Buffers, CacheSpec};
use proptest::prelude::*;

use common::{
    Kernel, State, World, finish_freeing, order, out_of_memory, proptest_config, stamp_at,
    stamped_at,
};

const FRAMES: u64 = 900;
const PLAIN: CacheSpec = CacheSpec::new("plain", 152);
const PRESERVING: CacheSpec = CacheSpec::new("preserving", 152).preserving(true);

/// What is asked for.
#[derive(Clone, Copy, PartialEq, Debug)]
enum What {
    Folio(u8),
    Buffer(usize, bool),
    Plain,
    Preserving,
}

/// A step of a program; `usize`s choose among what there is.
#[derive(Clone, Debug)]
enum Step {
    Alloc(What),
    Free(usize),
    Realloc(usize, usize),
    Preserve(usize),
    Unpreserve(usize),
    Claim(usize),
    ClaimAgain(usize),
    Publish(Vec<u8>),
    Finish(bool),
    Shrink,
    Jump(bool),
}

fn what() -> impl Strategy<Value = What> {
    prop_oneof![
        (0_u8..6).prop_map(What::Folio),
        (1_usize..5000, any::<bool>()).prop_map(|(bytes, born)| What::Buffer(bytes, born)),
        (1_usize..30, any::<bool>()).prop_map(|(pages, born)| What::Buffer(pages * 4096, born)),
        Just(What::Plain),
        Just(What::Preserving),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let any_of = any::<prop::sample::Index>;
    let pick = move || any_of().prop_map(|index| index.index(1 << 16));
    prop_oneof![
        10 => what().prop_map(Step::Alloc),
        4 => pick().prop_map(Step::Free),
        3 => (pick(), 1_usize..40_000).prop_map(|(i, bytes)| Step::Realloc(i, bytes)),
        7 => pick().prop_map(Step::Preserve),
        2 => pick().prop_map(Step::Unpreserve),
        7 => pick().prop_map(Step::Claim),
        1 => pick().prop_map(Step::ClaimAgain),
        1 => prop::collection::vec(any::<u8>(), 0..9000).prop_map(Step::Publish),
        1 => any::<bool>().prop_map(Step::Finish),
        1 => Just(Step::Shrink),
        2 => any::<bool>().prop_map(Step::Jump),
    ]
}

/// Something that this kernel owns, or that the predecessor left.
#[derive(Clone, Copy, Debug)]
struct Thing {
    what: What,
    addr: PhysAddr,
    bytes: usize,
    handle: Option<Handle>,
    preserved: bool,
    seed: u64,
}

impl Thing {
    /// Whether it is preserved from birth, which no call changes but freeing.
    fn born(&self) -> bool {
        self.what == What::Preserving || matches!(self.what, What::Buffer(_, true))
    }

    /// Whether it is preserved as an object of a slab: so says its handle.
    fn small(&self) -> bool {
        self.handle.is_some_and(|handle| matches!(handle.parts(), Ok(Parts::Object { .. })))
    }
}

#[derive(Default)]
struct Model {
    owned: Vec<Thing>,
    left: Vec<Thing>,
    /// Preserved for the next kernel, and nobody's in this one.
    kept: Vec<Thing>,
    /// Memory ran out while something was kept: what was by then is not known.
    kept_in_part: bool,
    /// Folios of roots that were kept without being claimed: nameless from then on.
    kept_roots: u64,
    left_roots: u64,
    claimed: Vec<Handle>,
    published: BTreeMap<&'static str, Vec<u8>>,
    inherited_root: Option<Vec<u8>>,
    adopted: bool,
    refusals: u64,
    seed: u64,
}

fn layout(bytes: usize) -> Layout {
    Layout::from_size_align(bytes, 8).unwrap()
}

fn ptr(kernel: &Kernel<'_>, thing: &Thing) -> std::ptr::NonNull<u8> {
    kernel.memory().machine().ptr(thing.addr)
}

fn block(thing: &Thing) -> heirloom::folio::Block {
    let What::Folio(n) = thing.what else { panic!("{thing:?}") };
    heirloom::folio::Block::new(thing.addr.pfn(), order(n)).unwrap()
}

fn choose<T>(from: &[T], index: usize) -> Option<usize> {
    (!from.is_empty()).then(|| index % from.len())
}

impl Model {
    fn alloc(&mut self, kernel: &Kernel<'_>, what: What) {
        let slabs = kernel.slabs();
        let (addr, bytes) = match what {
            What::Folio(n) => {
                let request = heirloom::folio::Request::new(order(n));
                let Ok(folio) = kernel.memory().folio(request) else { return self.refusals += 1 };
                (Ok(folio.into_raw().addr()), order(n).bytes() as usize)
            }
            What::Buffer(bytes, preserving) => {
                let like = Buffers { preserving, zeroed: false };
                let ptr = slabs.alloc(layout(bytes), like);
                (ptr.map(|ptr| kernel.memory().machine().phys(ptr).unwrap()), bytes)
            }
            What::Plain | What::Preserving => {
                let spec = if what == What::Plain { PLAIN } else { PRESERVING };
                let ptr = slabs.cache(spec).and_then(|cache| cache.alloc());
                (ptr.map(|ptr| kernel.memory().machine().phys(ptr).unwrap()), 152)
            }
        };
        let Ok(addr) = addr.map_err(Into::into).inspect_err(|error| {
            assert!(out_of_memory(error), "{what:?}: {error}");
        }) else {
            return self.refusals += 1;
        };
        self.seed += 1;
        stamp_at(kernel, addr, bytes, self.seed);
        let mut thing =
            Thing { what, addr, bytes, handle: None, preserved: false, seed: self.seed };
        if thing.born() {
            thing.preserved = true;
            thing.handle = Some(kernel.handle_of(ptr(kernel, &thing)).unwrap());
        }
        self.owned.push(thing);
    }

    fn free(&mut self, kernel: &Kernel<'_>, index: usize) {
        let Some(i) = choose(&self.owned, index) else { return };
        let thing = self.owned[i];
        assert!(stamped_at(kernel, thing.addr, thing.bytes, thing.seed), "{thing:?}");
        // SAFETY: the model owns it, and forgets it if it is freed.
        let freed = unsafe {
            match thing.what {
                What::Folio(_) => kernel
                    .memory()
                    .free(block(&thing), heirloom::folio::Kind::Folio)
                    .map_err(Into::into),
                _ => kernel.free(ptr(kernel, &thing)),
            }
        };
        assert_eq!(freed.is_ok(), !thing.preserved || thing.born(), "{thing:?}: {freed:?}");
        if freed.is_ok() {
            self.owned.swap_remove(i);
        } else {
            self.refusals += 1;
        }
    }

    fn realloc(&mut self, kernel: &Kernel<'_>, index: usize, bytes: usize) {
        let Some(i) = choose(&self.owned, index) else { return };
        let thing = self.owned[i];
        let What::Buffer(_, born) = thing.what else { return };
        // SAFETY: the model owns it, and goes on with what is returned.
        let moved = unsafe { kernel.slabs().realloc(ptr(kernel, &thing), layout(bytes)) };
        let Ok(moved) = moved else { return self.refusals += 1 };
        let addr = kernel.memory().machine().phys(moved).unwrap();
        assert!(addr == thing.addr || !thing.preserved || born, "{thing:?}");
        let kept = bytes.min(thing.bytes);
        assert!(stamped_at(kernel, addr, kept, thing.seed), "{thing:?} to {bytes}");
        stamp_at(kernel, addr, bytes, thing.seed);
        let handle = thing.handle.map(|_| kernel.handle_of(moved).unwrap());
        self.owned[i] = Thing { addr, bytes, handle, what: What::Buffer(bytes, born), ..thing };
    }

    fn preserve(&mut self, kernel: &Kernel<'_>, index: usize) {
        let Some(i) = choose(&self.owned, index) else { return };
        let thing = self.owned[i];
        let preserved = match thing.what {
            What::Folio(_) => kernel
                .memory()
                .preserve(block(&thing))
                .map_err(Into::into)
                .and_then(|()| Handle::new(Parts::Folio(block(&thing)))),
            _ => kernel.preserve(ptr(kernel, &thing)),
        };
        match preserved {
            Ok(handle) => {
                assert!(!thing.preserved, "{thing:?}");
                self.owned[i] = Thing { handle: Some(handle), preserved: true, ..thing };
            }
            Err(error) => {
                assert!(thing.preserved || out_of_memory(&error), "{thing:?}: {error}");
                self.refusals += 1;
            }
        }
    }

    fn unpreserve(&mut self, kernel: &Kernel<'_>, index: usize) {
        let Some(i) = choose(&self.owned, index) else { return };
        let thing = self.owned[i];
        let done = match thing.what {
            What::Folio(_) => kernel.memory().unpreserve(block(&thing)).map_err(Into::into),
            _ => kernel.unpreserve(ptr(kernel, &thing)),
        };
        // An object of a preserving cache stays; a large buffer is from then on like any other.
        let lets_go = thing.preserved && !(thing.born() && thing.small());
        assert_eq!(done.is_ok(), lets_go, "{thing:?}: {done:?}");
        if lets_go {
            let what = match thing.what {
                What::Buffer(bytes, _) => What::Buffer(bytes, false),
                what => what,
            };
            self.owned[i] = Thing { what, preserved: false, handle: None, ..thing };
        } else {
            self.refusals += 1;
        }
    }

    fn claim(&mut self, kernel: &Kernel<'_>, index: usize) {
        if !self.adopted {
            for spec in [PLAIN, PRESERVING] {
                if let Err(error) = kernel.slabs().adopt(spec) {
                    assert!(out_of_memory(&error.into()), "{error}");
                    return self.refusals += 1;
                }
            }
            self.adopted = true;
        }
        if let Some(expected) = self.inherited_root.take() {
            assert_eq!(kernel.claim_root("root").unwrap().bytes(), expected);
            assert!(kernel.claim_root("root").is_err());
        }
        let Some(i) = choose(&self.left, index) else { return };
        let thing = self.left[i];
        let handle = thing.handle.unwrap();
        let claimed = match thing.what {
            What::Folio(_) => kernel.claim_folio(handle).map(|folio| {
                folio.into_raw();
            }),
            _ => kernel.restore(handle).map(|_| ()),
        };
        if let Err(error) = claimed {
            assert!(out_of_memory(&error), "{thing:?}: {error}");
            return self.refusals += 1;
        }
        assert!(stamped_at(kernel, thing.addr, thing.bytes, thing.seed), "{thing:?}");
        self.left.swap_remove(i);
        self.claimed.push(handle);
        // What is claimed is an ordinary allocation, but in a preserving cache.
        let preserved = thing.born() && thing.small();
        let what = match thing.what {
            What::Buffer(bytes, _) => What::Buffer(bytes, preserved),
            what => what,
        };
        let handle = preserved.then_some(handle);
        self.owned.push(Thing { what, handle, preserved, ..thing });
    }

    fn finish(&mut self, kernel: &Kernel<'_>, keep: bool) {
        let fate = if keep { Fate::Keep } else { Fate::Free };
        let mut objects = 0;
        let finished = kernel.finish(|unclaimed| {
            objects += match unclaimed {
                Unclaimed::Slab { objects, .. } => u64::from(objects),
                Unclaimed::Object { .. } => 1,
                _ => 0,
            };
            fate
        });
        if let Err(error) = finished {
            assert!(keep && out_of_memory(&error), "{error}");
            self.refusals += 1;
            kernel.finish(|_| Fate::Free).unwrap();
            self.kept_in_part |= keep;
            self.left.clear();
        } else if !self.left.is_empty() {
            let small = self.left.iter().filter(|thing| thing.small()).count();
            assert_eq!(objects, small as u64);
        }
        if keep {
            self.kept.append(&mut self.left);
            self.kept_roots += self.left_roots + u64::from(self.inherited_root.is_some());
        }
        self.left.clear();
        self.left_roots = 0;
        self.inherited_root = None;
    }

    /// The kernel ends, and another one begins.
    fn jump<'w>(&mut self, world: &'w World, kernel: Kernel<'w>, seal: bool) -> Kernel<'w> {
        let sealed = seal && kernel.seal().is_ok();
        let entry = kernel.entry();
        drop(kernel);
        let policy = if sealed { SealPolicy::Required } else { SealPolicy::Checked };
        let kernel = world.try_revive(entry, policy).unwrap();
        // What nobody had claimed is gone, but slabs that were adopted; for the model nothing of
        // it is claimed any more.
        self.left = std::mem::take(&mut self.owned);
        self.left.retain(|thing| thing.preserved);
        self.left.append(&mut self.kept);
        self.left_roots = std::mem::take(&mut self.kept_roots);
        self.inherited_root = self.published.remove("root");
        self.claimed.clear();
        self.adopted = false;
        kernel
    }

    fn step<'w>(&mut self, world: &'w World, kernel: Kernel<'w>, step: &Step) -> Kernel<'w> {
        match step {
            Step::Alloc(what) => self.alloc(&kernel, *what),
            Step::Free(i) => self.free(&kernel, *i),
            Step::Realloc(i, bytes) => self.realloc(&kernel, *i, *bytes),
            Step::Preserve(i) => self.preserve(&kernel, *i),
            Step::Unpreserve(i) => self.unpreserve(&kernel, *i),
            Step::Claim(i) => (0..3).for_each(|n| self.claim(&kernel, i + n)),
            Step::ClaimAgain(i) => {
                if let Some(i) = choose(&self.claimed, *i) {
                    let handle = self.claimed[i];
                    assert!(kernel.claim_folio(handle).is_err());
                    assert!(kernel.restore(handle).is_err());
                    self.refusals += 1;
                }
            }
            Step::Publish(bytes) => match kernel.publish("root", bytes) {
                Ok(()) => drop(self.published.insert("root", bytes.clone())),
                Err(error) => {
                    assert!(out_of_memory(&error), "{error}");
                    self.refusals += 1;
                }
            },
            Step::Finish(keep) => self.finish(&kernel, *keep),
            Step::Shrink => drop(kernel.slabs().shrink()),
            Step::Jump(seal) => {
                self.finish(&kernel, false);
                let next = self.jump(world, kernel, *seal);
                next.memory().audit().unwrap();
                return next;
            }
        }
        kernel
    }

    /// Everything owned is as it was stamped, and no two things share a byte.
    fn check(&self, kernel: &Kernel<'_>) {
        let mut places: Vec<_> = self.owned.iter().chain(&self.left).chain(&self.kept).collect();
        places.sort_unstable_by_key(|thing| thing.addr);
        for pair in places.windows(2) {
            let end = pair[0].addr.get() + pair[0].bytes as u64;
            assert!(end <= pair[1].addr.get(), "{:?} {:?}", pair[0], pair[1]);
        }
        for thing in places {
            assert!(stamped_at(kernel, thing.addr, thing.bytes, thing.seed), "{thing:?}");
        }
    }
}

proptest! {
    #![proptest_config(proptest_config(300))]

    #[test]
    fn any_program_over_generations_does_what_the_model_does(
        steps in prop::collection::vec(step(), 1..150),
    ) {
        let world = World::new(FRAMES);
        let mut kernel = world.boot();
        let mut model = Model::default();
        for step in &steps {
            kernel = model.step(&world, kernel, step);
        }
        model.check(&kernel);
        // A step is refused once, or not at all; a claim is three.
        prop_assert!(model.refusals <= 3 * steps.len() as u64);
        // Everything is given back, and nothing is left.
        model.finish(&kernel, false);
        let next = model.jump(&world, kernel, false);
        while !model.left.is_empty() {
            model.claim(&next, 0);
            while !model.owned.is_empty() {
                model.free(&next, 0);
            }
        }
        if model.inherited_root.take().is_some() {
            next.claim_root("root").unwrap();
        }
        next.slabs().adopt(PLAIN).unwrap();
        next.slabs().adopt(PRESERVING).unwrap();
        let lost = finish_freeing(&next);
        let roots = lost.len() as u64 == model.left_roots
            && lost.iter().all(|lost| matches!(lost, Unclaimed::Folio(_)));
        prop_assert!(roots || model.kept_in_part, "{:?}", lost);
        let mut state = State::of(&next);
        state.audit.allocated[heirloom::folio::Kind::Table as usize] = 0;
        prop_assert_eq!(state.audit.allocated, [0; 6]);
        prop_assert_eq!(state.audit.reserved, world.scratch().frames());
    }
}
