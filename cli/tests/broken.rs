//! Linux's handover, damaged: what is wrong is named, and nothing panics.

mod common;

use common::{Core, FIXTURE, Temporary, check, findings, heirloom};
use heirloom_testkit::Rng;

/// Addresses in the fixture.
const ROOT: u64 = 0x50_f000;
const MAP: u64 = 0x50_e000;
const LUO: u64 = 0x70_a000;
const MEMFD: u64 = 0x7b_5000;
/// A stretch that holds all of the fixture's memory.
const BASE: u64 = 0x50_0000;
const BYTES: usize = 0x140_0000;

fn found(core: &Core) -> Vec<String> {
    let file = core.file();
    findings(&[file.as_str()])
}

/// The first entry of a table that is one: its address, and what it is.
fn entry(core: &Core, table: u64) -> (u64, u64) {
    let entries = (table..table + 4096).step_by(8).map(|at| (at, core.word(at)));
    entries.into_iter().find(|(_, entry)| *entry != 0).unwrap()
}

#[test]
fn an_entry_that_leads_out_of_memory() {
    let mut core = Core::fixture();
    let (at, _) = entry(&core, MAP);
    core.put(at, &0x4000_0000_u64.to_le_bytes());
    let index = (at - MAP) / 8;
    let expected =
        format!("tree node 0x50e000, level 5, entry {index}: 0x40000000 is not in memory");
    let found = found(&core);
    assert_eq!(found[0], expected);
    // The folios below it are no longer preserved, and what names them says so.
    assert!(found.iter().any(|reason| reason.contains("is not preserved")), "{found:?}");
    let file = core.file();
    let ran = heirloom(&["inspect", file.as_str(), "--color", "never"]);
    assert_eq!(ran.code, 0);
    assert!(ran.out.contains(&expected), "{}", ran.out);
    assert!(ran.out.contains("more: heirloom check"), "{}", ran.out);
}

#[test]
fn a_cycle_and_a_shared_node() {
    let mut core = Core::fixture();
    let (at, below) = entry(&core, MAP);
    core.put(below + 8 * 511, &MAP.to_le_bytes());
    let cycle = found(&core);
    let loops =
        |reason: &String| reason.contains("the node at 0x50e000 was led to before: a cycle,");
    assert!(cycle.iter().any(loops), "{cycle:?}");
    let mut core = Core::fixture();
    core.put(at + 8, &below.to_le_bytes());
    let shared = found(&core);
    assert!(shared.iter().any(|reason| reason.contains("or a second parent")), "{shared:?}");
}

#[test]
fn folios_that_overlap_are_counted() {
    let mut core = Core::fixture();
    // The leaf that has the order 1 at 0x58a000 gets the one before it, over the order 2 there.
    let key = (1_u64 << 51) | (0x58_a000 >> 13);
    let mut node = MAP;
    for level in (1..6).rev() {
        let index = key >> ((level - 1) * 9 + 15) & 511;
        node = core.word(node + index * 8);
    }
    let leaf = core.offset(node);
    let other = 0x58_6000_u64 >> 13;
    core.0[leaf + (other / 8) as usize] |= 1 << (other % 8);
    let file = core.file();
    let ran = heirloom(&["inspect", file.as_str(), "--json"]).json();
    assert_eq!(ran["overlaps"], 1);
    assert_eq!(ran["folios"], 93);
    assert_eq!(ran["faulty"], serde_json::json!({ "folios": 1, "blocks": [["0x586000", 1]] }));
    let map = Temporary::path();
    let ran = heirloom(&["inspect", file.as_str(), "--map", map.as_str()]);
    assert!(ran.out.contains("at fault   1 folio, in none of these numbers"), "{}", ran.out);
    let svg = String::from_utf8(map.read()).unwrap();
    assert!(svg.contains("at fault: 1 folio") && svg.matches("url(#fault)").count() == 2, "{svg}");
    let found = findings(&[file.as_str()]);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("0x586000") && found[0].contains("two uses"), "{found:?}");
}

#[test]
fn what_linux_registers_is_checked() {
    let mut core = Core::fixture();
    core.put(LUO, b"luo-v6\0\0");
    let by_name = "subtree LUO, by its name Linux's: LUO at 0x70a000, byte 0: ";
    assert_eq!(found(&core), [format!("{by_name}version 6 is not known, version 5 is")]);
    let mut core = Core::fixture();
    core.put(0x58_4000, b"x");
    let reasons = found(&core);
    assert_eq!(reasons.len(), 1, "{reasons:?}");
    assert!(reasons[0].starts_with("kho_test at 0x58c000, byte 0: checksum"), "{reasons:?}");
    // An opaque value is no address.
    let mut core = Core::fixture();
    let flbs = core.word(LUO + 24);
    core.put(flbs + 16 + 48, &0x1234_u64.to_le_bytes());
    let file = core.file();
    assert_eq!(check(file.as_str()).code, 0);
}

#[test]
fn two_files_that_are_the_same_memory() {
    let mut core = Core::fixture();
    let files = core.word(core.word(LUO + 16) + 16 + 64);
    // The second file's data becomes the first's.
    assert_eq!(core.word(files + 16 + 64 + 48), 0x71_8000);
    core.put(files + 16 + 64 + 48, &MEMFD.to_le_bytes());
    let twice = "memfd at 0x7b5000, byte 0: order 0 at 0x7b5000 has another use";
    assert_eq!(found(&core), [twice]);
}

#[test]
fn a_memfd_that_is_not_whole_is_not_extracted() {
    let mut core = Core::fixture();
    let chunk = core.word(MEMFD + 32);
    let list = core.word(chunk + 8);
    core.put(list + 16 * 3, &(0x600 | 3_u64 << 52).to_le_bytes());
    let file = core.file();
    let expected = format!("memfd's folio at {:#x}, byte 0: ", list + 48);
    let reasons = findings(&[file.as_str()]);
    assert_eq!(reasons.len(), 1, "{reasons:?}");
    assert!(reasons[0].starts_with(&expected), "{reasons:?}");
    let to = Temporary::path();
    let ran = heirloom(&["extract", file.as_str(), "session-0", "0", "-o", to.as_str()]);
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains(&expected), "{}", ran.err);
    assert!(!to.exists());
    let ran = heirloom(&["extract", file.as_str(), "session-0", "1", "-o", to.as_str()]);
    assert_eq!((ran.code, ran.err.as_str(), to.read().len()), (0, "", 65536));
}

#[test]
fn several_roots_are_told_and_the_whole_one_is_taken() {
    let core = Core::fixture();
    let mut raw = core.raw(BASE, BYTES);
    // A copy of the root page, before it, whose tree leads nowhere.
    let at = (ROOT - BASE) as usize;
    let mut copy = raw[at..at + 4096].to_vec();
    let map = copy.windows(8).position(|bytes| bytes == MAP.to_le_bytes()).unwrap();
    copy[map..map + 8].copy_from_slice(&0x60_0000_u64.to_le_bytes());
    raw[0x1000..0x2000].copy_from_slice(&copy);
    // And one that is no longer a root page, but was.
    raw[0x3000..0x3028].copy_from_slice(&copy[..40]);
    raw[0x3100..0x3106].copy_from_slice(b"kho-v4");
    let file = Temporary::new(&raw);
    let place = [file.as_str(), "--base", "0x500000"];
    let ran = heirloom(&[&["inspect", "--json"], &place[..]].concat());
    assert_eq!(ran.json()["fdt"], "0x50f000");
    assert_eq!(ran.json()["roots"].as_array().unwrap().len(), 3);
    let lines: Vec<_> = ran.err.lines().collect();
    assert_eq!(lines.len(), 4, "{}", ran.err);
    assert!(lines[0].starts_with("3 roots"), "{}", ran.err);
    assert!(lines[1].starts_with("  0x501000       not whole: "), "{}", ran.err);
    assert!(lines[2].starts_with("  0x503000       not whole: root page"), "{}", ran.err);
    assert_eq!(lines[3], "* 0x50f000       whole, 151 frames preserved");
    // Whoever names one is believed.
    let ran = heirloom(&[&["check", "--root", "0x501000"], &place[..]].concat());
    assert_eq!((ran.code, ran.err.as_str()), (1, ""));
    let ran = heirloom(&[&["check", "--root", "0x700000"], &place[..]].concat());
    assert_eq!(ran.code, 1);
    assert!(ran.out.contains("root page at 0x700000"), "{}", ran.out);
    let ran = heirloom(&[&["inspect", "--root", "0x700000"], &place[..]].concat());
    assert_eq!((ran.code, ran.out.as_str()), (2, ""));
    assert!(ran.err.contains("no root page at 0x700000"), "{}", ran.err);
}

#[test]
fn an_image_without_a_handover() {
    let file = Temporary::new(&vec![0; 1 << 16]);
    for command in ["inspect", "check"] {
        let ran = heirloom(&[command, file.as_str(), "--base", "0"]);
        assert_eq!((ran.code, ran.out.as_str()), (2, ""));
        assert!(ran.err.contains("no handover in 16 frames"), "{}", ran.err);
    }
    let ran = heirloom(&["inspect", file.as_str()]);
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("--base"), "{}", ran.err);
    assert_eq!(heirloom(&["inspect", "/nonexistent"]).code, 2);
    assert_eq!(heirloom(&["inspect"]).code, 2);
    assert_eq!(heirloom(&["inspect", FIXTURE, "--root", "0xzz"]).code, 2);
}

#[test]
fn a_core_that_is_cut_off() {
    let core = Core::fixture();
    // Looked at as far as it goes: what was in its last page is missing, and why.
    let file = Temporary::new(&core.0[..core.0.len() - 1]);
    let ran = heirloom(&["inspect", file.as_str()]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    assert!(
        ran.out.contains("cut off    1 B that should follow are not in the file"),
        "{}",
        ran.out
    );
    let ran = heirloom(&["check", file.as_str()]);
    assert_eq!(ran.code, 1);
    assert!(
        ran.out.ends_with("; cut off: 1 B that should follow are not in the file\n"),
        "{ran:?}"
    );
}

#[test]
fn damage_anywhere_is_found_or_harmless_and_never_a_panic() {
    let good = Core::fixture();
    // Pages with tables in them: a hit elsewhere is in some file's content.
    let tables =
        [ROOT, MAP, MAP + 0x2000, LUO, LUO + 0x1000, 0x71_4000, MEMFD, 0x58_c000, 0x51_6000];
    let mut numbers = Rng::new(4);
    let (mut whole, mut broken) = (0, 0);
    for round in 0..120 {
        let mut core = good.clone();
        for _ in 0..=numbers.index(3) {
            let page = tables[numbers.index(tables.len())];
            let at = core.offset(page) + numbers.index(if round % 2 == 0 { 400 } else { 4096 });
            core.0[at] = numbers.index(256) as u8;
        }
        let file = core.file();
        let map = Temporary::path();
        let check = heirloom(&["check", file.as_str()]);
        let inspect = heirloom(&["inspect", file.as_str(), "--map", map.as_str()]);
        for ran in [&check, &inspect] {
            assert!(!ran.err.contains("panicked"), "round {round}: {}", ran.err);
        }
        match check.code {
            0 | 3 => whole += 1,
            1 => broken += 1,
            status => assert!(status == 2 && inspect.code == 2, "round {round}: {check:?}"),
        }
    }
    // Both happen, so the damage is neither all nor nothing.
    assert!(whole > 5 && broken > 40, "{whole} whole, {broken} broken");
}

/// A leaf in which every bit is set names 32,768 folios, most of which are not memory: they are
/// counted, and the first ones listed.
#[test]
fn more_faults_than_anybody_reads_are_counted() {
    let mut core = Core::fixture();
    let leaf =
        (1..heirloom_kho::tree::Geometry::BUILD.levels).fold(MAP, |node, _| entry(&core, node).1);
    core.put(leaf, &[0xff; 4096]);
    let reasons = found(&core);
    assert_eq!(reasons.len(), 10_001);
    let more = reasons[10_000].strip_prefix("and ").and_then(|rest| rest.strip_suffix(" more"));
    let more: u64 = more.unwrap().parse().unwrap();
    assert!((20_000..40_000).contains(&more), "{more} more");
}

#[test]
fn names_do_nothing_to_a_terminal() {
    let mut core = Core::fixture();
    let sessions = core.word(LUO + 16);
    core.put(sessions + 16, b"\x1b[31mred\nin order\x07\0");
    core.put(sessions + 16 + 80, "a\u{9b}2J\u{202e}b\0".as_bytes());
    let files = core.word(sessions + 16 + 64);
    core.put(files + 16, b"\x1b]0;title\x07\0");
    core.put(0x51_6000 + 4, b"7.3\x1b[2J\0");
    let file = core.file();
    let map = Temporary::path();
    let inspect = heirloom(&["inspect", file.as_str(), "--map", map.as_str()]);
    let svg = String::from_utf8(map.read()).unwrap();
    let extract = heirloom(&["extract", file.as_str(), "no\x1bne", "0", "-o", map.as_str()]);
    let diff = heirloom(&["diff", FIXTURE, file.as_str()]);
    let check = check(file.as_str());
    assert_eq!((inspect.code, check.code, extract.code, diff.code), (0, 3, 2, 1));
    for said in [&inspect.out, &check.out, &extract.err, &diff.out, &svg] {
        let obeyed = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
        assert!(!said.contains(obeyed), "{said:?}");
        assert!(!said.lines().any(|line| line.starts_with("in order") && line.len() < 20));
    }
    assert!(inspect.out.contains(r"session \u{1b}[31mred\nin order\u{7}, "), "{}", inspect.out);
    assert!(inspect.out.contains(r"left by Linux 7.3\u{1b}[2J"), "{}", inspect.out);
    assert!(extract.err.contains(r"no session no\u{1b}ne; there are \u{1b}[31m"), "{extract:?}");
    // For programs it is what it is.
    let json = heirloom(&["inspect", file.as_str(), "--json"]).json();
    assert_eq!(json["subtrees"]["LUO"]["sessions"][0]["name"], "\x1b[31mred\nin order\x07");
}

#[test]
fn one_list_that_many_sessions_have_is_listed_once() {
    let mut core = Core::fixture();
    let sessions = core.word(LUO + 16);
    let files = core.word(sessions + 16 + 64);
    for i in 0..51 {
        let mut entry = format!("s{i}").into_bytes();
        entry.resize(64, 0);
        entry.extend([files, 2].map(u64::to_le_bytes).concat());
        core.put(sessions + 16 + 80 * i, &entry);
    }
    core.put(sessions + 8, &51_u64.to_le_bytes());
    let file = core.file();
    let json = heirloom(&["inspect", file.as_str(), "--json"]).json();
    let listed = json["subtrees"]["LUO"]["sessions"].as_array().unwrap();
    let files = |session: &serde_json::Value| session["files"].as_array().unwrap().len();
    assert_eq!(listed.iter().map(files).collect::<Vec<_>>()[..3], [2, 0, 0]);
    assert_eq!(listed[50]["unlisted"], "2 files, in a list that was gone through before");
    let ran = heirloom(&["inspect", file.as_str()]);
    assert_eq!(ran.out.matches("not listed: 2 files, in a list").count(), 50, "{}", ran.out);
    assert_eq!(ran.out.matches("token ").count(), 2);
}

#[test]
fn content_that_cannot_be_read_is_said_so() {
    let mut core = Core::fixture();
    let list = core.word(core.word(MEMFD + 32) + 8);
    core.put(list + 16 * 3, &(0x600 | 3_u64 << 52).to_le_bytes());
    // A structure that is not there, and a size beyond all that is worth hashing.
    let files = core.word(core.word(LUO + 16) + 16 + 80 + 64);
    core.put(files + 16 + 48, &0x1000_u64.to_le_bytes());
    let other = core.word(files + 16 + 64 + 48);
    core.put(other + 8, &(1_u64 << 40).to_le_bytes());
    let file = core.file();
    let ran = heirloom(&["inspect", file.as_str()]);
    for line in [
        format!("not readable: memfd's folio at {:#x}, byte 0: order 0 at 0x600000", list + 48),
        format!("not sound: file at {:#x}, byte 48: 0x1000 is not in memory", files + 16),
        "left out: 1023.9 GiB of holes are not hashed".to_owned(),
    ] {
        assert!(ran.out.contains(&line), "{line}: {}", ran.out);
    }
    let json = heirloom(&["inspect", file.as_str(), "--json"]).json();
    let memfd = &json["subtrees"]["LUO"]["sessions"][0]["files"][0];
    assert!(memfd["unreadable"].is_string() && memfd["sha256"].is_null(), "{memfd}");
}

#[test]
fn names_and_tokens_that_stand_twice() {
    let mut core = Core::fixture();
    let sessions = core.word(LUO + 16);
    core.put(sessions + 16 + 80, b"session-0\0");
    let files = core.word(sessions + 16 + 64);
    core.put(files + 16 + 64 + 56, &0_u64.to_le_bytes());
    let expected = [
        format!("file at {:#x}, byte 56: token 0 stands twice in session-0", files + 16 + 64),
        format!("session at {:#x}, byte 0: the name session-0 stands twice", sessions + 16 + 80),
    ];
    assert_eq!(found(&core), expected);
}

#[test]
fn a_subtree_whose_bytes_are_not_there_is_named() {
    let mut core = Core::fixture();
    let page = core.offset(ROOT);
    let at = core.0[page..page + 4096].windows(8).position(|word| word == LUO.to_le_bytes());
    core.put(ROOT + at.unwrap() as u64, &0x7000_0000_u64.to_le_bytes());
    let expected = "subtree LUO: root page at 0x50f000, byte 0: 0x70000000 is not in memory";
    assert_eq!(found(&core)[0], expected);
    let mut core = Core::fixture();
    core.put(0x58_c000, &[0; 4]);
    let expected = "subtree kho_test, by its name Linux's: subtree's device tree at 0x58c000, \
        byte 0: 0x0 is not what";
    assert!(found(&core)[0].starts_with(expected), "{:?}", found(&core));
}

#[test]
fn a_list_that_comes_back_to_itself_is_a_cycle() {
    let mut core = Core::fixture();
    let sessions = core.word(LUO + 16);
    core.put(sessions, &sessions.to_le_bytes());
    let cycle = "no end: it comes back to a block before";
    assert_eq!(found(&core), [format!("record block at {sessions:#x}, byte 0: {cycle}")]);
}

#[test]
fn what_is_wrong_with_one_of_two_is_a_difference() {
    let mut core = Core::fixture();
    core.put(MEMFD + 16, &0x41_u32.to_le_bytes());
    core.put(MAP + 8 * 500, &1_u64.to_le_bytes());
    let (file, same) = (core.file(), core.file());
    let ran = heirloom(&["diff", FIXTURE, file.as_str(), "--contents"]);
    let expected = "\
        ~ LUO.sessions[session-0].files[0].seals 1 -> 65\n\
        + finding: tree node 0x50e000, level 5, entry 500: the path names no key\n\
        + finding: memfd at 0x7b5000, byte 16: 0x41 has reserved bits set\n";
    assert_eq!((ran.code, ran.out.as_str()), (1, expected));
    let ran = heirloom(&["diff", file.as_str(), same.as_str(), "--contents"]);
    let expected = "no difference; 2 findings in both (see heirloom check)\n";
    assert_eq!((ran.code, ran.out.as_str()), (0, expected));
}

#[test]
fn folios_that_moved_are_told_by_their_place_in_the_file() {
    let mut core = Core::fixture();
    let list = core.word(core.word(MEMFD + 32) + 8);
    let (third, final_one) = (core.word(list + 16 * 2), core.word(list + 16 * 15));
    core.put(list + 16 * 2, &final_one.to_le_bytes());
    core.put(list + 16 * 15, &third.to_le_bytes());
    let file = core.file();
    let ran = heirloom(&["diff", FIXTURE, file.as_str()]);
    let pfn = |entry: u64| entry & ((1 << 52) - 1);
    let moved = |index: u32, from, to| {
        let what = format!("LUO.sessions[session-0].files[0].folios[{index}].pfn");
        format!("~ {what} {} -> {}\n", pfn(from), pfn(to))
    };
    let expected = moved(2, third, final_one) + &moved(15, final_one, third);
    assert!(ran.out.starts_with(&expected), "{}", ran.out);
    // What cannot be read cannot be compared.
    core.put(list, &(0x600 | 3_u64 << 52).to_le_bytes());
    let file = core.file();
    let ran = heirloom(&["diff", FIXTURE, file.as_str(), "--contents"]);
    assert_eq!(ran.out.matches(".folios[").count(), 4, "{}", ran.out);
    let unseen = "as they cannot be had: LUO.sessions[session-0].files[0]\n";
    assert!(ran.out.ends_with(unseen), "{}", ran.out);
}
