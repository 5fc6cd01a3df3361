//! Dumps in other formats than ELF, and compressed files: the command finds in each what it finds in the ELF core of
//! the memory. And dumps that end too early, or that were tampered with.

mod common;

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use common::{Core, Ran, Temporary, heirloom};
use serde_json::Value;

const LENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/lent/");
const PAGE: usize = 4096;
/// The memory of the fixture.
const BASE: u64 = 0x10_0000;
const PAGES: usize = 1024;

fn lent(name: &str) -> String {
    format!("{LENT}{name}")
}

/// All of the fixture's memory.
fn memory() -> Vec<u8> {
    Core(fs::read(lent("image.elf")).unwrap()).raw(BASE, PAGES * PAGE)
}

/// What is said of an image, but for the image itself and the roots; and what is said of that.
fn facts(arguments: &[&str]) -> (Value, Value) {
    let ran = heirloom(&[&["inspect", "--json"], arguments].concat());
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{arguments:?}");
    let mut json = ran.json();
    let image = json["image"].take();
    (json, image)
}

/// What is said of the fixture.
fn expected() -> Value {
    facts(&[&lent("image.elf"), "--zero-excluded"]).0
}

/// Runs the command with these bytes as standard input, from a pipe.
fn piped(arguments: &[&str], input: &[u8]) -> Ran {
    let mut child = Command::new(env!("CARGO_BIN_EXE_heirloom"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let ran = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran { code: ran.status.code().unwrap(), out: text(ran.stdout), err: text(ran.stderr) }
}

#[test]
fn what_other_programs_packed_is_unpacked() {
    let expected = expected();
    for (name, packed) in
        [("image.elf.gz", "gzip"), ("image.elf.zst", "zstd"), ("image.elf.xz", "xz")]
    {
        let (found, image) = facts(&[&lent(name), "--zero-excluded"]);
        assert_eq!(found, expected, "{name}");
        assert_eq!((&image["format"], &image["packed"][0]), (&"ELF core".into(), &packed.into()));
    }
    for (name, packed) in [
        ("dump.flat.xz", &["xz", "flattened"][..]),
        ("dump.kdump.xz", &["xz"]),
        ("dump.lzo.xz", &["xz"]),
        ("dump.snappy.xz", &["xz"]),
        ("dump.zstd.xz", &["xz"]),
    ] {
        let (found, image) = facts(&[&lent(name)]);
        assert_eq!(found, expected, "{name}");
        assert_eq!(image["format"], "kdump file");
        assert_eq!(image["packed"], serde_json::json!(packed));
    }
    let ran = heirloom(&["inspect", &lent("dump.flat.xz")]);
    assert!(ran.out.contains("(kdump file, xz, flattened, "), "{}", ran.out);
}

#[test]
fn standard_input_is_read_to_its_end() {
    let expected = expected();
    for (name, more) in [
        ("image.elf", &["--zero-excluded"][..]),
        ("image.elf.zst", &["--zero-excluded"]),
        ("dump.flat.xz", &[]),
    ] {
        let ran =
            piped(&[&["inspect", "--json", "-"], more].concat(), &fs::read(lent(name)).unwrap());
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{name}");
        let mut json = ran.json();
        assert_eq!(json["image"].take()["path"], "-");
        assert_eq!(json, expected, "{name}");
    }
    let ran = piped(&["check", "-", "--base", "0x100000"], &memory());
    assert_eq!(ran.code, 0, "{ran:?}");
    let ran = piped(&["check", "-"], b"");
    assert_eq!((ran.code, ran.err.as_str()), (2, "error: -: the file is empty\n"));
    // What a shell makes a pipe of has a name.
    let fifo = Temporary::path();
    assert!(Command::new("mkfifo").arg(fifo.as_str()).status().unwrap().success());
    let (to, bytes) = (fifo.as_str().to_owned(), fs::read(lent("image.elf.gz")).unwrap());
    let writer = std::thread::spawn(move || fs::write(to, bytes).unwrap());
    let ran = heirloom(&["check", fifo.as_str(), "--zero-excluded"]);
    writer.join().unwrap();
    assert_eq!(ran.code, 0, "{ran:?}");
}

/// What is packed and ends too early is looked at as far as it goes, and that is said.
#[test]
fn what_is_packed_and_cut_off_is_unpacked_as_far_as_it_goes() {
    for name in ["image.elf.gz", "image.elf.xz", "image.elf.zst", "dump.flat.xz"] {
        let whole = fs::read(lent(name)).unwrap();
        let file = Temporary::new(&whole[..whole.len() - 40]);
        let ran = heirloom(&["check", file.as_str(), "--zero-excluded", "--json"]);
        // Where little is missing, it can be read still; what is there is said to be not whole.
        if ran.code == 2 {
            assert!(!ran.err.is_empty(), "{name}");
        } else {
            let json = ran.json();
            assert!(json["broken"].as_str().is_some_and(|why| !why.is_empty()), "{name}: {json}");
        }
        let file = Temporary::new(&whole[..20]);
        let ran = heirloom(&["check", file.as_str()]);
        assert_eq!(ran.code, 2, "{name}: {ran:?}");
    }
    // A stored block, so that what comes before the end is there.
    let memory = memory();
    let mut gzip = b"\x1f\x8b\x08\0\0\0\0\0\0\x03".to_vec();
    for (i, block) in memory.chunks(0x8000).enumerate() {
        let last = u8::from((i + 1) * 0x8000 == memory.len());
        gzip.extend([last, 0, 0x80, 0xff, 0x7f]);
        gzip.extend(block);
    }
    let cut = Temporary::new(&gzip[..gzip.len() - 0x6000]);
    let ran = heirloom(&["check", cut.as_str(), "--base", "0x100000"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.out.contains("; not whole: it goes no further than byte 0x3f"), "{}", ran.out);
}

#[test]
fn zstd_frames_are_unpacked_one_after_the_other() {
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};
    let memory = memory();
    let (low, high) = memory.split_at(0x12_3456);
    let skipped = [&0x184d_2a51_u32.to_le_bytes()[..], &5_u32.to_le_bytes(), b"hello"].concat();
    let frames = [low, high].map(|part| compress_to_vec(part, CompressionLevel::Fastest));
    let [low, high] = frames;
    let file = [&low[..], &skipped, &high].concat();
    let place = ["--base", "0x100000"];
    let (found, _) = facts(&[&[Temporary::new(&file).as_str()], &place[..]].concat());
    assert_eq!(found, expected());
    // What stands between frames is a frame, or it ends there.
    let broken = [&low[..], b"no frame", &high].concat();
    let ran = heirloom(&[&["check", Temporary::new(&broken).as_str()], &place[..]].concat());
    assert!(ran.out.contains("; not whole: it goes no further than byte 0x123456"), "{ran:?}");
}

#[test]
fn raw_memory_can_be_in_several_files() {
    let memory = memory();
    let expected = expected();
    let (low, high) = memory.split_at(0x20_0000);
    let (low, high) = (Temporary::new(low), Temporary::new(high));
    let more = format!("{}@0x300000", high.as_str());
    let (found, image) = facts(&[low.as_str(), "--base", "0x100000", "--raw", &more]);
    assert_eq!((found, &image["frames"]), (expected.clone(), &PAGES.into()));
    // In another order, and one of them packed; and with a part in common.
    let more = format!("{}@0x100000", low.as_str());
    assert_eq!(facts(&[high.as_str(), "--base", "0x300000", "--raw", &more]).0, expected);
    let both = Temporary::new(&memory[0x10_0000..0x30_0000]);
    let both = format!("{}@0x200000", both.as_str());
    let place = [high.as_str(), "--base", "0x300000", "--raw", &more, "--raw", &both];
    assert_eq!(facts(&place).0, expected);
    let mut other = memory[0x10_0000..0x30_0000].to_vec();
    other[0x1234] ^= 1;
    let other = Temporary::new(&other);
    let other = format!("{}@0x200000", other.as_str());
    let place = [high.as_str(), "--base", "0x300000", "--raw", &more, "--raw", &other];
    let ran = heirloom(&[&["check"], &place[..]].concat());
    assert_eq!(ran.code, 2);
    let two = [low.as_str(), other.rsplit_once('@').unwrap().0].join(" and ");
    let said = format!(": {two} both have 0x201234, with other bytes\n");
    assert!(ran.err.ends_with(&said), "{}", ran.err);
    for (arguments, said) in [
        (
            &[low.as_str(), "--raw", &more][..],
            "give the address of this one's first byte with --base",
        ),
        (&[low.as_str(), "--base", "0", "--raw", "nothing"], "a file, an @, and an address"),
        (&[low.as_str(), "--base", "0", "--raw", "/nothing@0x1000"], "/nothing: cannot open it"),
        (
            &[low.as_str(), "--base", "0", "--raw", &format!("{}@8", high.as_str())],
            "--raw 0x8 is no multiple",
        ),
    ] {
        let ran = heirloom(&[&["check"], arguments].concat());
        assert_eq!(ran.code, 2, "{ran:?}");
        assert!(ran.err.contains(said), "{said}: {}", ran.err);
    }
}

#[test]
fn what_says_itself_where_it_lies_is_no_raw_memory() {
    let low = Temporary::new(&memory());
    for (bytes, what) in [
        (fs::read(lent("image.elf")).unwrap(), "an ELF core"),
        (kdump(ALL[1], |_, _| false).bytes, "a kdump file"),
        (lime(&[(BASE, &memory())]), "a LiME image"),
        (common::arena().0, "an arena"),
    ] {
        let file = Temporary::new(&bytes);
        let more = format!("{}@0x1000000", file.as_str());
        for (option, arguments) in [
            ("--base", &[file.as_str(), "--base", "0x100000"][..]),
            ("--raw", &[low.as_str(), "--base", "0x100000", "--raw", &more]),
        ] {
            let ran = heirloom(&[&["check"], arguments].concat());
            let said = format!("{what} says itself where it lies: leave out {option}\n");
            assert!(ran.code == 2 && ran.err.ends_with(&said), "{ran:?}");
        }
    }
}

/// Memory as `LiME` writes it: ranges in any order.
fn lime(ranges: &[(u64, &[u8])]) -> Vec<u8> {
    let mut file = Vec::new();
    for (start, bytes) in ranges {
        file.extend(b"EMiL\x01\0\0\0");
        file.extend([*start, start + bytes.len() as u64 - 1, 0].map(u64::to_le_bytes).concat());
        file.extend(*bytes);
    }
    file
}

#[test]
fn a_lime_image_says_which_memory_it_has() {
    let memory = memory();
    let (low, high) = memory.split_at(0x12_3000);
    let whole = lime(&[(BASE + low.len() as u64, high), (BASE, low)]);
    let (found, image) = facts(&[Temporary::new(&whole).as_str()]);
    assert_eq!((found, &image["format"]), (expected(), &"LiME image".into()));
    // The last range is not all there.
    let place = Temporary::new(&whole[..whole.len() - 0x1800]);
    let ran = heirloom(&["check", place.as_str(), "--root", "0x4c9000", "--json"]);
    assert_eq!(ran.json()["cut_bytes"], 0x1800);
    let with = |at: usize, byte: u8| {
        let mut bad = whole.clone();
        bad[at] = byte;
        heirloom(&["check", Temporary::new(&bad).as_str()])
    };
    let second = 32 + high.len();
    for (at, byte, said) in [
        (4, 2, "a LiME header of version 2 at byte 0x0"),
        (second, b'F', "no LiME header at byte"),
        // The first range starts behind its end, or reaches over the second header.
        (15, 1, "is no stretch of memory"),
    ] {
        let ran = with(at, byte);
        assert_eq!(ran.code, 2, "{said}: {ran:?}");
        assert!(ran.err.contains(said), "{said}: {}", ran.err);
    }
    let ran = heirloom(&["check", Temporary::new(&whole).as_str(), "--base", "0"]);
    assert!(ran.err.contains("a LiME image says itself where it lies"), "{}", ran.err);
}

/// How a page is packed.
type Pack = fn(&[u8]) -> Vec<u8>;

fn zlib(page: &[u8]) -> Vec<u8> {
    let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    zlib.write_all(page).unwrap();
    zlib.finish().unwrap()
}

fn lzo(page: &[u8]) -> Vec<u8> {
    lzokay::compress::compress(page).unwrap()
}

fn snappy(page: &[u8]) -> Vec<u8> {
    snap::raw::Encoder::new().compress_vec(page).unwrap()
}

fn zstd(page: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(page, ruzstd::encoding::CompressionLevel::Fastest)
}

/// A kdump file.
struct Kdump {
    bytes: Vec<u8>,
    table: usize,
}

/// The fixture's memory as makedumpfile writes it, each page packed so if that is shorter; `excluded` says which
/// pages are left out. All that are zero have one place.
fn kdump((flag, pack): (u32, Pack), excluded: impl Fn(u64, &[u8]) -> bool) -> Kdump {
    let memory = memory();
    let first = BASE as usize / PAGE;
    let pages = first + PAGES;
    let mut bitmaps = vec![0; 2 * PAGE];
    let (mut descriptors, mut packed) = (Vec::new(), Vec::new());
    let kept: Vec<_> = memory.chunks(PAGE).enumerate().map(|(i, page)| (first + i, page)).collect();
    for (number, page) in &kept {
        bitmaps[number / 8] |= 1 << (number % 8);
        if !excluded((number * PAGE) as u64, page) {
            bitmaps[PAGE + number / 8] |= 1 << (number % 8);
        }
    }
    let kept: Vec<_> =
        kept.into_iter().filter(|(i, page)| !excluded((i * PAGE) as u64, page)).collect();
    let table = 4 * PAGE;
    let data = table + kept.len() * 24;
    let mut zero = None;
    for (_, page) in kept {
        let is_zero = page.iter().all(|byte| *byte == 0);
        let (offset, length, flag) = zero.filter(|_| is_zero).unwrap_or_else(|| {
            let short = pack(page);
            let (bytes, flag) = if short.len() < PAGE { (&short[..], flag) } else { (page, 0) };
            let place = (data + packed.len(), bytes.len(), flag);
            packed.extend(bytes);
            zero = zero.or(is_zero.then_some(place));
            place
        });
        descriptors.extend((offset as u64).to_ne_bytes());
        descriptors.extend([length as u32, flag, 0, 0].map(u32::to_ne_bytes).concat());
    }
    let mut head = b"KDUMP   ".to_vec();
    head.extend(6_u32.to_ne_bytes());
    head.resize(424, 0);
    // Status, block, sub-header, bitmaps, pages if there are few.
    head.extend([flag, PAGE as u32, 1, 2, 0].map(u32::to_ne_bytes).concat());
    head.resize(PAGE + 96, 0);
    head.extend((pages as u64).to_ne_bytes());
    head.resize(2 * PAGE, 0);
    let bytes = [head, bitmaps, descriptors, packed].concat();
    Kdump { bytes, table }
}

const ALL: [(u32, Pack); 5] =
    [(0, |page| page.to_vec()), (1, zlib), (2, lzo), (4, snappy), (0x20, zstd)];

#[test]
fn pages_of_a_kdump_file_are_unpacked_however_they_are_packed() {
    let expected = expected();
    for pack in ALL {
        let file = Temporary::new(&kdump(pack, |_, _| false).bytes);
        let (found, image) = facts(&[file.as_str()]);
        assert_eq!(found, expected, "{:#x}", pack.0);
        assert_eq!((&image["frames"], &image["page_size"]), (&PAGES.into(), &PAGE.into()));
    }
}

#[test]
fn pages_that_a_kdump_file_left_out_are_zeroes_if_the_user_says_so() {
    let zero = |page: &[u8]| page.iter().all(|byte| *byte == 0);
    let out = memory().chunks(PAGE).filter(|page| zero(page)).count() * PAGE;
    assert!(out > 1 << 20);
    let file = Temporary::new(&kdump(ALL[1], |_, page| zero(page)).bytes);
    let (found, image) = facts(&[file.as_str(), "--zero-excluded"]);
    assert_eq!((found, &image["declared_bytes"]), (expected(), &out.into()));
    let ran = heirloom(&["check", file.as_str(), "--json"]);
    assert_eq!(ran.json()["declared_bytes"], out);
    assert!(ran.code == 1, "what is left out and preserved is not memory: {ran:?}");
    // A page that is preserved and left out reads as zeroes, which it was not.
    let root = 0x12_9000;
    let file = Temporary::new(&kdump(ALL[1], |at, _| at == root).bytes);
    let ran = heirloom(&["check", file.as_str(), "--zero-excluded"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.out.contains("subtree heirloom: root page at 0x129000"), "{}", ran.out);
}

#[test]
fn a_kdump_file_that_is_cut_off_is_read_as_far_as_it_goes() {
    let Kdump { bytes, table } = kdump(ALL[1], |_, _| false);
    let cut = |length: usize| {
        let file = Temporary::new(&bytes[..length]);
        heirloom(&["inspect", "--json", "--quick", "--root", "0x4c9000", file.as_str()])
    };
    assert_eq!(cut(bytes.len()).json()["image"]["cut_bytes"], Value::Null);
    // The last page of all is another's, and zero; the last that was written is at the end of memory.
    let image = cut(bytes.len() - 1).json()["image"].clone();
    assert!(image["cut_bytes"].as_u64().unwrap() >= PAGE as u64, "{image}");
    let frames = image["frames"].as_u64().unwrap() * PAGE as u64;
    assert_eq!(frames + image["cut_bytes"].as_u64().unwrap(), (PAGES * PAGE) as u64);
    // In its descriptors, all pages lie behind the end.
    let ran = cut(table + 24 * 500);
    assert!(ran.code == 2 && ran.err.contains("not one whole page"), "{ran:?}");
    for (length, said) in [
        (table - 1, "ends in its bitmaps"),
        (PAGE + 50, "ends in its sub-header"),
        (200, "ends in its header"),
    ] {
        let ran = cut(length);
        assert!(ran.code == 2 && ran.err.contains(said), "{said}: {ran:?}");
    }
}

#[test]
fn a_kdump_file_that_was_tampered_with_is_refused_or_its_pages_are_not_memory() {
    let Kdump { bytes, table } = kdump(ALL[1], |_, _| false);
    let with = |at: usize, new: &[u8]| {
        let mut bad = bytes.clone();
        bad[at..at + new.len()].copy_from_slice(new);
        let file = Temporary::new(&bad);
        heirloom(&["check", file.as_str(), "--root", "0x4c9000"])
    };
    for (at, new, said) in [
        (8, 7_u64, "a kdump header of version 7"),
        (428, 4095, "blocks of 4095 bytes"),
        (428, 1 << 20, "the dump's machine has pages of 1048576 bytes"),
        (436, u64::from(u32::MAX), "ends in its bitmaps"),
        (PAGE + 96, u64::MAX, "of which the bitmaps"),
    ] {
        let new = if at < PAGE { &new.to_ne_bytes()[..4] } else { &new.to_ne_bytes()[..] };
        let ran = with(at, new);
        assert_eq!(ran.code, 2, "{said}: {ran:?}");
        assert!(ran.err.contains(said), "{said}: {}", ran.err);
    }
    let ran = with(PAGE + 12, &[1]);
    assert!(ran.code == 2 && ran.err.contains("makedumpfile --reassemble"), "{ran:?}");
    let ran = with(424, &[8]);
    assert!(ran.out.contains("; not whole: it says itself that it is not complete"), "{ran:?}");
    // The descriptor of Linux's root page.
    let root = table + (0x4c9 - 0x100) * 24;
    for (skip, new) in [
        (0, u64::MAX),
        (8, 3 << 32 | 1),
        (8, 1 << 32 | 3),
        (8, 1 << 32 | u64::from(u32::MAX)),
        (8, 64),
    ] {
        let ran = with(root + skip, &new.to_ne_bytes());
        assert_eq!(ran.code, 1, "{ran:?}");
        assert!(ran.out.contains("0x4c9000 is not in memory"), "{}", ran.out);
    }
}

/// A frame that says nothing of its length and has a window of 64 MiB, of blocks that repeat a byte 128 KiB long.
fn bomb(blocks: usize) -> Vec<u8> {
    let block = |last: u32| (128 << 10 << 3 | 1 << 1 | last).to_le_bytes()[..3].to_vec();
    let mut frame = b"\x28\xb5\x2f\xfd\x00\x80".to_vec();
    for i in 1..=blocks {
        frame.extend(block((i == blocks).into()));
        frame.push(7);
    }
    frame
}

/// However much a page would unpack to, a page takes no longer than a page does.
#[test]
fn a_page_that_unpacks_to_more_than_a_page_is_given_up_at_once() {
    let Kdump { mut bytes, table } = kdump(ALL[4], |_, _| false);
    let frame = bomb(2000);
    assert!(frame.len() < 2 * PAGE);
    let root = table + (0x4c9 - 0x100) * 24;
    for page in 0..PAGES {
        let at = table + page * 24;
        if at != root {
            // Its own place for each, so that none is known from the one before.
            let place = bytes.len() as u64;
            bytes.extend(&frame);
            bytes[at..at + 8].copy_from_slice(&place.to_ne_bytes());
            bytes[at + 8..at + 12].copy_from_slice(&(frame.len() as u32).to_ne_bytes());
            bytes[at + 12..at + 16].copy_from_slice(&0x20_u32.to_ne_bytes());
        }
    }
    let file = Temporary::new(&bytes);
    // In processor time, not a clock's: all at once would take the better part of a minute.
    let arguments =
        ["-c", "ulimit -t 10 && exec \"$0\" check \"$1\"", env!("CARGO_BIN_EXE_heirloom")];
    let ran = Command::new("sh").args(arguments).arg(file.as_str()).output().unwrap();
    assert_eq!(ran.status.code(), Some(1), "{ran:?}");
}

#[test]
fn a_frame_that_is_not_a_page_is_no_page() {
    let Kdump { bytes, table } = kdump(ALL[4], |_, _| false);
    let root = table + (0x4c9 - 0x100) * 24;
    let page = &memory()[0x4c9 * PAGE - BASE as usize..][..PAGE];
    // One segment that says its own length, in two bytes less 256, and a block as it is.
    let frame = |bytes: &[u8], said: usize| {
        let said = ((said - 256) as u16).to_le_bytes();
        let block = (bytes.len() as u32) << 3 | 1;
        [&b"\x28\xb5\x2f\xfd\x60"[..], &said, &block.to_le_bytes()[..3], bytes].concat()
    };
    let two = |first: &[u8], second: &[u8]| [first, second].concat();
    let half = frame(&page[..PAGE / 2], PAGE / 2);
    for (frame, sound) in [
        (frame(page, PAGE), true),
        (frame(page, PAGE + 1), false),
        (frame(&page[..PAGE - 1], PAGE - 1), false),
        (frame(&page[..PAGE - 1], PAGE), false),
        (two(&half, &half), false),
        (two(&frame(page, PAGE), b"more"), false),
        (bomb(1), false),
    ] {
        let mut other = bytes.clone();
        other[root..root + 8].copy_from_slice(&(bytes.len() as u64).to_ne_bytes());
        other[root + 8..root + 12].copy_from_slice(&(frame.len() as u32).to_ne_bytes());
        other[root + 12..root + 16].copy_from_slice(&0x20_u32.to_ne_bytes());
        other.extend(&frame);
        let file = Temporary::new(&other);
        let ran = heirloom(&["check", file.as_str(), "--root", "0x4c9000"]);
        assert_eq!(ran.code, i32::from(!sound), "{} bytes: {ran:?}", frame.len());
    }
}

#[test]
fn memory_in_more_stretches_than_any_has_is_refused() {
    let pages = (1 << 21) + 64_u64;
    let map = (pages / 8).next_multiple_of(PAGE as u64) as usize;
    let mut bytes = kdump(ALL[1], |_, _| false).bytes[..2 * PAGE].to_vec();
    bytes[436..440].copy_from_slice(&(2 * map as u32 / PAGE as u32).to_ne_bytes());
    bytes[PAGE + 96..PAGE + 104].copy_from_slice(&pages.to_ne_bytes());
    bytes.resize(2 * PAGE + map, 0xff);
    bytes.resize(2 * PAGE + 2 * map, 0x55);
    let file = Temporary::new(&bytes);
    fs::File::options()
        .write(true)
        .open(file.as_str())
        .unwrap()
        .set_len(bytes.len() as u64 + 24 * pages)
        .unwrap();
    let ran = heirloom(&["check", file.as_str()]);
    assert!(ran.code == 2 && ran.err.contains("in more than 1048576 stretches"), "{ran:?}");
}

/// As makedumpfile and QEMU do it: the page that all have that are zero comes first.
#[test]
fn a_kdump_file_that_is_cut_off_is_so_though_its_last_page_is_the_shared_one() {
    let Kdump { bytes, table } = kdump(ALL[1], |_, _| false);
    let data = table + PAGES * 24;
    let (zero, of) =
        (zlib(&[0; PAGE]), |at: usize| u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap()));
    let is_zero = |page: usize| memory()[page * PAGE..][..PAGE].iter().all(|byte| *byte == 0);
    let mut first = bytes[..data].to_vec();
    first.extend(&zero);
    first.extend(&bytes[data..]);
    let mut zeroes = 0;
    for page in 0..PAGES {
        let at = table + page * 24;
        // The last one as well, whatever it was.
        let shared = is_zero(page) || page + 1 == PAGES;
        zeroes += usize::from(shared);
        let place = if shared { data as u64 } else { of(at) + zero.len() as u64 };
        first[at..at + 8].copy_from_slice(&place.to_ne_bytes());
        if shared {
            first[at + 8..at + 12].copy_from_slice(&(zero.len() as u32).to_ne_bytes());
            first[at + 12..at + 16].copy_from_slice(&1_u32.to_ne_bytes());
        }
    }
    assert!(zeroes > 500);
    let image = |length: usize| {
        let file = Temporary::new(&first[..length]);
        let ran = heirloom(&["inspect", "--json", "--quick", "--root", "0x129000", file.as_str()]);
        ran.json()["image"].clone()
    };
    assert_eq!(image(first.len())["cut_bytes"], Value::Null);
    // Up to each page that has a place of its own.
    let own = |page: &usize| !is_zero(*page) && page + 1 < PAGES;
    let behind: Vec<_> = (0x12a - 0x100..PAGES).filter(own).collect();
    assert!(behind.len() > 20);
    for page in behind {
        let at = table + page * 24;
        let place = u64::from_ne_bytes(first[at..at + 8].try_into().unwrap()) as usize;
        let image = image(place + 1);
        assert_eq!(image["cut_bytes"], (PAGES - page) * PAGE, "{page}: {image}");
    }
}

/// What a handover preserves is there to be read, also where no table is.
#[test]
fn a_preserved_page_that_cannot_be_unpacked_is_a_finding() {
    let Kdump { bytes, table } = kdump(ALL[1], |_, _| false);
    let map = expected();
    let lent = &map["subtrees"]["heirloom"]["lent"][0];
    let start = u64::from_str_radix(&lent["start"].as_str().unwrap()[2..], 16).unwrap();
    let count = lent["bytes"].as_u64().unwrap() / PAGE as u64;
    // The last of a folio: none of its tables.
    let last = start + (count - 1) * PAGE as u64;
    let at = |addr: u64| table + (addr - BASE) as usize / PAGE * 24;
    let with = |changes: &[(usize, u64)]| {
        let mut bad = bytes.clone();
        for (at, new) in changes {
            bad[*at..at + 8].copy_from_slice(&new.to_ne_bytes());
        }
        let file = Temporary::new(&bad);
        let ran = heirloom(&["check", "--json", file.as_str(), "--root", "0x4c9000"]);
        (ran.code, ran.json()["findings"].clone())
    };
    assert_eq!(with(&[]), (0, serde_json::json!([])));
    for (skip, new) in [
        // Behind the file's end; in a way that is not known; longer than a page is, and nothing.
        (0, u64::MAX),
        (8, 64 << 32 | 0x64),
        (8, 3 << 32 | 0x64),
        (8, 1 << 32 | 0x3000),
        (8, 100),
        (8, 1 << 32),
    ] {
        let (code, findings) = with(&[(at(last) + skip, new)]);
        assert_eq!(code, 1, "{skip} {new:#x}");
        assert_eq!(findings.as_array().unwrap().len(), 1, "{findings}");
        assert_eq!(findings[0]["code"], "page-unreadable");
        assert_eq!(findings[0]["at"], format!("{last:#x}"));
    }
    let (_, findings) = with(&[(at(last), u64::MAX), (at(last - PAGE as u64), u64::MAX)]);
    let reason = findings[0]["reason"].as_str().unwrap();
    let first = last - PAGE as u64;
    assert_eq!(reason, format!("preserved pages from {first:#x} on: 2 of them cannot be unpacked"));
}

/// A dictionary is as much memory, whatever is in the file.
#[test]
fn an_xz_file_with_a_dictionary_of_gigabytes_is_refused() {
    let sound = fs::read(lent("image.elf.xz")).unwrap();
    // The header of the first block: its length, flags, the filter LZMA2 with a byte that says how large its
    // dictionary is, zeroes, and a checksum.
    let header = 12..12 + (usize::from(sound[12]) + 1) * 4;
    let filter = sound[header.clone()].windows(2).position(|of| of == [0x21, 1]).unwrap();
    let with = |size: u8| {
        let mut bytes = sound.clone();
        bytes[header.start + filter + 2] = size;
        let mut sum = flate2::Crc::new();
        sum.update(&bytes[header.start..header.end - 4]);
        bytes[header.end - 4..header.end].copy_from_slice(&sum.sum().to_le_bytes());
        heirloom(&["check", "--zero-excluded", Temporary::new(&bytes).as_str()])
    };
    assert_eq!(with(sound[header.start + filter + 2]).code, 0);
    // 128 MiB.
    assert_eq!(with(30).code, 0);
    for (size, said) in [(31, "192 MiB"), (36, "1024 MiB"), (39, "3072 MiB"), (40, "4096 MiB")] {
        let ran = with(size);
        let said = format!("an xz file with a dictionary of {said}, ");
        assert!(ran.code == 2 && ran.err.contains(&said), "{ran:?}");
    }
}
