//! Each reader, and files that were sound once with anything at all written into them: it says something of each, and
//! reads no more than the file has.
//!
//! ```text
//!  HEIRLOOM_INPUTS=1000000 cargo test --release -p heirloom-cli --test readers -- --nocapture
//!  HEIRLOOM_READER=kdump HEIRLOOM_FROM=123456 HEIRLOOM_INPUTS=1 …    the one input that was named
//! ```
//!
//! Which input has which number is the same in every run. What is counted is what Linux counts of the thread: bytes that
//! it reads and writes, and calls. An input that takes longer than any can is named, and ends the run.

mod common;

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use common::{Core, LENT, kernel};
use heirloom::arena::{Arena, RangeSpec};
use heirloom::folio::{Cpus, NodeId};
use heirloom::kho::Run;
use heirloom::slab::persist;
use heirloom::{Heirloom, kho::PhysAddr};
use heirloom_cli::{look, opened, survey};
use heirloom_collections::{Log, Map, Pool, Vec as Elements};
use heirloom_kho::PageSize;
use heirloom_testkit::Rng;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

const PAGE: usize = 4096;

/// An element of a vector.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Number {
    number: u64,
}
persist!(Number { number });

/// A file that is sound.
struct Sound {
    bytes: Vec<u8>,
    /// What of it is hit half of the time: offset, bytes. The other half it is anything.
    places: Vec<(usize, usize)>,
    /// Numbers that mean something in it.
    words: Vec<u64>,
    base: Option<u64>,
}

impl Sound {
    fn new(bytes: Vec<u8>, places: &[(usize, usize)]) -> Self {
        let length = bytes.len() as u64;
        let mut words = vec![0, 1, u64::MAX, 1 << 40, 1 << 63, 4096, 8, length, length - 1];
        words.extend(places.iter().map(|(at, _)| *at as u64));
        Self { bytes, places: places.to_vec(), words, base: None }
    }
}

/// What a reader says of a file, and what it may take of that: calls, and bytes beside as many as the file has.
struct Said {
    sound: bool,
    pages: u64,
}

/// A reader, and what is put before it.
struct Reader {
    name: &'static str,
    sound: Vec<Sound>,
    read: fn(&Path, &Sound, &[u8], u64) -> Option<Said>,
    /// How many inputs, if it is not said: what each takes differs.
    short: u64,
}

/// Opens a file of an image, and reads its pages.
fn open(path: &Path, of: &Sound, _: &[u8], number: u64) -> Option<Said> {
    let said = PageSize::new(PAGE as u64).filter(|_| number % 4 == 1);
    match opened(path, of.base, said, number % 2 == 1, 256) {
        Ok(opened) => Some(Said { sound: opened.read == opened.asked, pages: opened.asked }),
        Err(error) => {
            assert!(!format!("{error:#}").is_empty());
            None
        }
    }
}

/// Looks at what is shown and checked; now and then at all that the command shows.
fn look_at(path: &Path, of: &Sound, _: &[u8], number: u64) -> Option<Said> {
    let said = PageSize::new(PAGE as u64).filter(|_| number.is_multiple_of(2));
    let all = number.is_multiple_of(512);
    match if all { look(path, of.base, said) } else { survey(path, of.base, said) } {
        Ok(looked) => {
            let bound = 32 * looked.frames + 1024;
            assert!(looked.looks <= bound, "{} looks at {} frames", looked.looks, looked.frames);
            let sound = looked.findings.is_empty();
            assert_eq!(sound, looked.verdict.contains("in order"), "{}", looked.verdict);
            assert!(!all || looked.json.starts_with('{') && looked.map.starts_with("<svg"));
            assert!(!looked.summary.is_empty());
            Some(Said { sound, pages: looked.frames })
        }
        Err(error) => {
            assert!(!format!("{error:#}").is_empty());
            None
        }
    }
}

/// Reads a kernel's file.
fn name(_: &Path, _: &Sound, bytes: &[u8], _: u64) -> Option<Said> {
    match heirloom_cli::kernel(bytes) {
        Ok(name) => {
            assert!(!name.is_empty());
            Some(Said { sound: true, pages: 0 })
        }
        Err(error) => {
            assert!(!format!("{error:#}").is_empty());
            None
        }
    }
}

/// Memory of so many pages, every third of which is zero.
fn memory(pages: usize) -> Vec<u8> {
    let page = |i: usize| (0..PAGE).map(move |at| if i % 3 == 2 { 0 } else { (at / 7 * i) as u8 });
    (0..pages).flat_map(page).collect()
}

/// A note, as an ELF core has them.
fn note(name: &str, text: &[u8]) -> Vec<u8> {
    let mut note = [name.len() as u32 + 1, text.len() as u32, 0].map(u32::to_le_bytes).concat();
    for part in [format!("{name}\0").as_bytes(), text] {
        note.extend(part);
        note.resize(note.len().next_multiple_of(4), 0);
    }
    note
}

/// An ELF core: two stretches of memory, one of them a second time, and one that is declared only. `running`: as a kernel
/// that runs shows itself.
fn core(running: bool) -> (Vec<u8>, usize) {
    let notes = [
        note("CORE", &[7; 336]),
        note("VMCOREINFO", b"OSRELEASE=7.3.4\nPAGESIZE=4096\nSYMBOL(_stext)=ffffffff81000000\n"),
        note("LINUX", &[1; 20]),
    ]
    .concat();
    let memory = memory(16);
    let (low, high) = memory.split_at(10 * PAGE);
    let (low_at, high_at) = (PAGE as u64, (PAGE + low.len()) as u64);
    let length = |bytes: &[u8]| bytes.len() as u64;
    let mut headers = vec![
        [4, 0x400, 0, length(&notes), length(&notes)],
        [1, low_at, 0x10_0000, length(low), length(low)],
        [1, high_at, 0x20_0000, length(high), length(high) + 2 * PAGE as u64],
        [1, low_at + PAGE as u64, 0x10_1000, PAGE as u64, PAGE as u64],
    ];
    if running {
        headers.push([1, low_at, u64::MAX, PAGE as u64, PAGE as u64]);
        headers.push([1, high_at, 0x10_2000, PAGE as u64, PAGE as u64]);
    }
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    file.extend([4_u16, 62].map(u16::to_le_bytes).concat());
    file.extend(1_u32.to_le_bytes());
    file.extend([0, 64, 0].map(u64::to_le_bytes).concat());
    file.extend(0_u32.to_le_bytes());
    file.extend([64, 56, headers.len() as u16, 0, 0, 0].map(u16::to_le_bytes).concat());
    for [kind, offset, start, bytes, whole] in &headers {
        file.extend([*kind as u32, 4].map(u32::to_le_bytes).concat());
        file.extend([*offset, 0, *start, *bytes, *whole, 0].map(u64::to_le_bytes).concat());
    }
    file.resize(0x400, 0);
    file.extend(&notes);
    file.resize(PAGE, 0);
    file.extend(&memory);
    (file, notes.len())
}

/// A kdump file, each page packed so if that is shorter.
fn kdump(flag: u32, pack: impl Fn(&[u8]) -> Vec<u8>) -> Vec<u8> {
    const FIRST: usize = 5;
    let memory = memory(16);
    let mut bitmaps = vec![0; 2 * PAGE];
    let (mut descriptors, mut packed) = (Vec::new(), Vec::new());
    let data = 4 * PAGE + memory.len() / PAGE * 24;
    for (i, page) in memory.chunks(PAGE).enumerate() {
        // A page is memory and left out, now and then.
        let number = FIRST + i + i / 5;
        bitmaps[number / 8] |= 1 << (number % 8);
        bitmaps[PAGE + number / 8] |= 1 << (number % 8);
        bitmaps[(number + 1) / 8] |= 1 << ((number + 1) % 8);
        let short = pack(page);
        let (bytes, flag) = if short.len() < PAGE { (&short[..], flag) } else { (page, 0) };
        descriptors.extend(((data + packed.len()) as u64).to_ne_bytes());
        descriptors.extend([bytes.len() as u32, flag, 0, 0].map(u32::to_ne_bytes).concat());
        packed.extend(bytes);
    }
    let mut head = b"KDUMP   ".to_vec();
    head.extend(6_u32.to_ne_bytes());
    head.resize(424, 0);
    head.extend([flag, PAGE as u32, 1, 2, 0].map(u32::to_ne_bytes).concat());
    head.resize(PAGE + 96, 0);
    head.extend(64_u64.to_ne_bytes());
    head.resize(2 * PAGE, 0);
    [head, bitmaps, descriptors, packed].concat()
}

fn kdumps() -> Vec<Vec<u8>> {
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};
    let zlib = |page: &[u8]| {
        let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        zlib.write_all(page).unwrap();
        zlib.finish().unwrap()
    };
    vec![
        kdump(0, <[u8]>::to_vec),
        kdump(1, zlib),
        kdump(2, |page| lzokay::compress::compress(page).unwrap()),
        kdump(4, |page| snap::raw::Encoder::new().compress_vec(page).unwrap()),
        kdump(0x20, |page| compress_to_vec(page, CompressionLevel::Fastest)),
    ]
}

/// A dump as it goes through a pipe.
fn flattened(file: &[u8]) -> Vec<u8> {
    let mut flat = b"makedumpfile\0\0\0\0".to_vec();
    flat.extend([1_u64, 1].map(u64::to_be_bytes).concat());
    flat.resize(PAGE, 0);
    for (i, piece) in file.chunks(3000).enumerate() {
        flat.extend([i as u64 * 3000, piece.len() as u64].map(u64::to_be_bytes).concat());
        flat.extend(piece);
    }
    flat.extend([u64::MAX; 2].map(u64::to_be_bytes).concat());
    flat
}

fn lime() -> Vec<u8> {
    let (memory, mut file) = (memory(12), Vec::new());
    for (i, part) in memory.chunks(5 * PAGE).enumerate() {
        let start = 0x10_0000 + (i as u64 * 7) * PAGE as u64;
        file.extend(b"EMiL\x01\0\0\0");
        file.extend([start, start + part.len() as u64 - 1, 0].map(u64::to_le_bytes).concat());
        file.extend(part);
    }
    file
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}

fn xz(bytes: &[u8]) -> Vec<u8> {
    let options = lzma_rust2::XzOptions::with_preset(1);
    let mut xz = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
    xz.write_all(bytes).unwrap();
    xz.finish().unwrap()
}

/// Returns files that are packed as a whole.
fn packed() -> Vec<Vec<u8>> {
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};
    let (core, _) = core(false);
    let zstd = compress_to_vec(&core[..], CompressionLevel::Fastest);
    vec![gzip(&core), zstd, xz(&core), xz(&gzip(&core)), flattened(&kdumps()[1])]
}

/// Returns an arena in which a kernel left containers: a map with more buckets than a segment has, and long ones, a log and a vector
/// of several parts.
fn containers() -> Sound {
    let start = PhysAddr::new(8 << 30);
    let spec = RangeSpec { start, bytes: 8 << 20, node: NodeId(0) };
    let arena = Arena::create("readers", &[spec]).unwrap();
    let map = [(arena.ranges()[0].run(), NodeId(0))];
    let bytes = Heirloom::<Arena>::scratch_bytes(&map, arena.count()) as u64;
    let scratch = Run::covering(start, bytes).unwrap();
    // SAFETY: the arena is new, and nothing else uses it.
    let kernel = unsafe { Heirloom::boot(arena, &map, &[scratch], "readers 1.0") }.unwrap();
    let pool = Pool::open(kernel.slabs()).unwrap();
    let mut many = Map::<_>::create(&pool, 0x5eed).unwrap();
    for n in 0..3000_u32 {
        many.insert(format!("key {n}").as_bytes(), &n.to_le_bytes()).unwrap();
    }
    let mut log = Log::create(&pool).unwrap();
    for n in 0..300_u32 {
        log.append(format!("record {n}").repeat(9).as_bytes()).unwrap();
    }
    let mut words = Elements::<Number, _>::create(&pool).unwrap();
    for n in 0..5000 {
        words.push(Number { number: n }).unwrap();
    }
    for (name, handle) in
        [("many", many.handle()), ("log", log.handle()), ("words", words.handle())]
    {
        kernel.publish(name, &<[u8; 16]>::from(handle)).unwrap();
    }
    drop((many, log, words));
    kernel.seal().unwrap();
    let arena = kernel.memory().machine();
    arena.leave(kernel.entry()).unwrap();
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut File::from(arena.share().unwrap()), &mut bytes).unwrap();
    let is_written = |at: &usize| bytes[*at..at + 256].iter().any(|byte| *byte != 0);
    let written: Vec<_> = (0..bytes.len()).step_by(256).filter(is_written).collect();
    let places: Vec<_> = written.iter().map(|at| (*at, 256)).collect();
    let mut sound = Sound::new(bytes, &places);
    // Links of its own, of which any can stand in place of any.
    let words =
        sound.bytes.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap()));
    let mut words: Vec<_> = words.filter(|word| *word != 0).step_by(7).collect();
    words.sort_unstable();
    words.dedup();
    sound.words.extend(words);
    sound
}

/// Memory of a core, as raw memory; hit is what is not zero.
fn raw(path: &str, pages: usize) -> Sound {
    let core = Core(fs::read(path).unwrap());
    let base = core.segments().iter().map(|(_, start, _)| *start).min().unwrap();
    let bytes = core.raw(base, pages * PAGE);
    let is_written = |at: &usize| bytes[*at..at + 256].iter().any(|byte| *byte != 0);
    let written: Vec<_> = (0..bytes.len()).step_by(256).filter(is_written).collect();
    let places: Vec<_> = written.iter().map(|at| (*at, 256)).collect();
    let mut sound = Sound::new(bytes, &places);
    sound.words.extend(written.iter().map(|at| base + *at as u64 / 4096 * 4096));
    sound.base = Some(base);
    sound
}

fn readers() -> Vec<Reader> {
    let (elf, notes) = core(false);
    let (running, _) = core(true);
    let headers = [(0, 64), (64, 56 * 6)];
    let elves = vec![Sound::new(elf.clone(), &headers), Sound::new(running, &headers)];
    let notes = vec![Sound::new(elf, &[(0x400, notes), (64, 56)])];
    let maps = [(0, 464), (PAGE, 104), (2 * PAGE, 16), (3 * PAGE, 16), (4 * PAGE, 16 * 24)];
    let dump = |bytes: Vec<u8>| {
        let packed = (4 * PAGE + 16 * 24, bytes.len() - 4 * PAGE - 16 * 24);
        Sound::new(bytes, &[&maps[..], &[packed]].concat())
    };
    let dumps = kdumps().into_iter().map(dump).collect();
    let lime = Sound::new(lime(), &[(0, 32), (32 + 5 * PAGE, 32), (64 + 10 * PAGE, 32)]);
    let ends = |bytes: Vec<u8>| {
        let places = [(0, 64), (bytes.len() - 64, 64)];
        Sound::new(bytes, &places)
    };
    let packed = packed().into_iter().map(ends).collect();
    let mut plain = Sound::new(memory(16), &[(0, 64)]);
    plain.base = Some(0x10_0000);
    let texts =
        b"\0Linux version 7.3.4-a (b@c)\0kho-v4\0\0\xff\xfeluo-v5\0kho-test-v1\0\x80memfd-v2\0";
    let texts = [&texts[..], &memory(3)].concat();
    let config =
        b"# Linux/x86 7.3.4 Kernel Configuration\nCONFIG_KEXEC_HANDOVER=y\nCONFIG_LIVEUPDATE=y\n\
        # CONFIG_LIVEUPDATE_MEMFD is not set\nCONFIG_TEST_KEXEC_HANDOVER=m\n";
    let table = fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/kernels/linux-7.3")).unwrap();
    let kernels = [
        kernel(62, false, &texts),
        config.to_vec(),
        table,
        gzip(config),
        gzip(&kernel(62, false, &texts)),
    ];
    let kernels =
        kernels.map(|bytes| Sound { places: vec![(0, bytes.len())], ..Sound::new(bytes, &[]) });
    let lent = raw(LENT, 1024);
    let list = lent.bytes.chunks(PAGE).position(|page| page.starts_with(b"HEIRLOAN")).unwrap();
    let (mut loans, mut whole) = (vec![lent], raw(LENT, 1024));
    loans[0].places = vec![(list * PAGE, 104)];
    whole.places.retain(|(at, _)| at / PAGE != list);
    let reader = |name, sound, read, short| Reader { name, sound, read, short };
    vec![
        reader("elf", elves, open as fn(&Path, &Sound, &[u8], u64) -> Option<Said>, 4000),
        reader("notes", notes, open, 4000),
        reader("kdump", dumps, open, 4000),
        reader("lime", vec![lime], open, 4000),
        reader("raw", vec![plain], open, 1000),
        reader("packed", packed, open, 2000),
        reader("kernels", kernels.into(), name, 4000),
        reader("loans", loans, look_at, 60),
        reader("memory", vec![whole], look_at, 60),
        reader("containers", vec![containers()], look_at, 60),
    ]
}

/// What Linux counts of this thread: bytes read and written, calls that read.
fn counts() -> [u64; 3] {
    let text = fs::read_to_string("/proc/thread-self/io").unwrap_or_default();
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|number| number.trim().parse().ok()).unwrap_or_default()
    };
    [field("rchar:"), field("wchar:"), field("syscr:")]
}

/// Changes `bytes`: the `number`-th way. Returns where, and how long the file is then.
fn mutate(sound: &Sound, bytes: &mut [u8], seed: u64, number: u64) -> (Vec<(usize, usize)>, usize) {
    let mut numbers = Rng::new(seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let mut hits = Vec::new();
    for _ in 0..=numbers.index(4) {
        let all = (0, bytes.len());
        let (start, room) = match numbers.index(2) {
            0 => all,
            _ => sound.places.get(numbers.index(sound.places.len().max(1))).copied().unwrap_or(all),
        };
        let at = start + numbers.index(room.max(1));
        let word = sound.words[numbers.index(sound.words.len())];
        let near = word.wrapping_add(numbers.next() % 33).wrapping_sub(16);
        let (at, new) = match numbers.index(9) {
            0 => (at, vec![numbers.next() as u8]),
            1 => (at, vec![bytes[at] ^ 1 << numbers.index(8)]),
            2 => (at / 8 * 8, word.to_le_bytes().to_vec()),
            3 => (at / 8 * 8, near.to_le_bytes().to_vec()),
            4 => (at / 4 * 4, (word as u32).to_le_bytes().to_vec()),
            5 => (at / 4 * 4, (near as u32).to_be_bytes().to_vec()),
            6 => (at / 8 * 8, (u64::MAX << numbers.index(64)).to_le_bytes().to_vec()),
            7 => (at / 4 * 4, vec![0; 4]),
            // Bytes of another place.
            _ => {
                let (from, length) = (numbers.index(bytes.len()), numbers.index(64));
                (at, bytes[from..(from + length).min(bytes.len())].to_vec())
            }
        };
        let end = (at + new.len()).min(bytes.len());
        let length = end.saturating_sub(at);
        bytes[at..at + length].copy_from_slice(&new[..length]);
        hits.push((at, length));
    }
    let length = match numbers.index(16) {
        0 => numbers.index(bytes.len() + 1),
        _ => bytes.len(),
    };
    (hits, length)
}

/// Names the input that is at fault, and keeps it.
struct Culprit<'r> {
    reader: &'r str,
    number: u64,
    kept: PathBuf,
    path: PathBuf,
}

impl Culprit<'_> {
    fn tell(&self) {
        let _ = fs::copy(&self.path, &self.kept);
        eprintln!(
            "HEIRLOOM_READER={} HEIRLOOM_FROM={} HEIRLOOM_INPUTS=1, kept as {}",
            self.reader,
            self.number,
            self.kept.display()
        );
    }
}

impl Drop for Culprit<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.tell();
        }
    }
}

/// Ends the run, with the input named, where one takes longer than any can.
fn watch(inputs: &Receiver<(&'static str, u64)>) {
    const LONGEST: Duration = Duration::from_secs(120);
    let mut last = ("none", 0);
    loop {
        match inputs.recv_timeout(LONGEST) {
            Ok(input) => last = input,
            Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => {
                let (reader, number) = last;
                eprintln!(
                    "an input from {number} on, of {reader}, does not end: HEIRLOOM_READER={reader} HEIRLOOM_FROM={number}"
                );
                std::process::abort();
            }
        }
    }
}

/// What became of the inputs, and the most that one took.
#[derive(Debug, Default)]
struct Tally {
    refused: u64,
    faulty: u64,
    sound: u64,
    /// In hundredths: bytes read for each byte of the file and of the pages that were asked for; bytes written; calls for
    /// each page.
    read: u64,
    written: u64,
    calls: u64,
}

#[test]
fn whatever_a_file_says_it_is_read_or_refused_and_no_more_than_it_is_read() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let (only, inputs) = (std::env::var("HEIRLOOM_READER").ok(), number("HEIRLOOM_INPUTS"));
    let from = number("HEIRLOOM_FROM").unwrap_or(0);
    let seed = number("HEIRLOOM_SEED").unwrap_or(0x7265_6164);
    println!("readers: seed {seed:#x}, from input {from} on");
    let (sender, receiver) = channel();
    let watchdog = std::thread::spawn(move || watch(&receiver));
    let all = readers();
    let wanted = all.iter().filter(|reader| only.as_deref().is_none_or(|only| only == reader.name));
    for reader in wanted {
        let mut tally = Tally::default();
        let inputs = inputs.unwrap_or(reader.short);
        for (which, sound) in reader.sound.iter().enumerate() {
            let share = |which: usize| inputs * which as u64 / reader.sound.len() as u64;
            let numbers = share(which)..share(which + 1);
            // With one input only, all files have it.
            let numbers = if inputs == 1 { 0..1 } else { numbers };
            attack(
                reader,
                sound,
                seed,
                numbers.start + from..numbers.end + from,
                &sender,
                &mut tally,
            );
        }
        println!("readers: {} {inputs} inputs: {tally:?}", reader.name);
        if inputs > 1 {
            assert!(
                tally.refused + tally.faulty > 0 && tally.sound > 0,
                "{}: {tally:?}",
                reader.name
            );
        }
    }
    drop(sender);
    watchdog.join().unwrap();
}

fn attack(
    reader: &Reader,
    sound: &Sound,
    seed: u64,
    numbers: std::ops::Range<u64>,
    told: &std::sync::mpsc::Sender<(&'static str, u64)>,
    tally: &mut Tally,
) {
    let file =
        File::from(rustix::fs::memfd_create("input", rustix::fs::MemfdFlags::empty()).unwrap());
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    let kept = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("reader-{}", reader.name));
    // What is zero is a hole.
    file.set_len(sound.bytes.len() as u64).unwrap();
    for (page, at) in sound.bytes.chunks(PAGE).zip((0..).step_by(PAGE)) {
        if page.iter().any(|byte| *byte != 0) {
            file.write_all_at(page, at).unwrap();
        }
    }
    let mut bytes = sound.bytes.clone();
    for number in numbers {
        if number.is_multiple_of(64) {
            told.send((reader.name, number)).unwrap();
        }
        let (hits, length) = mutate(sound, &mut bytes, seed, number);
        for (at, count) in &hits {
            file.write_all_at(&bytes[*at..at + count], *at as u64).unwrap();
        }
        file.set_len(length as u64).unwrap();
        let culprit =
            Culprit { reader: reader.name, number, kept: kept.clone(), path: path.clone() };
        let before = counts();
        let said = (reader.read)(&path, sound, &bytes[..length], number);
        let after = counts();
        let [read, written, calls] = [0, 1, 2].map(|i| after[i] - before[i]);
        let pages = said.as_ref().map_or(0, |said| said.pages);
        // A file's bytes a few times over, and the pages that were asked for. What is packed is more where it is not.
        let room = length as u64 + pages * PAGE as u64 + (PAGE as u64) * 16;
        let shares = [read * 100 / room, written * 100 / room, calls * 100 / (pages + 64)];
        for (most, share) in
            [&mut tally.read, &mut tally.written, &mut tally.calls].into_iter().zip(shares)
        {
            *most = (*most).max(share);
        }
        assert!(
            shares.iter().zip(MOST).all(|(share, most)| *share <= most),
            "{read} bytes read, {written} written, in {calls} calls, of {length} bytes and {pages} pages"
        );
        drop(culprit);
        match said {
            None => tally.refused += 1,
            Some(said) if said.sound => tally.sound += 1,
            Some(_) => tally.faulty += 1,
        }
        if length < bytes.len() {
            file.write_all_at(&sound.bytes[length..], length as u64).unwrap();
            file.set_len(bytes.len() as u64).unwrap();
        }
        for (at, count) in hits {
            bytes[at..at + count].copy_from_slice(&sound.bytes[at..at + count]);
            file.write_all_at(&sound.bytes[at..at + count], at as u64).unwrap();
        }
    }
}

/// What an input may take, in hundredths: bytes read and written, for each byte of the file and of the pages that were asked
/// for; calls, for each page.
const MOST: [u64; 3] = [400, 6400, 6400];

/// Notes that stand in the file once, and that each of many segments has.
#[test]
fn notes_that_many_segments_have_are_not_read_for_each() {
    const SEGMENTS: usize = 60_000;
    let (elf, _) = core(false);
    let mut file = elf[..64].to_vec();
    let header = |kind: u32, at: u64, start: u64, bytes: u64| {
        let mut header = [kind, 4].map(u32::to_le_bytes).concat();
        header.extend([at, 0, start, bytes, bytes, 0].map(u64::to_le_bytes).concat());
        header
    };
    file[56..58].copy_from_slice(&(SEGMENTS as u16 + 1).to_le_bytes());
    let end = (64 + 56 * (SEGMENTS + 1)).next_multiple_of(PAGE) as u64;
    for _ in 0..SEGMENTS {
        file.extend(header(4, 64, 0, 1 << 20));
    }
    file.extend(header(1, end, 0x10_0000, 16 * PAGE as u64));
    file.resize(end as usize, 0);
    file.extend(memory(16));
    let file = common::Temporary::new(&file);
    let before = counts();
    let opened = opened(Path::new(file.as_str()), None, None, false, 16).unwrap();
    let read = counts()[0] - before[0];
    assert_eq!((opened.pages, opened.read), (16, 16));
    assert!(read < 32 << 20, "{read} bytes read");
}
