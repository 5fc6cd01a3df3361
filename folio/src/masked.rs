//! A lock that keeps the interrupts of its holder's CPU out, for kernels whose handlers allocate.
//!
//! Locks are not always let go in the reverse order, so none of them can know whether interrupts are to come again: the
//! CPU does, which counts how many it holds and keeps how it was before the first.

use core::marker::PhantomData;
use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering::Relaxed;

use lock_api::RawMutex;

/// How a kernel keeps interrupts out on the CPU that it runs on: two calls, which nest.
///
/// # Safety
/// - After [`mask`](Interrupts::mask) no handler of a maskable interrupt runs on the calling CPU, and the caller stays on that CPU,
///   until [`unmask`](Interrupts::unmask) was called as often.
/// - The last `unmask` lets interrupts come again if they did before the first `mask`.
///
/// [`MaskDepth`] does the counting.
pub unsafe trait Interrupts {
    /// Masks interrupts, once more.
    fn mask();
    /// Takes back one `mask`.
    fn unmask();
}

/// How often a CPU's interrupts are masked, and whether they came before: one for each CPU.
///
/// It is one word, so that an NMI between any two instructions, which masks and unmasks in turn, leaves it as
/// it was.
///
/// # Examples
/// Interrupts come again with the last `leave`, whatever order locks are let go in.
/// ```
/// use heirloom_folio::MaskDepth;
///
/// let cpu = MaskDepth::new();
/// cpu.enter(true);
/// cpu.enter(false);
/// assert!(!cpu.leave());
/// assert!(cpu.leave());
/// ```
#[derive(Debug, Default)]
pub struct MaskDepth {
    /// Twice the depth, and 1 if interrupts came before.
    word: AtomicU32,
}

impl MaskDepth {
    /// Returns the count of a CPU whose interrupts no lock has masked.
    pub const fn new() -> Self {
        Self { word: AtomicU32::new(0) }
    }

    /// Counts one more. The CPU has masked its interrupts just before; `came`: whether they came until then.
    pub fn enter(&self, came: bool) {
        // Relaxed: the CPU's own, by handlers of its own too.
        let before = self.word.load(Relaxed);
        let first = if before == 0 { u32::from(came) } else { 0 };
        self.word.store(before.wrapping_add(2) | first, Relaxed);
    }

    /// Counts one less. Returns whether the CPU is to let interrupts come again.
    pub fn leave(&self) -> bool {
        let before = self.word.load(Relaxed);
        let after = before.saturating_sub(2);
        let last = after < 2;
        self.word.store(if last { 0 } else { after }, Relaxed);
        last && before & 1 != 0
    }

    /// Returns how many locks there are that keep interrupts out.
    pub fn depth(&self) -> u32 {
        self.word.load(Relaxed) / 2
    }
}

/// The lock `L`, with interrupts masked by `I` while it is held or waited for: a [`Machine::Lock`](crate::Machine::Lock).
///
/// An NMI is kept out by no lock. Where its handler calls heirloom, [`Machine::may_wait`](crate::Machine::may_wait) is `false` there.
///
/// # Examples
/// ```
/// use core::sync::atomic::{AtomicBool, Ordering};
///
/// use heirloom_folio::{Interrupts, MaskDepth, Masked};
///
/// // One CPU, and its flag: on x86, bit 9 of RFLAGS, changed by `cli` and `sti`.
/// static COME: AtomicBool = AtomicBool::new(true);
/// static DEPTH: MaskDepth = MaskDepth::new();
///
/// struct Cpu;
/// // SAFETY: counted for the one CPU that there is.
/// unsafe impl Interrupts for Cpu {
///     fn mask() {
///         DEPTH.enter(COME.swap(false, Ordering::Relaxed));
///     }
///     fn unmask() {
///         if DEPTH.leave() {
///             COME.store(true, Ordering::Relaxed);
///         }
///     }
/// }
///
/// let lock = lock_api::Mutex::<Masked<spin::Mutex<()>, Cpu>, u32>::new(0);
/// let held = lock.lock();
/// assert!(!COME.load(Ordering::Relaxed));
/// drop(held);
/// assert!(COME.load(Ordering::Relaxed));
/// ```
pub struct Masked<L, I> {
    lock: L,
    interrupts: PhantomData<fn(I)>,
}

impl<L, I> core::fmt::Debug for Masked<L, I> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Masked").finish_non_exhaustive()
    }
}

// SAFETY: exclusion is that of `L`, which every call is passed on to.
unsafe impl<L: RawMutex, I: Interrupts> RawMutex for Masked<L, I> {
    const INIT: Self = Self { lock: L::INIT, interrupts: PhantomData };
    /// It is let go on the CPU that took it.
    type GuardMarker = lock_api::GuardNoSend;

    #[inline]
    fn lock(&self) {
        // Masked before it is had: a handler between the two could only wait for this very CPU.
        I::mask();
        self.lock.lock();
    }

    #[inline]
    fn try_lock(&self) -> bool {
        I::mask();
        let had = self.lock.try_lock();
        if !had {
            I::unmask();
        }
        had
    }

    #[inline]
    unsafe fn unlock(&self) {
        // SAFETY: the same contract.
        unsafe { self.lock.unlock() };
        I::unmask();
    }

    fn is_locked(&self) -> bool {
        self.lock.is_locked()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::vec::Vec;

    use super::*;

    std::thread_local! {
        /// The flag of the CPU that a thread is, and whether NMIs come between any two of its steps.
        static COME: Cell<bool> = const { Cell::new(true) };
        static DEPTH: MaskDepth = const { MaskDepth::new() };
        static NMIS: Cell<bool> = const { Cell::new(false) };
    }

    struct Cpu;

    impl Cpu {
        /// An NMI that takes a lock and lets it go.
        fn nmi() {
            if NMIS.get() {
                let came = COME.replace(false);
                DEPTH.with(|depth| {
                    depth.enter(came);
                    if depth.leave() {
                        COME.set(true);
                    }
                });
                assert_eq!(COME.get(), came, "an NMI changed whether interrupts come");
            }
        }
    }

    // SAFETY: each thread is a CPU, and its count and flag are its own.
    unsafe impl Interrupts for Cpu {
        fn mask() {
            Self::nmi();
            let came = COME.replace(false);
            Self::nmi();
            DEPTH.with(|depth| depth.enter(came));
            Self::nmi();
        }
        fn unmask() {
            Self::nmi();
            if DEPTH.with(MaskDepth::leave) {
                Self::nmi();
                COME.set(true);
            }
            Self::nmi();
        }
    }

    type Lock = Masked<spin::Mutex<()>, Cpu>;

    /// Takes and lets go three locks in every order that there is, from every state.
    fn every_order(locks: &[Lock; 3], held: &mut Vec<usize>, came: bool, steps: usize) -> usize {
        assert_eq!(COME.get(), came && held.is_empty(), "{held:?}");
        assert_eq!(DEPTH.with(MaskDepth::depth) as usize, held.len());
        let mut orders = 1;
        if steps == 0 {
            return orders;
        }
        for (i, lock) in locks.iter().enumerate() {
            if let Some(at) = held.iter().position(|other| *other == i) {
                assert!(!lock.try_lock());
                held.remove(at);
                // SAFETY: it is held.
                unsafe { lock.unlock() };
                orders += every_order(locks, held, came, steps - 1);
                lock.lock();
                held.insert(at, i);
            } else {
                lock.lock();
                held.push(i);
                orders += every_order(locks, held, came, steps - 1);
                // SAFETY: taken just now.
                unsafe { lock.unlock() };
                held.pop();
            }
        }
        orders
    }

    #[test]
    fn interrupts_come_again_with_the_last_lock_in_whatever_order() {
        let locks = [Lock::INIT, Lock::INIT, Lock::INIT];
        for (came, nmis) in [(true, false), (true, true), (false, false), (false, true)] {
            COME.set(came);
            NMIS.set(nmis);
            assert_eq!(
                every_order(&locks, &mut Vec::new(), came, 8),
                (0..=8).map(|n| 3_usize.pow(n)).sum()
            );
            assert!(locks.iter().all(|lock| !lock.is_locked()));
        }
    }
}
