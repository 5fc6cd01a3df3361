//! What Linux registered: live update sessions and their files, and the rest.

use heirloom_folio::{Block, PAGE_SIZE, PhysAddr, Run};
use heirloom_kho::linux::{self as linux, Known, Part};
use heirloom_kho::{AreaPart, Left, Pages};
use sha2::{Digest, Sha256};

use super::basic::Hex;
use super::want::Want;
use crate::image::Image;
use crate::sessions::{Listing, each_session};
use crate::text::plural;

/// A pair of an address and an order.
type Folio = (Hex, u8);

/// `LUO`.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct Luo {
    pub(crate) compatible: &'static str,
    pub(crate) liveupdate_num: u64,
    pub(crate) sessions: Vec<Session>,
    /// What is not in that list, if anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) unlisted: Option<String>,
    pub(crate) flbs: Vec<Flb>,
}

/// Files that one owner preserved together.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct Session {
    pub(crate) name: String,
    pub(crate) files: Vec<File>,
    /// Why not all of them are in that list, if so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) unlisted: Option<String>,
}

/// A preserved file.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct File {
    pub(crate) compatible: String,
    pub(crate) token: u64,
    pub(crate) data: Hex,
    #[serde(flatten)]
    pub(crate) memfd: Option<Memfd>,
    /// Why it cannot be said what it is, if it should be a memfd.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) broken: Option<String>,
}

/// A preserved memfd.
#[derive(Clone, Debug, serde::Serialize)]
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
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub(crate) struct MemfdFolio {
    pub(crate) pfn: u64,
    pub(crate) flags: u16,
    pub(crate) index: u64,
    pub(crate) order: u8,
}

/// Bytes of a memfd that were never written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
pub(crate) struct Hole {
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
}

/// A state that files share.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct Flb {
    pub(crate) name: String,
    pub(crate) data: Hex,
    pub(crate) count: u64,
}

/// `kexec-metadata`.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct Metadata {
    pub(crate) version: u32,
    pub(crate) previous_release: String,
    pub(crate) kexec_count: u32,
}

/// `memblock`.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct Memblock {
    pub(crate) compatible: &'static str,
    pub(crate) regions: Vec<Region>,
}

/// A region that is reserved by name.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct Region {
    pub(crate) name: String,
    pub(crate) start: Hex,
    pub(crate) size: u64,
}

/// `kho_test`.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct KhoTest {
    pub(crate) compatible: &'static str,
    pub(crate) nr_folios: u32,
    /// As Linux wrote it.
    pub(crate) csum: u32,
    pub(crate) vmalloc: Area,
    pub(crate) folios: Vec<Folio>,
    /// Of the folios as they are now; none if one of them cannot be read, or the list names more
    /// than is preserved.
    pub(crate) csum_recomputed_mod_ffff: Option<u32>,
    pub(crate) csum_mod_ffff: u32,
}

/// A virtually contiguous area.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct Area {
    pub(crate) total_pages: u32,
    pub(crate) flags: u16,
    pub(crate) order: u8,
    pub(crate) pages: Vec<Hex>,
}

/// A subtree that Linux registers.
#[derive(Clone, Debug, serde::Serialize)]
#[serde(untagged)]
pub(crate) enum Linux {
    Luo(Luo),
    Metadata(Metadata),
    Memblock(Memblock),
    KhoTest(KhoTest),
}

impl Linux {
    /// What `known` leads to, as far as it is sound: what is not is among the findings.
    pub(super) fn of(known: &Known, left: &Left<'_, Image>, want: &Want<'_>) -> Option<Self> {
        Some(match known {
            Known::Luo(luo) => Self::Luo(Luo::of(luo, left, want)),
            Known::Metadata(metadata) => Self::Metadata(Metadata {
                version: linux::Metadata::VERSION,
                previous_release: metadata.previous_release.to_string(),
                kexec_count: metadata.kexec_count,
            }),
            Known::Memblock(memblock) => Self::Memblock(Memblock::of(memblock, left)),
            Known::KhoTest(test) => Self::KhoTest(KhoTest::of(test, left, want)),
            _ => return None,
        })
    }
}

/// Sessions and files that are listed one by one: more than any live update preserves.
const LISTED: u64 = 100_000;

impl Luo {
    fn of(luo: &linux::Luo, left: &Left<'_, Image>, want: &Want<'_>) -> Self {
        let (mut sessions, mut room, mut more) = (Vec::new(), LISTED, 0);
        each_session(luo, left, |session, listing| match room.checked_sub(1) {
            Some(rest) => {
                room = rest;
                sessions.push(Session::of(session, listing, &mut room, left, want));
            }
            None => more += 1,
        });
        let flbs = luo.flbs(left).into_iter().flatten().flatten();
        Self {
            compatible: linux::Luo::COMPATIBLE,
            liveupdate_num: luo.number,
            sessions,
            unlisted: (more > 0).then(|| plural(more, "more session", "more sessions")),
            flbs: flbs
                .map(|flb| Flb {
                    name: flb.name.to_string(),
                    data: Hex(flb.data),
                    count: flb.count,
                })
                .collect(),
        }
    }
}

impl Session {
    /// `room` is how many files can be listed yet.
    fn of<'i>(
        session: &linux::Session,
        listing: Listing<'_, 'i>,
        room: &mut u64,
        left: &Left<'i, Image>,
        want: &Want<'_>,
    ) -> Self {
        let mut files = Vec::new();
        let unlisted = match listing {
            Listing::Files(all) => {
                let mut more = 0;
                for file in all.flatten() {
                    match room.checked_sub(1) {
                        Some(rest) => {
                            *room = rest;
                            files.push(File::of(&file, left, want));
                        }
                        None => more += 1,
                    }
                }
                (more > 0).then(|| plural(more, "more file", "more files"))
            }
            Listing::Shared => {
                let count = plural(session.count, "file", "files");
                Some(format!("{count}, in a list that was gone through before"))
            }
            Listing::Broken(error) => Some(error.to_string()),
        };
        Self { name: session.name.to_string(), files, unlisted }
    }
}

impl File {
    fn of(file: &linux::File, left: &Left<'_, Image>, want: &Want<'_>) -> Self {
        let (memfd, broken) = match file.memfd(left) {
            Ok(memfd) => (memfd, None),
            Err(error) => (None, Some(error.to_string())),
        };
        Self {
            compatible: file.compatible.to_string(),
            token: file.token,
            data: Hex(file.data),
            memfd: memfd.map(|memfd| Memfd::of(&memfd, left, want)),
            broken,
        }
    }
}

/// `F_SEAL_…` of `fcntl(2)`, by bit.
const SEALS: [&str; 6] = ["seal", "shrink", "grow", "write", "future-write", "exec"];

impl Memfd {
    fn of(memfd: &linux::Memfd, left: &Left<'_, Image>, want: &Want<'_>) -> Self {
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
    let _ = memfd.for_each_folio(left, |folio| {
        folios.push(MemfdFolio {
            pfn: folio.block.pfn().get(),
            flags: folio.flags,
            index: folio.index,
            order: folio.block.order().get(),
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
    fn of(memfd: &linux::Memfd, left: &Left<'_, Image>) -> Self {
        let mut parts = Self::default();
        let walked = memfd.for_each_part(left, |part| {
            parts.add(part, left);
            Ok::<_, heirloom_kho::Error>(())
        });
        if let Err(error) = walked {
            parts.unreadable = Some(error.to_string());
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
    (walked.is_ok() && !missing).then(|| format!("{:x}", hash.finalize()))
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

impl Memblock {
    fn of(memblock: &linux::Memblock, left: &Left<'_, Image>) -> Self {
        let mut regions = Vec::new();
        // An error ends the list; it is among the findings.
        let _ = memblock.for_each_region(left, |region| {
            let (name, start) = (region.name.to_string(), region.start.into());
            regions.push(Region { name, start, size: region.size });
            Ok::<_, heirloom_kho::Error>(())
        });
        Self { compatible: linux::Memblock::COMPATIBLE, regions }
    }
}

impl KhoTest {
    fn of(test: &linux::KhoTest, left: &Left<'_, Image>, want: &Want<'_>) -> Self {
        let (mut folios, mut pages): (Vec<Folio>, Vec<Hex>) = Default::default();
        let mut bytes = 0_u64;
        // As for the regions.
        let _ = test.for_each_folio(left, |block: Block| {
            folios.push((block.addr().into(), block.order().get()));
            bytes = bytes.saturating_add(block.order().bytes());
            Ok::<_, heirloom_kho::Error>(())
        });
        let area = test.area;
        let _ = area.walk(left, |part| {
            if let AreaPart::Block(block) = part {
                pages.push(block.addr().into());
            }
            Ok::<_, heirloom_restore::Error>(())
        });
        Self {
            compatible: linux::KhoTest::COMPATIBLE,
            nr_folios: test.folios,
            csum: test.csum,
            vmalloc: Area {
                total_pages: area.pages(),
                flags: if area.huge() { 3 } else { 1 },
                order: area.order().get(),
                pages,
            },
            folios,
            csum_recomputed_mod_ffff: want
                .read(bytes, 0)
                .ok()
                .and_then(|()| test.checksum(left).ok())
                .map(linux::Checksum::get),
            csum_mod_ffff: linux::Checksum::of(test.csum).get(),
        }
    }
}
