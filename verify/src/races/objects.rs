//! What a thread of a random program owns, and does.

use std::sync::Mutex;

use heirloom::restore::Error;
use heirloom::slab::CacheSpec;
use heirloom_testkit::{Kernel, Recipe, Rng, TestObject, is_full};

/// A cache whose objects are preserved one by one.
pub const PLAIN: CacheSpec = CacheSpec::new("plain", 700);
/// A preserving cache.
pub const THINGS: CacheSpec = CacheSpec::new("things", 1000).preserving(true);

/// How many of its bytes an owner writes and looks at.
const STAMPED: u64 = 64;

/// An object that one thread owns, with what only its owner knows to be written there.
#[derive(Clone, Copy, Debug)]
pub struct Owned {
    /// The object.
    pub object: TestObject,
    preserved: bool,
}

fn tolerate<T>(result: Result<T, impl Into<Error>>) -> Option<T> {
    result.map_err(Into::into).map_err(|error| assert!(is_full(&error), "{error}")).ok()
}

impl Owned {
    fn new(kernel: &Kernel<'_>, object: TestObject, seed: u64) -> Self {
        let object = object.sized(object.bytes.min(STAMPED)).stamped(seed);
        object.stamp(kernel, seed);
        Self { object, preserved: object.born }
    }

    /// Whether it survives a jump.
    pub const fn is_preserved(&self) -> bool {
        self.preserved
    }

    /// Preserves it, or lets it go.
    fn toggle(&mut self, kernel: &Kernel<'_>) {
        let Self { object, preserved } = *self;
        if object.born {
            return;
        }
        let done = if preserved { object.unpreserve(kernel) } else { object.preserve(kernel) };
        match done {
            Ok(()) => self.preserved = !preserved,
            Err(error) => assert!(!preserved && is_full(&error), "{self:?}: {error}"),
        }
    }

    /// Frees it.
    ///
    /// # Panics
    /// If that is refused, or it was written by another.
    pub fn free(mut self, kernel: &Kernel<'_>) {
        self.object.check(kernel);
        if self.preserved {
            self.toggle(kernel);
        }
        // What is left behind is no owner's.
        self.object.stamp(kernel, u64::MAX);
        assert_eq!(self.object.free(kernel), Ok(()), "{self:?}");
    }

    /// What was restored. It survives until it is freed, as an object that does from birth.
    ///
    /// # Errors
    /// As for [`TestObject::restore`].
    ///
    /// # Panics
    /// If it was written by another.
    pub fn restore(kernel: &Kernel<'_>, object: TestObject) -> Result<Self, Error> {
        object.restore(kernel)?;
        object.check(kernel);
        Ok(Self { object: object.born(object.is_held()), preserved: true })
    }
}

/// A thread of a random program: its numbers, and what it owns.
pub struct Worker<'a, 'm> {
    kernel: &'a Kernel<'m>,
    passed: &'a Mutex<Vec<Owned>>,
    rng: Rng,
    seed: u64,
    owned: Vec<Owned>,
}

impl<'a, 'm> Worker<'a, 'm> {
    /// A thread that owns nothing yet. What it passes on goes to `passed`.
    pub const fn new(kernel: &'a Kernel<'m>, passed: &'a Mutex<Vec<Owned>>, seed: u64) -> Self {
        Self { kernel, passed, rng: Rng::new(seed), seed: seed << 32, owned: Vec::new() }
    }

    /// Does `steps` things. Returns what it owns then.
    ///
    /// # Panics
    /// If anything is refused that should not be.
    pub fn work(mut self, steps: usize) -> Vec<Owned> {
        for _ in 0..steps {
            self.step();
        }
        self.owned
    }

    fn make(&mut self, recipe: Recipe) {
        if let Some(object) = tolerate(TestObject::create(self.kernel, recipe)) {
            self.seed += 1;
            self.owned.push(Owned::new(self.kernel, object, self.seed));
        }
    }

    fn any(&mut self) -> Option<usize> {
        (!self.owned.is_empty()).then(|| self.rng.index(self.owned.len()))
    }

    fn step(&mut self) {
        let kernel = self.kernel;
        match self.rng.below(20) {
            0..=3 => {
                let order = [0, 0, 0, 1, 2, 3][self.rng.index(6)];
                self.make(Recipe::Folio(order));
            }
            4 => {
                let frames = 1 + self.rng.below(6);
                self.make(Recipe::Run(frames));
            }
            5 | 6 => {
                let bytes = [24, 200, 3000, 5000][self.rng.index(4)];
                let born = self.rng.below(2) == 0;
                self.make(Recipe::Buffer(bytes, born));
            }
            7 | 8 => self.make(Recipe::Object(PLAIN)),
            9 => self.make(Recipe::Object(THINGS)),
            10..=12 => {
                if let Some(at) = self.any() {
                    self.owned[at].toggle(kernel);
                }
            }
            13 => {
                if let Some(at) = self.any() {
                    let owned = self.owned.swap_remove(at);
                    self.passed.lock().expect("no panic inside").push(owned);
                }
                let other = self.passed.lock().expect("no panic inside").pop();
                self.owned.extend(other);
            }
            14 => match self.rng.below(4) {
                0 => kernel.memory().drain(),
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
