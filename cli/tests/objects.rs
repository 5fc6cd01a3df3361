//! What heirloom's caches hold: named by root, handle or address, listed, extracted, and compared.

mod common;

use std::io::Read;
use std::time::Instant;

use common::{Temporary, heirloom};
use heirloom::Heirloom;
use heirloom::arena::{Arena, RangeSpec};
use heirloom::folio::{Cpus, NodeId};
use heirloom::kho::Run;
use heirloom::slab::{CacheSpec, persist};
use heirloom_collections::{Log, Map, Pool, Vec as Elements};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

#[derive(Clone, Copy, PartialEq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Point {
    x: u32,
    y: u32,
}
persist!(Point { x, y });

/// What an arena holds, and where.
struct Made {
    bytes: Vec<u8>,
    /// The object that root `name` names.
    object: u64,
    handle: String,
}

/// Entries of the larger map: several for each bucket, and more buckets than a segment has.
const MANY: u32 = 3000;

/// A kernel on a new arena.
fn boot() -> Heirloom<Arena> {
    let start = heirloom::kho::PhysAddr::new(8 << 30);
    let spec = RangeSpec { start, bytes: 8 << 20, node: NodeId(0) };
    let arena = Arena::create("objects", &[spec]).unwrap();
    let map = [(arena.ranges()[0].run(), NodeId(0))];
    let bytes = Heirloom::<Arena>::scratch_bytes(&map, arena.count()) as u64;
    let scratch = Run::covering(start, bytes).unwrap();
    // SAFETY: the arena is new, and nothing else uses it.
    unsafe { Heirloom::boot(arena, &map, &[scratch], "example 2.0") }.unwrap()
}

/// All of the kernel's arena, with its entry.
fn copy(kernel: &Heirloom<Arena>) -> Vec<u8> {
    let arena = kernel.memory().machine();
    arena.leave(kernel.entry()).unwrap();
    let mut copy = Vec::new();
    std::fs::File::from(arena.share().unwrap()).read_to_end(&mut copy).unwrap();
    copy
}

/// Returns the image of an arena whose kernel filled a map by `fill`, and published it.
fn with_map(fill: impl FnOnce(&mut Map<'_, Arena>)) -> Vec<u8> {
    let kernel = boot();
    let pool = Pool::open(kernel.slabs()).unwrap();
    let mut items = Map::<_>::create(&pool, 7).unwrap();
    fill(&mut items);
    kernel.publish("items", &<[u8; 16]>::from(items.handle())).unwrap();
    copy(&kernel)
}

/// An arena whose kernel published a map, a log, a vector, an object, two maps under one name, and handles among other bytes;
/// `changed`: with another value in the map.
fn made(changed: bool) -> Made {
    let kernel = boot();
    let names = kernel.slabs().cache(CacheSpec::new("names", 64)).unwrap();
    let name = names.alloc_zeroed().unwrap();
    // SAFETY: 64 bytes that were allocated just now.
    unsafe { name.copy_from_nonoverlapping(std::ptr::NonNull::from(b"a name").cast(), 6) };
    // SAFETY: allocated above, in use.
    let handle = unsafe { kernel.preserve(name) }.unwrap();
    let object = handle.parts().map(|parts| match parts {
        heirloom::kho::Parts::Object { addr, .. } => addr.get(),
        other => panic!("{other:?}"),
    });
    let handle = <[u8; 16]>::from(handle);
    kernel.publish("name", &handle).unwrap();

    let pool = Pool::open(kernel.slabs()).unwrap();
    let mut items = Map::<_>::create(&pool, 0x5eed).unwrap();
    items.insert(b"one", if changed { b"other" } else { b"first" }).unwrap();
    items.insert(b"two", b"").unwrap();
    items.insert(b"\xff\x00", b"binary").unwrap();
    if changed {
        items.insert(b"three", b"new").unwrap();
    }
    let item_handle = <[u8; 16]>::from(items.handle());
    kernel.publish("items", &item_handle).unwrap();
    let mut many = Map::<_>::create(&pool, 0x5eed).unwrap();
    for n in 0..MANY {
        many.insert(format!("key {n}").as_bytes(), &n.to_le_bytes()).unwrap();
    }
    let many_handle = <[u8; 16]>::from(many.handle());
    kernel.publish("several", &[item_handle, many_handle].concat()).unwrap();
    let mixed = [&7_u64.to_le_bytes()[..], &many_handle, &[1; 3]].concat();
    kernel.publish("mixed", &mixed).unwrap();
    let mut log = Log::create(&pool).unwrap();
    for n in 0..1000_u32 {
        log.append(format!("record {n}").repeat(3).as_bytes()).unwrap();
    }
    for _ in 0..900 {
        assert!(log.pop_front().unwrap());
    }
    kernel.publish("log", &<[u8; 16]>::from(log.handle())).unwrap();
    let mut points = Elements::<Point, _>::create(&pool).unwrap();
    for n in 0..5000 {
        points.push(Point { x: n, y: !n }).unwrap();
    }
    kernel.publish("points", &<[u8; 16]>::from(points.handle())).unwrap();
    drop((items, many, log, points));
    kernel.seal().unwrap();
    let handle = format!("{:032x}", u128::from_be_bytes(handle));
    Made { bytes: copy(&kernel), object: object.unwrap(), handle }
}

/// The bytes that are extracted.
fn extracted(arena: &str, arguments: &[&str]) -> Vec<u8> {
    let to = Temporary::path();
    let ran = heirloom(&[&["extract", arena, "-o", to.as_str()], arguments].concat());
    assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (0, "", ""), "{arguments:?}");
    to.read()
}

#[test]
fn an_object_is_extracted_by_name_by_handle_and_by_address() {
    let Made { bytes, object, handle } = made(false);
    let file = Temporary::new(&bytes);
    let mut expected = vec![0; 64];
    expected[..6].copy_from_slice(b"a name");
    let within = format!("{:#x}", object + 63);
    for name in ["name", "name[0]", &handle, &format!("{object:#x}"), &within] {
        assert_eq!(extracted(file.as_str(), &["--object", name]), expected, "{name}");
    }
    let ran = heirloom(&["list", file.as_str(), "--cache", "names"]);
    assert_eq!(ran.out.split_whitespace().next(), Some(&*format!("{object:#x}")), "{ran:?}");
    assert_eq!(ran.out.lines().count(), 1);
    for (name, why) in [
        ("nothing", "no root nothing; there are name, items, several, mixed, log, points"),
        ("several", "root several holds 2 handles: several[0] is the first, several[1] the last"),
        ("several[2]", "root several holds 2 handles, the first is several[0]"),
        ("0x10", "no object that survives is around 0x10"),
        ("items", "items is a map: --entry says which entry; `heirloom list` shows them"),
        (&handle.replace('0', "1"), "these 32 digits are no handle: its check is wrong"),
    ] {
        let ran = heirloom(&["extract", file.as_str(), "--object", name, "-o", "/nonexistent/x"]);
        assert_eq!((ran.code, ran.err.as_str()), (2, &*format!("error: {why}\n")));
    }
}

#[test]
fn what_is_in_a_container_is_listed_and_extracted() {
    let file = Temporary::new(&made(false).bytes);
    let list = |arguments: &[&str]| -> Vec<serde_json::Value> {
        let ran = heirloom(&[&["list", file.as_str(), "--json"], arguments].concat());
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{arguments:?}");
        ran.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let keys = |arguments: &[&str]| -> Vec<String> {
        let mut keys: Vec<_> =
            list(arguments).iter().map(|of| of["key"].as_str().unwrap().to_owned()).collect();
        keys.sort_unstable();
        keys
    };
    assert_eq!(keys(&["items"]), ["0xff00", "one", "two"]);
    assert_eq!(keys(&["several[0]"]), keys(&["items"]));
    let mut all: Vec<_> = (0..MANY).map(|n| format!("key {n}")).collect();
    all.sort_unstable();
    assert_eq!(keys(&["several[1]"]), all);
    assert_eq!(keys(&["mixed[0]"]), all);
    let of =
        |object: &str, key: &str| extracted(file.as_str(), &["--object", object, "--entry", key]);
    assert_eq!(of("items", "one"), b"first");
    assert_eq!(of("items", "two"), b"");
    assert_eq!(of("items", "0xff00"), b"binary");
    assert_eq!(of("several[1]", "key 2999"), 2999_u32.to_le_bytes());
    let records = list(&["log"]);
    assert_eq!((records.len(), records[0]["key"].as_str()), (100, Some("900")));
    assert_eq!(of("log", "999"), "record 999".repeat(3).as_bytes());
    let elements = list(&["points"]);
    assert_eq!((elements.len(), &elements[0]["bytes"]), (5000, &8.into()));
    assert_eq!(list(&["points", "--element", "8"]), elements);
    let point = ["--object", "points", "--entry", "4321"];
    let expected = Point { x: 4321, y: !4321 };
    assert_eq!(extracted(file.as_str(), &point), expected.as_bytes());
    for (arguments, why) in [
        (&["points", "--element", "4"][..], "the vector's elements have 8 bytes each"),
        (&["--cache", "inodes"], "no cache inodes; there are "),
        (&["items[1]"], "root items holds 1 handles, the first is items[0]"),
    ] {
        let ran = heirloom(&[&["list", file.as_str()], arguments].concat());
        assert_eq!(ran.code, 2);
        assert!(ran.err.contains(why), "{ran:?}");
    }
    let ran =
        heirloom(&["extract", file.as_str(), "--object", "items", "--entry", "no", "-o", "-"]);
    assert_eq!((ran.code, &*ran.err), (2, "error: the map has nothing of the key no\n"));
}

#[test]
fn a_root_of_several_handles_is_shown_and_diff_follows_what_they_name() {
    let (one, other) = (Temporary::new(&made(false).bytes), Temporary::new(&made(true).bytes));
    let ran = heirloom(&["inspect", "--color", "never", one.as_str()]);
    for said in [
        ", of cache collections-heads: map of 3 entries\n",
        ", of cache collections-heads: log of 100 records\n",
        ", of cache collections-heads: vector of 5000 elements\n",
        ", of cache names\n",
        "  2 handles\n",
        "  1 handle\n    byte 8     object at ",
        ": map of 3000 entries\n",
    ] {
        assert!(ran.out.contains(said), "{said}: {ran:?}");
    }
    let json = heirloom(&["inspect", "--json", one.as_str()]).json();
    let items = &json["subtrees"]["items"];
    assert_eq!(
        (items["handle"].as_str(), &items["container"]["kind"]),
        (Some("object"), &"map".into())
    );
    assert_eq!(items["container"]["listed"]["one"]["bytes"], 5);
    let several = &json["subtrees"]["several"]["handles"];
    assert_eq!(several[1]["container"]["entries"], MANY);
    let diff = |more: &[&str]| {
        let arguments = [&["diff", "--color", "never", one.as_str(), other.as_str()], more];
        let ran = heirloom(&arguments.concat());
        assert_eq!((ran.code, ran.err.as_str()), (1, ""), "{ran:?}");
        ran.out
    };
    let said = diff(&[]);
    assert!(said.contains("+ items.container.listed.three "), "{said}");
    assert!(said.contains("~ items.container.entries 3 -> 4\n"), "{said}");
    assert!(!said.contains("listed.one"), "{said}");
    let said = diff(&["--contents"]);
    assert!(said.contains("~ items.container.listed.one.sha256 "), "{said}");
    assert!(!said.contains("listed.two") && !said.contains("several[1]"), "{said}");
}

/// Whatever words stand in a container: nothing is read beyond it, and nothing goes on without end.
#[test]
fn a_container_that_was_tampered_with_is_refused_or_listed() {
    let whole = made(false).bytes;
    let file = Temporary::new(&whole);
    let json = heirloom(&["inspect", "--json", "--quick", file.as_str()]).json();
    // As an older build made it.
    let head = json["subtrees"]["points"]["addr"].as_str().unwrap();
    let element = offset_of(&file, usize::from_str_radix(&head[2..], 16).unwrap()) + 7 * 8;
    let mut old = whole.clone();
    old[element..element + 8].fill(0);
    let old = Temporary::new(&old);
    let ran = heirloom(&["list", old.as_str(), "points"]);
    assert_eq!((ran.code, ran.out.as_str()), (2, ""));
    assert!(ran.err.contains("as an older build made it: --element does"), "{ran:?}");
    let ran = heirloom(&["list", old.as_str(), "points", "--element", "8"]);
    assert_eq!((ran.code, ran.out.lines().count()), (0, 5000), "{}", ran.err);
    let old = heirloom(&["inspect", "--json", "--quick", old.as_str()]).json();
    let of = |json: &serde_json::Value| json["subtrees"]["points"]["container"].clone();
    assert_eq!(
        (&of(&old)["entries"], &of(&old)["listed"]),
        (&5000.into(), &serde_json::Value::Null)
    );
    assert_eq!(of(&json)["listed"]["4999"]["bytes"], 8);
    for (root, element) in [("items", None), ("log", None), ("points", None), ("points", Some("8"))]
    {
        let head = json["subtrees"][root]["addr"].as_str().unwrap();
        let head = usize::from_str_radix(&head[2..], 16).unwrap();
        let offset = offset_of(&file, head);
        for word in [0_usize, 4, 5, 7, 10, 32, 33, 96] {
            for value in [0, 1, u64::MAX, head as u64 / 16, (3 << 48) | (head as u64 / 16)] {
                let mut bytes = whole.clone();
                bytes[offset + word * 8..][..8].copy_from_slice(&value.to_le_bytes());
                let hit = Temporary::new(&bytes);
                let more = element.map(|bytes| ["--element", bytes]);
                let more = more.as_ref().map_or(&[][..], |more| more);
                let ran = heirloom(&[&["list", hit.as_str(), root], more].concat());
                assert!(
                    ran.code == 0 || ran.code == 2 && ran.err.starts_with("error: "),
                    "{ran:?}"
                );
                assert!(ran.out.lines().count() <= 70_000, "{root} {word} {value:#x}");
            }
        }
    }
}

/// A bucket's lines can be forged to lead to one line for ever, and its links to one entry.
#[test]
fn a_map_whose_lines_lead_back_to_one_before_comes_to_an_end() {
    let whole = made(false).bytes;
    let file = Temporary::new(&whole);
    let json = heirloom(&["inspect", "--json", "--quick", file.as_str()]).json();
    let head = json["subtrees"]["several"]["handles"][1]["addr"].as_str().unwrap();
    let head = usize::from_str_radix(&head[2..], 16).unwrap();
    let offset = offset_of(&file, head);
    let word = |at: usize| u64::from_le_bytes(whole[at..at + 8].try_into().unwrap());
    let led = |link: u64| ((link & ((1 << 48) - 1)) * 16) as usize;
    let place = |addr: usize| offset + addr - head;
    // The first line of a bucket that has another one behind it.
    let segment = place(led(word(offset + 32 * 8)));
    let lines = (1..=254).map(|line| segment + line * 64);
    let more = lines.map(|line| word(line + 56)).find(|next| *next != 0).unwrap();
    let line = place(led(more)) + 16;
    let mut bytes = whole.clone();
    bytes[line + 56..line + 64].copy_from_slice(&more.to_le_bytes());
    let entry = (0..7).map(|slot| word(line + slot * 8)).find(|link| *link != 0).unwrap();
    for slot in 0..7 {
        bytes[line + slot * 8..][..8].copy_from_slice(&entry.to_le_bytes());
    }
    let hit = Temporary::new(&bytes);
    let ran = heirloom(&["list", hit.as_str(), "several[1]"]);
    assert_eq!(
        (ran.code, &*ran.err),
        (2, "error: the map is not sound: it leads to more than all that is preserved\n")
    );
    let ran = heirloom(&["inspect", "--color", "never", hit.as_str()]);
    assert_eq!(ran.code, 0);
    assert!(
        ran.out.contains("not sound: it leads to more than all that is preserved\n"),
        "{ran:?}"
    );
}

/// What a head begins with is written by `heirloom-collections` and read here.
#[test]
fn containers_of_each_kind_are_known_by_what_the_collections_write() {
    let file = Temporary::new(&made(false).bytes);
    let json = heirloom(&["inspect", "--json", "--quick", file.as_str()]).json();
    for (root, kind) in [("items", "map"), ("points", "vector"), ("log", "log")] {
        let root = &json["subtrees"][root];
        let head = usize::from_str_radix(&root["addr"].as_str().unwrap()[2..], 16).unwrap();
        let magic = file.read()[offset_of(&file, head)..][..8].escape_ascii().to_string();
        assert_eq!(root["container"]["kind"], kind, "{magic}");
    }
}

/// The words of a map with 82 entries, of which the last added bucket 16, in the bytes of its arena.
struct Words {
    bytes: Vec<u8>,
    head: usize,
    /// From an address to a place.
    back: usize,
}

const FEW: usize = 82;

impl Words {
    fn new() -> Self {
        let file = Temporary::new(&with_map(|map| {
            for n in 0..FEW {
                map.insert(format!("key {n}").as_bytes(), b"value").unwrap();
            }
        }));
        let json = heirloom(&["inspect", "--json", "--quick", file.as_str()]).json();
        let head = json["subtrees"]["items"]["addr"].as_str().unwrap();
        let addr = usize::from_str_radix(&head[2..], 16).unwrap();
        let head = offset_of(&file, addr);
        let words = Self { bytes: file.read(), head, back: addr - head };
        assert_eq!(words.get(head + 4 * 8), 17, "one bucket was added");
        words
    }

    fn get(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.bytes[at..at + 8].try_into().unwrap())
    }

    fn set(&mut self, at: usize, word: u64) {
        self.bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
    }

    /// Where the words of a bucket's first line are.
    fn line(&self, bucket: usize) -> [usize; 7] {
        let segment = (self.get(self.head + 32 * 8) & ((1 << 48) - 1)) as usize * 16 - self.back;
        std::array::from_fn(|word| segment + 64 + 64 * bucket + 8 * word)
    }

    /// Each key is listed once.
    fn check(&self) {
        let file = Temporary::new(&self.bytes);
        let ran = heirloom(&["list", file.as_str(), "items"]);
        let mut keys: Vec<_> =
            ran.out.lines().map(|line| line.split("  ").last().unwrap()).collect();
        keys.sort_unstable();
        let mut expected: Vec<_> = (0..FEW).map(|n| format!("key {n}")).collect();
        expected.sort_unstable();
        assert_eq!(keys, expected, "{}", ran.err);
    }
}

/// A kernel ended behind the store by which a bucket was added: what it took is in its parent still, which the next kernel clears.
#[test]
fn what_was_moved_to_a_new_bucket_when_a_kernel_ended_is_listed_once() {
    let mut words = Words::new();
    words.check();
    let moved = words.line(16).map(|at| words.get(at));
    let moved = moved.into_iter().find(|link| *link != 0).unwrap();
    let free = words.line(0).into_iter().find(|at| words.get(*at) == 0).unwrap();
    words.set(free, moved);
    words.check();
}

/// A kernel ended while it moved a link within its bucket, which the head names.
#[test]
fn what_was_moved_within_its_bucket_when_a_kernel_ended_is_listed_once() {
    let mut words = Words::new();
    let line = words.line(16);
    let moved = line.map(|at| words.get(at)).into_iter().find(|link| *link != 0).unwrap();
    let free = line.into_iter().find(|at| words.get(*at) == 0).unwrap();
    words.set(free, moved);
    words.set(words.head + 6 * 8, moved);
    words.check();
}

/// A kernel ended in the middle of a clear, which happens as the head says so: what is linked still is none of the map's.
#[test]
fn a_map_that_was_being_cleared_when_a_kernel_ended_has_no_entries() {
    let mut words = Words::new();
    words.set(words.head, heirloom_collections::internal::MAP_CLEARED);
    let file = Temporary::new(&words.bytes);
    let ran = heirloom(&["list", file.as_str(), "items"]);
    assert_eq!((ran.code, ran.out.as_str()), (0, ""), "{}", ran.err);
    let json = heirloom(&["inspect", "--json", file.as_str()]).json();
    assert_eq!(json["subtrees"]["items"]["container"]["entries"], 0);
    let ran = heirloom(&["extract", file.as_str(), "--object", "items", "--entry", "key 1"]);
    assert_ne!(ran.code, 0, "{}", ran.out);
}

/// Where in the file of an arena with one range the byte at an address is: the only place with that head.
fn offset_of(file: &Temporary, addr: usize) -> usize {
    let bytes = file.read();
    let (start, length) = (8_usize << 30, 8 << 20);
    let at = bytes.len() - length + (addr - start);
    assert!(bytes[at..].starts_with(b"hl-"), "a head is there");
    at
}

/// The file of an arena that this process has and goes on using, for other processes.
fn shared(kernel: &Heirloom<Arena>) -> (std::fs::File, String) {
    use std::os::fd::AsRawFd;
    let arena = kernel.memory().machine();
    arena.leave(kernel.entry()).unwrap();
    let file = std::fs::File::from(arena.share().unwrap());
    let path = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
    (file, path)
}

/// What is in the middle of a change when it is looked at is looked at again. The owner rests between changes, as a service does, for as long
/// as the command takes: where it never rested so long, any number of looks could come in the middle of a change.
#[test]
fn a_container_is_listed_while_its_owner_writes() {
    use std::sync::atomic::AtomicBool;
    use std::sync::atomic::Ordering::Relaxed;
    const ENTRIES: u32 = 40;
    let kernel = boot();
    let pool = Pool::open(kernel.slabs()).unwrap();
    let mut items = Map::<_>::create(&pool, 7).unwrap();
    let value = |n: u32| vec![n as u8; 40 + n as usize * 37 % 1700];
    for n in 0..ENTRIES {
        items.insert(&n.to_be_bytes(), &value(n)).unwrap();
    }
    kernel.publish("items", &<[u8; 16]>::from(items.handle())).unwrap();
    let (_file, path) = shared(&kernel);
    let listed = Instant::now();
    assert_eq!(heirloom(&["list", &path, "items"]).code, 0);
    let look = listed.elapsed();
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut rounds = 0;
            while !ended.load(Relaxed) {
                let began = Instant::now();
                for _ in 0..16 {
                    // Each is elsewhere afterwards.
                    items.insert(&(rounds % ENTRIES).to_be_bytes(), &value(rounds)).unwrap();
                    rounds = rounds.wrapping_add(1);
                }
                let (rests, worked) = (Instant::now(), began.elapsed());
                while rests.elapsed() < look.max(20 * worked) {
                    std::thread::yield_now();
                }
            }
            rounds
        });
        for _ in 0..100 {
            let ran = heirloom(&["list", &path, "items"]);
            let lines = ran.out.lines().count();
            if ran.code != 0 || lines == 0 {
                ended.store(true, Relaxed);
                panic!("{} lines: {}", lines, ran.err);
            }
        }
        ended.store(true, Relaxed);
        assert!(writer.join().unwrap() > 0);
    });
}

/// What stays broken is said with what to do about it, if a process could mend it.
#[test]
fn what_is_broken_in_an_arena_that_is_used_is_said_with_its_user() {
    let kernel = boot();
    let pool = Pool::open(kernel.slabs()).unwrap();
    let mut items = Map::<_>::create(&pool, 7).unwrap();
    items.insert(b"key", b"value").unwrap();
    kernel.publish("items", &<[u8; 16]>::from(items.handle())).unwrap();
    let heirloom::kho::Parts::Object { addr, .. } = items.handle().parts().unwrap() else {
        panic!("a head is an object")
    };
    let (file, path) = shared(&kernel);
    // The head's first link leads to nothing.
    let start = kernel.memory().machine().ranges()[0].offset();
    let at = start + (addr.get() - (8 << 30)) + 8 * 32;
    let mut link = [0; 8];
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut link, at).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[0x55; 8], at).unwrap();
    let copied = Temporary::path();
    std::fs::copy(&path, copied.as_str()).unwrap();
    for arguments in [&["list"][..], &["extract", "-o", "-", "--entry", "key", "--object"]] {
        let run = |image: &str| match arguments {
            [list] => heirloom(&[list, image, "items"]),
            [extract, options @ ..] => heirloom(&[&[extract, image], options, &["items"]].concat()),
            [] => unreachable!("each has a command"),
        };
        let ran = run(&path);
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{ran:?}");
        assert!(ran.err.contains("the map is not sound: "), "{ran:?}");
        let user = format!("process {} uses the arena", std::process::id());
        assert!(ran.err.contains(&user) && ran.err.contains("kill -STOP"), "{ran:?}");
        let ran = run(copied.as_str());
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{ran:?}");
        assert!(ran.err.contains("the map is not sound: "), "{ran:?}");
        assert!(!ran.err.contains("uses the arena"), "{ran:?}");
    }
    std::os::unix::fs::FileExt::write_all_at(&file, &link, at).unwrap();
}
