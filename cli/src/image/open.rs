//! What a file is, and where memory is in it.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use heirloom::arena::{Arena, ArenaRange};
use heirloom_kho::PageSize;
use heirloom_restore::Entry;
use rustix::fs::FileType;

use super::files::{Files, identity, length};
use super::piece::{Bytes, Piece};
use super::spool::{self, Packed};
use super::{elf, foreign, kdump, lime, twins};
use crate::machine::Machine;

/// The format of an image.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Format {
    /// An ELF core.
    Elf,
    /// Nothing but memory.
    Raw,
    /// The file of an arena: a page that says what follows, then memory.
    Arena,
    /// A `LiME` image.
    Lime,
    /// A kdump file, of pages that are packed one by one.
    Kdump,
}

impl Format {
    /// What a person calls it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Elf => "ELF core",
            Self::Raw => "raw memory",
            Self::Arena => "heirloom arena",
            Self::Lime => "LiME image",
            Self::Kdump => "kdump file",
        }
    }
}

/// What a file should have and the image does not.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Passed {
    /// Segments without a physical address.
    pub(crate) unaddressed: u64,
    /// Bytes that are declared and not in the file.
    pub(crate) declared: u64,
    /// Whether those are taken for zeroes, and so are there.
    pub(crate) zeroes: bool,
    /// Bytes that should be in the file, which ends before.
    pub(crate) cut: u64,
    /// Why the file is not whole, if that is known.
    pub(crate) broken: Option<String>,
    /// Bytes behind what is packed that are no part of it.
    pub(crate) behind: u64,
}

/// How a file is to be read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reading {
    /// The physical address of its first byte, if it is raw memory.
    pub(crate) base: Option<u64>,
    /// More files of raw memory, with the addresses of their first bytes.
    pub(crate) more: Vec<(PathBuf, u64)>,
    /// What a core declares and has not is zeroes.
    pub(crate) zero_excluded: bool,
    /// The size of the machine's pages, if the user knows it.
    pub(crate) page_size: Option<PageSize>,
}

/// A file, opened and understood.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) files: Files,
    pub(super) format: Format,
    /// What it was packed with, from outside.
    pub(super) packed: Vec<Packed>,
    /// Where the handover starts, if the file says so.
    pub(super) entry: Option<Entry>,
    /// The size of the machine's pages, if the file or the user says it.
    pub(super) page: Option<PageSize>,
    /// Which machine that is, if the file says it.
    pub(super) machine: Option<Machine>,
    /// By address.
    pub(super) pieces: Vec<Piece>,
    pub(super) passed: Passed,
}

impl Parts {
    /// Opens the image at `path`.
    ///
    /// # Errors
    /// What is wrong with the file, for a person.
    pub(super) fn read(path: &Path, reading: &Reading) -> Result<Self> {
        let Opened { file, named, own, packed, broken, behind, head } = Opened::new(path)?;
        let length = length(&file).context("cannot stat it")?;
        let zeroes = reading.zero_excluded;
        let mut files = Files { read: vec![file], own: vec![own], named: vec![named], kdump: None };
        let file = &files.read[0];
        let mut passed = Passed { zeroes, broken, behind, ..Passed::default() };
        let (mut entry, mut said, mut machine) = (None, None, None);
        let (format, pieces) = match reading.base {
            Some(base) => {
                is_raw(&head, "--base")?;
                (Format::Raw, raw((path, base), &mut files, reading, &mut passed)?)
            }
            None if !reading.more.is_empty() => {
                bail!(
                    "--raw adds files to raw memory: give the address of this one's first byte with --base"
                )
            }
            None if head.starts_with(elf::MAGIC) => {
                let core = elf::read(file, length, zeroes)?;
                let elf::Core { pieces, declared, cut, unaddressed, .. } = core;
                (said, machine) = (core.page_size, core.machine);
                passed = Passed { unaddressed, declared, cut, ..passed };
                (Format::Elf, pieces)
            }
            None if is_arena(&head) => {
                let arena = Arena::describe(file.as_fd()).context("a broken arena")?;
                let (page, ranges, left) = arena;
                (entry, said) = (left, Some(page));
                (Format::Arena, pieces_of(&ranges))
            }
            None if head.starts_with(lime::MAGIC) => {
                let (pieces, cut) = lime::read(file, length)?;
                passed.cut = cut;
                (Format::Lime, twins::apart(Some(&files.read), pieces, &twins::numbered("ranges"))?)
            }
            None if head.starts_with(kdump::MAGIC) => {
                let dump = kdump::read(file, length, zeroes)?;
                let kdump::Dump { kdump, page_size, pieces, declared, cut, incomplete, .. } = dump;
                machine = dump.machine;
                let why = || "it says itself that it is not complete".to_owned();
                let broken = passed.broken.or_else(|| incomplete.then(why));
                passed = Passed { declared, cut, broken, ..passed };
                (files.kdump, said) = (Some(kdump), Some(page_size));
                (Format::Kdump, pieces)
            }
            None => {
                foreign::refuse(&head)?;
                bail!(
                    "nothing that is read here: an ELF core, a kdump file, a LiME image, an arena; if it is raw memory, give \
                     the address of its first byte with --base",
                )
            }
        };
        if let (Some(said), Some(asked)) = (said, reading.page_size) {
            ensure!(
                said == asked,
                "it is of a machine with pages of {said}: leave out --page-size"
            );
        }
        let page = said.or(reading.page_size);
        Ok(Self { files, format, packed, entry, page, machine, pieces, passed })
    }
}

/// Refuses a file that starts with `head`, and is to be raw memory by an option of this name, if it is known to be
/// something else.
fn is_raw(head: &[u8], option: &str) -> Result<()> {
    for (magic, what) in [
        (elf::MAGIC, "an ELF core"),
        (kdump::MAGIC, "a kdump file"),
        (lime::MAGIC, "a LiME image"),
        (ARENA, "an arena"),
    ] {
        ensure!(!head.starts_with(magic), "{what} says itself where it lies: leave out {option}");
    }
    foreign::refuse(head)
}

/// A file, unpacked as far as it is one.
struct Opened {
    file: File,
    /// What the user named, by device and number.
    named: (u64, u64),
    /// Whether nothing else can write to the file.
    own: bool,
    packed: Vec<Packed>,
    broken: Option<String>,
    /// Bytes behind what is packed that are no part of it.
    behind: u64,
    /// Its first bytes.
    head: Vec<u8>,
}

/// How often what is unpacked can be packed itself.
const NESTED: usize = 4;

impl Opened {
    fn new(path: &Path) -> Result<Self> {
        let mut file = foreign::open(path)?;
        let stat = rustix::fs::fstat(&file).context("cannot stat it")?;
        let stream = foreign::is_stream(FileType::from_raw_mode(stat.st_mode))?;
        let named = identity(&file.metadata().context("cannot stat it")?);
        let (mut packed, mut broken, mut behind) = (Vec::new(), None, 0);
        if stream {
            let spooled = spool::spool(file)?;
            (file, broken) = (spooled.file, spooled.cut);
        }
        loop {
            let length = length(&file).context("cannot stat it")?;
            ensure!(length > 0, "the file is empty");
            let mut head = vec![0; 16.min(usize::try_from(length).unwrap_or(16))];
            file.read_exact_at(&mut head, 0).context("cannot read it")?;
            let Some(next) = Packed::of(&head) else {
                let own = stream || !packed.is_empty();
                return Ok(Self { file, named, own, packed, broken, behind, head });
            };
            ensure!(packed.len() < NESTED, "packed {NESTED} times, and then again");
            let spooled = next.unpack(file)?;
            packed.push(next);
            (file, broken) = (spooled.file, broken.or(spooled.cut));
            behind += spooled.behind;
        }
    }
}

/// Whether a file that starts with `head` has memory, as it says itself: a core of it, a dump, an arena.
pub(crate) fn is_memory(head: &[u8]) -> bool {
    const CORE: u16 = 4;
    let kind = head.get(16..18).and_then(|kind| kind.try_into().ok());
    let kind = kind.map(|kind| match head.get(5) {
        Some(2) => u16::from_be_bytes(kind),
        _ => u16::from_le_bytes(kind),
    });
    head.starts_with(elf::MAGIC) && kind == Some(CORE)
        || [kdump::MAGIC, lime::MAGIC, ARENA].iter().any(|magic| head.starts_with(magic))
}

/// What the file of an arena starts with.
const ARENA: &[u8] = b"hl-arena";

/// Whether a file that starts with `head` is that of an arena.
pub(crate) fn is_arena(head: &[u8]) -> bool {
    head.starts_with(ARENA)
}

/// Returns the pieces of an arena's file, one for each range. The ranges overlap nowhere: that was checked.
fn pieces_of(ranges: &[ArenaRange]) -> Vec<Piece> {
    let piece = |range: &ArenaRange| Piece {
        start: range.run().addr().get(),
        bytes: range.run().bytes(),
        from: Bytes::At { file: 0, offset: range.offset() },
    };
    let mut pieces: Vec<_> = ranges.iter().map(piece).collect();
    pieces.sort_unstable_by_key(|piece| piece.start);
    pieces
}

/// The pieces of raw memory: the image's own file, and more of them, each from its address on.
fn raw(
    (path, base): (&Path, u64),
    files: &mut Files,
    reading: &Reading,
    passed: &mut Passed,
) -> Result<Vec<Piece>> {
    let page = reading.page_size.unwrap_or(PageSize::BUILD).bytes() as u64;
    let mut pieces = Vec::new();
    let mut piece = |file: &File, start: u64, option: &str| {
        ensure!(
            start.is_multiple_of(page),
            "{option} {start:#x} is no multiple of the page size, {page}"
        );
        let bytes = length(file).context("cannot stat it")?;
        let end = start.checked_add(bytes);
        ensure!(end.is_some(), "{bytes:#x} bytes from {start:#x} on leave the address space");
        // The last page, of which the file has a part only.
        passed.cut += bytes.next_multiple_of(page) - bytes;
        let from = Bytes::At { file: pieces.len(), offset: 0 };
        pieces.push((pieces.len(), Piece { start, bytes, from }));
        Ok(())
    };
    piece(&files.read[0], base, "--base")?;
    let (mut opened, mut passed_behind) = (Vec::new(), 0);
    for (path, start) in &reading.more {
        let said = || path.display().to_string();
        let Opened { file, named, own, broken, behind, head, .. } =
            Opened::new(path).with_context(said)?;
        is_raw(&head, "--raw").and_then(|()| piece(&file, *start, "--raw")).with_context(said)?;
        passed_behind += behind;
        opened.push((file, own, named, broken));
    }
    for (file, own, named, broken) in opened {
        files.read.push(file);
        files.own.push(own);
        files.named.push(named);
        passed.broken = passed.broken.take().or(broken);
    }
    passed.behind += passed_behind;
    let name = |number: usize| match number.checked_sub(1).and_then(|at| reading.more.get(at)) {
        Some((path, _)) => path.display().to_string(),
        None => path.display().to_string(),
    };
    twins::apart(Some(&files.read), pieces, &|one, other| {
        format!("{} and {}", name(one), name(other))
    })
}
