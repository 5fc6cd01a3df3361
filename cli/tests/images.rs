//! Images as there are: cores with segments that are no memory, pages left out, headers without end,
//! images larger than what this process may map; and files that are none.

mod common;

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use common::{Core, FIXTURE, FLBS, Ran, Temporary, check, findings, heirloom};

const PAGE: u64 = 4096;

/// The fixture with more program headers, which lie at the end of the file.
fn with_segments(mut core: Core, more: &[[u64; 4]]) -> Core {
    let old = usize::from(u16::from_le_bytes(core.0[56..58].try_into().unwrap()));
    let mut headers = core.0[64..64 + old * 56].to_vec();
    for [offset, start, bytes, whole] in more {
        headers.extend([1_u32, 4].map(u32::to_le_bytes).concat());
        headers.extend([*offset, 0, *start, *bytes, *whole, 0].map(u64::to_le_bytes).concat());
    }
    core.0.resize(core.0.len().next_multiple_of(8), 0);
    let place = core.0.len() as u64;
    core.0.extend(&headers);
    core.0[32..40].copy_from_slice(&place.to_le_bytes());
    let count = (old + more.len()) as u32;
    let short = u16::try_from(count).unwrap_or(0xffff);
    core.0[56..58].copy_from_slice(&short.to_le_bytes());
    if short == 0xffff {
        // The number is the first section's.
        let sections = core.0.len() as u64;
        let mut section = [0; 64];
        section[44..48].copy_from_slice(&count.to_le_bytes());
        core.0.extend(section);
        core.0[40..48].copy_from_slice(&sections.to_le_bytes());
        core.0[58..62].copy_from_slice(&[64, 0, 1, 0]);
    }
    core
}

#[test]
fn what_has_no_physical_address_is_passed_over_and_said() {
    for bytes in [0, PAGE] {
        let more = [[PAGE, u64::MAX, bytes, 2 * PAGE]];
        let file = with_segments(Core::fixture(), &more).file();
        let ran = check(file.as_str());
        assert_eq!((ran.code, ran.err.as_str()), (0, ""));
        let said = "; 1 segment without a physical address, passed over\n";
        assert!(ran.out.ends_with(said), "{}", ran.out);
        let json = heirloom(&["inspect", "--quick", "--json", file.as_str()]).json();
        assert_eq!(json["image"]["unaddressed_segments"], 1);
        assert_eq!(json["folios"], 93);
        let ran = heirloom(&["inspect", "--quick", file.as_str()]);
        assert!(ran.out.contains("1 segment without a physical address, passed over"));
    }
}

/// As `/proc/kcore` has the kernel's text and data, a second time: between two looks a running kernel writes to them.
#[test]
fn what_a_running_kernel_has_twice_need_not_agree() {
    let core = Core::fixture();
    let (_, start, bytes) = *core.segments().iter().max_by_key(|(.., bytes)| *bytes).unwrap();
    // The bytes are those of another segment.
    let other = core.segments().iter().find(|(_, at, _)| *at != start).unwrap().0;
    let second = [other as u64, start, PAGE.min(bytes as u64), PAGE.min(bytes as u64)];
    let file = with_segments(core.clone(), &[second]).file();
    let ran = heirloom(&["check", file.as_str()]);
    assert_eq!((ran.code, ran.out.as_str()), (2, ""));
    assert!(ran.err.contains("with other bytes"), "{ran:?}");
    let file = with_segments(core, &[second, [PAGE, u64::MAX, PAGE, PAGE]]).file();
    let ran = check(file.as_str());
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{ran:?}");
}

/// As `makedumpfile -d 1` leaves it: declared, and not there.
#[test]
fn pages_of_zeroes_that_were_left_out_are_zeroes_if_the_user_says_so() {
    let mut core = Core::fixture();
    let (offset, start, bytes) = *core.segments().last().unwrap();
    core.0[offset + bytes - 4096..offset + bytes].fill(0);
    // It is a page of this file.
    let gone = start + bytes as u64 - PAGE;
    let whole = core.file();
    let to = Temporary::path();
    let extract = |image: &str, more: &[&str]| -> Ran {
        let place = ["extract", image, "session-1", "257", "-o", to.as_str()];
        heirloom(&[&place, more].concat())
    };
    assert_eq!(extract(whole.as_str(), &[]).code, 0);
    let content = to.read();
    let last = 64 + 56 * (core.segments().len() - 1) + 32;
    core.0[last..last + 8].copy_from_slice(&(bytes as u64 - PAGE).to_le_bytes());
    let file = core.file();
    let reasons = findings(&[file.as_str()]);
    assert!(reasons[0].ends_with(&format!("{gone:#x} is not in memory")), "{reasons:?}");
    let ran = heirloom(&["check", file.as_str()]);
    let hint = "; 4 KiB are not in the file; --zero-excluded takes them for zeroes\n";
    assert!(ran.out.ends_with(hint), "{}", ran.out);
    let ran = heirloom(&["check", file.as_str(), "--zero-excluded", "--accept", FLBS]);
    assert_eq!(ran.code, 0);
    assert!(ran.out.ends_with("; 4 KiB that are not in the file, taken for zeroes\n"), "{ran:?}");
    let ran = heirloom(&["diff", whole.as_str(), file.as_str(), "--zero-excluded", "--contents"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(extract(file.as_str(), &["--zero-excluded"]).code, 0);
    assert!(to.read() == content);
    // Where nothing is left out, nothing is said of it.
    let ran = heirloom(&["check", whole.as_str(), "--zero-excluded"]);
    assert!(!ran.out.contains("zeroes"), "{}", ran.out);
}

/// More than `vm.max_map_count` allows mappings of, none of which touch.
#[test]
fn a_core_of_a_hundred_thousand_segments() {
    let segment = |i: u64| [PAGE, 0x1_0000_0000 + i * 2 * PAGE, PAGE, PAGE];
    let more: Vec<_> = (0..100_000).map(segment).collect();
    let file = with_segments(Core::fixture(), &more).file();
    let ran = check(file.as_str());
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{ran:?}");
    let json = heirloom(&["inspect", "--quick", "--json", file.as_str()]).json();
    assert_eq!((&json["folios"], &json["image"]["frames"]), (&93.into(), &100_179.into()));
}

/// Segments over the image's own, and over each other: as many looks as without them.
#[test]
fn a_core_of_a_hundred_thousand_segments_over_one_another() {
    let core = Core::fixture();
    let alone = heirloom_cli::look(Path::new(core.file().as_str()), None, None).unwrap();
    let (offset, start, bytes) = *core.segments().iter().max_by_key(|(.., bytes)| *bytes).unwrap();
    let (offset, bytes) = (offset as u64, bytes as u64);
    // Every segment shows bytes of one stretch of the file: the largest all of it, each other its end.
    let pages = bytes / PAGE;
    let same = |i: u64| {
        let skip = i % pages * PAGE;
        [offset + skip, start + skip, bytes - skip, bytes - skip]
    };
    // None in the file, each declared from another place on as far as all others.
    let declared = |i: u64| [PAGE, (1 << 40) + i * PAGE, 0, (200_000 - i) * PAGE];
    for what in ["same", "declared"] {
        let segment = |i| if what == "same" { same(i) } else { declared(i) };
        let more: Vec<_> = (0..100_000).map(segment).collect();
        let file = with_segments(Core::fixture(), &more).file();
        let looked = heirloom_cli::look(Path::new(file.as_str()), None, None).unwrap();
        assert_eq!(looked.findings, alone.findings, "{what}");
        assert_eq!((looked.frames, looked.looks), (alone.frames, alone.looks), "{what}");
    }
    // And taken for zeroes, they are one stretch.
    let more: Vec<_> = (0..100_000).map(declared).collect();
    let file = with_segments(Core::fixture(), &more).file();
    let json = heirloom(&["inspect", "--quick", "--json", "--zero-excluded", file.as_str()]).json();
    assert_eq!(json["image"]["frames"], alone.frames + 200_000);
}

/// Half a pebibyte that is nearly all a hole, for a process that may have no more than 2 GiB of
/// addresses.
#[test]
fn an_image_larger_than_what_may_be_mapped() {
    let core = Core::fixture();
    let raw = core.raw(0x50_0000, 0x140_0000);
    let file = Temporary::new(&[]);
    let open = fs::OpenOptions::new().write(true).open(file.as_str()).unwrap();
    open.write_all_at(&raw, 0x50_0000).unwrap();
    // As large as the file system takes.
    let size = (30..50).rev().map(|log2| 1_u64 << log2).find(|size| open.set_len(*size).is_ok());
    let size = size.unwrap();
    assert!(size > 4 << 30, "{size}");
    let bin = env!("CARGO_BIN_EXE_heirloom");
    let limited = format!("ulimit -v 2097152; exec {bin} check {} --base 0", file.as_str());
    let ran = Command::new("sh").args(["-c", &limited]).output().unwrap();
    let (out, err) =
        (String::from_utf8(ran.stdout).unwrap(), String::from_utf8(ran.stderr).unwrap());
    assert_eq!((ran.status.code(), err.as_str()), (Some(3), ""), "{out}");
    assert!(out.contains("in order as far as looked at: root 0x50f000, 93 folios"), "{out}");
}

#[test]
fn files_that_are_no_images_are_called_by_their_names() {
    let dir = Temporary::path();
    fs::create_dir_all(dir.as_str()).unwrap();
    for (file, said) in [
        // Standard input is /dev/null.
        ("-", "an image is a regular file, or comes out of a pipe; this is a device"),
        ("/dev/null", "this is a device"),
        (dir.as_str(), "this is a directory"),
    ] {
        let ran = heirloom(&["check", file]);
        assert_eq!((ran.code, ran.out.as_str()), (2, ""));
        assert!(ran.err.contains(said), "{file}: {}", ran.err);
    }
    fs::remove_dir_all(dir.as_str()).unwrap();
}

#[test]
fn arguments_that_are_nearly_right_are_answered() {
    let dir = env!("CARGO_TARGET_TMPDIR");
    let names = ["-", "x.png", "X.PNG", "map.pdf"];
    for name in names {
        let map = if name == "-" { name.to_owned() } else { format!("{dir}/{name}") };
        let ran = heirloom(&["inspect", "--quick", FIXTURE, "--map", &map]);
        assert_eq!((ran.code, ran.out.as_str()), (2, ""));
        let said = if name == "-" { "standard output is /dev/stdout" } else { ".svg" };
        assert!(ran.err.contains(said), "{}", ran.err);
        assert!(!fs::exists(&map).unwrap());
    }
    for root in ["50f000", "0x50f000", "0X50F000", "5304320", "5180k", "0x143cK"] {
        let ran = heirloom(&["check", FIXTURE, "--root", root, "--quiet", "--accept", FLBS]);
        assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (0, "", ""), "{root}");
    }
    for (root, said) in [
        ("50g000", "a number is decimal, or hexadecimal with 0x before it or a letter in it"),
        ("M", "a number is decimal"),
        ("16X", "a number is decimal"),
        ("-1", "unexpected argument"),
        ("16777216T", "more than 64 bits can hold"),
        ("", "a number is decimal"),
    ] {
        let ran = heirloom(&["check", FIXTURE, "--root", root]);
        assert_eq!(ran.code, 2);
        assert!(ran.err.contains(said), "{root}: {}", ran.err);
    }
}

/// Each page of memory is a root page that leads to the same tree: only so many are gone through.
#[test]
fn roots_without_number_are_not_all_gone_through() {
    let core = Core::fixture();
    let mut raw = core.raw(0x50_0000, 0x140_0000);
    let root = raw[0xf000..0x1_0000].to_vec();
    raw.extend(std::iter::repeat_n(root, 500).flatten());
    let file = Temporary::new(&raw);
    let ran = heirloom(&["check", file.as_str(), "--base", "0x500000", "--accept", FLBS]);
    assert_eq!(ran.code, 0);
    assert!(ran.err.starts_with("501 roots; "), "{}", ran.err);
    assert_eq!(ran.err.lines().count(), 1 + 64 + 1);
    assert!(ran.err.ends_with("  and 437 more, which were not looked at\n"), "{}", ran.err);
}

/// What a kernel says of itself in a dump's notes.
#[test]
fn a_machine_with_other_pages_is_named() {
    let with_note = |text: &str, cut: usize| {
        let mut core = Core::fixture();
        let mut note = [5_u32, 4, 1].map(u32::to_le_bytes).concat();
        note.extend(b"CORE\0\0\0\0word");
        note.extend([11, text.len() as u32, 0].map(u32::to_le_bytes).concat());
        note.extend(b"VMCOREINFO\0\0");
        note.extend(text.as_bytes());
        let place = core.0.len() as u64;
        let bytes = note.len() - cut;
        core.0.extend(note);
        let mut core = with_segments(core, &[[place, 0, bytes as u64, bytes as u64]]);
        let headers = u64::from_le_bytes(core.0[32..40].try_into().unwrap()) as usize;
        core.0[headers + 14 * 56] = 4;
        core.file()
    };
    let file = with_note("OSRELEASE=7.3.4\nPAGESIZE=65536\nSYMBOL(x)=0\n", 0);
    let ran = heirloom(&["check", file.as_str()]);
    assert_eq!((ran.code, ran.out.as_str()), (2, ""));
    assert!(ran.err.contains("no handover in 5 frames of 65536 bytes"), "{}", ran.err);
    let ran = heirloom(&["check", file.as_str(), "--page-size", "4k"]);
    let said = "it is of a machine with pages of 64 KiB: leave out --page-size";
    assert!(ran.code == 2 && ran.err.contains(said), "{}", ran.err);
    let file = with_note("PAGESIZE=131072\n", 0);
    let ran = heirloom(&["check", file.as_str()]);
    let said = "pages of 131072 bytes, and this command reads pages of 4 KiB to 64 KiB";
    assert!(ran.code == 2 && ran.err.contains(said), "{}", ran.err);
    for (text, cut) in [
        ("OSRELEASE=7.3.4\nPAGESIZE=4096\n", 0),
        ("PAGESIZE=65536\n", 10),
        ("PAGESIZE=many\n", 0),
        ("", 0),
    ] {
        let ran = check(with_note(text, cut).as_str());
        assert_eq!(ran.code, 0, "{text}: {ran:?}");
    }
}
