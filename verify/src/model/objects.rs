//! Objects and buffers: what is asked of the slab layer, and what it must answer.

use core::ptr::NonNull;
use std::alloc::Layout;

use heirloom::folio::{DirectMap, Error as FolioError, FrameType};
use heirloom::kho::{Block, Handle, Order, Parts};
use heirloom::restore::Error as RestoreError;
use heirloom::slab::{Action, AllocOptions, CacheStats, Error, ObjectState, Owner};
use heirloom_testkit::Kernel;

use super::caches::{self, CACHES, CONSTRUCTED, NAMES, Note};
use super::state::{ModelKind, ModelObject, Object, PAGE, State, folio_error};

fn ptr(kernel: &Kernel<'_>, thing: &ModelObject) -> NonNull<u8> {
    kernel.memory().machine().ptr(thing.addr)
}

/// A pointer to so many bytes behind the start.
fn behind(kernel: &Kernel<'_>, thing: &ModelObject, bytes: u64) -> NonNull<u8> {
    let addr = thing.addr.get() + bytes;
    kernel.memory().machine().ptr(heirloom::kho::PhysAddr::new(addr))
}

/// The refusal of something that a single call preserved.
const fn preserved(error: RestoreError) -> bool {
    matches!(
        (error, folio_error(error)),
        (
            RestoreError::Slab(Error::WrongState {
                action: Action::Free,
                found: ObjectState::Preserved,
                ..
            }),
            _
        ) | (_, Some(FolioError::Preserved { .. }))
    )
}

impl State {
    /// What there is at a pointer that was just returned.
    fn learn(&mut self, kernel: &Kernel<'_>, at: NonNull<u8>, bytes: u64) -> ModelObject {
        let addr = kernel.memory().machine().phys(at).expect("the library's own pointer");
        let seed = self.next_seed();
        let (what, preserved) = match kernel.slabs().owner_at(addr) {
            Some(Owner::Object { cache, addr: start, size, state, preserved, .. }) => {
                assert_eq!((start, state), (addr, ObjectState::Live));
                let size = size as u64;
                assert!(size >= bytes);
                let (slab, kind, _) = kernel.memory().owning_block(addr.pfn()).expect("its slab");
                assert_eq!(kind, FrameType::Slab);
                let order = Order::for_frames(slab.frames()).expect("few frames");
                let slab = Block::containing(slab.start(), order);
                let name = cache.as_str();
                let class = name.starts_with("buffer-") || name.starts_with("preserved-");
                let constructed = if name == NAMES[4] { 8 } else { 0 };
                for other in self.owned.iter().chain(&self.left) {
                    let there = other.object().is_some_and(|object| {
                        other.addr.get() < addr.get() + size
                            && addr.get() < other.addr.get() + object.size
                    });
                    assert!(!there, "{addr} is given twice: {other:?}");
                }
                let preserving = preserved;
                let (held, pinned, adopted) = (false, false, true);
                let object = Object {
                    cache,
                    preserving,
                    held,
                    pinned,
                    class,
                    constructed,
                    slab,
                    size,
                    adopted,
                };
                (ModelKind::Object(object), preserved)
            }
            Some(Owner::Large { run, preserved }) => {
                assert_eq!((run.addr(), run.frames()), (addr, bytes.div_ceil(PAGE)));
                (ModelKind::Large { born: preserved }, preserved)
            }
            other => panic!("{addr} is no object and no buffer: {other:?}"),
        };
        let handle = preserved.then(|| kernel.handle_of(at).expect("in use"));
        ModelObject { what, addr, bytes, preserved, seed, handle, parts: Vec::new() }
    }

    /// Allocates an object of a cache.
    pub(super) fn object(&mut self, kernel: &Kernel<'_>, a: u64, b: u64) {
        let n = a as usize % CACHES;
        let cache = match caches::cache(kernel, n) {
            Ok(cache) => cache,
            Err(error) => return self.starved(kernel, error.into(), 24),
        };
        self.asked.insert(n);
        let typed = matches!(n, 2 | 3);
        let allocated = if typed && b & 1 == 0 {
            let typed = kernel.slabs().typed::<Note>(NAMES[n], n == 3).expect("it is there");
            typed.insert(Note { number: b, text: [a; 14] }).map(|note| {
                assert_eq!((note.number, note.text[13]), (b, a));
                kernel.memory().machine().ptr(note.leak())
            })
        } else if b & 2 == 0 {
            cache.alloc_zeroed()
        } else {
            cache.alloc()
        };
        match allocated {
            Ok(at) => {
                let size = cache.object_size();
                // SAFETY: allocated just now.
                let bytes = unsafe { std::slice::from_raw_parts(at.as_ptr(), size) };
                assert!(typed || b & 2 != 0 || bytes.iter().all(|byte| *byte == 0));
                assert!(n != 4 || bytes[..8] == CONSTRUCTED.to_ne_bytes());
                assert!(at.addr().get().is_multiple_of(cache.align()));
                let thing = self.learn(kernel, at, size as u64);
                assert_eq!(thing.object().map(|object| object.cache), Some(cache.name()));
                self.own(kernel, thing);
            }
            Err(Error::Constructed { cache }) => {
                assert_eq!(cache.as_str(), NAMES[4]);
                self.refused();
            }
            Err(error) => {
                let CacheStats { free, cached, .. } = cache.stats();
                let reach = kernel.memory().machine().all_within_reach();
                assert!(free + cached == 0 || !reach, "{error}: {:?}", cache.stats());
                self.starved(kernel, error.into(), cache.slab_order().frames() + 12);
            }
        }
    }

    /// Allocates a buffer.
    pub(super) fn buffer(&mut self, kernel: &Kernel<'_>, a: u64, b: u64) {
        let size = match a % 8 {
            0 => 1 + a / 8 % 64,
            1..=4 => 1 + a / 8 % 3600,
            5 | 6 => 3500 + a / 8 % 30_000,
            _ => PAGE * (1 + a / 8 % 40),
        };
        let align = 1 << if b.is_multiple_of(8) { b / 8 % 16 } else { b / 8 % 5 };
        let layout = Layout::from_size_align(size as usize, align).expect("small");
        let opts = AllocOptions {
            preserving: (b / 128).is_multiple_of(3),
            zeroed: (b / 512).is_multiple_of(2),
        };
        match kernel.slabs().alloc(layout, opts) {
            Ok(at) => {
                assert!(at.addr().get().is_multiple_of(align));
                // SAFETY: allocated just now.
                let bytes = unsafe { std::slice::from_raw_parts(at.as_ptr(), layout.size()) };
                assert!(!opts.zeroed || bytes.iter().all(|byte| *byte == 0));
                let thing = self.learn(kernel, at, size);
                assert_eq!(thing.preserved, opts.preserving);
                assert_eq!(thing.born(), opts.preserving);
                if let Some(object) = thing.object() {
                    let wasted = object.size - size;
                    let close = align > 8 || object.size <= 64 || wasted * 5 <= object.size;
                    assert!(object.class && close, "{size} bytes in {object:?}");
                }
                self.own(kernel, thing);
            }
            // The direct map of this machine is aligned to a page and no more.
            Err(Error::BadMap { align: lacks, .. }) => assert!(lacks == align && align > 4096),
            Err(error) => {
                let order = Order::for_frames((align as u64).div_ceil(PAGE)).unwrap_or_default();
                self.starved_of(kernel, error.into(), size.div_ceil(PAGE) + 24, order);
            }
        }
    }

    /// Gives a buffer another size.
    pub(super) fn realloc(&mut self, kernel: &Kernel<'_>, a: u64, b: u64) {
        let buffer = |thing: &ModelObject| match &thing.what {
            ModelKind::Large { .. } => true,
            ModelKind::Object(object) => object.class,
            _ => false,
        };
        let Some(i) = self.pick(a, buffer) else { return };
        self.drop_subtree(kernel, self.owned[i].addr);
        let thing = self.owned[i].clone();
        let bytes = match b % 4 {
            0 => 1 + b / 4 % 200,
            1 => 1 + b / 4 % 9000,
            2 => thing.bytes + b / 4 % 300,
            _ => (1 + b / 4 % 30) * PAGE - b / 4 % 2,
        };
        let layout = Layout::from_size_align(bytes as usize, 8).expect("small");
        let has = thing.object().map_or(thing.bytes.div_ceil(PAGE) * PAGE, |object| object.size);
        let stays = match thing.object() {
            Some(_) => bytes <= has && (bytes > has / 2 || has <= 64),
            None => bytes.div_ceil(PAGE) * PAGE == has && bytes > PAGE * 7 / 8,
        };
        // SAFETY: the model owns it, and goes on with what is returned.
        let done = unsafe { kernel.slabs().realloc(ptr(kernel, &thing), layout) };
        match done {
            Ok(at) => {
                let moved = kernel.memory().machine().phys(at) != Some(thing.addr);
                assert!(!(stays && moved), "{thing:?} to {bytes}");
                let single = thing.preserved && !thing.born();
                assert!(!single || stays, "{thing:?} to {bytes}");
                let mut now = ModelObject { bytes, ..thing.clone() };
                if moved || thing.object().is_none() {
                    self.owned.swap_remove(i);
                    let addr = kernel.memory().machine().phys(at).expect("our own");
                    if thing.preserved && !moved {
                        // A large one that stays as it is. Where memory is full, so does one that is to shrink: it is
                        // preserved as a whole.
                        now = thing.clone();
                        if bytes.div_ceil(PAGE) == thing.bytes.div_ceil(PAGE) {
                            now.bytes = bytes;
                        }
                    } else {
                        self.forget(thing.handle);
                        now = self.learn(kernel, at, bytes);
                        assert_eq!(now.born(), thing.born());
                    }
                    let same = ModelObject { addr, bytes, seed: thing.seed, ..now.clone() };
                    same.check_content(kernel.memory().machine(), bytes.min(thing.bytes) & !7);
                    now.stamp(kernel);
                    self.owned.push(now);
                } else {
                    now.check_content(kernel.memory().machine(), bytes.min(thing.bytes) & !7);
                    now.stamp(kernel);
                    self.owned[i] = now;
                }
            }
            Err(error) if preserved(error.into()) => {
                assert!(thing.preserved && !thing.born() && !stays, "{thing:?}: {error}");
                self.refused();
            }
            Err(error) => {
                assert!(!stays, "{thing:?} to {bytes}: {error}");
                self.starved(kernel, error.into(), bytes.div_ceil(PAGE) + 24);
            }
        }
    }

    /// Frees an object or a buffer, and once more.
    pub(super) fn free_object(&mut self, kernel: &Kernel<'_>, i: usize, b: u64) {
        let thing = self.owned[i].clone();
        let at = ptr(kernel, &thing);
        let name = thing.object().map(|object| object.cache);
        let typed = name.and_then(|name| NAMES.iter().position(|n| *n == name.as_str()));
        let typed = typed.filter(|n| matches!(n, 2 | 3));
        let single = thing.preserved && !thing.born();
        match typed {
            Some(n) if b & 1 == 1 && !single => {
                let cache = kernel.slabs().typed::<Note>(NAMES[n], n == 3).expect("it is there");
                // SAFETY: the model owns it, not preserved singly.
                drop(unsafe { cache.from_raw(thing.addr) });
            }
            _ => {
                // SAFETY: the model owns it.
                let freed = unsafe { kernel.free(at) };
                if single {
                    assert!(freed.is_err_and(preserved), "{thing:?}");
                    return self.refused();
                }
                assert_eq!(freed, Ok(()), "{thing:?}");
            }
        }
        self.disown(i);
        // SAFETY: free already, and nobody has it since.
        let twice = unsafe { kernel.free(at) };
        // A slab that is given back at once has no objects.
        let expected = matches!(
            twice,
            Err(RestoreError::Slab(Error::WrongState { addr, action: Action::Free, found: ObjectState::Free, .. })) if addr == thing.addr
        ) || name.is_some()
            && matches!(twice, Err(RestoreError::Slab(Error::NotAnObject { .. })));
        assert!(expected, "{thing:?} again: {twice:?}");
        self.refused();
    }

    /// Names an object or a buffer by what it is not. Nothing must come of it.
    pub(super) fn misuse_object(&mut self, kernel: &Kernel<'_>, i: usize, b: u64) {
        let thing = self.owned[i].clone();
        let slabs = kernel.slabs();
        let at = ptr(kernel, &thing);
        let start = thing.addr;
        let inside = |error: Result<(), Error>| matches!(error, Err(Error::Interior { start: found, .. }) if found == start);
        // SAFETY: the model owns it, and each of these is refused.
        let right = unsafe {
            match (thing.object(), b % 5) {
                (Some(object), 0) => inside(slabs.free(behind(kernel, &thing, object.size / 2))),
                (Some(object), 1) => {
                    let other = slabs.caches().find(|cache| cache.name() != object.cache);
                    let Some(other) = other else { return };
                    let (expected, found) = (other.name(), object.cache);
                    other.free(at) == Err(Error::WrongCache { addr: start, expected, found })
                }
                (Some(_), 2) => inside(slabs.preserve(behind(kernel, &thing, 1))),
                (Some(object), 3) => {
                    let (pfn, expected, found) =
                        (object.slab.pfn(), FrameType::Folio, FrameType::Slab);
                    let refused = FolioError::WrongType { pfn, expected, found };
                    kernel.memory().free(object.slab) == Err(refused)
                }
                (Some(_), _) => kernel.handle_of(behind(kernel, &thing, 3)).is_err(),
                (None, 0) if thing.bytes > PAGE => inside(slabs.free(behind(kernel, &thing, PAGE))),
                (None, 1) => inside(slabs.free(behind(kernel, &thing, 8))),
                (None, 2) => {
                    let run = thing.run().expect("a large buffer");
                    let (pfn, expected, found) = (run.start(), FrameType::Run, FrameType::Buffer);
                    let refused = FolioError::WrongType { pfn, expected, found };
                    kernel.memory().free(run) == Err(refused)
                }
                (None, 3) => {
                    let Some(cache) = slabs.caches().next() else { return };
                    matches!(cache.free(at), Err(Error::NotAnObject { .. }))
                }
                (None, _) => kernel.handle_of(behind(kernel, &thing, 16)).is_err(),
            }
        };
        assert!(right, "{thing:?}, {}", b % 5);
        self.refused();
    }

    /// Preserves an object or a buffer.
    pub(super) fn preserve_object(&mut self, kernel: &Kernel<'_>, i: usize) {
        let thing = self.owned[i].clone();
        // SAFETY: in use, and nothing frees it meanwhile.
        match unsafe { kernel.preserve(ptr(kernel, &thing)) } {
            Ok(handle) => {
                let held = match &mut self.owned[i].what {
                    ModelKind::Large { born } => std::mem::take(born),
                    ModelKind::Object(object) => std::mem::take(&mut object.held),
                    _ => false,
                };
                assert!(!thing.preserved || held, "{thing:?}");
                let names = match (handle.parts(), thing.object()) {
                    (Ok(Parts::Object { addr, bytes, .. }), Some(object)) => {
                        addr == thing.addr && bytes == object.size
                    }
                    (Ok(Parts::Buffer { addr, bytes }), None) => {
                        addr == thing.addr && bytes == thing.bytes.div_ceil(PAGE) * PAGE
                    }
                    _ => false,
                };
                assert!(names, "{handle:?} names {thing:?}");
                let what = self.owned[i].what.clone();
                self.owned[i] =
                    ModelObject { handle: Some(handle), preserved: true, what, ..thing };
            }
            Err(error) if thing.preserved => {
                let right = matches!(
                    (error, folio_error(error)),
                    (RestoreError::Slab(Error::WrongState { action: Action::Preserve, .. }), _)
                        | (_, Some(FolioError::AlreadyPreserved { .. }))
                );
                assert!(right, "{thing:?}: {error}");
                self.refused();
            }
            Err(error) => self.starved(kernel, error, 6 * 16),
        }
    }

    /// Lets an object or a buffer go.
    pub(super) fn unpreserve_object(&mut self, kernel: &Kernel<'_>, i: usize) {
        let thing = self.owned[i].clone();
        // SAFETY: in use, and nothing frees it meanwhile.
        let done = unsafe { kernel.unpreserve(ptr(kernel, &thing)) };
        let goes = thing.preserved && thing.object().is_none_or(|object| !object.preserving);
        if goes {
            assert_eq!(done, Ok(()), "{thing:?}");
            match &mut self.owned[i].what {
                ModelKind::Large { born } => *born = false,
                ModelKind::Object(object) => object.held = false,
                _ => {}
            }
            self.let_go(i);
        } else {
            let right = done.is_err_and(|error| {
                matches!(
                    (error, folio_error(error)),
                    (RestoreError::Slab(Error::WrongState { action: Action::Unpreserve, .. }), _)
                        | (_, Some(FolioError::NotPreserved { .. }))
                )
            });
            assert!(right, "{thing:?}: {done:?}");
            self.refused();
        }
    }

    /// Checks that an object or a buffer is what the library says of it.
    pub(super) fn check_object(kernel: &Kernel<'_>, thing: &ModelObject) {
        let at = ptr(kernel, thing);
        let size = match &thing.what {
            ModelKind::Object(object) => object.size,
            ModelKind::Large { .. } => thing.bytes.div_ceil(PAGE) * PAGE,
            _ => return,
        };
        assert_eq!(kernel.slabs().size_of(at), Some(size as usize), "{thing:?}");
        let handle = kernel.handle_of(at).expect("in use");
        assert!(thing.handle.is_none_or(|h: Handle| h == handle), "{thing:?}: {handle:?}");
        if let Some(object) = thing.object().filter(|object| object.constructed > 0) {
            // SAFETY: the model owns the object.
            let first = unsafe { at.cast::<u64>().read_unaligned() };
            assert_eq!(first, CONSTRUCTED, "{object:?}");
        }
    }
}
