//! An arena that a service uses or left, shown and cleared from outside.

mod common;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use common::{FIXTURE, Ran, heirloom};
use heirloom::Heirloom;
use heirloom::arena::{Arena, RangeSpec};
use heirloom::folio::{Cpus, DirectMap, NodeId, Request};
use heirloom::jump::Jump;
use heirloom::kho::{Handle, Order, Parts, PhysAddr, Run};
use heirloom::slab::CacheSpec;
use heirloom_collections::{Log, Map, Pool};

const START: PhysAddr = PhysAddr::new(4 << 30);
const BYTES: u64 = 16 << 20;

/// The path by which another process finds a file of this one's.
fn path(file: &impl AsFd) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), file.as_fd().as_raw_fd())
}

fn status(path: &str) -> serde_json::Value {
    let ran = heirloom(&["status", "--json", path]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{ran:?}");
    ran.json()
}

/// A kernel on a new arena, with ten objects that survive and a root.
fn kernel(name: &str) -> Heirloom<Arena> {
    let spec = RangeSpec { start: START, bytes: BYTES, node: NodeId(0) };
    let arena = Arena::create(name, &[spec]).unwrap();
    let map = [(arena.ranges()[0].run(), NodeId(0))];
    let bytes = Heirloom::<Arena>::scratch_bytes(&map, arena.count()) as u64;
    let scratch = Run::covering(START, bytes).unwrap();
    // SAFETY: the arena is new, and nothing else uses it.
    let kernel = unsafe { Heirloom::boot(arena, &map, &[scratch], "service 1.0") }.unwrap();
    kernel.memory().machine().leave(kernel.entry()).unwrap();
    let cache = kernel.slabs().cache(CacheSpec::new("notes", 96).preserving(true)).unwrap();
    for _ in 0..10 {
        cache.alloc_zeroed().unwrap();
    }
    kernel.publish("notes", b"where the notes are").unwrap();
    kernel
}

#[test]
fn the_status_of_an_arena_says_by_which_process_it_is_used_and_what_survives() {
    let kernel = kernel("status-used");
    let file = kernel.memory().machine().share().unwrap();
    let told = status(&path(&file));
    assert_eq!(told["owner"]["pid"], std::process::id());
    let program = std::fs::read_to_string("/proc/self/comm").unwrap();
    assert_eq!(told["owner"]["program"], program.trim_end());
    assert_eq!(told["bytes"], BYTES);
    let resident = told["resident"].as_u64().unwrap();
    assert!(resident > 0 && resident < BYTES, "{resident}");
    let handover = &told["handover"];
    assert_eq!(
        (&handover["producer"], &handover["generation"]),
        (&"service 1.0".into(), &0.into())
    );
    let [preserved, scratch, free] =
        ["preserved", "scratch", "free"].map(|name| handover[name].as_u64().unwrap());
    assert_eq!(preserved + scratch + free, BYTES);
    assert!(preserved > 10 * 96 && scratch > 0);
    assert_eq!(
        (&handover["roots"][0]["name"], &handover["roots"][0]["bytes"]),
        (&"notes".into(), &19.into())
    );
    let caches = handover["caches"].as_array().unwrap();
    let notes = caches.iter().find(|cache| cache["name"] == "notes").unwrap();
    assert_eq!((&notes["objects"], &notes["object_size"]), (&10.into(), &96.into()));
    assert_eq!(handover["findings"], serde_json::json!([]));

    let ran = heirloom(&["status", &path(&file)]);
    assert_eq!(ran.code, 0);
    for line in [
        format!("  owner      process {} ({})\n", std::process::id(), program.trim_end()),
        "  handover   by service 1.0, generation 0\n".to_owned(),
        "  memory     16 MiB, ".to_owned(),
        "  root       notes at 0x".to_owned(),
        "  cache      notes: 10 objects of 96 bytes, ".to_owned(),
        "  check      in order\n".to_owned(),
    ] {
        assert!(ran.out.contains(&line), "{line:?} in {}", ran.out);
    }
}

#[test]
fn the_handles_of_a_root_are_named_however_many_it_holds() {
    let kernel = kernel("status-handles");
    let pool = Pool::open(kernel.slabs()).unwrap();
    let map = Map::<_>::create(&pool, 7).unwrap();
    let mut log = Log::create(&pool).unwrap();
    log.append(b"a record").unwrap();
    let folio = kernel.memory().alloc_folio(Request::new(Order::ZERO).zeroed()).unwrap();
    let folio = Parts::Folio(folio.preserve().unwrap().into_raw());
    let folio = <[u8; 16]>::from(Handle::new(folio).unwrap());
    let [map_handle, log_handle] = [map.handle(), log.handle()].map(<[u8; 16]>::from);
    kernel.publish("one", &map_handle).unwrap();
    let several = [&map_handle[..], &log_handle, &log_handle, &folio].concat();
    kernel.publish("several", &several).unwrap();
    kernel.publish("beside", &[&[7; 8][..], &log_handle].concat()).unwrap();
    drop((map, log));
    let file = kernel.memory().machine().share().unwrap();
    let told = status(&path(&file));
    let root = |name: &str| {
        let roots = told["handover"]["roots"].as_array().unwrap().iter();
        roots.clone().find(|root| root["name"] == name).unwrap().clone()
    };
    assert_eq!((&root("one")["handle"], root("one").get("handles")), (&"object".into(), None));
    let of = |offset: u64, handle: &str, container: &str| serde_json::json!({ "offset": offset, "handle": handle, "container": container });
    let folio = serde_json::json!({ "offset": 48, "handle": "folio" });
    assert_eq!(
        root("several")["handles"],
        serde_json::json!([
            of(0, "object", "map"),
            of(16, "object", "log"),
            of(32, "object", "log"),
            folio
        ])
    );
    assert_eq!(root("beside")["handles"], serde_json::json!([of(8, "object", "log")]));
    let ran = heirloom(&["status", &path(&file)]);
    for (name, holds) in [
        ("one", "16 B: handle of an object\n"),
        ("several", "64 B: handles of 1 map, 2 logs, 1 folio\n"),
        ("beside", "24 B: handle of 1 log\n"),
    ] {
        let line =
            ran.out.lines().find(|line| line.contains(&format!("  root       {name} at 0x")));
        assert!(
            line.is_some_and(|line| format!("{line}\n").ends_with(holds)),
            "{name}: {}",
            ran.out
        );
    }
}

#[test]
fn an_arena_at_rest_says_so() {
    let file = {
        let kernel = kernel("status-rest");
        kernel.memory().machine().share().unwrap()
    };
    let told = status(&path(&file));
    assert_eq!(told["owner"], serde_json::Value::Null);
    assert_eq!(told["handover"]["roots"][0]["name"], "notes");
    let ran = heirloom(&["status", &path(&file)]);
    assert!(ran.out.contains("  owner      none that can be seen from here\n"), "{ran:?}");
}

/// Tells this program that it is the process that takes the lock on its input.
const LOCKS: &str = "HEIRLOOM_TEST_LOCKS";

/// As in another pid namespace: the lock is held, and the process that took it is none that is there.
#[test]
fn an_arena_whose_owner_is_not_to_be_seen_is_neither_said_to_be_at_rest_nor_cleared() {
    const TEST: &str =
        "an_arena_whose_owner_is_not_to_be_seen_is_neither_said_to_be_at_rest_nor_cleared";
    if std::env::var_os(LOCKS).is_some() {
        File::from(std::io::stdin().as_fd().try_clone_to_owned().unwrap()).lock().unwrap();
        return;
    }
    let file = {
        let kernel = kernel("status-unseen");
        kernel.memory().machine().share().unwrap()
    };
    // What is locked is this open file, which that process has but for its life.
    let locked = File::open(path(&file)).unwrap();
    let mut owner = Command::new(std::env::current_exe().unwrap());
    owner.args([TEST, "--exact"]).env(LOCKS, "").stdin(locked.try_clone().unwrap());
    assert!(owner.output().unwrap().status.success());
    let told = status(&path(&file));
    assert_eq!(told["owner"], serde_json::Value::Null);
    let ran = heirloom(&["status", &path(&file)]);
    assert!(ran.out.contains("  owner      none that can be seen from here\n"), "{ran:?}");
    let ran = heirloom(&["clear", &path(&file)]);
    assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{ran:?}");
    assert!(ran.err.contains("a process that cannot be seen from here has the arena"), "{ran:?}");
    assert_eq!(status(&path(&file))["handover"], told["handover"]);
    drop(locked);
}

#[test]
fn an_arena_that_is_used_is_not_cleared_and_the_process_is_named() {
    let kernel = kernel("clear-used");
    let file = kernel.memory().machine().share().unwrap();
    let before = status(&path(&file));
    let ran = heirloom(&["clear", &path(&file)]);
    assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{ran:?}");
    let named = format!("process {} (", std::process::id());
    assert!(ran.err.contains(&named) && ran.err.contains("uses it: end that first"), "{ran:?}");
    assert_eq!(status(&path(&file)), before);
}

/// A service lends its arena to a successor, which does not come to be: what `clear` did meanwhile it is told.
#[test]
fn a_service_whose_arena_was_cleared_while_it_was_lent_is_told_that_it_lost_it() {
    let kernel = kernel("clear-lent");
    let file = kernel.memory().machine().share().unwrap();
    // Between `fork` and `exec` the child says that it is there, and waits for a byte.
    let (mut lent, says) = std::io::pipe().unwrap();
    let (waits, goes_on) = std::io::pipe().unwrap();
    let mut successor = Command::new("/no/such/successor");
    let pause = move || {
        (&says).write_all(b"1")?;
        (&waits).read_exact(&mut [0])
    };
    // SAFETY: two system calls.
    unsafe { successor.pre_exec(pause) };
    let jump = Jump::new(kernel.memory().machine(), kernel.entry()).unwrap();
    std::thread::scope(|scope| {
        let cleared = scope.spawn(|| {
            lent.read_exact(&mut [0]).unwrap();
            let ran = heirloom(&["clear", &path(&file)]);
            (&goes_on).write_all(b"1").unwrap();
            ran
        });
        // SAFETY: nothing uses the memory meanwhile, nor from then on: the kernel is forgotten.
        let error = unsafe { jump.spawn(successor) }.unwrap_err();
        let Ran { code, out, err } = cleared.join().unwrap();
        assert_eq!((code, out.as_str(), err.as_str()), (0, "", ""));
        assert_eq!(error.kind(), std::io::ErrorKind::ResourceBusy, "{error}");
    });
    std::mem::forget(kernel);
    let told = status(&path(&file));
    assert_eq!(
        (&told["owner"], &told["handover"]),
        (&serde_json::Value::Null, &serde_json::Value::Null)
    );
}

#[test]
fn an_arena_that_was_cleared_is_there_and_has_nothing() {
    let kernel = kernel("clear-rest");
    let file = kernel.memory().machine().share().unwrap();
    // Also what no handover leads to.
    let last = PhysAddr::new(START.get() + BYTES - 1);
    // SAFETY: in the range; the allocator takes memory from its start, and this test from nowhere else.
    unsafe { kernel.memory().machine().ptr(last).write(7) };
    drop(kernel);
    let Ran { code, out, err } = heirloom(&["clear", &path(&file)]);
    assert_eq!((code, out.as_str(), err.as_str()), (0, "", ""));
    let told = status(&path(&file));
    assert_eq!(told["handover"], serde_json::Value::Null);
    // The page that says that it is an arena.
    assert_eq!(told["resident"], 4096);
    let ran = heirloom(&["status", &path(&file)]);
    assert!(ran.out.contains("  handover   none: the next begins with nothing\n"), "{ran:?}");
    let arena = Arena::open(file).unwrap();
    assert_eq!(arena.entry(), Ok(None));
    // SAFETY: in the range, and nothing else uses it.
    assert_eq!(unsafe { arena.ptr(last).read() }, 0);
}

#[test]
fn what_is_no_arena_is_told() {
    for command in ["status", "clear"] {
        let ran = heirloom(&[command, FIXTURE]);
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{ran:?}");
        assert!(ran.err.starts_with("error: ") && ran.err.contains("image.elf: "), "{ran:?}");
        let ran = heirloom(&[command, "4294967295"]);
        assert_eq!((ran.code, ran.err.as_str()), (2, "error: there is no process 4294967295\n"));
    }
}
