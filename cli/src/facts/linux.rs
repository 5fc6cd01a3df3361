//! What Linux registered: live update sessions and their files, and the rest.

use std::sync::atomic::Ordering::Relaxed;

use anyhow::Context;
use heirloom_folio::{Block, PAGE_SIZE, PhysAddr};
use heirloom_linux::{self as linux, Known, Part};
use heirloom_restore::{AreaPart, Left, Pages};
use sha2::{Digest, Sha256};

use super::{Hex, Want};
use crate::image::Image;

/// A pair of an address and an order.
type Folio = (Hex, u8);

/// `LUO`.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct Luo {
    pub(crate) compatible: &'static str,
    pub(crate) liveupdate_num: u64,
    pub(crate) sessions: Vec<Session>,
    pub(crate) flbs: Vec<Flb>,
}

/// Files that one owner preserved together.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct Session {
    pub(crate) name: String,
    pub(crate) files: Vec<File>,
}

/// A preserved file.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct File {
    pub(crate) compatible: String,
    pub(crate) token: u64,
    pub(crate) data: Hex,
    #[serde(flatten)]
    pub(crate) memfd: Option<Memfd>,
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
    /// Of the content, holes as zeroes; none if it was not asked for, or cannot be read, or is
    /// more holes than one waits for.
    pub(crate) sha256: Option<String>,
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
    /// Of the folios as they are now; none if one of them cannot be read.
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
    pub(super) fn of(known: &Known, left: &Left<'_, Image>, want: &Want) -> Option<Self> {
        Some(match known {
            Known::Luo(luo) => Self::Luo(Luo::of(luo, left, want)),
            Known::Metadata(metadata) => Self::Metadata(Metadata {
                version: linux::Metadata::VERSION,
                previous_release: metadata.previous_release.to_string(),
                kexec_count: metadata.kexec_count,
            }),
            Known::Memblock(memblock) => Self::Memblock(Memblock::of(memblock, left)),
            Known::KhoTest(test) => Self::KhoTest(KhoTest::of(test, left)),
            _ => return None,
        })
    }
}

impl Luo {
    fn of(luo: &linux::Luo, left: &Left<'_, Image>, want: &Want) -> Self {
        let sessions = luo.sessions(left).into_iter().flatten().flatten();
        let flbs = luo.flbs(left).into_iter().flatten().flatten();
        Self {
            compatible: "luo-v5",
            liveupdate_num: luo.number,
            sessions: sessions.map(|session| Session::of(&session, left, want)).collect(),
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
    fn of(session: &linux::Session, left: &Left<'_, Image>, want: &Want) -> Self {
        let files = session.files(left).into_iter().flatten().flatten();
        let files = files.map(|file| File {
            compatible: file.compatible.to_string(),
            token: file.token,
            data: Hex(file.data),
            memfd: file.memfd(left).ok().flatten().map(|memfd| Memfd::of(&memfd, left, want)),
        });
        Self { name: session.name.to_string(), files: files.collect() }
    }
}

/// `F_SEAL_…` of `fcntl(2)`, by bit.
const SEALS: [&str; 6] = ["seal", "shrink", "grow", "write", "future-write", "exec"];

impl Memfd {
    fn of(memfd: &linux::Memfd, left: &Left<'_, Image>, want: &Want) -> Self {
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
        };
        if !want.list(memfd.folios) {
            return of;
        }
        if want.folios {
            of.folios = Some(folios(memfd, left));
        }
        let (holes, data) = parts(memfd, left);
        if want.read(data) {
            of.sha256 = sha256(memfd, left, &holes, want);
        }
        of.holes = holes;
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
        Ok::<_, linux::Error>(())
    });
    folios
}

/// What was never written, neighbours taken together, and how many bytes were.
fn parts(memfd: &linux::Memfd, left: &Left<'_, Image>) -> (Vec<Hole>, u64) {
    let (mut holes, mut data): (Vec<Hole>, u64) = (Vec::new(), 0);
    // As for the folios.
    let _ = memfd.for_each_part(left, |part| {
        match (part, holes.last_mut()) {
            (Part::Data { bytes, .. }, _) => data = data.saturating_add(bytes),
            (Part::Hole { offset, bytes, .. }, Some(last))
                if last.offset + last.bytes == offset =>
            {
                last.bytes += bytes;
            }
            (Part::Hole { offset, bytes, .. }, _) => holes.push(Hole { offset, bytes }),
        }
        Ok::<_, linux::Error>(())
    });
    (holes, data)
}

/// Bytes of holes that are worth hashing. A file's size is what somebody wrote.
const HOLES: u64 = 1 << 36;

fn sha256(
    memfd: &linux::Memfd,
    left: &Left<'_, Image>,
    holes: &[Hole],
    want: &Want,
) -> Option<String> {
    let zeroes = [0; PAGE_SIZE];
    let hollow = holes.iter().fold(0_u64, |sum, hole| sum.saturating_add(hole.bytes));
    if hollow > HOLES {
        return None;
    }
    let mut hash = Sha256::new();
    let walked = memfd.for_each_part(left, |part| {
        match part {
            Part::Data { bytes, addr, .. } => {
                each_page(left, addr, bytes, |page| hash.update(page)).context("not there")?;
                want.bar.inc(bytes);
            }
            Part::Hole { mut bytes, .. } => {
                while bytes > 0 {
                    let step = bytes.min(PAGE_SIZE as u64);
                    hash.update(zeroes.get(..step as usize).unwrap_or(&zeroes));
                    bytes -= step;
                }
            }
        }
        anyhow::Ok(())
    });
    walked.ok()?;
    Some(format!("{:x}", hash.finalize()))
}

/// Calls `each` with `bytes` bytes of memory from `addr`, the start of a page, page by page; `None`
/// if one is not there.
pub(crate) fn each_page(
    left: &Left<'_, Image>,
    addr: PhysAddr,
    bytes: u64,
    mut each: impl FnMut(&[u8]),
) -> Option<()> {
    let mut page = [0; PAGE_SIZE];
    let mut done = 0;
    while done < bytes {
        let step = (bytes - done).min(PAGE_SIZE as u64) as usize;
        let words = left.words(addr.checked_add(done)?, step)?;
        for (bytes, word) in page.chunks_exact_mut(8).zip(words) {
            bytes.copy_from_slice(&word.load(Relaxed).to_ne_bytes());
        }
        each(page.get(..step)?);
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
            Ok::<_, linux::Error>(())
        });
        Self { compatible: "memblock-v1", regions }
    }
}

impl KhoTest {
    fn of(test: &linux::KhoTest, left: &Left<'_, Image>) -> Self {
        let (mut folios, mut pages): (Vec<Folio>, Vec<Hex>) = Default::default();
        // As for the regions.
        let _ = test.for_each_folio(left, |block: Block| {
            folios.push((block.addr().into(), block.order().get()));
            Ok::<_, linux::Error>(())
        });
        let area = test.area;
        let _ = area.walk(left, |part| {
            if let AreaPart::Block(block) = part {
                pages.push(block.addr().into());
            }
            Ok::<_, heirloom_restore::Error>(())
        });
        Self {
            compatible: "kho-test-v1",
            nr_folios: test.folios,
            csum: test.csum,
            vmalloc: Area {
                total_pages: area.pages(),
                flags: if area.huge() { 3 } else { 1 },
                order: area.order().get(),
                pages,
            },
            folios,
            csum_recomputed_mod_ffff: test.checksum(left).ok().map(linux::Checksum::get),
            csum_mod_ffff: linux::Checksum::of(test.csum).get(),
        }
    }
}
