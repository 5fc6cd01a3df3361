//! What runs now: a kernel's next handover, by its debugfs and its memory, and the arena of a process.

mod common;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use common::{Core, FIXTURE, FLBS, Temporary, heirloom};
use heirloom::Heirloom;
use heirloom::arena::{Arena, RangeSpec};
use heirloom::folio::{Cpus, NodeId};
use heirloom::kho::{PhysAddr, Run};

const ROOT: u64 = 0x50_f000;

/// A directory as debugfs has it, with this root page.
fn debugfs(page: &[u8]) -> (Temporary, String) {
    let place = Temporary::path();
    let out = Path::new(place.as_str()).join("kho/out");
    fs::create_dir_all(&out).unwrap();
    fs::write(out.join("fdt"), page).unwrap();
    let name = place.as_str().to_owned();
    (place, name)
}

fn root_page() -> Vec<u8> {
    let core = Core::fixture();
    let at = core.offset(ROOT);
    core.0[at..at + 4096].to_vec()
}

#[test]
fn the_root_page_is_found_by_its_bytes_among_what_its_tree_preserves() {
    let page = root_page();
    // The file has as much as the tree says that it is long, or the page.
    let total = u32::from_be_bytes(page[4..8].try_into().unwrap()) as usize;
    // Or as much as the tree was long when the kernel made the file: then the names of the properties are not in it.
    for bytes in [&page[..], &page[..total], &page[..128], &page[..256]] {
        let (_place, dir) = debugfs(bytes);
        let live = ["--live", "--debugfs", &dir, FIXTURE];
        let said = heirloom(&[&["inspect", "--json", "--quick"], &live[..]].concat());
        assert_eq!((said.code, said.err.as_str()), (0, ""), "{said:?}");
        let named = heirloom(&["inspect", "--json", "--quick", FIXTURE, "--root", "0x50f000"]);
        let mut said = said.json();
        said.as_object_mut().unwrap().remove("now").unwrap();
        assert_eq!(said, named.json());
        let ran = heirloom(&[&["check", "--accept", FLBS, "--for", "7.3"], &live[..]].concat());
        assert_eq!(ran.code, 0, "{ran:?}");
        fs::remove_dir_all(&dir).unwrap();
    }
}

/// A directory as debugfs has it in a kernel that another kernel started: without the root page, and with this one in
/// what it was handed.
fn handed_over(page: &[u8]) -> (Temporary, String) {
    let (place, name) = debugfs(&[]);
    let kho = Path::new(&name).join("kho");
    fs::remove_file(kho.join("out/fdt")).unwrap();
    for dir in ["in", "out/sub_fdts"] {
        fs::create_dir_all(kho.join(dir)).unwrap();
    }
    fs::write(kho.join("in/fdt"), page).unwrap();
    for name in ["LUO", "kexec-metadata"] {
        fs::write(kho.join("out/sub_fdts").join(name), []).unwrap();
    }
    (place, name)
}

#[test]
fn where_linux_does_not_show_its_root_page_the_one_is_taken_that_has_all_its_names() {
    let mut other = root_page();
    other[0x200] ^= 1;
    let (_place, dir) = handed_over(&other);
    let live = ["inspect", "--json", "--quick", "--live", "--debugfs", &dir, FIXTURE];
    let said = heirloom(&live);
    assert_eq!((said.code, said.err.as_str()), (0, ""), "{said:?}");
    assert_eq!(said.json()["fdt"], "0x50f000");
    // A name that it has not.
    fs::write(Path::new(&dir).join("kho/out/sub_fdts/memblock"), []).unwrap();
    let said = heirloom(&live);
    assert_eq!((said.code, said.out.as_str()), (2, ""));
    assert!(said.err.contains("this kernel has nothing to hand over yet"), "{said:?}");
    fs::remove_dir_all(&dir).unwrap();
    // What the kernel was handed is not what it hands over.
    let (_place, dir) = handed_over(&root_page());
    let said = heirloom(&["inspect", "--live", "--debugfs", &dir, FIXTURE]);
    assert_eq!((said.code, said.out.as_str()), (2, ""));
    assert!(said.err.contains("this kernel has nothing to hand over yet"), "{said:?}");
    fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn scratch_is_what_debugfs_says() {
    let (_place, dir) = debugfs(&root_page());
    let out = Path::new(&dir).join("kho/out");
    let scratch = |starts: &str, lengths: &str| {
        fs::write(out.join("scratch_phys"), starts).unwrap();
        fs::write(out.join("scratch_len"), lengths).unwrap();
        let said =
            heirloom(&["inspect", "--json", "--quick", "--live", "--debugfs", &dir, FIXTURE]);
        assert_eq!((said.code, said.err.as_str()), (0, ""), "{said:?}");
        let json = said.json();
        (json["scratch"].clone(), json["findings"].as_array().unwrap().len())
    };
    let (areas, findings) = scratch("0x10000000\n0x20000000\n", "0x100000\n0x200000\n");
    let area = |start: &str, bytes: u64| serde_json::json!({ "start": start, "bytes": bytes });
    assert_eq!(
        areas,
        serde_json::json!([area("0x10000000", 1 << 20), area("0x20000000", 2 << 20)])
    );
    assert_eq!(findings, 0);
    // What is preserved in scratch is lost.
    let (_, findings) = scratch("0x50f000\n", "0x1000\n");
    assert!(findings > 0);
    for (starts, lengths) in [("", ""), ("0x10000000\n", ""), ("all\n", "0x1000\n")] {
        assert_eq!(scratch(starts, lengths), (serde_json::Value::Null, 0), "{starts:?}");
    }
    fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn memfds_that_are_in_no_list_yet_are_found_among_the_preserved_pages() {
    let (_place, dir) = debugfs(&root_page());
    let said = heirloom(&["inspect", "--json", "--live", "--debugfs", &dir, FIXTURE]);
    let json = said.json();
    let found = json["now"]["memfds"].as_array().unwrap();
    // Here they are in lists too.
    let listed = json["subtrees"]["LUO"]["sessions"].as_array().unwrap();
    let listed = listed.iter().flat_map(|session| session["files"].as_array().unwrap());
    let of = |file: &serde_json::Value, at: &str| (file[at].clone(), file["sha256"].clone());
    let mut listed: Vec<_> = listed.map(|file| of(file, "data")).collect();
    let mut found: Vec<_> = found.iter().map(|memfd| of(memfd, "at")).collect();
    assert_eq!(found.len(), 4);
    for all in [&mut listed, &mut found] {
        all.sort_by_key(|(at, _)| at.to_string());
    }
    assert_eq!(found, listed);
    let said = heirloom(&["inspect", "--live", "--debugfs", &dir, FIXTURE]);
    assert!(said.out.contains("\nIn no list until the jump\n"), "{}", said.out);
    assert_eq!(said.out.matches("  memfd at 0x").count(), 4, "{}", said.out);
    let said = heirloom(&["inspect", FIXTURE]);
    assert!(!said.out.contains("until the jump"), "{}", said.out);
    fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn what_is_missing_for_a_live_system_is_said() {
    let refused = |arguments: &[&str]| {
        let ran = heirloom(&[&["inspect", "--live"], arguments].concat());
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{ran:?}");
        ran.err
    };
    let place = Temporary::path();
    fs::create_dir_all(place.as_str()).unwrap();
    let said = refused(&["--debugfs", place.as_str(), FIXTURE]);
    assert!(said.contains("debugfs is not mounted there (mount -t debugfs none "), "{said}");
    fs::create_dir_all(Path::new(place.as_str()).join("kho/in")).unwrap();
    let said = refused(&["--debugfs", place.as_str(), FIXTURE]);
    assert!(said.contains("this kernel has nothing to hand over yet"), "{said}");
    fs::remove_dir_all(place.as_str()).unwrap();
    // A root page that is no page of this memory.
    let mut page = root_page();
    page[4095] = 1;
    let (_place, dir) = debugfs(&page);
    let said = refused(&["--debugfs", &dir, FIXTURE]);
    assert!(said.contains("the memory is another machine's, or changes too fast"), "{said}");
    fs::remove_dir_all(&dir).unwrap();
    let mut page = root_page();
    page[0x4c + 5] = b'5';
    let (_place, dir) = debugfs(&page);
    let said = refused(&["--debugfs", &dir, FIXTURE]);
    assert!(said.contains("version 5 is not known, version 4 is"), "{said}");
    fs::remove_dir_all(&dir).unwrap();
    if !Path::new("/proc/kcore").exists() {
        assert!(refused(&[]).starts_with("error: there is no /proc/kcore (CONFIG_PROC_KCORE)"));
    }
    let ran = heirloom(&["inspect", "--live", "--pid", "1"]);
    assert_eq!(ran.code, 2);
}

/// An arena of this process, in which a kernel runs.
fn arena(name: &str, start: u64) -> Arena {
    let spec = RangeSpec { start: PhysAddr::new(start), bytes: 4 << 20, node: NodeId(0) };
    Arena::create(name, &[spec]).unwrap()
}

#[test]
fn the_arena_of_a_process_is_found_by_its_number() {
    let start = 8 << 30;
    let own = arena("one", start);
    let map = [(own.ranges()[0].run(), NodeId(0))];
    let bytes = Heirloom::<Arena>::scratch_bytes(&map, own.count()) as u64;
    let scratch = Run::covering(PhysAddr::new(start), bytes).unwrap();
    // SAFETY: the arena is new, and nothing else uses it.
    let kernel = unsafe { Heirloom::boot(own, &map, &[scratch], "example 2.0") }.unwrap();
    kernel.memory().machine().leave(kernel.entry()).unwrap();
    let pid = std::process::id().to_string();
    let ran = heirloom(&["inspect", "--pid", &pid, "--json"]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{ran:?}");
    let json = ran.json();
    assert_eq!(json["image"]["format"], "heirloom arena");
    assert_eq!(json["subtrees"]["heirloom"]["producer"], "example 2.0");
    // Another descriptor of the same memory is no other arena.
    let shared = kernel.memory().machine().share().unwrap();
    assert_eq!(heirloom(&["check", "-q", "--pid", &pid]).code, 0);
    drop(shared);
    let second = arena("two", 16 << 30);
    let ran = heirloom(&["inspect", "--pid", &pid]);
    assert_eq!((ran.code, ran.out.as_str()), (2, ""));
    assert!(ran.err.contains("has several arenas; name one: /proc/"), "{ran:?}");
    assert!(ran.err.contains("(one)") && ran.err.contains("(two)"), "{ran:?}");
    drop(second);
    assert_eq!(heirloom(&["check", "-q", "--pid", &pid]).code, 0);

    let mut none = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
    let ran = heirloom(&["inspect", "--pid", &none.id().to_string()]);
    assert!(ran.err.contains("has no arena"), "{ran:?}");
    none.kill().unwrap();
    none.wait().unwrap();
    let ran = heirloom(&["inspect", "--pid", "4294967295"]);
    assert_eq!((ran.code, ran.err.as_str()), (2, "error: there is no process 4294967295\n"));
    let ran = heirloom(&["inspect", "--pid", &pid, FIXTURE]);
    assert_eq!(ran.code, 2);
    assert_eq!(heirloom(&["inspect"]).code, 2);
}
