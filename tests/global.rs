//! A program whose allocator is an arena: threads, children and jumps into itself.
//!
//! The test is a program of its own, which starts itself. Each life takes the memory over from the
//! one before, makes it the program's allocator, and jumps on while its threads allocate.

#[cfg(not(target_os = "linux"))]
fn main() {}

#[cfg(target_os = "linux")]
fn main() {
    lives::main();
}

#[cfg(target_os = "linux")]
mod lives {
    use std::alloc::{GlobalAlloc, Layout, System};
    use std::collections::BTreeMap;
    use std::os::unix::process::CommandExt;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::process::Command;
    use std::ptr::NonNull;
    use std::sync::atomic::Ordering::Relaxed;
    use std::sync::atomic::{AtomicPtr, AtomicU64};
    use std::sync::mpsc;

    use heirloom::Heirloom;
    use heirloom::arena::{Arena, RangeSpec};
    use heirloom::folio::{DirectMap, Disposition, NodeId};
    use heirloom::jump::{Inherited, Jump, VARIABLE};
    use heirloom::kho::{PhysAddr, Run};
    use heirloom::restore::SealPolicy;
    use heirloom::slab::Global;
    use rustix::process::Signal;

    type Kernel = Heirloom<&'static Arena>;

    /// The arena's from the moment at which there is one; the system's before that.
    struct Switch;

    #[global_allocator]
    static ALLOCATOR: Switch = Switch;
    static HEAP: Global<&'static Arena> = Global::new();
    static ARENA: AtomicPtr<Arena> = AtomicPtr::new(std::ptr::null_mut());
    static ALLOCATED: AtomicU64 = AtomicU64::new(0);

    /// Ends the process if an allocator unwinds, which would be undefined behaviour.
    fn no_unwinding<R>(f: impl FnOnce() -> R) -> R {
        catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|_| std::process::abort())
    }

    impl Switch {
        fn arena() -> Option<&'static Arena> {
            // SAFETY: null, or an arena that is never dropped.
            unsafe { ARENA.load(Relaxed).as_ref() }
        }

        fn in_arena(ptr: *mut u8) -> bool {
            Self::arena().zip(NonNull::new(ptr)).is_some_and(|(a, ptr)| a.phys(ptr).is_some())
        }
    }

    // SAFETY: memory of one of two allocators, each of which gets its own back.
    unsafe impl GlobalAlloc for Switch {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            if Self::arena().is_none() {
                // SAFETY: the same contract.
                return unsafe { System.alloc(layout) };
            }
            ALLOCATED.fetch_add(1, Relaxed);
            // SAFETY: the same contract.
            no_unwinding(|| unsafe { HEAP.alloc(layout) })
        }

        unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
            if Self::in_arena(ptr) {
                // SAFETY: the same contract.
                no_unwinding(|| unsafe { HEAP.dealloc(ptr, layout) });
            } else {
                // SAFETY: the same contract.
                unsafe { System.dealloc(ptr, layout) };
            }
        }

        unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
            if Self::in_arena(ptr) {
                // SAFETY: the same contract.
                return no_unwinding(|| unsafe { HEAP.realloc(ptr, layout, size) });
            }
            // SAFETY: the same contract.
            unsafe { System.realloc(ptr, layout, size) }
        }
    }

    const LIFE: &str = "HEIRLOOM_TEST_LIFE";
    /// How many lives follow the first.
    const LIVES: u32 = 4;
    /// Seconds after which a life counts as one that hangs.
    const PATIENCE: u32 = 120;

    pub(crate) fn main() {
        let Ok(life) = std::env::var(LIFE) else {
            let mut this = Command::new(std::env::current_exe().unwrap());
            let output = this.env(LIFE, "0").env("RUST_BACKTRACE", "0").output().unwrap();
            let told = String::from_utf8_lossy(&output.stdout).into_owned();
            print!("{told}");
            assert!(output.status.success(), "{output:?}");
            assert!(told.contains(&format!("life {LIVES}: the last")), "{told}");
            return;
        };
        live(life.parse().unwrap());
    }

    /// The memory, taken over or new.
    fn kernel(life: u32) -> &'static Kernel {
        // SAFETY: nothing else was opened in this process.
        let inherited = unsafe { Inherited::from_env() }.unwrap();
        assert_eq!(inherited.is_none(), life == 0);
        let (arena, entry) = inherited.map_or_else(
            || {
                let start = PhysAddr::new(4 << 30);
                let range = RangeSpec { start, bytes: 64 << 20, node: NodeId(0) };
                (Arena::create("global", &[range]).unwrap(), None)
            },
            |inherited| (Arena::open(inherited.fd).unwrap(), Some(inherited.entry)),
        );
        let arena: &'static Arena = Box::leak(Box::new(arena));
        let map = [(arena.ranges()[0].run(), NodeId(0))];
        let kernel = if let Some(entry) = entry {
            // SAFETY: the predecessor became this process.
            unsafe { Heirloom::revive(arena, &map, entry, "lives", SealPolicy::Checked) }
        } else {
            let scratch = Run::covering(map[0].0.addr(), arena.scratch_bytes()).unwrap();
            // SAFETY: the arena is new, and nothing else uses it.
            unsafe { Heirloom::boot(arena, &map, &[scratch], "lives") }
        };
        let kernel: &'static Kernel = Box::leak(Box::new(kernel.unwrap()));
        HEAP.set(kernel.slabs()).map_err(drop).unwrap();
        ARENA.store(std::ptr::from_ref(arena).cast_mut(), Relaxed);
        kernel
    }

    fn live(life: u32) {
        // SAFETY: no handler is set: the signal ends the process.
        unsafe { libc::alarm(PATIENCE) };
        let signal = Some(Signal::USR2);
        if life == 0 {
            rustix::process::set_parent_process_death_signal(signal).unwrap();
        }
        // A thread's own, which a jump keeps.
        assert_eq!(rustix::process::parent_process_death_signal().unwrap(), signal);
        let kernel = kernel(life);
        let text = |life: u32| format!("left by life {life}");
        if life > 0 {
            let left = kernel.claim_root("text").unwrap();
            assert_eq!(left.bytes(), text(life - 1).as_bytes());
        }
        let finished = kernel.finish(|_| Disposition::Free).unwrap();
        assert_eq!(finished.objects, 0);
        kernel.publish("text", text(life).as_bytes()).unwrap();

        threads();
        children();
        a_fork_that_allocates(kernel);
        kernel.memory().audit().unwrap();
        let (free, all) = (kernel.memory().stats().free(), kernel.memory().stats().frames);
        let count = ALLOCATED.load(Relaxed);
        println!("life {life}: {count} allocations, {free} of {all} frames free");
        assert!(count > 10_000 && free > all / 2);
        if life == LIVES {
            println!("life {life}: the last");
            return;
        }
        // They go on until the jump ends them.
        for seed in 0..3 {
            std::thread::spawn(move || {
                loop {
                    work(seed, 1_000);
                }
            });
        }
        let mut next = Command::new(std::env::current_exe().unwrap());
        next.env(LIFE, (life + 1).to_string());
        panic!("{}", Jump::new(kernel.memory().machine(), kernel.entry()).unwrap().exec(next));
    }

    /// Texts and tables that grow, move and go.
    fn work(seed: u64, rounds: u64) -> u64 {
        let mut table = BTreeMap::new();
        let mut dice = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        for round in 0..rounds {
            dice ^= dice << 13;
            dice ^= dice >> 7;
            dice ^= dice << 17;
            let length = usize::try_from(dice % 3_000).unwrap();
            let mut bytes = vec![seed.to_le_bytes()[0]; length];
            bytes.extend_from_slice(&round.to_le_bytes());
            table.insert(format!("{}", dice % 100), bytes);
        }
        let sound = |bytes: &Vec<u8>| {
            let (content, _round) = bytes.split_at(bytes.len() - 8);
            content.iter().all(|byte| *byte == seed.to_le_bytes()[0])
        };
        assert!(table.values().all(sound));
        table.len() as u64
    }

    /// Threads that pass memory on to each other, end and begin; each leaves a value to a
    /// destructor that runs when the thread has ended.
    fn threads() {
        std::thread_local! {
            static LATE: std::cell::RefCell<Vec<String>> = const { std::cell::RefCell::new(Vec::new()) };
        }
        let (send, receive) = mpsc::channel::<Vec<String>>();
        std::thread::scope(|scope| {
            for seed in 1..=4 {
                let send = send.clone();
                scope.spawn(move || {
                    for _ in 0..20 {
                        work(seed, 200);
                        let short = std::thread::spawn(move || {
                            LATE.with_borrow_mut(|late| late.push(format!("late {seed}")));
                            work(seed, 20)
                        });
                        assert!(short.join().unwrap() > 0);
                        send.send(vec![format!("from {seed}"); 50]).unwrap();
                    }
                });
            }
            drop(send);
            assert_eq!(receive.iter().map(|texts| texts.len()).sum::<usize>(), 4 * 20 * 50);
        });
    }

    /// What starts them reads its arguments from the arena: in a forked child too, which a closure
    /// makes necessary.
    fn children() {
        for forked in [false, true] {
            let mut command = Command::new("/bin/sh");
            command.args(["-c", r#"echo "$0 $VALUE""#, "an argument"]).env("VALUE", "and a value");
            command.env_remove(VARIABLE);
            if forked {
                // SAFETY: the closure does nothing.
                unsafe { command.pre_exec(|| Ok(())) };
            }
            let output = command.output().unwrap();
            assert_eq!(String::from_utf8_lossy(&output.stdout), "an argument and a value\n");
            let error = Command::new("/no/such/program").spawn().unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
        }
    }

    /// The child ends, and this process has what it had.
    fn a_fork_that_allocates(kernel: &Kernel) {
        let before = kernel.memory().audit().unwrap();
        // SAFETY: the child allocates, which is what ends it, and else exits.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let text = std::hint::black_box("from a child".to_owned());
            // SAFETY: nothing of the parent's is run or flushed.
            unsafe { libc::_exit(i32::from(text.is_empty())) };
        }
        let mut status = 0;
        // SAFETY: `status` lives as long as the call.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert!(
            libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGSEGV,
            "{status:#x}"
        );
        assert_eq!(kernel.memory().audit().unwrap(), before);
    }
}
