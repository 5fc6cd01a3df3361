//! What a thread of a random program owns, and does.

use std::alloc::Layout;
use std::ptr::NonNull;
use std::sync::Mutex;

use heirloom::Heirloom;
use heirloom::folio::{Block, DirectMap, Error as FolioError, Kind, Order, Request, Run};
use heirloom::kho::{Handle, Parts};
use heirloom::restore::Error;
use heirloom::slab::{AllocOptions, Cache, CacheSpec, Error as SlabError};

use super::{Dice, Ground};
use crate::world::{Owned as _, stamp, stamped};

/// The kernel of a random program.
pub type Kernel = Heirloom<&'static Ground>;

/// A cache whose objects are preserved one by one.
pub const PLAIN: CacheSpec = CacheSpec::new("plain", 700);
/// A preserving cache.
pub const THINGS: CacheSpec = CacheSpec::new("things", 1000).preserving(true);

/// What something is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum What {
    Folio(Block),
    Run(Run),
    /// A buffer or an object; `born`: it survives as long as it is not freed.
    Object {
        addr: NonNull<u8>,
        born: bool,
    },
}

/// Something that one thread owns, with what only its owner knows to be written there.
#[derive(Clone, Copy, Debug)]
pub struct Thing {
    what: What,
    bytes: usize,
    seed: u64,
    preserved: bool,
}

// SAFETY: memory that has one owner, who is told by whoever passes it on.
unsafe impl Send for Thing {}

/// Whether a refusal is one that a full memory explains.
pub fn is_full(error: &Error) -> bool {
    matches!(
        error,
        Error::Folio(FolioError::OutOfMemory { .. } | FolioError::NoRun { .. })
            | Error::Slab(SlabError::Folio(
                FolioError::OutOfMemory { .. } | FolioError::NoRun { .. }
            ))
    )
}

fn tolerate<T>(result: Result<T, impl Into<Error>>) -> Option<T> {
    result.map_err(Into::into).map_err(|error| assert!(is_full(&error), "{error}")).ok()
}

impl Thing {
    fn start(&self, kernel: &Kernel) -> NonNull<u8> {
        match self.what {
            What::Folio(block) => kernel.memory().machine().ptr(block.addr()),
            What::Run(run) => kernel.memory().machine().ptr(run.addr()),
            What::Object { addr, .. } => addr,
        }
    }

    fn bytes<'a>(&self, kernel: &Kernel) -> &'a mut [u8] {
        // SAFETY: the thing is the caller's, and this is all of it.
        unsafe { std::slice::from_raw_parts_mut(self.start(kernel).as_ptr(), self.bytes.min(64)) }
    }

    fn new(kernel: &Kernel, what: What, bytes: usize, seed: u64) -> Self {
        let preserved = matches!(what, What::Object { born: true, .. });
        let thing = Self { what, bytes, seed, preserved };
        stamp(thing.bytes(kernel), seed);
        thing
    }

    /// Where it is: first byte and bytes.
    pub fn place(&self, kernel: &Kernel) -> (usize, usize) {
        (self.start(kernel).addr().get(), self.bytes)
    }

    /// Its frames, if none of them is another's too.
    pub fn frames(handle: Handle) -> Option<Run> {
        match handle.parts().ok()? {
            Parts::Folio(block) => Some(block.run()),
            Parts::Run(run) => Some(run),
            Parts::Buffer { addr, bytes } => Run::covering(addr, bytes),
            _ => None,
        }
    }

    /// Whether it survives a jump.
    pub const fn is_preserved(&self) -> bool {
        self.preserved
    }

    /// Checks that nobody else wrote there.
    ///
    /// # Panics
    /// If somebody did.
    pub fn check(&self, kernel: &Kernel) {
        assert!(stamped(self.bytes(kernel), self.seed), "{self:?} was written by another owner");
    }

    /// Preserves it, or lets it go.
    fn toggle(&mut self, kernel: &Kernel) {
        let memory = kernel.memory();
        let done: Result<(), Error> = match (self.what, self.preserved) {
            (What::Folio(block), false) => memory.keep(block).map_err(Error::from),
            (What::Folio(block), true) => memory.let_go(block).map_err(Error::from),
            (What::Run(run), false) => memory.keep_run(run, Kind::Run).map_err(Error::from),
            (What::Run(run), true) => memory.let_go_run(run, Kind::Run).map_err(Error::from),
            (What::Object { born: true, .. }, _) => return,
            // SAFETY: its one owner is this thread, which does not free it meanwhile.
            (What::Object { addr, .. }, false) => unsafe { kernel.preserve(addr) }.map(|_| ()),
            // SAFETY: as above.
            (What::Object { addr, .. }, true) => unsafe { kernel.unpreserve(addr) },
        };
        match done {
            Ok(()) => self.preserved = !self.preserved,
            Err(error) => assert!(!self.preserved && is_full(&error), "{self:?}: {error}"),
        }
    }

    /// Frees it.
    ///
    /// # Panics
    /// If that is refused, or it was written by another.
    pub fn free(mut self, kernel: &Kernel) {
        self.check(kernel);
        if self.preserved {
            self.toggle(kernel);
        }
        // What is left behind is nobody's.
        self.bytes(kernel).fill(0xee);
        // SAFETY: the caller's, who has no other copy.
        let freed: Result<(), Error> = unsafe {
            match self.what {
                What::Folio(block) => kernel.memory().free(block, Kind::Folio).map_err(Error::from),
                What::Run(run) => kernel.memory().free_run(run, Kind::Run).map_err(Error::from),
                What::Object { addr, .. } => kernel.slabs().free(addr).map_err(Error::from),
            }
        };
        assert_eq!(freed, Ok(()), "{self:?}");
    }

    /// What names it to a successor, and what is written in it.
    ///
    /// # Panics
    /// If it is not preserved.
    pub fn handle(&self, kernel: &Kernel) -> (Handle, u64) {
        assert!(self.preserved);
        let handle = match self.what {
            What::Folio(block) => Handle::new(Parts::Folio(block)),
            What::Run(run) => Handle::new(Parts::Run(run)),
            What::Object { addr, .. } => kernel.handle_of(addr),
        };
        (handle.expect("it is preserved"), self.seed)
    }

    /// What a claimed handle gave; `None`: it was refused.
    ///
    /// # Errors
    /// As for the claims of [`Handover`](heirloom::restore::Handover).
    pub fn claim(kernel: &Kernel, handle: Handle, seed: u64) -> Result<Self, Error> {
        let (what, bytes) = match handle.parts()? {
            Parts::Folio(_) => {
                let block = kernel.claim_folio(handle)?.into_raw();
                (What::Folio(block), block.run().bytes() as usize)
            }
            Parts::Run(_) => {
                let run = kernel.claim_run(handle)?.into_raw();
                (What::Run(run), run.bytes() as usize)
            }
            _ => {
                let addr = kernel.restore(handle)?;
                // It survives until it is freed, as one that does from birth.
                let born = true;
                (What::Object { addr, born }, kernel.slabs().size_of(addr).unwrap_or(8))
            }
        };
        Ok(Self { what, bytes, seed, preserved: true })
    }
}

/// A thread of a random program: its dice, and what it owns.
pub struct Worker<'a> {
    kernel: &'a Kernel,
    passed: &'a Mutex<Vec<Thing>>,
    dice: Dice,
    seed: u64,
    owned: Vec<Thing>,
}

impl<'a> Worker<'a> {
    /// A thread that owns nothing yet. What it passes on goes to `passed`.
    pub const fn new(kernel: &'a Kernel, passed: &'a Mutex<Vec<Thing>>, seed: u64) -> Self {
        Self { kernel, passed, dice: Dice::new(seed), seed: seed << 32, owned: Vec::new() }
    }

    /// Does `steps` things: what it owns then.
    ///
    /// # Panics
    /// If anything is refused that should not be.
    pub fn work(mut self, steps: usize) -> Vec<Thing> {
        for _ in 0..steps {
            self.step();
        }
        self.owned
    }

    fn keep(&mut self, what: What, bytes: usize) {
        self.seed += 1;
        self.owned.push(Thing::new(self.kernel, what, bytes, self.seed));
    }

    fn any(&mut self) -> Option<usize> {
        (!self.owned.is_empty()).then(|| self.dice.roll(self.owned.len()))
    }

    fn object(&mut self, spec: CacheSpec, born: bool) {
        let cache: Option<Cache<'_, _>> = tolerate(self.kernel.slabs().cache(spec));
        if let Some(addr) = cache.and_then(|cache| tolerate(cache.alloc())) {
            let bytes = self.kernel.slabs().size_of(addr).expect("an object");
            self.keep(What::Object { addr, born }, bytes);
        }
    }

    fn step(&mut self) {
        let kernel = self.kernel;
        let memory = kernel.memory();
        match self.dice.roll(20) {
            0..=3 => {
                let order = Order::new([0, 0, 0, 1, 2, 3][self.dice.roll(6)]).expect("an order");
                if let Some(block) = tolerate(memory.alloc(Request::new(order))) {
                    self.keep(What::Folio(block), block.run().bytes() as usize);
                }
            }
            4 => {
                let request = Request::new(Order::ZERO).kind(Kind::Run);
                let frames = 1 + self.dice.roll(6) as u64;
                // Other errors say that no row is as long.
                if let Ok(run) = memory.alloc_run(frames, request) {
                    self.keep(What::Run(run), run.bytes() as usize);
                }
            }
            5 | 6 => {
                let bytes = [24, 200, 3000, 5000][self.dice.roll(4)];
                let layout = Layout::from_size_align(bytes, 8).expect("a layout");
                let born = self.dice.roll(2) == 0;
                let opts = AllocOptions { preserving: born, zeroed: false };
                if let Some(addr) = tolerate(kernel.slabs().alloc(layout, opts)) {
                    let bytes = kernel.slabs().size_of(addr).expect("a buffer");
                    self.keep(What::Object { addr, born }, bytes);
                }
            }
            7 | 8 => self.object(PLAIN, false),
            9 => self.object(THINGS, true),
            10..=12 => {
                if let Some(at) = self.any() {
                    self.owned[at].toggle(kernel);
                }
            }
            13 => {
                if let Some(at) = self.any() {
                    let thing = self.owned.swap_remove(at);
                    self.passed.lock().expect("no panic inside").push(thing);
                }
                let other = self.passed.lock().expect("no panic inside").pop();
                self.owned.extend(other);
            }
            14 => match self.dice.roll(4) {
                0 => memory.drain(),
                1 => {
                    kernel.slabs().shrink();
                }
                2 => {
                    // What was left under the name is claimed before it is replaced; another thread may
                    // be at it.
                    drop(kernel.claim_root("root"));
                    match kernel.publish("root", &self.seed.to_le_bytes()) {
                        Err(Error::NameTaken { .. }) => {}
                        published => _ = tolerate(published),
                    }
                }
                // Others change what is sealed meanwhile: see the model of sealing.
                _ => {
                    tolerate(kernel.slabs().cache(PLAIN));
                }
            },
            _ => {
                if let Some(at) = self.any() {
                    self.owned.swap_remove(at).free(kernel);
                }
            }
        }
    }
}
