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
    for bytes in [&page[..], &page[..total]] {
        let (_place, dir) = debugfs(bytes);
        let live = ["--live", "--debugfs", &dir, FIXTURE];
        let said = heirloom(&[&["inspect", "--json", "--quick"], &live[..]].concat());
        assert_eq!((said.code, said.err.as_str()), (0, ""), "{said:?}");
        let named = heirloom(&["inspect", "--json", "--quick", FIXTURE, "--root", "0x50f000"]);
        assert_eq!(said.out, named.out);
        let ran = heirloom(&[&["check", "--accept", FLBS, "--for", "7.3"], &live[..]].concat());
        assert_eq!(ran.code, 0, "{ran:?}");
        fs::remove_dir_all(&dir).unwrap();
    }
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
