//! Every interleaving up to a bound: loom, over words that lie in raw memory.
//!
//! What is set up, and what is looked at afterwards, runs in memory and costs nothing. Between the
//! two each word that any thread touches is one of loom's, which knows which stores a load may find.
//! Loom must know them before the threads start. Which words that will be, earlier executions tell:
//! all lies at the same addresses each time. Where a new one turns up, all begins again.

use std::any::Any;
use std::cell::{Cell, RefCell, UnsafeCell};
use std::collections::BTreeMap;
use std::mem::MaybeUninit;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::atomic as plain;
use std::sync::atomic::Ordering::{self, Relaxed};
use std::time::{Duration, Instant};

use heirloom::kho::sync::{Op, Orders, Watcher, watch};
use heirloom_testkit::checker::{Checker, under};
use heirloom_testkit::in_pool;
use loom::model::Builder;

/// How many interleavings of one model are tried. Where an allocation looks at many words, there are more than can be;
/// then it is said that there are.
const MOST: usize = 28_800;

/// Fewer where each takes long, as so many words are made for all of them.
const MOST_WORDS: usize = 20_000_000;

/// After so many interleavings it is looked at whether there were enough.
const LOOKED_AT: usize = 64;

/// Returns how many are tried of a model with so many words.
fn most(words: usize) -> usize {
    MOST.min(MOST_WORDS / words.max(1)).next_multiple_of(LOOKED_AT)
}

/// How long they are tried with more preemptions than the model says.
const LONGEST: Duration = Duration::from_secs(600);

/// A word of loom's in place of one in memory.
#[derive(Clone)]
enum Shadow {
    Integer(Rc<loom::sync::atomic::AtomicU64>),
    Pointer(Rc<loom::sync::atomic::AtomicPtr<()>>),
}

/// A word in memory: where, and how many bytes, 0 for a pointer.
#[derive(Clone, Copy)]
struct Word(*const (), usize);

/// What tells words apart: where, and how many bytes. A frame that is freed, and used for something
/// else, has other words at the same addresses.
type Name = (usize, usize);

/// What stands for a word in one execution.
struct Seen {
    shadow: Shadow,
    /// What memory held when the threads began, or when plain stores last wrote the word.
    plain: u64,
    /// When the checker last wrote it; 0: it did not.
    at: u64,
}

impl Word {
    /// What memory holds there; an address for a pointer.
    ///
    /// # Safety
    /// The word is there.
    unsafe fn get(self) -> u64 {
        let Self(at, bytes) = self;
        // SAFETY: the caller's promise; only atomics touch it.
        unsafe {
            match bytes {
                0 => (*at.cast::<plain::AtomicPtr<()>>()).load(Relaxed).addr() as u64,
                1 => (*at.cast::<plain::AtomicU8>()).load(Relaxed).into(),
                4 => (*at.cast::<plain::AtomicU32>()).load(Relaxed).into(),
                _ => (*at.cast::<plain::AtomicU64>()).load(Relaxed),
            }
        }
    }

    /// A word of loom's for it, and what memory holds.
    ///
    /// # Safety
    /// As for `get`.
    unsafe fn shadow(self) -> (Shadow, u64) {
        // SAFETY: the caller's promise.
        let now = unsafe { self.get() };
        let shadow = if self.1 == 0 {
            // SAFETY: as above.
            let now = unsafe { (*self.0.cast::<plain::AtomicPtr<()>>()).load(Relaxed) };
            Shadow::Pointer(Rc::new(loom::sync::atomic::AtomicPtr::new(now)))
        } else {
            Shadow::Integer(Rc::new(loom::sync::atomic::AtomicU64::new(now)))
        };
        (shadow, now)
    }

    /// Stores what loom's word holds.
    ///
    /// # Safety
    /// As for `get`; nobody uses loom's word any more.
    unsafe fn set(self, shadow: &Shadow) {
        let Self(at, bytes) = self;
        // SAFETY: the caller's promise; only atomics touch it.
        unsafe {
            match shadow {
                Shadow::Pointer(shadow) => {
                    (*at.cast::<plain::AtomicPtr<()>>()).store(shadow.unsync_load(), Relaxed);
                }
                Shadow::Integer(shadow) => {
                    let value = shadow.unsync_load();
                    match bytes {
                        1 => (*at.cast::<plain::AtomicU8>()).store(value as u8, Relaxed),
                        4 => (*at.cast::<plain::AtomicU32>()).store(value as u32, Relaxed),
                        _ => (*at.cast::<plain::AtomicU64>()).store(value, Relaxed),
                    }
                }
            }
        }
    }
}

/// A byte or a half of a word that threads also touch whole, as an adopting thread does a slab's states, eight
/// at once, and a reader the root page.
///
/// A store to it is a change of the word's latest value: loads may still find older values of the word, and
/// see what came before the store that they find, but of two parts of one word, no later one before an
/// earlier one. And as such a change carries on what earlier ones published, a store that lacks Release is not
/// found out by what reads another thread's part: that is left to the models whose bytes nothing touches whole.
#[derive(Clone, Copy)]
struct Part {
    word: Name,
    shift: u32,
    mask: u64,
}

impl Part {
    /// The part of a word that `bytes` bytes at `at` are; `None` for a word, or a pointer.
    fn of(at: usize, bytes: usize) -> Option<Self> {
        let mask = match bytes {
            1 => u64::from(u8::MAX),
            4 => u64::from(u32::MAX),
            _ => return None,
        };
        let offset = at % 8;
        let first = if cfg!(target_endian = "little") { offset } else { 8 - bytes - offset };
        Some(Self { word: (at - offset, 8), shift: first as u32 * 8, mask })
    }

    fn get(self, word: u64) -> u64 {
        word >> self.shift & self.mask
    }

    fn put(self, word: u64, value: u64) -> u64 {
        word & !(self.mask << self.shift) | (value & self.mask) << self.shift
    }

    fn apply(
        self,
        word: &loom::sync::atomic::AtomicU64,
        op: Op<u64>,
        set: Ordering,
        fetch: Ordering,
    ) -> Result<u64, u64> {
        // The first look may find an older value, which the exchange then corrects.
        let mut whole = word.load(if op == Op::Load { set } else { Relaxed });
        loop {
            let now = self.get(whole);
            // What the part becomes, and what is returned.
            let (part, said) = match op {
                Op::Load => return Ok(now),
                Op::Store(value) => (value, Ok(value)),
                Op::Swap(value) => (value, Ok(now)),
                Op::Add(value) => (now.wrapping_add(value), Ok(now)),
                Op::Sub(value) => (now.wrapping_sub(value), Ok(now)),
                Op::And(value) => (now & value, Ok(now)),
                Op::Or(value) => (now | value, Ok(now)),
                Op::Exchange(from, to) if now == from => (to, Ok(now)),
                Op::Exchange(..) => (now, Err(now)),
            };
            let set = if said.is_ok() { set } else { fetch };
            match word.compare_exchange(whole, self.put(whole, part), set, Relaxed) {
                Ok(_) => return said,
                Err(later) => whole = later,
            }
        }
    }
}

#[derive(Default)]
struct Shadows {
    armed: Cell<bool>,
    /// Words that some thread touched in some execution.
    known: RefCell<BTreeMap<Name, Word>>,
    /// Loom's words of this execution.
    words: RefCell<BTreeMap<Name, Seen>>,
    /// Counts what the checker writes.
    now: Cell<u64>,
    /// Loom's locks of this execution, and those that are held.
    locks: RefCell<BTreeMap<usize, &'static loom::sync::Mutex<()>>>,
    held: RefCell<BTreeMap<usize, loom::sync::MutexGuard<'static, ()>>>,
    learned: Cell<bool>,
    /// Where the value that is shared lies.
    slot: Cell<(usize, usize)>,
    executions: Cell<u64>,
}

// SAFETY: loom runs all threads in turns on one thread.
unsafe impl Sync for Shadows {}

/// Thrown when an execution touched a word that loom did not know.
struct Learned;

loom::thread_local! {
    static NUMBER: Cell<usize> = Cell::new(0);
}

impl Shadows {
    /// Loom's word in place of the one at `at`, if what is done there is to be modelled, and which part of
    /// it that is.
    fn shadow(&self, at: *const (), bytes: usize, writes: bool) -> Option<(Shadow, Option<Part>)> {
        if !self.armed.get() {
            return None;
        }
        let (slot, length) = self.slot.get();
        if !in_pool(at) && at.addr().wrapping_sub(slot) >= length {
            // On a thread's stack: its own.
            return None;
        }
        let name = (at.addr(), bytes);
        // Known to the next execution under its own name, and found as a part of a word that is known.
        let kept = self.known.borrow().contains_key(&name);
        if kept {
            let mut words = self.words.borrow_mut();
            let part = Part::of(at.addr(), bytes).filter(|part| words.contains_key(&part.word));
            let word = part.map_or(name, |part| part.word);
            if let Some(kept) = words.get_mut(&word) {
                if writes {
                    self.now.set(self.now.get() + 1);
                    kept.at = self.now.get();
                }
                return Some((kept.shadow.clone(), part));
            }
        }
        self.known.borrow_mut().insert(name, Word(at, bytes));
        self.learned.set(true);
        None
    }

    /// From here on operations are modelled. Before, and after `disarm`, none is asked about: most of all are
    /// of what is set up, and of what is looked at once the threads have ended.
    fn arm(&'static self) {
        let known = self.known.borrow();
        let words = known.iter().map(|(name, word)| {
            // SAFETY: the run before had a word at this address, and so has this one: all lies at
            // the same addresses.
            let (shadow, plain) = unsafe { word.shadow() };
            (*name, Seen { shadow, plain, at: 0 })
        });
        *self.words.borrow_mut() = words.collect();
        self.locks.borrow_mut().clear();
        self.now.set(0);
        self.armed.set(true);
        watch(Some(self));
    }

    /// Ends that, once all threads have ended: memory holds what was stored last.
    fn disarm(&self) {
        watch(None);
        self.armed.set(false);
        let known = self.known.borrow();
        let words = std::mem::take(&mut *self.words.borrow_mut());
        for (name, Seen { plain, .. }) in &words {
            let Some(word) = known.get(name) else { continue };
            // SAFETY: as in `arm`.
            let found = unsafe { word.get() };
            assert!(
                found == *plain || self.learned.get(),
                "a word was written without the checker: {:?}, {} bytes",
                word.0,
                word.1
            );
        }
        // The words that a frame had last stand.
        let mut written: Vec<_> = words.into_iter().filter(|(_, kept)| kept.at > 0).collect();
        written.sort_by_key(|(_, kept)| kept.at);
        for (name, Seen { shadow, .. }) in written {
            let Some(word) = known.get(&name) else { continue };
            // SAFETY: as in `arm`, and all threads have ended: what they stored happened before.
            unsafe { word.set(&shadow) };
        }
    }
}

impl Watcher for Shadows {
    fn word(
        &self,
        at: *const (),
        bytes: usize,
        _: u64,
        op: Op<u64>,
        Orders(set, fetch): Orders,
    ) -> Option<Result<u64, u64>> {
        let writes = op != Op::Load;
        let (Shadow::Integer(word), part) = self.shadow(at, bytes, writes)? else { return None };
        if let Some(part) = part {
            return Some(part.apply(&word, op, set, fetch));
        }
        Some(match op {
            Op::Load => Ok(word.load(set)),
            Op::Store(value) => {
                word.store(value, set);
                Ok(value)
            }
            Op::Swap(value) => Ok(word.swap(value, set)),
            Op::Add(value) => Ok(word.fetch_add(value, set)),
            Op::Sub(value) => Ok(word.fetch_sub(value, set)),
            // What is not named in a narrow word's mask is zero in it.
            Op::And(value) => Ok(word.fetch_and(value, set)),
            Op::Or(value) => Ok(word.fetch_or(value, set)),
            Op::Exchange(from, to) => word.compare_exchange(from, to, set, fetch),
        })
    }

    fn pointer(
        &self,
        at: *const (),
        _: *mut (),
        op: Op<*mut ()>,
        Orders(set, fetch): Orders,
    ) -> Option<Result<*mut (), *mut ()>> {
        let (Shadow::Pointer(word), _) = self.shadow(at, 0, op != Op::Load)? else { return None };
        Some(match op {
            Op::Load => Ok(word.load(set)),
            Op::Store(value) => {
                word.store(value, set);
                Ok(value)
            }
            Op::Swap(value) => Ok(word.swap(value, set)),
            Op::Exchange(from, to) => word.compare_exchange(from, to, set, fetch),
            other => panic!("{other:?} on a pointer"),
        })
    }

    /// The words there are stored to, with the weakest ordering: whoever comes by them in a way
    /// that does not order it after this may find what was there before.
    fn written(&self, at: *const (), bytes: usize) {
        if !self.armed.get() {
            return;
        }
        let within = (at.addr(), 0)..(at.addr() + bytes, 0);
        let there: Vec<_> = self.known.borrow().range(within).map(|(_, word)| *word).collect();
        for word in there {
            // SAFETY: as in `arm`.
            let now = unsafe { word.get() };
            if let Some(kept) = self.words.borrow_mut().get_mut(&(word.0.addr(), word.1)) {
                kept.plain = now;
            }
            match self.shadow(word.0, word.1, true) {
                // Its word is one of those there.
                Some((_, Some(_))) => {}
                Some((Shadow::Integer(shadow), None)) => shadow.store(now, Relaxed),
                Some((Shadow::Pointer(shadow), None)) => {
                    // SAFETY: as in `arm`.
                    let now = unsafe { (*word.0.cast::<plain::AtomicPtr<()>>()).load(Relaxed) };
                    shadow.store(now, Relaxed);
                }
                None => {}
            }
        }
    }
}

impl Checker for Shadows {
    fn thread(&self) -> usize {
        NUMBER.with(Cell::get)
    }

    fn pause(&self) {
        loom::thread::yield_now();
    }

    fn lock(&self, at: usize) -> bool {
        if !self.armed.get() {
            return false;
        }
        let lock = *self
            .locks
            .borrow_mut()
            .entry(at)
            .or_insert_with(|| Box::leak(Box::new(loom::sync::Mutex::new(()))));
        // Others come here meanwhile: nothing is borrowed.
        let guard = lock.lock().expect("no panic inside");
        self.held.borrow_mut().insert(at, guard);
        true
    }

    fn unlock(&self, at: usize) -> bool {
        let guard = self.held.borrow_mut().remove(&at);
        guard.is_some()
    }
}

/// Where a search ends that is not over.
#[derive(Clone, Copy)]
enum Limit {
    /// After [`most`] interleavings.
    Count,
    /// After [`LONGEST`].
    Time,
}

/// A model: what is set up, what threads do at the same time, and what must be true then.
pub struct Model<S: 'static> {
    /// Its name.
    pub name: &'static str,
    /// How often a thread may be interrupted in an execution.
    pub preemptions: usize,
    /// Sets the world up: the same in each execution.
    pub build: fn() -> S,
    /// What each thread does. The number of the CPU is that of the thread.
    pub threads: &'static [fn(&S)],
    /// What must be true afterwards.
    pub after: fn(S),
}

/// Runs `f` as thread `number` would, on its CPU: for what is looked at once all have ended.
pub fn on<R>(number: usize, f: impl FnOnce() -> R) -> R {
    let before = NUMBER.with(|own| own.replace(number));
    let result = f();
    NUMBER.with(|own| own.set(before));
    result
}

/// A place for the shared value, the same in all executions.
struct Slot<S>(UnsafeCell<MaybeUninit<S>>);

// SAFETY: loom runs all threads in turns on one thread.
unsafe impl<S> Sync for Slot<S> {}

impl<S: 'static> Model<S> {
    /// Tries all of it, and then with `HEIRLOOM_PREEMPTIONS` more preemptions than the model says.
    ///
    /// # Panics
    /// If an interleaving fails.
    pub fn check(self) {
        self.check_up_to(self.preemptions, Limit::Count);
        let more = std::env::var("HEIRLOOM_PREEMPTIONS").ok().and_then(|more| more.parse().ok());
        for more in 1..=more.unwrap_or(0_usize) {
            self.check_up_to(self.preemptions + more, Limit::Time);
        }
    }

    /// Tries all of it that so many preemptions and the limit allow.
    fn check_up_to(&self, preemptions: usize, limit: Limit) {
        let shadows: &'static Shadows = Box::leak(Box::default());
        let slot: &'static Slot<S> =
            Box::leak(Box::new(Slot(UnsafeCell::new(MaybeUninit::uninit()))));
        shadows.slot.set((std::ptr::from_ref(slot).addr(), size_of::<Slot<S>>()));
        let Self { build, threads, after, .. } = *self;
        let mut began;
        loop {
            began = Instant::now();
            shadows.learned.set(false);
            shadows.executions.set(0);
            let tried = catch_unwind(AssertUnwindSafe(|| {
                let mut builder = Builder::new();
                builder.preemption_bound = Some(preemptions);
                builder.max_branches = 100_000;
                builder.checkpoint_interval = LOOKED_AT;
                match limit {
                    Limit::Count => {
                        let words = shadows.known.borrow().len();
                        builder.max_permutations = Some(most(words));
                    }
                    Limit::Time => builder.max_duration = Some(LONGEST),
                }
                builder.check(move || execute(shadows, slot, build, threads, after));
            }));
            shadows.armed.set(false);
            under::<Shadows>(None);
            // Loom's, of an execution that is no more.
            std::mem::forget(std::mem::take(&mut *shadows.words.borrow_mut()));
            std::mem::forget(std::mem::take(&mut *shadows.held.borrow_mut()));
            match tried {
                Ok(()) if !shadows.learned.get() => break,
                Err(fault) if !shadows.learned.get() => resume_unwind(fault),
                _ => {}
            }
        }
        let (count, words) = (shadows.executions.get(), shadows.known.borrow().len());
        // The one that the limit stands for is not begun.
        let cut = match limit {
            Limit::Count => count + 1 >= most(words) as u64,
            Limit::Time => began.elapsed() >= LONGEST,
        };
        let cut = if cut { ", cut off: there are more" } else { "" };
        println!(
            "loom: {}: {count} interleavings, {} threads, {words} words, {preemptions} preemptions{cut}",
            self.name,
            threads.len()
        );
    }
}

fn execute<S>(
    shadows: &'static Shadows,
    slot: &'static Slot<S>,
    build: fn() -> S,
    threads: &'static [fn(&S)],
    after: fn(S),
) {
    under(Some(shadows));
    watch(None);
    let place = slot.0.get().cast::<S>();
    // SAFETY: the value of the execution before was taken out, or is forgotten.
    unsafe { place.write(build()) };
    // SAFETY: written just now; the threads end before it is taken out.
    let shared: &'static S = unsafe { &*place };
    struct Shared<S: 'static>(&'static S);
    // SAFETY: loom runs all threads in turns on one thread.
    unsafe impl<S> Send for Shared<S> {}
    shadows.arm();
    let Some((own, others)) = threads.split_last() else { return };
    let others: Vec<_> = others
        .iter()
        .enumerate()
        .map(|(number, thread)| {
            let shared = Shared(shared);
            loom::thread::spawn(move || {
                let shared: Shared<S> = shared;
                NUMBER.with(|own| own.set(number));
                thread(shared.0);
            })
        })
        .collect();
    NUMBER.with(|own| own.set(others.len()));
    own(shared);
    let ends: Vec<Result<(), Box<dyn Any + Send>>> =
        others.into_iter().map(loom::thread::JoinHandle::join).collect();
    shadows.disarm();
    if shadows.learned.get() {
        resume_unwind(Box::new(Learned));
    }
    for end in ends {
        end.unwrap_or_else(|fault| resume_unwind(fault));
    }
    shadows.executions.set(shadows.executions.get() + 1);
    // SAFETY: all other threads have ended, and nobody uses the place any more.
    after(unsafe { place.read() });
}
