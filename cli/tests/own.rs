//! A handover that heirloom wrote: caches, objects, an area, a seal. And what is said when a byte
//! of it changed.
#![allow(clippy::drop_non_drop, reason = "a kernel ends where it is dropped")]

mod common;

use std::sync::atomic::Ordering::Relaxed;

use common::{Core, FLBS, Temporary, arena, findings, heirloom};
use heirloom::Heirloom;
use heirloom::folio::harness::Ram;
use heirloom::folio::{Cpus, DirectMap, Folio, NodeId, Request};
use heirloom::kho::{Order, PAGE_SIZE, Pfn, Run};
use heirloom::restore::PreservedArea;
use heirloom::slab::CacheSpec;

const FRAMES: u64 = 1024;
const PAGE: u64 = PAGE_SIZE as u64;

/// What a kernel left.
struct Left {
    memory: Temporary,
    base: String,
    root: u64,
    scratch: (u64, u64),
    list: (u64, u64),
    generation: u64,
    /// A slab of `inodes`.
    slab: u64,
    bytes: Vec<u8>,
    /// Preserved frames that nothing lies in.
    spare: Vec<u64>,
}

impl Left {
    /// The arguments that name the image.
    fn place(&self) -> [&str; 3] {
        [self.memory.as_str(), "--base", &self.base]
    }

    /// The same memory with one byte turned over.
    fn with_hit(&self, addr: u64) -> Temporary {
        let mut bytes = self.bytes.clone();
        bytes[(addr - self.start()) as usize] ^= 1;
        Temporary::new(&bytes)
    }

    fn start(&self) -> u64 {
        u64::from_str_radix(&self.base[2..], 16).unwrap()
    }
}

/// A kernel boots, fills its memory, preserves `spare` folios of a frame, seals or does not, and is
/// gone.
fn leave(seal: bool, spare: u64) -> Left {
    let ranges: [(Run, NodeId); 1] = Ram::frames(FRAMES);
    let ram = Ram::over(&ranges);
    let bytes = Heirloom::<&Ram>::scratch_bytes(&ranges, ram.count()) as u64;
    let end = ranges[0].0.end().get();
    let scratch = Run::new(Pfn::new(end - bytes / PAGE), bytes / PAGE).unwrap();
    // SAFETY: the machine covers its range, and nothing else uses it.
    let kernel = unsafe { Heirloom::boot(&ram, &ranges, &[scratch], "example 1.0") }.unwrap();

    let inodes = kernel.slabs().cache(CacheSpec::new("inodes", 96).preserving(true)).unwrap();
    let objects: Vec<_> = (0..100).map(|_| inodes.alloc_zeroed().unwrap()).collect();
    assert_eq!(objects.len(), 100);
    let dentries = kernel.slabs().cache(CacheSpec::new("dentries", 200)).unwrap();
    for i in 0..10 {
        let object = dentries.alloc_zeroed().unwrap();
        if i % 2 == 0 {
            // SAFETY: in use, and nothing frees it meanwhile.
            unsafe { kernel.preserve(object) }.unwrap();
        }
    }
    let one = Order::new(1).unwrap();
    let folios = [(); 3].map(|()| kernel.memory().alloc_folio(Request::new(one)).unwrap());
    let area = folios.iter().map(Folio::extent);
    // SAFETY: allocated by this test, and told to nothing else.
    unsafe { PreservedArea::preserve(kernel.memory(), area, one, false) }.unwrap().into_raw();
    for folio in folios {
        folio.into_raw();
    }
    let spare = (0..spare).map(|_| kernel.memory().alloc_folio(Request::new(Order::ZERO)).unwrap());
    let spare = spare.map(|folio| folio.preserve().unwrap().into_raw().addr().get()).collect();
    kernel.publish("greeting", b"hello").unwrap();
    let handle = kernel.handle_of(objects[7]).unwrap();
    kernel.publish("seventh", &<[u8; 16]>::from(handle)).unwrap();
    if seal {
        kernel.seal().unwrap();
    }
    let entry = kernel.entry();
    let generation = kernel.generation();
    drop(kernel);

    let run = ranges[0].0;
    let start = ram.ptr(run.addr()).cast::<std::sync::atomic::AtomicU8>();
    // SAFETY: the machine's memory, all of it, and no kernel runs.
    let memory = unsafe { std::slice::from_raw_parts(start.as_ptr(), run.bytes() as usize) };
    let bytes: Vec<u8> = memory.iter().map(|byte| byte.load(Relaxed)).collect();
    // A slab's header: the magic, and the cache's name in its shape.
    let is_slab =
        |page: &[u8]| page.starts_with(b"hl-slab1") && page[32..].starts_with(b"inodes\0");
    let slab = bytes.chunks(PAGE_SIZE).position(is_slab).unwrap();
    Left {
        memory: Temporary::new(&bytes),
        base: format!("{:#x}", run.addr().get()),
        root: entry.root.get(),
        scratch: (scratch.addr().get(), scratch.bytes()),
        list: (entry.scratch.get(), entry.scratch_bytes),
        generation,
        slab: run.addr().get() + slab as u64 * PAGE,
        bytes,
        spare,
    }
}

#[test]
fn caches_objects_and_the_seal_are_shown() {
    let left = leave(true, 0);
    let ran = heirloom(&[&["inspect", "--json"], &left.place()[..]].concat());
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    let json = ran.json();
    assert_eq!(json["fdt"], format!("{:#x}", left.root));
    assert_eq!(json["image"]["frames"], FRAMES);
    // The seal says where the scratch list is.
    let (start, bytes) = left.scratch;
    assert_eq!(
        json["scratch"],
        serde_json::json!([{ "start": format!("{start:#x}"), "bytes": bytes }])
    );
    let own = &json["subtrees"]["heirloom"];
    assert_eq!(own["compatible"], "heirloom-v2");
    assert_eq!(own["producer"], "example 1.0");
    assert_eq!(own["generation"], left.generation);
    assert_eq!(own["seal"]["entries"], own["seal"]["sound"]);
    assert_eq!((&own["opened"], &own["longer"]), (&false.into(), &false.into()));
    let cache = |name: &str| {
        let caches = own["caches"].as_array().unwrap();
        caches.iter().find(|cache| cache["name"] == name).unwrap_or_else(|| panic!("{caches:?}"))
    };
    let inodes = cache("inodes");
    assert_eq!((&inodes["object_size"], &inodes["preserving"]), (&96.into(), &true.into()));
    assert_eq!((&inodes["objects"], &inodes["broken_slabs"]), (&100.into(), &0.into()));
    let dentries = cache("dentries");
    assert_eq!((&dentries["objects"], &dentries["preserving"]), (&5.into(), &false.into()));
    assert_eq!(json["subtrees"]["greeting"]["size"], 5);
    assert_eq!(json["subtrees"]["greeting"]["handle"], serde_json::Value::Null);
    let seventh = &json["subtrees"]["seventh"];
    assert_eq!((&seventh["handle"], &seventh["bytes"]), (&"object".into(), &96.into()));
    assert!(json["orders"]["1"].as_u64().unwrap() >= 3);

    let ran = heirloom(&[&["inspect"], &left.place()[..]].concat());
    for line in [
        "handle: object at 0x1",
        "heirloom-v2, generation 0, by example 1.0",
        "sealed, ",
        "100 objects in ",
    ] {
        assert!(ran.out.contains(line), "{line}: {}", ran.out);
    }
    let ran = heirloom(&[&["check"], &left.place()[..]].concat());
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    assert!(
        ran.out.starts_with("in order: ") && ran.out.contains(" tables as sealed"),
        "{}",
        ran.out
    );
}

#[test]
fn a_byte_that_changed_since_it_was_sealed_is_named() {
    let left = leave(true, 0);
    let page = |addr: u64| format!("{addr:#x}");
    // The producer's name, a slab's header, a published root.
    let json = heirloom(&[&["inspect", "--json"], &left.place()[..]].concat()).json();
    let phys = |name: &str| {
        let text = json["subtrees"][name]["phys"].as_str().unwrap();
        u64::from_str_radix(&text[2..], 16).unwrap()
    };
    for (hit, what) in [
        (phys("heirloom") + 40, "heirloom header"),
        (left.slab + 24, "slab"),
        (phys("greeting"), "subtree page"),
        (left.list.0 + 8 + 2, "scratch list"),
    ] {
        let file = left.with_hit(hit);
        let found = findings(&[file.as_str(), "--base", &left.base]);
        let named =
            |reason: &String| reason.contains(what) && reason.contains(&page(hit / PAGE * PAGE));
        assert!(found.iter().any(named), "{what}: {found:?}");
    }
    // A state byte is an object's own, and the seal does not cover it; one that is none is found.
    let mut bytes = left.bytes.clone();
    bytes[(left.slab - left.start()) as usize + 128] |= 7;
    let file = Temporary::new(&bytes);
    let found = findings(&[file.as_str(), "--base", &left.base]);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains(&page(left.slab)), "{found:?}");
    let ran = heirloom(&["inspect", file.as_str(), "--base", &left.base]);
    assert!(ran.out.contains("1 not sound"), "{}", ran.out);
    // In use until a plain free is one, but in no preserving cache.
    bytes[(left.slab - left.start()) as usize + 128] = 5;
    let file = Temporary::new(&bytes);
    let found = findings(&[file.as_str(), "--base", &left.base]);
    assert!(found.len() == 1 && found[0].contains("object 0 has state 0x05"), "{found:?}");
    // What nothing covers is nobody's business: an object's content.
    let file = left.with_hit(left.slab + PAGE - 1);
    assert_eq!(heirloom(&["check", file.as_str(), "--base", &left.base]).code, 0);
}

/// Where a name's subtree lies in what was left.
fn subtree(left: &Left, name: &str) -> usize {
    let json = heirloom(&[&["inspect", "--json"], &left.place()[..]].concat()).json();
    let text = json["subtrees"][name]["phys"].as_str().unwrap();
    (u64::from_str_radix(&text[2..], 16).unwrap() - left.start()) as usize
}

/// The first slab of a cache in what was left.
fn slab_of(left: &Left, name: &str) -> usize {
    let is_slab =
        |page: &[u8]| page.starts_with(b"hl-slab1") && page[32..].starts_with(name.as_bytes());
    left.bytes.chunks(PAGE_SIZE).position(is_slab).unwrap() * PAGE_SIZE
}

#[test]
fn a_seal_that_a_successor_opened_is_shown_as_one() {
    let left = leave(true, 0);
    let header = subtree(&left, "heirloom");
    let mut bytes = left.bytes.clone();
    assert_eq!(bytes[header + 224..header + 232], *b"sealed-1");
    bytes[header + 224..header + 232].copy_from_slice(b"opened--");
    let file = Temporary::new(&bytes);
    let place = [file.as_str(), "--base", &left.base];
    let json = heirloom(&[&["inspect", "--json"], &place[..]].concat()).json();
    let own = &json["subtrees"]["heirloom"];
    assert_eq!((&own["seal"], &own["opened"]), (&serde_json::Value::Null, &true.into()));
    let ran = heirloom(&[&["inspect"], &place[..]].concat());
    assert!(ran.out.contains("was sealed, and opened by a successor"), "{}", ran.out);
    let ran = heirloom(&[&["check"], &place[..]].concat());
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{}", ran.out);
    assert!(!ran.out.contains("sealed"), "{}", ran.out);
}

#[test]
fn another_version_is_named_with_the_one_that_is_read() {
    let left = leave(true, 0);
    let header = subtree(&left, "heirloom");
    let mut bytes = left.bytes.clone();
    bytes[header + 10] = b'1';
    let found = findings(&[Temporary::new(&bytes).as_str(), "--base", &left.base]);
    let named = |reason: &String| {
        reason.contains("heirloom header")
            && reason.contains("version 1 is not known, version 2 is")
    };
    assert!(found.len() == 1 && named(&found[0]), "{found:?}");
    // Which half holds is none of the two.
    let mut bytes = left.bytes.clone();
    bytes[header + 216] ^= 1;
    let found = findings(&[Temporary::new(&bytes).as_str(), "--base", &left.base]);
    assert!(found.len() == 1 && found[0].contains("byte 216"), "{found:?}");
}

#[test]
fn what_a_plain_free_lets_go_of_survives_like_what_is_preserved() {
    let left = leave(true, 0);
    let slab = slab_of(&left, "dentries");
    let mut bytes = left.bytes.clone();
    // Objects in a slab, as its shape says; a state byte for each.
    let objects = (word(&bytes, slab + 72) >> 32) as usize;
    let states = slab + 128..slab + 128 + objects;
    let mut held = 0;
    for byte in bytes[states].iter_mut().filter(|byte| **byte & 7 == 2) {
        *byte = *byte & !7 | 5;
        held += 1;
    }
    assert_eq!(held, 5);
    let file = Temporary::new(&bytes);
    let place = [file.as_str(), "--base", &left.base];
    let json = heirloom(&[&["inspect", "--json"], &place[..]].concat()).json();
    let caches = json["subtrees"]["heirloom"]["caches"].as_array().unwrap();
    let dentries = caches.iter().find(|cache| cache["name"] == "dentries").unwrap();
    assert_eq!((&dentries["objects"], &dentries["broken_slabs"]), (&5.into(), &0.into()));
    assert_eq!(heirloom(&[&["check"], &place[..]].concat()).code, 0);
}

#[test]
fn a_record_that_is_struck_out_is_not_shown() {
    let left = leave(false, 0);
    let (directory, index) = record(&left, "inodes");
    let mut bytes = left.bytes.clone();
    put(&mut bytes, directory + 16 + index * RECORD, 0);
    let file = Temporary::new(&bytes);
    let place = [file.as_str(), "--base", &left.base];
    let json = heirloom(&[&["inspect", "--json"], &place[..]].concat()).json();
    let caches = json["subtrees"]["heirloom"]["caches"].as_array().unwrap();
    let names: Vec<_> = caches.iter().map(|cache| cache["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["dentries"]);
    let ran = heirloom(&[&["check"], &place[..]].concat());
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{}", ran.out);
}

#[test]
fn scratch_that_is_not_sealed_can_be_named() {
    let left = leave(false, 0);
    let check = |scratch: Option<&str>| {
        let mut arguments = vec!["check"];
        arguments.extend(left.place());
        arguments.extend(scratch.into_iter().flat_map(|list| ["--scratch", list]));
        heirloom(&arguments)
    };
    let ran = check(None);
    assert_eq!(ran.code, 0);
    assert!(ran.out.ends_with("; scratch is not known\n"), "{}", ran.out);
    let (list, bytes) = left.list;
    let ran = check(Some(&format!("{list:#x}+{bytes:#x}")));
    assert_eq!(ran.code, 0);
    assert!(ran.out.ends_with("subtrees\n"), "{}", ran.out);
    // A list over what is preserved: here one that the test writes behind the real one.
    let mut wrong = left.bytes.clone();
    let at = (left.list.0 - left.start()) as usize + 512;
    wrong[at..at + 8].copy_from_slice(&left.slab.to_ne_bytes());
    wrong[at + 8..at + 16].copy_from_slice(&PAGE.to_ne_bytes());
    let file = Temporary::new(&wrong);
    let place = format!("{:#x}+16", left.list.0 + 512);
    let found = findings(&[file.as_str(), "--base", &left.base, "--scratch", &place]);
    assert!(found.iter().any(|reason| reason.contains("lies in scratch")), "{found:?}");
}

#[test]
fn an_arena_says_itself_where_its_handover_starts() {
    let (mut copy, root) = arena();
    let file = Temporary::new(&copy);

    let ran = heirloom(&["inspect", file.as_str(), "--json"]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    let json = ran.json();
    assert_eq!(json["image"]["format"], "heirloom arena");
    assert_eq!(json["fdt"], format!("{root:#x}"));
    assert_eq!(json["scratch"][0]["start"], "0x200000000");
    assert_eq!(json["subtrees"]["heirloom"]["caches"][0]["name"], "names");
    assert_eq!(heirloom(&["check", file.as_str()]).code, 0);
    // Its first page is as little to be believed as any.
    copy[24] ^= 1;
    let ran = heirloom(&["check", Temporary::new(&copy).as_str()]);
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("a broken arena: "), "{}", ran.err);
}

/// As a live update leaves one: to Linux a memfd, whose frames lie anywhere.
#[test]
fn an_arena_that_linux_kept_is_extracted_and_looked_at() {
    const BASE: u64 = 0x50_0000;
    const MEMFD: u64 = 0x7b_5000;
    const ENTRIES: usize = PAGE_SIZE / 16;
    let (arena, root) = arena();
    let frames: Vec<_> = arena.chunks(PAGE_SIZE).collect();
    let core = Core::fixture();
    let first = BASE + 0x140_0000;
    let lists = frames.len().div_ceil(ENTRIES);
    let all = (frames.len() + lists) as u64;
    let mut raw = core.raw(BASE, (first - BASE + all * PAGE) as usize);
    let mut put = |addr: u64, bytes: &[u8]| {
        let at = (addr - BASE) as usize;
        raw[at..at + bytes.len()].copy_from_slice(bytes);
    };
    // The leaf of single frames, which has a bit for each of them.
    let key = |frame: u64| 1 << 52 | frame;
    let below = |node: u64, level: u64| {
        core.word(node + (key(first / PAGE) >> ((level - 1) * 9 + 15) & 511) * 8)
    };
    let leaf = (1..6).rev().fold(0x50_e000, below);
    for word in first / PAGE / 64..(first / PAGE + all).div_ceil(64) {
        let bits = (word * 64..word * 64 + 64).filter(|frame| *frame >= first / PAGE);
        let bits = bits.filter(|frame| *frame < first / PAGE + all);
        let bits = bits.fold(0_u64, |word, frame| word | 1 << (frame % 64));
        let at = leaf + (key(word * 64) & 0x7fff) / 8;
        put(at, &(core.word(at) | bits).to_ne_bytes());
    }
    // The last frame of the file lies first; behind them all are the lists of them.
    let place = |i: usize| first + (frames.len() - 1 - i) as u64 * PAGE;
    let list = |i: usize| first + (frames.len() + i) as u64 * PAGE;
    for (i, frame) in frames.iter().enumerate() {
        put(place(i), frame);
        let entry = [(place(i) / PAGE) | (3 << 52), i as u64].map(u64::to_ne_bytes).concat();
        put(list(i / ENTRIES) + (i % ENTRIES * 16) as u64, &entry);
    }
    let chunk = core.word(MEMFD + 32);
    (0..lists).for_each(|i| put(chunk + 8 * (i as u64 + 1), &list(i).to_ne_bytes()));
    put(MEMFD + 8, &(arena.len() as u64).to_ne_bytes());
    put(MEMFD + 24, &(frames.len() as u64).to_ne_bytes());
    put(MEMFD + 40, &(lists as u32).to_ne_bytes());

    let (image, to) = (Temporary::new(&raw), Temporary::path());
    // Its root page is in the image too, with addresses that are its own.
    let place = [image.as_str(), "--base", "0x500000", "--root", "0x50f000"];
    let check = heirloom(&[&["check", "--accept", FLBS], &place[..]].concat());
    assert_eq!((check.code, check.err.as_str()), (0, ""), "{check:?}");
    let rest = ["session-0", "0", "-o", to.as_str()];
    let ran = heirloom(&[&["extract"], &place[..], &rest].concat());
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    assert!(to.read() == arena);
    let json = heirloom(&["inspect", to.as_str(), "--json"]).json();
    assert_eq!(json["fdt"], format!("{root:#x}"));
    let own = &json["subtrees"]["heirloom"];
    assert_eq!(
        (&own["caches"][0]["name"], &own["caches"][0]["objects"]),
        (&"names".into(), &1.into())
    );
    assert_eq!(own["seal"]["entries"], own["seal"]["sound"]);
    let check = heirloom(&["check", to.as_str()]);
    assert!(check.code == 0 && check.out.contains(" as sealed"), "{check:?}");
}

#[test]
fn generations_differ_in_what_they_preserve() {
    let (sealed, open) = (leave(true, 0), leave(false, 0));
    let ran = heirloom(&[
        "diff",
        open.memory.as_str(),
        sealed.memory.as_str(),
        "--base-a",
        &open.base,
        "--base-b",
        &sealed.base,
        "--json",
    ]);
    assert_eq!(ran.code, 1);
    let json = ran.json();
    // The seal's own pages, and the seal.
    assert_eq!(json["removed"], serde_json::json!([]));
    assert!(!json["added"].as_array().unwrap().is_empty());
    assert_eq!(json["changed"][0]["what"], "heirloom.seal");
}

/// The cache directory of what was left, and the index of a cache's record in its first page.
fn record(left: &Left, name: &str) -> (usize, usize) {
    let json = heirloom(&[&["inspect", "--json"], &left.place()[..]].concat()).json();
    let directory = json["subtrees"]["heirloom"]["cache_directory"].as_str().unwrap();
    let directory = (u64::from_str_radix(&directory[2..], 16).unwrap() - left.start()) as usize;
    let records = left.bytes[directory + 16..directory + PAGE_SIZE].chunks_exact(RECORD);
    let named = |record: &[u8]| record.windows(name.len()).any(|part| part == name.as_bytes());
    (directory, records.into_iter().position(named).unwrap())
}

/// Bytes of a record, and records of a page.
const RECORD: usize = 128;
const RECORDS: usize = (PAGE_SIZE - 16) / RECORD;

fn put(bytes: &mut [u8], at: usize, word: u64) {
    bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// Records without number name one table, whose entries without number name one slab: it is gone
/// through once.
#[test]
fn a_slab_that_many_tables_name_is_counted_once() {
    let left = leave(false, 0);
    let (directory, index) = record(&left, "inodes");
    let mut bytes = left.bytes.clone();
    let at = directory + 16 + index * RECORD;
    let record = bytes[at..at + RECORD].to_vec();
    (0..RECORDS).for_each(|i| {
        let at = directory + 16 + i * RECORD;
        bytes[at..at + RECORD].copy_from_slice(&record);
    });
    put(&mut bytes, directory + 8, RECORDS as u64);
    let table = (word(&record, 8) - left.start()) as usize;
    for entry in (16..PAGE_SIZE).step_by(8) {
        put(&mut bytes, table + entry, left.slab);
    }
    put(&mut bytes, table + 8, (PAGE_SIZE / 8 - 2) as u64);
    let file = Temporary::new(&bytes);
    let ran = heirloom(&["inspect", file.as_str(), "--base", &left.base, "--json"]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    let json = ran.json();
    let caches = json["subtrees"]["heirloom"]["caches"].as_array().unwrap();
    assert_eq!(caches.len(), RECORDS);
    let slabs: u64 = caches.iter().map(|cache| cache["slabs"].as_u64().unwrap()).sum();
    assert!(slabs <= FRAMES, "{slabs} slabs in {FRAMES} frames");
    let why = format!("the slab at {:#x} was gone through before", left.slab);
    let said = |cache: &serde_json::Value| cache["unlisted"].as_str().unwrap().starts_with(&why);
    assert!(caches.iter().all(said), "{caches:?}");
    let ran = heirloom(&["inspect", file.as_str(), "--base", &left.base]);
    assert_eq!(ran.out.matches("not listed: the slab at").count(), RECORDS, "{}", ran.out);
    assert!(!findings(&[file.as_str(), "--base", &left.base]).is_empty());
}

/// Records without number name one long chain of pages without a slab: it is not gone through for
/// each of them.
#[test]
fn a_chain_that_many_records_lead_to_is_not_gone_through_for_each() {
    let left = leave(false, 60);
    let (directory, index) = record(&left, "inodes");
    let mut bytes = left.bytes.clone();
    let at = directory + 16 + index * RECORD;
    let record = bytes[at..at + RECORD].to_vec();
    let table = (word(&record, 8) - left.start()) as usize;
    let offset = |addr: u64| (addr - left.start()) as usize;
    let (rolls, chain) = left.spare.split_at(20);
    // The cache directory goes on over pages full of the same record.
    let mut page = directory;
    for next in rolls {
        put(&mut bytes, page, *next);
        page = offset(*next);
        for i in 0..RECORDS {
            let at = page + 16 + i * RECORD;
            bytes[at..at + RECORD].copy_from_slice(&record);
        }
        put(&mut bytes, page, 0);
        put(&mut bytes, page + 8, RECORDS as u64);
    }
    // Each page full of holes.
    let mut page = table;
    let empty = |bytes: &mut [u8], page: usize| {
        bytes[page..page + PAGE_SIZE].fill(0);
        put(bytes, page + 8, (PAGE_SIZE / 8 - 2) as u64);
    };
    empty(&mut bytes, page);
    for next in chain {
        put(&mut bytes, page, *next);
        page = offset(*next);
        empty(&mut bytes, page);
    }
    let file = Temporary::new(&bytes);
    let ran = heirloom(&["inspect", file.as_str(), "--base", &left.base, "--json"]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    let own = &ran.json()["subtrees"]["heirloom"];
    let why = "its tables lead to each other: going through all of them would not end soon";
    assert_eq!(own["unlisted"], why);
    assert!(!findings(&[file.as_str(), "--base", &left.base]).is_empty());
}
