//! What kernels with pages of 16 and 64 KiB left, looked at by a command that is built for smaller pages:
//! it says what the command says that is built for theirs (`tests/fixtures/pages`).

mod common;

use common::{Core, Ran, Temporary, heirloom, sha256};
use heirloom_kho::PageSize;
use serde_json::Value;

/// The memory of the kernels that left the fixtures.
const BASE: u64 = 4 << 30;
const PAGES: usize = 256;

/// A fixture: its page size, and what the command of that page size said of it.
struct Fixture {
    name: &'static str,
    bytes: usize,
    core: Core,
    expected: Value,
}

/// Those that this build can read.
fn fixtures() -> Vec<Fixture> {
    let read = |name: &str| {
        let path = format!("{}/../tests/fixtures/pages/{name}", env!("CARGO_MANIFEST_DIR"));
        std::fs::read(path).unwrap()
    };
    let fixture = |(name, bytes): (&'static str, usize)| {
        PageSize::new(bytes as u64)?;
        let core = Core(read(&format!("{name}.elf")));
        let expected = serde_json::from_slice(&read(&format!("{name}.json"))).unwrap();
        Some(Fixture { name, bytes, core, expected })
    };
    [("16k", 16 << 10), ("64k", 64 << 10)].into_iter().filter_map(fixture).collect()
}

impl Fixture {
    /// All of its memory.
    fn raw(&self) -> Vec<u8> {
        self.core.raw(BASE, PAGES * self.bytes)
    }

    /// Its root page.
    fn root(&self) -> u64 {
        let root = self.expected["fdt"].as_str().unwrap();
        u64::from_str_radix(&root[2..], 16).unwrap()
    }
}

/// What `--json` says, but for the file itself.
fn facts(ran: &Ran) -> Value {
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    let mut json = ran.json();
    json.as_object_mut().unwrap().remove("image").unwrap();
    json
}

#[test]
fn the_facts_are_those_of_the_command_of_the_same_page_size() {
    for Fixture { name, bytes, core, expected } in fixtures() {
        let file = core.file();
        for size in [&[][..], &["--page-size", name], &["--page-size", &bytes.to_string()]] {
            let place = [&[file.as_str(), "--zero-excluded"], size].concat();
            let ran = heirloom(&[&["inspect", "--json"], &place[..]].concat());
            assert_eq!((ran.code, ran.err.as_str()), (0, ""));
            let mut found = ran.json();
            assert!(found["image"].as_object_mut().unwrap().remove("path").is_some());
            assert_eq!(found, expected, "{name}");
            let ran = heirloom(&[&["inspect"], &place[..]].concat());
            let said = format!(" MiB of memory, pages of {} KiB)", bytes >> 10);
            assert!(ran.out.contains(&said), "{}", ran.out);
            let ran = heirloom(&[&["check"], &place[..]].concat());
            assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{name}");
            assert!(ran.out.starts_with("in order: root 0x1"), "{name}: {}", ran.out);
        }
        // And there is something in them.
        let own = &expected["subtrees"]["heirloom"];
        assert_eq!(
            (&own["caches"][0]["objects"], &expected["image"]["page_size"]),
            (&100.into(), &bytes.into())
        );
        assert_eq!(expected["subtrees"]["LUO"]["sessions"][0]["files"][0]["nr_folios"], 3);
        assert!(expected["orders"]["3"] == 1 && expected["findings"] == Value::Array(vec![]));
    }
}

/// Nothing in raw memory says how large a page is, but what can be read with it.
#[test]
fn the_page_size_of_raw_memory_is_found() {
    for fixture in fixtures() {
        let raw = Temporary::new(&fixture.raw());
        let ran = heirloom(&["inspect", raw.as_str(), "--base", "0x100000000", "--json"]);
        assert_eq!(ran.json()["image"]["page_size"], fixture.bytes);
        let mut expected = fixture.expected.clone();
        expected.as_object_mut().unwrap().remove("image").unwrap();
        assert_eq!(facts(&ran), expected, "{}", fixture.name);
        let root = format!("{:#x}", fixture.root());
        let place = [raw.as_str(), "--base", "0x100000000", "--root", &root];
        let ran = heirloom(&[&["inspect", "--json"], &place[..]].concat());
        assert_eq!(ran.json()["image"]["page_size"], fixture.bytes);
    }
}

/// A handover of another make than heirloom's: its tree alone says with which page size it is one.
#[test]
fn a_tree_alone_tells_the_page_size() {
    for fixture in fixtures() {
        let mut raw = fixture.raw();
        let root = (fixture.root() - BASE) as usize;
        let page = &mut raw[root..root + fixture.bytes];
        let names: Vec<_> =
            (0..page.len() - 9).filter(|at| page[*at..].starts_with(b"heirloom\0")).collect();
        assert!(!names.is_empty());
        for at in names {
            page[at..at + 8].copy_from_slice(b"heirlook");
        }
        let raw = Temporary::new(&raw);
        let ran = heirloom(&["inspect", raw.as_str(), "--base", "0x100000000", "--json"]);
        let found = ran.json();
        assert_eq!(found["image"]["page_size"], fixture.bytes);
        assert_eq!(found["preserved"], fixture.expected["preserved"]);
    }
}

#[test]
fn another_page_size_than_the_machines_finds_nothing_or_what_is_wrong() {
    for fixture in fixtures().into_iter().filter(|fixture| fixture.bytes > PageSize::BUILD.bytes())
    {
        let file = fixture.core.file();
        let build = PageSize::BUILD.bytes().to_string();
        let place = [file.as_str(), "--zero-excluded", "--page-size", &build];
        let ran = heirloom(&[&["check"], &place[..]].concat());
        // Whether it is seen at all depends on which half of the page the tree stands in.
        let long = format!("where at most {build} can be");
        let said = match ran.code {
            1 => ran.out.contains(&long),
            _ => ran.code == 2 && ran.err.contains(&format!("frames of {build} bytes")),
        };
        assert!(said, "{}: {ran:?}", fixture.name);
    }
    for bad in ["0", "3000", "8", "128k", "2048", "0xffffffffffffffff", "18014398509481984k"] {
        let ran = heirloom(&["check", "image", "--page-size", bad]);
        assert!(ran.code == 2 && ran.err.contains("a power of two from"), "{bad}: {ran:?}");
    }
}

#[test]
fn a_memfd_of_larger_pages_is_extracted() {
    for fixture in fixtures() {
        let (file, to) = (fixture.core.file(), Temporary::path());
        let ran = heirloom(&[
            "extract",
            file.as_str(),
            "--zero-excluded",
            "guest",
            "7",
            "-o",
            to.as_str(),
        ]);
        assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (0, "", ""));
        let (content, page) = (to.read(), fixture.bytes);
        assert_eq!(content.len(), 8 * page - 5);
        // A folio of one page, and one of two from the fourth on; the last was never written.
        let written =
            [(0, 1), (page / 2, 2), (page - 1, 3), (4 * page, 1), (5 * page, 2), (6 * page - 1, 3)];
        let found = content.iter().enumerate().filter(|(_, byte)| **byte != 0);
        assert_eq!(found.map(|(at, byte)| (at, *byte)).collect::<Vec<_>>(), written);
        let hash = sha256(&content);
        let memfd = &fixture.expected["subtrees"]["LUO"]["sessions"][0]["files"][0];
        assert_eq!(memfd["sha256"], hash);
    }
}

#[test]
fn images_of_machines_with_different_pages_are_not_compared() {
    let all = fixtures();
    let files: Vec<_> = all.iter().map(|fixture| fixture.core.file()).collect();
    for (a, of) in files.iter().zip(&all) {
        let ran = heirloom(&["diff", a.as_str(), a.as_str(), "--zero-excluded", "--contents"]);
        assert_eq!((ran.code, ran.out.as_str()), (0, "no difference\n"), "{}", of.name);
    }
    if let [a, b] = &files[..] {
        let ran = heirloom(&["diff", a.as_str(), b.as_str(), "--zero-excluded"]);
        assert_eq!((ran.code, ran.out.as_str()), (2, ""));
        assert!(ran.err.contains("pages of 16384 bytes"), "{}", ran.err);
    }
}

/// Findings name blocks by their orders in the machine's pages.
#[test]
fn findings_are_counted_in_the_machines_pages() {
    for fixture in fixtures() {
        // The second folio of the memfd, of two pages: its frame number plus one.
        let memfd = &fixture.expected["subtrees"]["LUO"]["sessions"][0]["files"][0];
        let pfn = memfd["folios"][1]["pfn"].as_u64().unwrap();
        let entry = (pfn | 3 << 52).to_le_bytes();
        let mut core = fixture.core.clone();
        let at = core.0.windows(8).position(|word| word == entry).unwrap();
        core.0[at..at + 8].copy_from_slice(&((pfn + 1) | 3 << 52).to_le_bytes());
        let ran = heirloom(&["check", core.file().as_str(), "--zero-excluded"]);
        let missing =
            format!("order 0 at {:#x} is not preserved", (pfn + 1) * fixture.bytes as u64);
        assert!(ran.code == 1 && ran.out.contains(&missing), "{}: {ran:?}", fixture.name);
    }
}
