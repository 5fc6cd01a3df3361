//! Preserved memfds: their folios and holes, and the hash of what is in them.

use heirloom_kho::linux::{self as linux, Part};
use heirloom_kho::{Left, PAGE_SIZE, Pages, PhysAddr, Run};
use sha2::{Digest, Sha256};

use super::want::Want;
use crate::image::Image;
use crate::said;

/// A preserved memfd.
#[derive(Clone, Debug, serde::Serialize, schemars::JsonSchema)]
pub(crate) struct Memfd {
    pub(crate) size: u64,
    pub(crate) pos: u64,
    pub(crate) seals: u32,
    pub(crate) seal_names: Vec<&'static str>,
    pub(crate) flags: u32,
    pub(crate) nr_folios: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) folios: Option<Vec<MemfdFolio>>,
    pub(crate) holes: Vec<Hole>,
    /// Of the content, holes as zeroes; none if it was not asked for, or cannot be had.
    pub(crate) sha256: Option<String>,
    /// Why the content cannot be read, or not all of it, if so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) unreadable: Option<String>,
    /// Why it is left out, if it could be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) left_out: Option<String>,
}

/// A folio of a memfd.
#[derive(Clone, Copy, Debug, serde::Serialize, schemars::JsonSchema)]
pub(crate) struct MemfdFolio {
    pub(crate) pfn: u64,
    pub(crate) flags: u16,
    pub(crate) index: u64,
    pub(crate) order: u8,
}

/// Bytes of a memfd that were never written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, schemars::JsonSchema)]
pub(crate) struct Hole {
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
}

/// `F_SEAL_…` of `fcntl(2)`, by bit.
const SEALS: [&str; 6] = ["seal", "shrink", "grow", "write", "future-write", "exec"];

impl Memfd {
    pub(super) fn of(memfd: &linux::Memfd, left: &Left<'_, Image>, want: &Want<'_>) -> Self {
        let names = SEALS.iter().enumerate().filter(|(bit, _)| memfd.seals >> bit & 1 == 1);
        let mut of = Self {
            size: memfd.size,
            pos: memfd.pos,
            seals: memfd.seals,
            seal_names: names.map(|(_, name)| *name).collect(),
            flags: memfd.flags,
            nr_folios: memfd.folios,
            folios: None,
            holes: Vec::new(),
            sha256: None,
            unreadable: None,
            left_out: None,
        };
        // The list of them is gone through too, and can be longer than it says that they are.
        let pages = memfd.area.map_or(0, |area| area.pages().into());
        if !want.list(memfd.folios.max(pages)) {
            let why = "the files before it have as many folios as there are frames";
            of.left_out = Some(why.to_owned());
            return of;
        }
        if want.folios {
            of.folios = Some(folios(memfd, left));
        }
        let parts = Parts::of(memfd, left);
        of.holes = parts.holes;
        of.unreadable = parts.unreadable;
        if want.hash && of.unreadable.is_none() {
            match want.read(parts.data, parts.hollow) {
                Ok(()) => of.sha256 = sha256(memfd, left, want),
                Err(why) => of.left_out = Some(why),
            }
        }
        of
    }
}

/// Every folio as far as they are sound: what ends the list is among the findings.
fn folios(memfd: &linux::Memfd, left: &Left<'_, Image>) -> Vec<MemfdFolio> {
    let mut folios = Vec::new();
    let page = memfd.page_size;
    let _ = memfd.for_each_folio(left, |folio| {
        folios.push(MemfdFolio {
            pfn: folio.block.pfn().get() >> page.order().get(),
            flags: folio.flags,
            index: folio.index,
            order: said::order(folio.block.order(), page),
        });
        Ok::<_, heirloom_kho::Error>(())
    });
    folios
}

/// What a memfd consists of.
#[derive(Debug, Default)]
struct Parts {
    /// What was never written, neighbours taken together.
    holes: Vec<Hole>,
    /// Bytes of that.
    hollow: u64,
    /// Bytes of the rest.
    data: u64,
    /// Why it ends before the file does, or something is missing.
    unreadable: Option<String>,
}

impl Parts {
    pub(super) fn of(memfd: &linux::Memfd, left: &Left<'_, Image>) -> Self {
        let mut parts = Self::default();
        let walked = memfd.for_each_part(left, |part| {
            parts.add(part, left);
            Ok::<_, heirloom_kho::Error>(())
        });
        if let Err(error) = walked {
            parts.unreadable = Some(said::reader(error, left.page_size()).to_string());
        }
        parts
    }

    fn add(&mut self, part: Part, left: &Left<'_, Image>) {
        match part {
            Part::Data { bytes, addr, .. } => {
                self.data = self.data.saturating_add(bytes);
                let there = Run::covering(addr, bytes).is_some_and(|run| left.is_memory(run));
                if !there && self.unreadable.is_none() {
                    self.unreadable = Some(format!("{bytes} bytes at {addr} are not in the image"));
                }
            }
            Part::Hole { offset, bytes, .. } => {
                self.hollow = self.hollow.saturating_add(bytes);
                match self.holes.last_mut().filter(|last| last.offset + last.bytes == offset) {
                    Some(last) => last.bytes += bytes,
                    None => self.holes.push(Hole { offset, bytes }),
                }
            }
        }
    }
}

/// The hash of what can be read.
fn sha256(memfd: &linux::Memfd, left: &Left<'_, Image>, want: &Want<'_>) -> Option<String> {
    let zeroes = [0; PAGE_SIZE];
    let mut hash = Sha256::new();
    let mut missing = false;
    let walked = memfd.for_each_part(left, |part| {
        let bytes = match part {
            Part::Data { bytes, addr, .. } => {
                let read = each_piece(want.image, addr, bytes, |piece| hash.update(piece));
                missing |= read.is_none();
                want.bar.inc(bytes);
                0
            }
            Part::Hole { bytes, .. } => bytes,
        };
        let mut rest = bytes;
        while rest > 0 {
            let step = rest.min(PAGE_SIZE as u64);
            hash.update(zeroes.get(..step as usize).unwrap_or(&zeroes));
            want.bar.inc(step);
            rest -= step;
        }
        Ok::<_, heirloom_kho::Error>(())
    });
    (walked.is_ok() && !missing).then(|| hex(&hash.finalize()))
}

/// `bytes` as two digits each.
pub(super) fn hex(bytes: &[u8]) -> String {
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 0xf]);
    digits.filter_map(|digit| char::from_digit(digit.into(), 16)).collect()
}

/// Bytes of a file's content that are read at once.
const PIECE: u64 = 1 << 16;

/// Calls `each` with `bytes` bytes of memory from `addr`, piece by piece; `None` if one is not there.
pub(crate) fn each_piece(
    image: &Image,
    addr: PhysAddr,
    bytes: u64,
    mut each: impl FnMut(&[u8]),
) -> Option<()> {
    // Not by way of its words: contents are not kept, as tables are.
    let mut piece = vec![0; PIECE.min(bytes) as usize];
    let mut done = 0;
    while done < bytes {
        let step = (bytes - done).min(PIECE) as usize;
        let piece = piece.get_mut(..step)?;
        image.read(addr.checked_add(done)?, piece)?;
        each(piece);
        done += step as u64;
    }
    Some(())
}
