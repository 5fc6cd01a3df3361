//! Safe means safe: random programs of safe calls only, from several threads, over folios, runs,
//! objects, handles that are right, stale, flipped or forged, and all that looks up or ends what
//! others have. No owner's bytes change, and every frame has one state at rest.
//!
//! The one unsafe in the room is `boot` and `revive`, in the helper that makes worlds.
#![forbid(unsafe_code)]
// Bits of a random number decide what is done.
#![allow(clippy::verbose_bit_mask)]

use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;

use heirloom::folio::{
    DirectMap, Disposition, Folio, OwnedRun, PreservedFolio, PreservedRun, Request,
};
use heirloom::kho::{Block, Handle, Order, Parts, Pfn, PhysAddr};
use heirloom::restore::Records;
use heirloom::slab::{AllocOptions, CacheSpec, Object, PreservedObject, TypedCache, persist};
use heirloom_testkit::{Kernel, Rng, TestMachine, is_stamped, stamp};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

type Ram<'w> = &'w TestMachine;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Thing {
    bytes: [u8; 96],
}
persist!(Thing { bytes });

/// How many of its bytes an owner writes and looks at: an interpreter takes a microsecond for each.
const fn part_of(bytes: usize) -> usize {
    if cfg!(miri) && bytes > 64 { 64 } else { bytes }
}

/// What a thread owns, and the seed of what it wrote there.
enum Own<'k, 'w> {
    Folio(Folio<'k, Ram<'w>>),
    Run(OwnedRun<'k, Ram<'w>>),
    Object(Object<'k, Thing, Ram<'w>>),
    KeptFolio(PreservedFolio<'k, Ram<'w>>),
    KeptRun(PreservedRun<'k, Ram<'w>>),
    KeptObject(PreservedObject<'k, Thing, Ram<'w>>),
}

impl<'w> Own<'_, 'w> {
    fn bytes(&self) -> &[u8] {
        let all = match self {
            Self::Folio(own) => own.bytes(),
            Self::Run(own) => own.bytes(),
            Self::Object(own) => &own.bytes,
            Self::KeptFolio(own) => own.bytes(),
            Self::KeptRun(own) => own.bytes(),
            Self::KeptObject(own) => &own.bytes,
        };
        &all[..part_of(all.len())]
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        let all = match self {
            Self::Folio(own) => own.bytes_mut(),
            Self::Run(own) => own.bytes_mut(),
            Self::Object(own) => &mut own.bytes,
            Self::KeptFolio(own) => own.bytes_mut(),
            Self::KeptRun(own) => own.bytes_mut(),
            Self::KeptObject(own) => &mut own.bytes,
        };
        let part = part_of(all.len());
        &mut all[..part]
    }

    /// Preserved if it was not, and the other way round; unchanged if that is refused.
    fn toggled(self) -> Self {
        match self {
            Self::Folio(own) => {
                own.preserve().map_or_else(|r| Self::Folio(r.value), Self::KeptFolio)
            }
            Self::Run(own) => own.preserve().map_or_else(|r| Self::Run(r.value), Self::KeptRun),
            Self::Object(own) => {
                own.preserve().map_or_else(|r| Self::Object(r.value), Self::KeptObject)
            }
            Self::KeptFolio(own) => {
                own.unpreserve().map_or_else(|r| Self::KeptFolio(r.value), Self::Folio)
            }
            Self::KeptRun(own) => {
                own.unpreserve().map_or_else(|r| Self::KeptRun(r.value), Self::Run)
            }
            Self::KeptObject(own) => {
                own.unpreserve().map_or_else(|r| Self::KeptObject(r.value), Self::Object)
            }
        }
    }

    /// Its handle, and with that it is let go; what does not survive is dropped.
    fn left(self, kernel: &Kernel<'w>) -> Option<Handle> {
        match self {
            Self::KeptFolio(own) => kernel.folio_handle(&own).ok(),
            Self::KeptRun(own) => kernel.run_handle(&own).ok(),
            Self::KeptObject(own) => {
                let (addr, tag) = own.handle_parts();
                Handle::new(Parts::Object { addr, bytes: size_of::<Thing>() as u64, tag }).ok()
            }
            Self::Folio(_) | Self::Run(_) | Self::Object(_) => None,
        }
    }
}

/// What the threads of a kernel, and the kernels after it, tell each other: names, no owners.
struct Told {
    handles: Mutex<Vec<Handle>>,
    addrs: Mutex<Vec<PhysAddr>>,
    claimed: AtomicU64,
}

struct Program<'k, 'w> {
    machine: &'w TestMachine,
    kernel: &'k Kernel<'w>,
    things: TypedCache<'k, Thing, Ram<'w>>,
    told: &'k Told,
    own: Vec<(Own<'k, 'w>, u64)>,
    rng: Rng,
}

impl<'k, 'w> Program<'k, 'w> {
    fn take(&mut self, mut own: Own<'k, 'w>) {
        let seed = self.rng.next();
        stamp(own.bytes_mut(), seed);
        self.own.push((own, seed));
    }

    fn pick(&mut self) -> Option<(Own<'k, 'w>, u64)> {
        let n = self.own.len() as u64;
        (n > 0).then(|| self.own.swap_remove(self.rng.below(n) as usize))
    }

    /// An address that means something, or meant something once, or not.
    fn addr(&mut self) -> PhysAddr {
        let n = self.rng.next();
        let addrs = self.told.addrs.lock().unwrap();
        match n % 8 {
            0 => self.machine.frame(n >> 8),
            1 => PhysAddr::new(n >> 3),
            _ if addrs.is_empty() => self.machine.frame(n >> 8),
            2 => PhysAddr::new(
                addrs[(n >> 8) as usize % addrs.len()].get() ^ (1 << ((n >> 40) % 40)),
            ),
            _ => addrs[(n >> 8) as usize % addrs.len()],
        }
    }

    /// A handle: right, stale, flipped or forged.
    fn handle(&mut self) -> Handle {
        let (n, addr) = (self.rng.next(), self.addr());
        let mut handles = self.told.handles.lock().unwrap();
        if handles.is_empty() || n % 8 == 0 {
            let (bytes, tag) = (size_of::<Thing>() as u64, (n >> 8) as u8 % 32);
            let forged = match n >> 16 & 1 {
                0 => Parts::Object { addr, bytes, tag },
                _ => Parts::Buffer { addr, bytes: 5 * 4096 },
            };
            return Handle::new(forged).unwrap_or(Handle::from([n as u8; 16]));
        }
        let at = (n >> 8) as usize % handles.len();
        match n % 8 {
            1 => {
                let mut bytes = <[u8; 16]>::from(handles[at]);
                bytes[(n >> 20) as usize % 16] ^= 1 << (n >> 28 & 7);
                Handle::from(bytes)
            }
            2 => handles.swap_remove(at),
            _ => handles[at],
        }
    }

    #[expect(clippy::too_many_lines, reason = "one arm for each call")]
    fn step(&mut self) {
        let (kernel, told) = (self.kernel, self.told);
        let (memory, slabs) = (kernel.memory(), kernel.slabs());
        let n = self.rng.next();
        match n % 32 {
            0..=2 => {
                let order = Order::new((n >> 8) as u8 % 3).unwrap();
                if let Ok(folio) = memory.alloc_folio(Request::new(order)) {
                    told.addrs.lock().unwrap().push(folio.extent().addr());
                    self.take(Own::Folio(folio));
                }
            }
            3 => {
                if let Ok(run) = memory.alloc_owned_run((n >> 8) % 7 + 1, Request::new(Order::ZERO))
                {
                    self.take(Own::Run(run));
                }
            }
            4..=7 => {
                let thing = self.things.insert(Thing { bytes: [0; 96] });
                if let Ok(thing) = thing {
                    told.addrs.lock().unwrap().push(thing.handle_parts().0);
                    self.take(Own::Object(thing));
                }
            }
            8..=11 => drop(self.pick()),
            12..=15 => {
                if let Some((own, seed)) = self.pick() {
                    self.own.push((own.toggled(), seed));
                }
            }
            16 | 17 => {
                let left = self.pick().and_then(|(own, _)| own.left(kernel));
                told.handles.lock().unwrap().extend(left);
            }
            18 | 19 => {
                let handle = self.handle();
                if let Ok(folio) = kernel.claim_folio(handle) {
                    told.claimed.fetch_add(1, Relaxed);
                    self.take(Own::KeptFolio(folio));
                } else if let Ok(run) = kernel.claim_run(handle) {
                    told.claimed.fetch_add(1, Relaxed);
                    self.take(Own::KeptRun(run));
                }
            }
            // An object that is claimed so is leaked: only its pointer is known.
            20 => drop(kernel.restore(self.handle())),
            21 => {
                if let Ok(Parts::Object { addr, tag, .. }) = self.handle().parts()
                    && let Ok(thing) = self.things.claim(addr, tag)
                {
                    told.claimed.fetch_add(1, Relaxed);
                    self.take(Own::Object(thing));
                }
            }
            22 => {
                let at = self.addr();
                let _ = (slabs.owner_at(at), memory.owning_block(at.pfn()), memory.state(at.pfn()));
                let ptr = memory.machine().ptr(at);
                let _ = (slabs.owner_of(ptr), slabs.size_of(ptr), slabs.reuse_tag_of(ptr));
                let _ = (
                    kernel.handle_of(ptr),
                    memory.ptr(Block::containing(at.pfn(), Order::ZERO).run()),
                );
            }
            23 => {
                let (at, cache) = (self.addr(), self.things.cache());
                match n >> 8 & 3 {
                    0 => drop(cache.discard(at)),
                    1 => drop(cache.claim(at)),
                    2 => drop(slabs.claim(at, size_of::<Thing>() as u64, (n >> 16) as u8 % 32)),
                    _ => drop(slabs.claim_large(at, 4096 * (n >> 16 & 7))),
                }
            }
            24 => match n >> 8 & 7 {
                0 | 1 => _ = slabs.shrink(),
                2 => _ = self.things.cache().sweep(n >> 16 & 3),
                3 => _ = self.things.cache().preserved().take(9).count(),
                4 => _ = slabs.resume_typed_or_create::<Thing>("things", false),
                5 => _ = slabs.resume_buffers(),
                6 => _ = kernel.find(self.handle()),
                _ => _ = self.things.cache().at(self.addr(), (n >> 16) as u8 % 32),
            },
            25 => {
                let name = NAMES[(n >> 8) as usize % NAMES.len()];
                let _ = match n >> 12 & 7 {
                    0..=2 => kernel.publish(name, &n.to_le_bytes()),
                    3 => kernel.unpublish(name),
                    4 => kernel.claim_root(name).map(drop),
                    5 => kernel.add_subtree(name, self.addr(), n >> 50),
                    6 => kernel.remove_subtree(name),
                    _ => kernel.for_each_subtree(|_, _, _| ()),
                };
            }
            26 => {
                let one = self.things.claim_all().next();
                if let Some(one) = one {
                    told.claimed.fetch_add(1, Relaxed);
                    self.take(Own::Object(one));
                }
            }
            27 => {
                let layout = core::alloc::Layout::from_size_align((n >> 8) as usize % 9000 + 1, 8);
                let opts = AllocOptions { preserving: true, zeroed: true };
                // It stays in use: what may be freed safely has an owned handle.
                if n >> 40 & 7 == 0
                    && let Ok(buffer) = slabs.alloc(layout.unwrap(), opts)
                    && let Ok(handle) = kernel.handle_of(buffer)
                {
                    told.handles.lock().unwrap().push(handle);
                }
            }
            28 => {
                let _ = match n >> 8 & 3 {
                    0 => kernel.seal(),
                    1 => kernel.unseal(),
                    _ => slabs
                        .adopt_typed_or_create::<Thing>("things", false)
                        .map(drop)
                        .map_err(Into::into),
                };
            }
            29 => {
                if n >> 8 & 15 == 0 {
                    let keep = n >> 12 & 1 == 1;
                    let _ =
                        kernel.finish(|_| if keep { Disposition::Keep } else { Disposition::Free });
                }
            }
            30 => {
                let block = Block::containing(Pfn::new(self.addr().pfn().get()), Order::ZERO);
                let _ = (memory.preserved().contains(block), memory.predecessor().contains(block));
                let other = slabs.cache(CacheSpec::new("others", 24 + (n >> 8 & 1) as usize));
                let _ = other.map(|cache| cache.stats());
            }
            31 if n >> 8 & 1 == 0 => self.records(),
            _ => memory.drain(),
        }
        // A thing of this thread's, as it left it.
        if let Some((own, seed)) = self.own.get(n as usize % self.own.len().max(1)) {
            assert!(is_stamped(own.bytes(), *seed), "bytes of an owner changed");
        }
    }

    /// A list of this thread's own, left to the next kernel or not; and whatever a handle that may mean
    /// anything leads to as a list or an area.
    fn records(&mut self) {
        let (kernel, told, n) = (self.kernel, self.told, self.rng.next());
        if let Ok(mut list) = Records::<_, u64>::new(kernel.memory()) {
            for entry in 0..n % 40 {
                let _ = list.push(&(n ^ entry));
            }
            let mut entry = 0;
            let read = list.for_each(|found| {
                assert_eq!(found, n ^ entry, "an entry of an owner's changed");
                entry += 1;
            });
            assert!(read.is_ok() && entry == list.len(), "a list of an owner's is as it was left");
            let handle =
                Handle::new(Parts::Records { first: list.first(), entry: size_of::<u64>() as u64 });
            match n >> 40 & 1 {
                0 => drop(list.free()),
                _ => told.handles.lock().unwrap().extend(handle),
            }
        }
        if let Ok(list) = kernel.claim_records::<u64>(self.handle()) {
            told.claimed.fetch_add(1, Relaxed);
            let _ = list.for_each(|_| ());
            let _ = list.free();
        }
        if let Ok(area) = kernel.claim_area(self.handle()) {
            told.claimed.fetch_add(1, Relaxed);
            let _ = area.unpreserve(|_| ());
        }
    }

    fn end(mut self) {
        for (own, seed) in self.own.drain(..) {
            assert!(is_stamped(own.bytes(), seed), "bytes of an owner changed");
            // Half of what survives is left to the next kernel.
            let left = own.left(self.kernel);
            self.told.handles.lock().unwrap().extend(left);
        }
    }
}

/// What is published and added.
const NAMES: [&str; 3] = ["a", "b", "c"];

fn program(seed: u64, threads: u64, steps: u64, frames: u64) {
    let machine = TestMachine::new(frames);
    let told =
        Told { handles: Mutex::default(), addrs: Mutex::default(), claimed: AtomicU64::new(0) };
    let mut kernel = machine.boot();
    for generation in 0..3 {
        {
            let slabs = kernel.slabs();
            let things = if seed % 3 == generation {
                slabs.resume_typed_or_create::<Thing>("things", false)
            } else {
                slabs.adopt_typed_or_create::<Thing>("things", false).map(|(things, _)| things)
            };
            let things = things.expect("the cache is as its predecessor's");
            let (machine, kernel, told) = (&machine, &kernel, &told);
            thread::scope(|scope| {
                for thread in 0..threads {
                    let rng = Rng::new(seed ^ generation << 32 ^ thread << 48);
                    scope.spawn(move || {
                        let own = Vec::new();
                        let mut program = Program { machine, kernel, things, told, own, rng };
                        (0..steps).for_each(|_| program.step());
                        program.end();
                    });
                }
            });
            kernel.memory().audit().expect("each frame has one state");
        }
        // The caller that adds a subtree keeps its frames preserved, which these programs do not.
        for name in NAMES {
            let _ = kernel.remove_subtree(name);
        }
        // What was preserved since a seal breaks it.
        kernel.unseal().expect("the header is ours");
        kernel = machine.jump(kernel);
        kernel.memory().audit().expect("each frame has one state");
    }
    let claimed = told.claimed.into_inner();
    println!("seed {seed:#x}: {threads} threads, {steps} steps, {claimed} claims");
    assert!(claimed > 0 || cfg!(miri), "no handle was good for anything");
}

#[test]
fn programs_of_safe_calls_reach_no_other_owners_memory() {
    let asked = std::env::var("HEIRLOOM_SAFE").ok().and_then(|n| n.parse().ok());
    let (programs, steps, frames) = if cfg!(miri) { (1, 60, 192) } else { (12, 1500, 1024) };
    for program_number in 0..asked.unwrap_or(programs) {
        program(0x5AFE_0000 + program_number, if cfg!(miri) { 2 } else { 4 }, steps, frames);
    }
}
