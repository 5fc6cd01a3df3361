//! An arena keeps its bytes at their physical addresses, wherever it is mapped and whoever maps it.
#![cfg(all(feature = "std", target_os = "linux"))]

use core::ptr::NonNull;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

use heirloom::Heirloom;
use heirloom::arena::{Arena, ArenaError, MAX_NAME, MapFault, RangeFault, RangeSpec};
use heirloom::folio::threads::ThreadSlots;
use heirloom::folio::{Cpus, DirectMap, Memory, NodeId, Request};
use heirloom::kho::{Order, PAGE_SIZE, Pfn, PhysAddr, Run};

const PAGE: u64 = PAGE_SIZE as u64;
const STARTS: [u64; 3] = [0x1_0000_0000, 0x1_4000_0000, 0x20_0000_0000];
const PAGES: [u64; 3] = [64, 16, 32];

fn arena() -> Arena {
    let spec = |i: usize| RangeSpec {
        start: PhysAddr::new(STARTS[i]),
        bytes: PAGES[i] * PAGE,
        node: NodeId(i as u16),
    };
    Arena::create("arena test", &[spec(0), spec(1), spec(2)]).unwrap()
}

/// One byte, at the first, a middle and the last address of every range.
fn addresses() -> impl Iterator<Item = PhysAddr> {
    STARTS.into_iter().zip(PAGES).flat_map(|(start, pages)| {
        [0, pages * PAGE / 2 + 77, pages * PAGE - 1].map(|at| PhysAddr::new(start + at))
    })
}

fn write(arena: &Arena, addr: PhysAddr, value: u8) {
    // SAFETY: every caller names an address in a range of an arena that it alone uses.
    unsafe { arena.ptr(addr).write(value) }
}

fn read(arena: &Arena, addr: PhysAddr) -> u8 {
    // SAFETY: as for `write`.
    unsafe { arena.ptr(addr).read() }
}

fn page(range: usize, page: u64) -> Pfn {
    PhysAddr::new(STARTS[range]).pfn().add(page)
}

fn run(range: usize, first: u64, frames: u64) -> Run {
    Run::new(page(range, first), frames).unwrap()
}

#[test]
fn another_mapping_shows_the_same_bytes_at_the_same_addresses() {
    let arena = arena();
    for (value, addr) in (1..).zip(addresses()) {
        assert_eq!(read(&arena, addr), 0);
        write(&arena, addr, value);
    }
    let again = Arena::open(arena.share().unwrap()).unwrap();
    assert_eq!(again.ranges(), arena.ranges());
    let first = PhysAddr::new(STARTS[0]);
    assert_ne!(again.ptr(first), arena.ptr(first));
    for (value, addr) in (1..).zip(addresses()) {
        assert_eq!(read(&again, addr), value);
    }
    drop(arena);
    for (value, addr) in (1..).zip(addresses()) {
        assert_eq!(read(&again, addr), value);
    }
}

#[test]
fn ranges_are_as_specified() {
    let arena = arena();
    let ranges = arena.ranges();
    for (i, range) in ranges.iter().enumerate() {
        assert_eq!(range.run(), run(i, 0, PAGES[i]));
        assert_eq!(usize::from(range.node().0), i);
    }
    let offsets: Vec<_> = ranges.iter().map(|r| r.offset() / PAGE).collect();
    assert_eq!(offsets, [1, 65, 81]);
}

#[test]
fn pointers_and_addresses_are_inverse_and_equally_aligned() {
    let arena = arena();
    for addr in addresses() {
        assert_eq!(arena.phys(arena.ptr(addr)), Some(addr));
        let largest = Order::MAX_FOLIO.bytes();
        assert_eq!(arena.ptr(addr).addr().get() as u64 % largest, addr.get() % largest);
    }
    let local = 0_u8;
    assert_eq!(arena.phys(NonNull::from(&local)), None);
}

#[test]
fn an_area_shows_scattered_frames_contiguously() {
    let arena = arena();
    let runs = [run(2, 31, 1), run(0, 3, 2), run(0, 5, 1), run(1, 0, 4), run(0, 0, 1)];
    let frames: Vec<_> =
        runs.iter().flat_map(|r| (0..r.frames()).map(|i| r.start().add(i))).collect();
    for (value, pfn) in (1..).zip(&frames) {
        write(&arena, pfn.addr(), value);
    }
    let mut mapping = arena.map_area(&runs).unwrap();
    assert_eq!(mapping.len(), frames.len() * PAGE_SIZE);
    {
        // SAFETY: nothing else uses the memory, and no frame is named twice.
        let bytes = unsafe { mapping.bytes_mut() };
        for (i, page) in bytes.chunks_mut(PAGE_SIZE).enumerate() {
            assert_eq!(usize::from(page[0]), i + 1);
            page[PAGE_SIZE - 1] = page[0];
        }
    }
    for (value, pfn) in (1..).zip(&frames) {
        assert_eq!(read(&arena, PhysAddr::new(pfn.addr().get() + PAGE - 1)), value);
    }
    drop(arena);
    // SAFETY: nobody writes.
    assert_eq!(unsafe { mapping.bytes() }[0], 1);
}

#[test]
fn an_area_is_made_of_the_arenas_frames_alone() {
    let arena = arena();
    for bad in [run(0, 63, 2), run(1, 16, 1), Run::new(Pfn::new(0), 1).unwrap()] {
        let error = arena.map_area(&[run(0, 0, 1), bad]).unwrap_err();
        assert_eq!(error, ArenaError::NotInArena { run: bad });
    }
    assert_eq!(arena.map_area(&[]).unwrap_err(), ArenaError::EmptyArea);
    assert_eq!(arena.map_area(&[run(0, 0, 0)]).unwrap_err(), ArenaError::EmptyArea);
}

#[test]
fn a_damaged_map_is_refused() {
    let arena = arena();
    let file = File::from(arena.share().unwrap());
    let mut map = [0; 40 + 3 * 32];
    file.read_exact_at(&mut map, 0).unwrap();
    for bit in 0..map.len() * 8 {
        let byte = map[bit / 8] ^ (1 << (bit % 8));
        file.write_all_at(&[byte], bit as u64 / 8).unwrap();
        assert!(Arena::open(arena.share().unwrap()).is_err(), "bit {bit}");
        file.write_all_at(&map[bit / 8..=bit / 8], bit as u64 / 8).unwrap();
    }
    assert_eq!(Arena::open(arena.share().unwrap()).unwrap().ranges(), arena.ranges());
}

#[test]
fn other_files_are_refused() {
    let open = |file: File| Arena::open(OwnedFd::from(file)).unwrap_err();
    assert_eq!(open(File::open("/dev/null").unwrap()), ArenaError::NotMemfd);
    assert_eq!(open(File::open("/").unwrap()), ArenaError::NotMemfd);
    let text = open(File::open(std::env::current_exe().unwrap()).unwrap());
    assert!(matches!(text, ArenaError::NotMemfd | ArenaError::NotSealed), "{text}");
}

#[test]
fn a_saved_copy_becomes_an_arena_again() {
    let arena = arena();
    for (value, addr) in (1..).zip(addresses()) {
        write(&arena, addr, value);
    }
    let path = std::env::temp_dir().join(format!("heirloom-copy-{}", std::process::id()));
    let mut file = File::create_new(&path).unwrap();
    std::io::copy(&mut File::from(arena.share().unwrap()), &mut file).unwrap();
    let open = || File::options().read(true).write(true).open(&path).unwrap();
    // The copy itself could shrink under a mapping.
    let refused = Arena::open(OwnedFd::from(open())).unwrap_err();
    assert!(matches!(refused, ArenaError::NotSealed | ArenaError::NotMemfd), "{refused}");
    let copy = Arena::from_copy("copy", open().as_fd()).unwrap();
    assert_eq!(copy.ranges(), arena.ranges());
    for (value, addr) in (1..).zip(addresses()) {
        assert_eq!(read(&copy, addr), value);
        write(&copy, addr, 0);
        assert_eq!(read(&arena, addr), value);
    }
    // Only what is not zero takes room: 9 pages were written, one is the map.
    assert!(rustix::fs::fstat(&copy).unwrap().st_blocks <= 10 * 8 * 4);
    file.set_len(PAGE).unwrap();
    let short = Arena::from_copy("copy", open().as_fd()).unwrap_err();
    assert!(matches!(short, ArenaError::BadMap(MapFault::FileSize { found: PAGE, .. })), "{short}");
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn the_file_cannot_shrink_under_the_mapping() {
    let file = File::from(arena().share().unwrap());
    let bytes = file.metadata().unwrap().len();
    assert!(file.set_len(PAGE).is_err());
    assert!(file.set_len(bytes + PAGE).is_err());
    assert_eq!(file.metadata().unwrap().len(), bytes);
}

#[test]
fn descriptors_close_on_exec() {
    let arena = arena();
    for fd in [arena.as_fd().try_clone_to_owned().unwrap(), arena.share().unwrap()] {
        let flags = rustix::io::fcntl_getfd(&fd).unwrap();
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
    }
    let flags = rustix::io::fcntl_getfd(&arena).unwrap();
    assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
}

#[test]
fn what_cannot_be_is_not_created() {
    let spec = |start, bytes| RangeSpec { start: PhysAddr::new(start), bytes, node: NodeId(0) };
    let error = Arena::create("x", &[spec(0, 2 * PAGE), spec(PAGE, PAGE)]).unwrap_err();
    assert!(matches!(
        error,
        ArenaError::BadMap(MapFault::Range {
            index: 1,
            fault: RangeFault::Overlaps { with: 0 },
            ..
        })
    ));
    assert_eq!(
        error.to_string(),
        format!("range 1 of {PAGE:#x} bytes at {PAGE:#x} overlaps range 0")
    );
    let far = Arena::create("x", &[spec(0, PAGE), spec(1 << 47, PAGE)]).unwrap_err();
    assert!(matches!(far, ArenaError::Span { .. }));
    for (name, bytes) in [("a\0b", 3), (&"x".repeat(300), 300)] {
        let error = Arena::create(name, &[spec(0, PAGE)]).unwrap_err();
        assert_eq!(error, ArenaError::Name { bytes, limit: MAX_NAME });
    }
    assert!(Arena::create(&"x".repeat(MAX_NAME), &[spec(0, PAGE)]).is_ok());
}

#[test]
fn an_arena_is_a_machine_of_threads() {
    let arena = arena().with_slots(ThreadSlots::new(5));
    assert_eq!(arena.count(), 5);
    arena.with_cpu(|cpu| assert_eq!(arena.node_of(cpu.unwrap()), NodeId(0)));
}

/// Memory for metadata, never given back.
fn space(bytes: usize) -> NonNull<[u8]> {
    let words = vec![0_u128; bytes.div_ceil(16)].leak();
    NonNull::slice_from_raw_parts(NonNull::from(&mut *words).cast(), size_of_val(words))
}

#[test]
fn an_arena_serves_the_page_allocator_of_more_threads_than_slots() {
    let arena = arena().with_slots(ThreadSlots::new(3));
    // SAFETY: leaked, and used for this alone.
    let memory = unsafe { Memory::new(&arena, space(Memory::<&Arena>::cpu_bytes(3))) }.unwrap();
    for range in arena.ranges() {
        let space = space(Memory::<&Arena>::range_bytes(range.run()));
        // SAFETY: the frames are mapped and used by nothing else; the space is leaked.
        unsafe { memory.add_range(range.run(), range.node(), space) }.unwrap();
    }
    std::thread::scope(|s| {
        for thread in 1..=6_u8 {
            let memory = &memory;
            s.spawn(move || {
                for i in 0..200 {
                    let order = Order::new(i % 3).unwrap();
                    let mut folio = memory.alloc_folio(Request::new(order).zeroed()).unwrap();
                    let bytes = folio.bytes_mut();
                    assert!(bytes.iter().all(|&byte| byte == 0));
                    bytes.fill(thread);
                    std::thread::yield_now();
                    assert!(bytes.iter().all(|&byte| byte == thread));
                }
            });
        }
    });
    let stats = memory.stats();
    assert_eq!((stats.frames, stats.used()), (PAGES.iter().sum(), 0));
    memory.audit().unwrap();
}

/// What a person reads is in the units that a person gave.
#[test]
fn errors_say_bytes_and_what_there_can_be() {
    let spec = RangeSpec { start: PhysAddr::new(1 << 32), bytes: 4 << 20, node: NodeId(0) };
    let name = Arena::create(&"x".repeat(300), &[spec]).unwrap_err();
    assert_eq!(
        name.to_string(),
        "an arena's name has at most 249 bytes, none of them NUL; this one has 300"
    );
    let map = ArenaError::Map { bytes: 1 << 40, errno: 12 };
    assert!(map.to_string().starts_with("mmap of 1099511627776 bytes: "), "{map}");

    let arena = Arena::create("errors", &[spec]).unwrap();
    let ranges = [(arena.ranges()[0].run(), NodeId(0))];
    let scratch = Run::covering(spec.start, arena.scratch_bytes()).unwrap();
    // SAFETY: the arena is new, and nothing else uses it.
    let heirloom = unsafe { Heirloom::boot(&arena, &ranges, &[scratch], "errors") }.unwrap();
    let large = heirloom.alloc(1 << 40).unwrap_err();
    assert_eq!(large.to_string(), "no free run of 1099511627776 bytes (268435456 frames)");
    let large = heirloom.memory().alloc_folio(Request::new(Order::new(18).unwrap())).map(drop);
    assert_eq!(large.unwrap_err().to_string(), "no free block of 1073741824 bytes (order 18)");
}

/// A limit on the address space is what an allocation of addresses runs into. Its own process, as
/// the limit is a process's.
#[test]
fn a_limit_on_addresses_is_an_error_that_says_how_many() {
    const LIMITED: &str = "HEIRLOOM_TEST_LIMITED";
    if std::env::var_os(LIMITED).is_some() {
        let limit = rustix::process::Rlimit { current: Some(4 << 30), maximum: None };
        rustix::process::setrlimit(rustix::process::Resource::As, limit).unwrap();
        let spec = RangeSpec { start: PhysAddr::new(1 << 32), bytes: 16 << 30, node: NodeId(0) };
        println!("{}", Arena::create("limited", &[spec]).unwrap_err());
        return;
    }
    let mut this = std::process::Command::new(std::env::current_exe().unwrap());
    let test = "a_limit_on_addresses_is_an_error_that_says_how_many";
    let output = this.args([test, "--exact", "--nocapture"]).env(LIMITED, "").output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    // 16 GiB, as they were asked for.
    assert!(told.contains("mmap of 17179869184 bytes: Cannot allocate memory"), "{told}");
}

const HUGE: u64 = 2 << 20;

/// Returns what the system has spent on the arena's file, in bytes.
fn spent(arena: &Arena) -> u64 {
    rustix::fs::fstat(arena.as_fd()).unwrap().st_blocks.cast_unsigned() * 512
}

fn of_bytes(start: u64, bytes: u64) -> Arena {
    let spec = RangeSpec { start: PhysAddr::new(start), bytes, node: NodeId(0) };
    Arena::create("arena pages", &[spec]).unwrap()
}

fn boot(arena: &Arena) -> Heirloom<&Arena> {
    let range = arena.ranges()[0];
    let scratch = Run::covering(range.run().addr(), arena.scratch_bytes()).unwrap();
    // SAFETY: the arena is the test's own, and nothing else uses it.
    unsafe { Heirloom::boot(arena, &[(range.run(), range.node())], &[scratch], "arena") }.unwrap()
}

#[test]
fn ranges_lie_where_huge_pages_can_be_mapped() {
    let small = 16 * PAGE;
    let starts = [0x1_0000_0000, 0x1_4000_0000, 0x2_0000_0000 + HUGE / 2, 0x20_0000_0000];
    let bytes = [4 * HUGE, small, 2 * HUGE, HUGE];
    let spec =
        |i: usize| RangeSpec { start: PhysAddr::new(starts[i]), bytes: bytes[i], node: NodeId(0) };
    let arena = Arena::create("arena pages", &[spec(0), spec(1), spec(2), spec(3)]).unwrap();
    for range in arena.ranges().iter().filter(|range| range.run().bytes() >= HUGE) {
        let run = range.run();
        assert_eq!(
            range.offset() % HUGE,
            run.addr().get() % HUGE,
            "{run} at {:#x}",
            range.offset()
        );
        let seen = arena.ptr(run.addr()).addr().get() as u64;
        assert_eq!(seen % HUGE, run.addr().get() % HUGE, "{run} seen at {seen:#x}");
    }
    // A small range costs no hole, and the first page alone was written.
    assert_eq!(arena.ranges()[1].offset(), arena.ranges()[0].offset() + 4 * HUGE);
    assert_eq!(spent(&arena), PAGE);
    let inside = Run::new(arena.ranges()[2].run().start().add(3), 2).unwrap();
    assert_eq!(arena.offset_of(inside), Some(arena.ranges()[2].offset() + 3 * PAGE));
    assert_eq!(arena.offset_of(Run::new(inside.start(), 1 << 30).unwrap()), None);
}

/// `MADV_COLLAPSE` does at once what the system's own thread does in time: it maps huge pages where there
/// can be any.
#[test]
fn the_system_maps_huge_pages() {
    let arena = of_bytes(0x1_0000_0000, 4 * HUGE);
    let run = arena.ranges()[0].run();
    arena.prefault(run).unwrap();
    let at = arena.ptr(run.addr()).as_ptr().cast();
    // SAFETY: memory of the test's own; collapsing it changes no byte.
    let collapsed = unsafe { libc::madvise(at, 4 * HUGE as usize, libc::MADV_COLLAPSE) };
    if collapsed != 0 {
        let error = std::io::Error::last_os_error();
        let has_huge = std::fs::exists("/sys/kernel/mm/transparent_hugepage/shmem_enabled");
        // `EINVAL`: not there. Anything else: not now, for want of memory in one piece, say.
        let never = error.raw_os_error() == Some(libc::EINVAL);
        assert!(!never || !has_huge.unwrap(), "there are huge pages, and the arena gets none");
        println!("no huge pages: {error}");
        return;
    }
    let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let mapped = smaps.split("memfd:arena pages").skip(1).filter_map(|part| {
        let line = part.lines().find(|line| line.starts_with("ShmemPmdMapped:"))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    });
    assert!(mapped.sum::<u64>() << 10 >= 4 * HUGE, "{smaps}");
    assert_eq!(arena.advise_huge(), Ok(()));
}

#[test]
fn memory_is_there_once_it_was_asked_for() {
    let arena = of_bytes(0x1_0000_0000, 16 * PAGE);
    let run = arena.ranges()[0].run();
    write(&arena, run.addr(), 7);
    assert_eq!(spent(&arena), 2 * PAGE);
    arena.prefault(run).unwrap();
    assert_eq!(spent(&arena), 17 * PAGE);
    assert_eq!(read(&arena, run.addr()), 7);
    arena.lock(Run::new(run.start(), 1).unwrap()).unwrap();
    let locked = std::fs::read_to_string("/proc/self/status").unwrap();
    let locked = locked.lines().find(|line| line.starts_with("VmLck:")).unwrap().to_owned();
    assert!(!locked.ends_with(" 0 kB"), "{locked}");
    let beyond = Run::new(run.start(), 17).unwrap();
    assert_eq!(arena.prefault(beyond), Err(ArenaError::NotInArena { run: beyond }));
    assert_eq!(arena.lock(beyond), Err(ArenaError::NotInArena { run: beyond }));
}

#[test]
fn free_memory_goes_back_and_what_is_in_use_stays() {
    let arena = of_bytes(0x1_0000_0000, 64 * HUGE);
    let heirloom = boot(&arena);
    let untouched = spent(&arena);
    let size = 3 * 64 * 1024;
    let pattern = |i: usize| (i % 251) as u8 + 1;
    let buffers: Vec<_> = (0..400)
        .map(|i| {
            let buffer = heirloom.alloc(size).unwrap();
            // SAFETY: the buffer's bytes, which nothing else reaches.
            unsafe { buffer.write_bytes(pattern(i), size) };
            buffer
        })
        .collect();
    let full = spent(&arena);
    assert!(full >= untouched + 400 * size as u64, "{full} of {untouched}");
    // Every third is freed, and lies between two that are in use.
    for buffer in buffers.iter().step_by(3) {
        // SAFETY: freed once, and not used again.
        unsafe { heirloom.free(*buffer) }.unwrap();
    }
    let given = arena.trim(heirloom.memory()).unwrap();
    let after = spent(&arena);
    let freed = 134 * size as u64;
    assert!(given >= freed / 2 && full - after >= freed / 2, "{given} given, {full} to {after}");
    for (i, buffer) in buffers.iter().enumerate().filter(|(i, _)| i % 3 != 0) {
        // SAFETY: written above, and in use.
        let bytes = unsafe { core::slice::from_raw_parts(buffer.as_ptr(), size) };
        assert!(bytes.iter().all(|byte| *byte == pattern(i)), "buffer {i}");
        // SAFETY: freed once, and not used again.
        unsafe { heirloom.free(*buffer) }.unwrap();
    }
    arena.trim(heirloom.memory()).unwrap();
    let empty = spent(&arena);
    assert!(empty < untouched + 4 * HUGE, "{empty} bytes are kept for nothing, {untouched} before");
    // Nothing is there to be given twice, and the memory is whole.
    assert_eq!(arena.trim(heirloom.memory()).unwrap(), 0);
    let again = heirloom.alloc(60 * HUGE as usize).unwrap();
    // SAFETY: as above.
    unsafe { heirloom.free(again) }.unwrap();
    let other = of_bytes(0x1_0000_0000, 64 * HUGE);
    let run = other.ranges()[0].run();
    assert_eq!(other.trim(heirloom.memory()), Err(ArenaError::NotInArena { run }));
}

#[test]
fn memory_goes_back_beside_threads_that_use_it() {
    let arena = of_bytes(0x1_0000_0000, 32 * HUGE);
    let heirloom = boot(&arena);
    let stop = core::sync::atomic::AtomicBool::new(false);
    let given = std::thread::scope(|scope| {
        for id in 1..=2_u8 {
            let (heirloom, stop) = (&heirloom, &stop);
            scope.spawn(move || {
                while !stop.load(core::sync::atomic::Ordering::Relaxed) {
                    for bytes in [200, PAGE_SIZE, 64 << 10, 1 << 20] {
                        // Refused only while the one block that fits is on its way back to the system.
                        let Ok(buffer) = heirloom.alloc(bytes) else { continue };
                        // SAFETY: the buffer's bytes, which nothing else reaches.
                        unsafe { buffer.write_bytes(id, bytes) };
                        // SAFETY: written above.
                        let seen = unsafe { core::slice::from_raw_parts(buffer.as_ptr(), bytes) };
                        assert!(
                            seen.iter().all(|byte| *byte == id),
                            "{bytes} bytes of thread {id}"
                        );
                        // SAFETY: freed once, and not used again.
                        unsafe { heirloom.free(buffer) }.unwrap();
                    }
                }
            });
        }
        let (mut given, mut rounds) = (0, 0);
        // However late the threads begin.
        while rounds < 200 || given == 0 {
            given += arena.trim(heirloom.memory()).unwrap();
            rounds += 1;
        }
        stop.store(true, core::sync::atomic::Ordering::Relaxed);
        given
    });
    assert!(given > 0);
    arena.trim(heirloom.memory()).unwrap();
    let used = heirloom.memory().stats().used() * PAGE;
    assert!(spent(&arena) < used + arena.scratch_bytes() + 8 * HUGE, "{} of {used}", spent(&arena));
}

#[test]
fn a_range_takes_its_memory_from_its_node() {
    let of_node = |node| {
        let start = PhysAddr::new(0x1_0000_0000);
        let spec = RangeSpec { start, bytes: 16 * PAGE, node: NodeId(node) };
        Arena::create("arena nodes", &[spec]).unwrap()
    };
    let arena = of_node(0);
    if let Err(error) = arena.bind_nodes() {
        // A kernel without nodes says so of each; this one has the first.
        let none = ArenaError::Os { call: "mbind", errno: libc::ENOSYS };
        assert_eq!(error, none);
        return;
    }
    let at = arena.ptr(arena.ranges()[0].run().addr());
    let mut mode = -1_i32;
    let (none, by_address) = (core::ptr::null_mut::<u64>(), 2_u64);
    // SAFETY: writes the mode, which lives as long as the call.
    let asked = unsafe {
        libc::syscall(libc::SYS_get_mempolicy, &raw mut mode, none, 0, at.as_ptr(), by_address)
    };
    assert_eq!((asked, mode), (0, libc::MPOL_BIND));
    arena.prefault(arena.ranges()[0].run()).unwrap();
    // No machine has it.
    let refused = ArenaError::Os { call: "mbind", errno: libc::EINVAL };
    assert_eq!(of_node(u16::MAX).bind_nodes(), Err(refused));
}
