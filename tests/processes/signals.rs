//! A handler of a signal may use frames, and is told where an object would have to wait.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicPtr, AtomicU64};

use heirloom::Heirloom;
use heirloom::arena::Arena;
use heirloom::folio::Request;
use heirloom::kho::Order;
use heirloom::restore::Error;

use crate::{arena, boot, output_of, part, plays};

type Kernel = Heirloom<&'static Arena>;

static KERNEL: AtomicPtr<Kernel> = AtomicPtr::new(std::ptr::null_mut());
static HANDLED: AtomicU64 = AtomicU64::new(0);
static REFUSED: AtomicU64 = AtomicU64::new(0);
static FRAMES: AtomicU64 = AtomicU64::new(0);

/// Signals that are handled before the test is over, at least, and at most.
const SIGNALS: u64 = 1_000;
const MOST: u64 = 1_000_000;
/// How often a handler must have come while its thread held a lock.
const TOLD: u64 = 10;
/// Buffers that are allocated and freed by turns: more than magazines hold.
const BUFFERS: usize = 8192;

extern "C" fn handler(_: libc::c_int) {
    // SAFETY: set, before the handler was, to a value that is never dropped.
    let kernel = unsafe { &*KERNEL.load(Relaxed) };
    match kernel.alloc(64) {
        // SAFETY: allocated just now.
        Ok(buffer) => match unsafe { kernel.free(buffer) } {
            Ok(()) => {}
            Err(error) => told(error),
        },
        Err(error) => told(error),
    }
    if let Ok(mut folio) = kernel.memory().alloc_folio(Request::new(Order::ZERO)) {
        folio.bytes_mut()[0] = 1;
        FRAMES.fetch_add(1, Relaxed);
    }
    HANDLED.fetch_add(1, Relaxed);
}

fn told(error: Error) {
    let would_wait = matches!(error, Error::Slab(heirloom::slab::Error::WouldWait));
    REFUSED.fetch_add(if would_wait { 1 } else { MOST }, Relaxed);
}

fn done() -> bool {
    let handled = HANDLED.load(Relaxed);
    handled >= MOST || handled >= SIGNALS && REFUSED.load(Relaxed) >= TOLD
}

const TEST: &str = "signals::a_handler_that_allocates_does_not_wait_for_its_own_thread";

#[test]
fn a_handler_that_allocates_does_not_wait_for_its_own_thread() {
    if !plays("interrupted") {
        let told = output_of(part(TEST, "interrupted"));
        assert!(told.contains("handled "), "{told}");
        return;
    }
    let arena: &'static Arena = Box::leak(Box::new(arena("signals")));
    let kernel: &'static Kernel = Box::leak(Box::new(boot(arena)));
    KERNEL.store(std::ptr::from_ref(kernel).cast_mut(), Relaxed);
    // So that the handler finds its thread with a slot.
    drop(kernel.memory().alloc_folio(Request::new(Order::ZERO)).unwrap());
    // SAFETY: all zeroes are a `sigaction`; the handler is set below.
    let mut action = unsafe { std::mem::zeroed::<libc::sigaction>() };
    action.sa_sigaction = handler as extern "C" fn(libc::c_int) as usize;
    action.sa_flags = libc::SA_RESTART;
    let set = &raw const action;
    // SAFETY: the handler does what this test is about.
    let failed = unsafe { libc::sigaction(libc::SIGUSR1, set, std::ptr::null_mut()) };
    assert_eq!(failed, 0);
    // SAFETY: asks who this is.
    let this = unsafe { libc::pthread_self() };

    std::thread::scope(|scope| {
        scope.spawn(move || {
            let (mut before, mut idle) = (0, 0_u32);
            while !done() {
                // SAFETY: the thread waits for this one at the end of the scope.
                assert_eq!(unsafe { libc::pthread_kill(this, libc::SIGUSR1) }, 0);
                // The watchdog: signals that are pending and never handled.
                let now = HANDLED.load(Relaxed);
                idle = if now == before { idle + 1 } else { 0 };
                before = now;
                if idle > 2_000_000 {
                    eprintln!("no signal was handled for {idle} looks, after {now} signals");
                    std::process::abort();
                }
                std::thread::yield_now();
            }
        });
        // Many at once, so that magazines are exchanged under the cache's lock all the time.
        let mut buffers = Vec::with_capacity(BUFFERS);
        while !done() {
            while buffers.len() < BUFFERS {
                buffers.push(kernel.alloc(64).unwrap());
            }
            for buffer in buffers.drain(..) {
                // SAFETY: allocated above.
                unsafe { kernel.free(buffer) }.unwrap();
            }
        }
    });
    kernel.slabs().shrink();
    kernel.memory().audit().unwrap();
    let (handled, refused) = (HANDLED.load(Relaxed), REFUSED.load(Relaxed));
    assert_eq!(FRAMES.load(Relaxed), handled, "a frame was refused");
    assert!((TOLD..MOST).contains(&refused), "{refused} of {handled}");
    println!("handled {handled}, {refused} were told that they would wait");
}
