//! What the tests of the command share.
#![allow(dead_code, reason = "each test program needs a part of it")]

pub(crate) mod schema;

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;

use heirloom::Heirloom;
use heirloom::arena::{Arena, RangeSpec};
use heirloom::folio::{Cpus, NodeId};
use heirloom::kho::Run;
use heirloom::slab::CacheSpec;
use serde_json::Value;

/// The handover that Linux 7.3 left.
pub(crate) const FIXTURE: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/linux-7.3-kho-v4/image.elf");
const EXPECTED: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/linux-7.3-kho-v4/expected.json");

/// The handover of a Linux that lends to heirloom, as `cli/examples/lend.rs` leaves it.
pub(crate) const LENT: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/lent/image.elf");

/// What its kernel was built with: three states that files share, which only Linux's test knows.
pub(crate) const FLBS: &str = "liveupdate-test-flb-v*";

/// What an independent program found in it.
pub(crate) fn expected() -> Value {
    serde_json::from_str(&std::fs::read_to_string(EXPECTED).unwrap()).unwrap()
}

/// What the command did.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    /// Its output as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Runs the command. What it prints as JSON is checked against its schema.
pub(crate) fn heirloom(arguments: &[&str]) -> Ran {
    let ran = Command::new(env!("CARGO_BIN_EXE_heirloom")).args(arguments).output().unwrap();
    let ran = Ran {
        code: ran.status.code().unwrap(),
        out: String::from_utf8(ran.stdout).unwrap(),
        err: String::from_utf8(ran.stderr).unwrap(),
    };
    if arguments.contains(&"--json") && !ran.out.is_empty() {
        schema::check(arguments[0], &ran.out);
    }
    ran
}

/// Runs a check of an image with the fixture's states, which are vouched for.
pub(crate) fn check(image: &str) -> Ran {
    heirloom(&["check", image, "--accept", FLBS])
}

/// A file of the test's own, removed with the value.
#[derive(Debug)]
pub(crate) struct Temporary(PathBuf);

impl Temporary {
    /// A path where nothing is yet.
    pub(crate) fn path() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Relaxed));
        Self(PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name))
    }

    /// A file with these bytes.
    pub(crate) fn new(bytes: &[u8]) -> Self {
        let file = Self::path();
        std::fs::write(&file.0, bytes).unwrap();
        file
    }

    pub(crate) fn as_str(&self) -> &str {
        self.0.to_str().unwrap()
    }

    pub(crate) fn read(&self) -> Vec<u8> {
        std::fs::read(&self.0).unwrap()
    }

    pub(crate) fn exists(&self) -> bool {
        self.0.exists()
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A segment of the fixture: where it is in the file, in memory, and how many bytes.
pub(crate) type Segment = (usize, u64, usize);

/// The fixture's bytes, to be changed.
#[derive(Clone, Debug)]
pub(crate) struct Core(pub(crate) Vec<u8>);

impl Core {
    pub(crate) fn fixture() -> Self {
        Self(std::fs::read(FIXTURE).unwrap())
    }

    fn u64_at(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.0[at..at + 8].try_into().unwrap())
    }

    pub(crate) fn segments(&self) -> Vec<Segment> {
        let headers = usize::from(u16::from_le_bytes(self.0[56..58].try_into().unwrap()));
        let header = |i: usize| 64 + i * 56;
        let segment = |at: usize| {
            (self.u64_at(at + 8) as usize, self.u64_at(at + 24), self.u64_at(at + 32) as usize)
        };
        (0..headers).map(|i| segment(header(i))).collect()
    }

    /// Where physical `addr` is in the file.
    pub(crate) fn offset(&self, addr: u64) -> usize {
        let found = self.segments().into_iter().find_map(|(offset, start, bytes)| {
            let skip = addr.checked_sub(start).filter(|skip| *skip < bytes as u64)?;
            Some(offset + skip as usize)
        });
        found.unwrap_or_else(|| panic!("{addr:#x} is not in the image"))
    }

    /// Writes bytes into memory.
    pub(crate) fn put(&mut self, addr: u64, bytes: &[u8]) {
        let at = self.offset(addr);
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// The word at `addr`.
    pub(crate) fn word(&self, addr: u64) -> u64 {
        self.u64_at(self.offset(addr))
    }

    /// All its memory from `base` on, `bytes` bytes, with zeroes where it has none.
    pub(crate) fn raw(&self, base: u64, bytes: usize) -> Vec<u8> {
        let mut raw = vec![0; bytes];
        for (offset, start, length) in self.segments() {
            let at = (start - base) as usize;
            raw[at..at + length].copy_from_slice(&self.0[offset..offset + length]);
        }
        raw
    }

    pub(crate) fn file(&self) -> Temporary {
        Temporary::new(&self.0)
    }
}

/// SHA-256 of `content`, in hex, as the command writes it.
pub(crate) fn sha256(content: &[u8]) -> String {
    <sha2::Sha256 as sha2::Digest>::digest(content)
        .iter()
        .fold(String::new(), |digits, byte| format!("{digits}{byte:02x}"))
}

/// An ELF file of a kernel for this machine, in this byte order, which ends with its section headers: one section is
/// loaded, and has these bytes.
pub(crate) fn kernel(machine: u16, big: bool, data: &[u8]) -> Vec<u8> {
    let half = |n: u16| if big { n.to_be_bytes() } else { n.to_le_bytes() };
    let word = |n: u32| if big { n.to_be_bytes() } else { n.to_le_bytes() };
    let long = |n: u64| if big { n.to_be_bytes() } else { n.to_le_bytes() };
    let names = b"\0.rodata\0.shstrtab\0";
    let (data_at, bytes) = (64, data.len() as u64);
    let names_at = data_at + bytes;
    let mut out = b"\x7fELF\x02".to_vec();
    out.push(if big { 2 } else { 1 });
    out.extend([1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    out.extend([half(2), half(machine)].as_flattened());
    out.extend(word(1));
    out.extend([long(0), long(0), long(names_at + names.len() as u64)].as_flattened());
    out.extend(word(0));
    out.extend([half(64), half(0), half(0), half(64), half(3), half(2)].as_flattened());
    out.extend(data);
    out.extend(names);
    let mut section = |name: u32, kind: u32, flags: u64, at: u64, bytes: u64| {
        out.extend([word(name), word(kind)].as_flattened());
        out.extend([long(flags), long(0), long(at), long(bytes)].as_flattened());
        out.extend([word(0), word(0)].as_flattened());
        out.extend([long(1), long(0)].as_flattened());
    };
    section(0, 0, 0, 0, 0);
    section(1, 1, 2, data_at, bytes);
    section(9, 3, 0, names_at, names.len() as u64);
    out
}

/// The reasons of a check's findings, which ended with what must be status 1.
pub(crate) fn findings(arguments: &[&str]) -> Vec<String> {
    let ran = heirloom(&[&["check", "--json"], arguments].concat());
    assert_eq!((ran.code, ran.err.as_str()), (1, ""), "{ran:?}");
    let json = ran.json();
    let reasons = json["findings"].as_array().unwrap().iter();
    reasons.map(|found| found["reason"].as_str().unwrap().to_owned()).collect()
}

/// The file of an arena that somebody left, and its root page.
pub(crate) fn arena() -> (Vec<u8>, u64) {
    use std::io::Read;
    let start = heirloom::kho::PhysAddr::new(8 << 30);
    let spec = RangeSpec { start, bytes: 4 << 20, node: NodeId(0) };
    let arena = Arena::create("looked-at", &[spec]).unwrap();
    let mut memory = std::fs::File::from(arena.share().unwrap());
    let map = [(arena.ranges()[0].run(), NodeId(0))];
    let bytes = Heirloom::<Arena>::scratch_bytes(&map, arena.count()) as u64;
    let scratch = Run::covering(start, bytes).unwrap();
    // SAFETY: the arena is new, and nothing else uses it.
    let kernel = unsafe { Heirloom::boot(arena, &map, &[scratch], "example 2.0") }.unwrap();
    let names = kernel.slabs().cache(CacheSpec::new("names", 64).preserving(true)).unwrap();
    names.alloc_zeroed().unwrap();
    kernel.seal().unwrap();
    let entry = kernel.entry();
    kernel.memory().machine().leave(entry).unwrap();
    let mut copy = Vec::new();
    memory.read_to_end(&mut copy).unwrap();
    (copy, entry.root.get())
}
