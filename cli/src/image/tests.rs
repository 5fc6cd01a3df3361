//! Images of every shape, made for the purpose.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use heirloom_kho::PAGE_SIZE;

use super::*;

const PAGE: u64 = PAGE_SIZE as u64;

/// A file that is removed with the value.
struct Temporary(PathBuf);

impl Temporary {
    fn new(name: &str, bytes: &[u8]) -> Self {
        let name = format!("heirloom-image-{}-{name}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::write(&path, bytes).unwrap();
        Self(path)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// A segment: where in memory, where in the file, how many bytes there, how many in memory.
type Segment = (u64, u64, u64, u64);

/// An ELF core of these segments; byte `i` of the file is `pattern(i)`, headers aside.
fn core(segments: &[Segment], length: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..length).map(pattern).collect();
    let mut header = vec![0x7f, b'E', b'L', b'F', 2, 1, 1];
    header.resize(16, 0);
    header.extend([4_u16, 62].map(u16::to_le_bytes).concat());
    header.extend(1_u32.to_le_bytes());
    header.extend([0, 64, 0].map(u64::to_le_bytes).concat());
    header.extend(0_u32.to_le_bytes());
    let counts = [64, 56, segments.len() as u16, 0, 0, 0];
    header.extend(counts.map(u16::to_le_bytes).concat());
    for (start, offset, bytes, whole) in segments {
        header.extend([1_u32, 4].map(u32::to_le_bytes).concat());
        header.extend([*offset, 0, *start, *bytes, *whole, 0].map(u64::to_le_bytes).concat());
    }
    bytes[..header.len()].copy_from_slice(&header);
    bytes
}

fn pattern(i: usize) -> u8 {
    (i / 4096 * 7 + i % 4096 * 31 + 1) as u8
}

fn open(name: &str, bytes: &[u8], base: Option<u64>) -> Result<Image> {
    let file = Temporary::new(name, bytes);
    Image::open(&file.0, &Reading { base, ..Reading::default() })
}

fn refused(name: &str, bytes: &[u8]) -> String {
    let error = open(name, bytes, None).unwrap_err();
    format!("{error:#}")
}

/// Whether `bytes` of memory from `addr` on are those of the file from `offset` on.
fn shows(image: &Image, addr: u64, bytes: usize, offset: usize) -> bool {
    let words = image.words(PhysAddr::new(addr), bytes).unwrap();
    let found = words.iter().flat_map(|word| word.load(Relaxed).to_ne_bytes());
    found.take(bytes).eq((offset..offset + bytes).map(pattern))
}

fn runs(image: &Image) -> Vec<(u64, u64)> {
    image.runs().map(|run| (run.addr().get(), run.bytes())).collect()
}

#[test]
fn segments_are_shown_wherever_they_lie_in_the_file() {
    // Aligned in the file, aligned otherwise, and not even to words.
    let segments = [
        (0x10_0000, 0x1000, 0x3000, 0x3000),
        (0x20_0000, 0x4208, 0x2000, 0x2000),
        (0x30_0000, 0x6203, 0x1000, 0x1000),
    ];
    let image = open("shown", &core(&segments, 0x8000), None).unwrap();
    assert_eq!(image.format(), Format::Elf);
    assert_eq!(runs(&image), [(0x10_0000, 0x3000), (0x20_0000, 0x2000), (0x30_0000, 0x1000)]);
    assert_eq!(image.pages(), 6);
    for (start, offset, bytes, _) in segments {
        // A look at a word, before its page is filled and after.
        let expected: Vec<_> = (0..8).map(|i| pattern(offset as usize + 0x808 + i)).collect();
        let peek = || image.peek(PhysAddr::new(start + 0x808)).unwrap().to_ne_bytes();
        assert_eq!(peek(), *expected);
        assert!(shows(&image, start, bytes as usize, offset as usize));
        // And again, when it is filled.
        assert!(shows(&image, start + 0x808, 0x700, offset as usize + 0x808));
        assert_eq!(peek(), *expected);
    }
    assert_eq!(image.peek(PhysAddr::new(0x10_3000)), None);
    assert_eq!(image.peek(PhysAddr::new(0x10_0004)), None);
    let words = |addr, bytes| image.words(PhysAddr::new(addr), bytes).map(<[_]>::len);
    assert_eq!(words(0x10_0000, 0x3000), Some(0x600));
    assert_eq!(words(0x10_0000, 0x3001), None);
    assert_eq!(words(0x10_0004, 8), None);
    assert_eq!(words(0x10_0ff8, 9), Some(2));
    assert_eq!(words(0x0f_fff8, 16), None);
    assert_eq!(words(u64::MAX - 7, 8), None);
    assert_eq!(words(0x30_0000, usize::MAX), None);
}

#[test]
fn segments_that_touch_are_one_stretch() {
    // The border lies within a frame, and the second part lies otherwise in the file.
    let segments = [(0x10_0800, 0x1800, 0x1c00, 0x1c00), (0x10_2400, 0x5001, 0x1c00, 0x1c00)];
    let image = open("touch", &core(&segments, 0x8000), None).unwrap();
    assert_eq!(runs(&image), [(0x10_1000, 0x3000)]);
    assert!(shows(&image, 0x10_1000, 0x1400, 0x2000));
    assert!(shows(&image, 0x10_2400, 0x1c00, 0x5001));
    assert!(image.words(PhysAddr::new(0x10_0800), 8).is_none());
    assert!(image.contains(Run::covering(PhysAddr::new(0x10_1000), 0x3000).unwrap()));
    assert!(!image.contains(Run::covering(PhysAddr::new(0x10_1000), 0x3001).unwrap()));
}

#[test]
fn what_is_only_declared_is_not_memory() {
    let segments = [(0x10_0000, 0x1000, 0x1000, 0x4000), (0x20_0000, 0, 0, 0x4000)];
    let image = open("declared", &core(&segments, 0x2000), None).unwrap();
    assert_eq!(runs(&image), [(0x10_0000, 0x1000)]);
}

#[test]
fn what_stands_twice_must_be_the_same() {
    let mut bytes =
        core(&[(0x10_0000, 0x1000, 0x3000, 0x3000), (0x10_1000, 0x5000, 0x1000, 0x1000)], 0x8000);
    bytes.copy_within(0x2000..0x3000, 0x5000);
    let image = open("twice", &bytes, None).unwrap();
    assert_eq!(runs(&image), [(0x10_0000, 0x3000)]);
    bytes[0x5123] ^= 1;
    assert!(
        refused("differs", &bytes)
            .ends_with("segments 0 and 1 both have 0x101123, with other bytes")
    );
}

/// Where two have a part in common, that part must be the same; a third lies over the border.
#[test]
fn segments_that_overlap_and_agree_are_one_stretch() {
    let crossed = [
        (0x10_0000, 0x1000, 0x3000, 0x3000),
        (0x10_2000, 0x5000, 0x3000, 0x3000),
        (0x10_2800, 0x9000, 0x1000, 0x1000),
        (0x10_4000, 0xb000, 0x2000, 0x2000),
    ];
    let mut bytes = core(&crossed, 0xe000);
    bytes.copy_within(0x3000..0x4000, 0x5000);
    bytes.copy_within(0x5800..0x6800, 0x9000);
    bytes.copy_within(0x7000..0x8000, 0xb000);
    let image = open("crossed", &bytes, None).unwrap();
    assert_eq!(runs(&image), [(0x10_0000, 0x6000)]);
    assert!(shows(&image, 0x10_0000, 0x3000, 0x1000));
    assert!(shows(&image, 0x10_3000, 0x2000, 0x6000));
    assert!(shows(&image, 0x10_5000, 0x1000, 0xc000));
    for (at, segments) in [(0x5456, "0 and 1"), (0x9801, "1 and 2"), (0xb000, "1 and 3")] {
        let mut other = bytes.clone();
        other[at] ^= 1;
        let error = refused("crossed-not", &other);
        assert!(error.contains(&format!("segments {segments} both have 0x10")), "{error}");
        assert!(error.ends_with(", with other bytes"), "{error}");
    }
}

/// What the file ends before is not memory; the rest is, and how much is missing is said.
#[test]
fn a_core_that_is_cut_off_is_read_as_far_as_it_goes() {
    let segments = [(0x10_0000, 0x1000, 0x2000, 0x2000), (0x20_0000, 0x3000, 0x2000, 0x2000)];
    let bytes = core(&segments, 0x5000);
    for (length, expected, cut) in [
        (0x5000, &[(0x10_0000, 0x2000), (0x20_0000, 0x2000)][..], 0),
        (0x4fff, &[(0x10_0000, 0x2000), (0x20_0000, 0x1000)], 1),
        (0x3000, &[(0x10_0000, 0x2000)], 0x2000),
        (0x2800, &[(0x10_0000, 0x1000)], 0x2800),
    ] {
        let image = open("cut", &bytes[..length], None).unwrap();
        assert_eq!((runs(&image), image.passed().cut), (expected.to_vec(), cut));
        // It is not taken for zeroes, as what was left out can be.
        let file = Temporary::new("cut-zeroes", &bytes[..length]);
        let reading = Reading { zero_excluded: true, ..Reading::default() };
        assert_eq!(runs(&Image::open(&file.0, &reading).unwrap()), expected);
    }
    assert!(refused("cut", &bytes[..0x1000]).contains("the file ends at 0x1000, before all of it"));
}

#[test]
fn a_core_that_is_none_is_refused_with_the_reason() {
    let good = core(&[(0x10_0000, 0x1000, 0x1000, 0x1000)], 0x2000);
    open("good", &good, None).unwrap();
    let with = |at: usize, byte: u8| {
        let mut bad = good.clone();
        bad[at] = byte;
        refused("bad", &bad)
    };
    assert!(with(4, 1).contains("32-bit"));
    assert!(with(5, 2).contains("byte order"));
    assert!(with(16, 2).contains("type 2; a memory dump is a core, type 4"));
    assert!(with(54, 55).contains("bad ELF program headers"));
    // The segment's type, and its sizes.
    assert!(with(64, 4).contains("no PT_LOAD segment"));
    assert!(with(64 + 33, 0x11).contains("0x1100 bytes in the file, 0x1000 in memory"));
    assert!(refused("cut", &good[..0x1fff]).contains("not one whole page"));
    let all = [(0, 0x1000, 0x800, 0x800), (0, 0x1800, 0x800, 0x800)];
    assert!(refused("process", &core(&all, 0x2000)).contains("the core of a process"));
    let wraps = [(u64::MAX - 0xfff, 0x1000, 0x1000, 0x2000)];
    assert!(refused("wraps", &core(&wraps, 0x2000)).contains("leave the address space"));
    let part = [(0x10_0800, 0x1000, 0x1000, 0x1000)];
    assert!(refused("part", &core(&part, 0x2000)).contains("not one whole page"));
    assert!(refused("text", b"hello").contains("--base"));
    assert!(refused("kdump", b"KDUMP   and more").contains("ends in its header"));
    let flat = refused("flat", b"makedumpfile\0\0\0\0and more");
    assert!(flat.contains("ends in its header"), "{flat}");
    for head in [&b"\x1f\x8b\x08\0..."[..], b"\x28\xb5\x2f\xfd...", b"\xfd7zXZ\0..."] {
        let error = refused("packed", head);
        assert!(error.contains("cannot unpack it"), "{error}");
    }
    for (head, name) in [
        (&b"BZh9..."[..], "bzip2"),
        (b"DISKDUMP...", "diskdump"),
        (b"LibvirtQemudSave...", "libvirt"),
    ] {
        for base in [None, Some(0)] {
            let error = format!("{:#}", open("foreign", head, base).unwrap_err());
            assert!(error.contains(&format!(" {name}")) || error.contains(name), "{error}");
        }
    }
    assert!(refused("empty", b"").contains("empty"));
    let based = open("based", &good, Some(0)).unwrap_err();
    assert!(format!("{based:#}").contains("leave out --base"));
    let dir = Image::open(&std::env::temp_dir(), &Reading::default()).unwrap_err();
    assert!(format!("{dir:#}").contains("regular file"));
}

#[test]
fn raw_memory_starts_where_the_user_says() {
    let bytes: Vec<u8> = (0..0x3000).map(pattern).collect();
    let image = open("raw", &bytes, Some(0x4000_0000)).unwrap();
    assert_eq!((image.format(), image.pages()), (Format::Raw, 3));
    assert!(shows(&image, 0x4000_0000, 0x3000, 0));
    let refused =
        |bytes: &[u8], base| format!("{:#}", open("raw-bad", bytes, Some(base)).unwrap_err());
    assert!(refused(&bytes, 0x100).contains("multiple of the page size"));
    // A page of which the file has a part is none.
    let image = open("raw-cut", &bytes[..0x2fff], Some(0)).unwrap();
    assert_eq!((runs(&image), image.passed().cut), (vec![(0, 0x2000)], 1));
    assert!(refused(&bytes, u64::MAX - 0xfff).contains("address space"));
}

#[test]
fn holes_of_the_file_are_passed_over() {
    let file = Temporary::new("sparse", b"");
    let open = fs::OpenOptions::new().write(true).open(&file.0).unwrap();
    open.set_len(64 << 20).unwrap();
    open.write_all_at(&[7; 4096], 32 << 20).unwrap();
    let image = Image::open(&file.0, &Reading { base: Some(0), ..Reading::default() }).unwrap();
    let written = image.written();
    // A file system without holes calls all of it written.
    assert!(written.iter().any(|run| run.contains(Pfn::new((32 << 20) / PAGE))));
    assert!(written.is_sorted_by_key(|run| run.start()));
    assert_eq!(image.pages(), (64 << 20) / PAGE);
}

/// What `/proc/kcore` has beside memory.
#[test]
fn a_segment_without_a_physical_address_is_passed_over() {
    for (bytes, whole) in [(0x1000, 0x1000), (0, 0x2000)] {
        let segments = [(0x10_0000, 0x1000, 0x1000, 0x1000), (u64::MAX, 0x2000, bytes, whole)];
        let image = open("unaddressed", &core(&segments, 0x3000), None).unwrap();
        assert_eq!(runs(&image), [(0x10_0000, 0x1000)]);
        assert_eq!(image.passed().unaddressed, 1);
    }
    let none = core(&[(u64::MAX, 0x1000, 0x1000, 0x1000)], 0x2000);
    assert!(refused("none", &none).contains("none of its 1 segments has a physical address"));
}

#[test]
fn what_is_declared_can_be_zeroes() {
    let segments = [
        (0x10_0000, 0x1000, 0x1800, 0x4000),
        (0x10_3000, 0x3000, 0x1000, 0x3000),
        (0x20_0000, 0, 0, 0x1000),
        (0x20_0800, 0, 0, 0x1000),
    ];
    let bytes = core(&segments, 0x4000);
    let image = open("declared-not", &bytes, None).unwrap();
    assert_eq!(runs(&image), [(0x10_0000, 0x1000), (0x10_3000, 0x1000)]);
    let passed = Passed { declared: 0x5000, ..Passed::default() };
    assert_eq!(*image.passed(), passed);
    let file = Temporary::new("declared-zero", &bytes);
    let image =
        Image::open(&file.0, &Reading { zero_excluded: true, ..Reading::default() }).unwrap();
    assert_eq!(runs(&image), [(0x10_0000, 0x6000), (0x20_0000, 0x1000)]);
    assert_eq!(*image.passed(), Passed { zeroes: true, ..passed });
    assert!(shows(&image, 0x10_0000, 0x1800, 0x1000));
    let words = image.words(PhysAddr::new(0x10_1800), 0x1800).unwrap();
    assert!(words.iter().all(|word| word.load(Relaxed) == 0));
    assert!(shows(&image, 0x10_3000, 0x1000, 0x3000));
    // A hole of the dump is where nothing is looked for.
    assert!(image.written().iter().all(|run| run.frames() <= 2));
}

/// Segments over each other, each as large as the file: compared as far as there are bytes, which is
/// not often.
#[test]
fn what_stands_twice_is_compared_as_far_as_there_are_bytes() {
    const LARGE: u64 = 1 << 40;
    let sparse = |segments: &[Segment], name: &str| {
        let file = Temporary::new(name, &core(segments, 0x2000)[..0x1000]);
        let open = fs::OpenOptions::new().write(true).open(&file.0).unwrap();
        open.write_all_at(&[7; 4096], 0x10_0000).unwrap();
        open.set_len(2 * LARGE).unwrap();
        Image::open(&file.0, &Reading::default()).map(|image| image.runs().count())
    };
    // The same bytes each time: nothing to compare.
    let same = [(0x1000, 0x20_0000, LARGE, LARGE); 60];
    assert_eq!(sparse(&same, "same").unwrap(), 1);
    // Others each time, and all of them holes.
    let holes: Vec<_> = (1..60).map(|i| (0x1000, 0x20_0000 + i * 0x1000, LARGE, LARGE)).collect();
    assert_eq!(sparse(&holes, "holes").unwrap(), 1);
    // The one page with bytes in it comes at another place of each: they differ.
    let crossed: Vec<_> = (1..60).map(|i| (0x1000, i * 0x1000, LARGE, LARGE)).collect();
    let error = format!("{:#}", sparse(&crossed, "crossed-holes").unwrap_err());
    assert!(error.contains("with other bytes"), "{error}");
    // And where they do not, there are more of them than the file has bytes.
    let bytes = 1 << 20;
    let same: Vec<_> = (0..60).map(|i| (0x1000, 0x1000 + i * 0x1000, bytes, bytes)).collect();
    let file = {
        let mut file = core(&same, 2 << 20);
        file[0x1000..].fill(7);
        Temporary::new("aliased", &file)
    };
    let error = format!("{:#}", Image::open(&file.0, &Reading::default()).unwrap_err());
    assert!(error.contains("as the file has no bytes for"), "{error}");
    let opened = [File::open(&file.0).unwrap()];
    let mut twins = twins::Twins::new(&opened);
    let at = |offset| Bytes::At { file: 0, offset };
    while twins.difference(at(0x1000), at(0x2000), bytes).unwrap() == twins::Twin::Same {}
    let length = opened[0].metadata().unwrap().len();
    assert!(twins.compared <= 2 * length + (1 << 17), "{} of {length}", twins.compared);
}
