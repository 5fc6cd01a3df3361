//! What Linux registered: live update sessions and their files, and the rest.

use std::collections::BTreeMap;

use heirloom_kho::linux::{self as linux, Known};
use heirloom_kho::{AreaPart, Block, Left, Pages};

use super::basic::Hex;
use super::memfd::Memfd;
use super::proposed;
use super::want::Want;
use crate::image::Image;
use crate::said;
use crate::sessions::{Listing, each_session};
use crate::text::plural;

/// A pair of an address and an order.
type Folio = (Hex, u8);

/// `LUO`.
#[derive(Clone, Debug, serde::Serialize, schemars::JsonSchema)]
pub(crate) struct Luo {
    pub(crate) compatible: String,
    pub(crate) liveupdate_num: u64,
    pub(crate) sessions: Vec<Session>,
    /// What is not in that list, if anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) unlisted: Option<String>,
    pub(crate) flbs: Vec<Flb>,
}

/// Files that one owner preserved together.
#[derive(Clone, Debug, serde::Serialize, schemars::JsonSchema)]
pub(crate) struct Session {
    pub(crate) name: String,
    pub(crate) files: Vec<File>,
    /// Why not all of them are in that list, if so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) unlisted: Option<String>,
}

/// A preserved file.
#[derive(Clone, Debug, serde::Serialize, schemars::JsonSchema)]
pub(crate) struct File {
    pub(crate) compatible: String,
    pub(crate) token: u64,
    pub(crate) data: Hex,
    #[serde(flatten)]
    pub(crate) memfd: Option<Memfd>,
    /// What it says, if it is of a kind that is under review.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) proposed: Option<BTreeMap<&'static str, u64>>,
    /// Its name, if it is of a tmpfs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
    /// Which unit of systemd's has it, and under which name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) kept: Option<String>,
    /// Why it cannot be said what it is, if it should be a memfd.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) broken: Option<String>,
}

/// A state that files share.
#[derive(Clone, Debug, serde::Serialize, schemars::JsonSchema)]
pub(crate) struct Flb {
    pub(crate) name: String,
    pub(crate) data: Hex,
    pub(crate) count: u64,
}

/// `kexec-metadata`.
#[derive(Clone, Debug, serde::Serialize, schemars::JsonSchema)]
pub(crate) struct Metadata {
    pub(crate) version: u32,
    pub(crate) previous_release: String,
    pub(crate) kexec_count: u32,
}

/// `memblock`.
#[derive(Clone, Debug, serde::Serialize, schemars::JsonSchema)]
pub(crate) struct Memblock {
    pub(crate) compatible: String,
    pub(crate) regions: Vec<Region>,
}

/// A region that is reserved by name.
#[derive(Clone, Debug, serde::Serialize, schemars::JsonSchema)]
pub(crate) struct Region {
    pub(crate) name: String,
    pub(crate) start: Hex,
    pub(crate) size: u64,
}

/// `kho_test`.
#[derive(Clone, Debug, serde::Serialize, schemars::JsonSchema)]
pub(crate) struct KhoTest {
    pub(crate) compatible: String,
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
#[derive(Clone, Debug, serde::Serialize, schemars::JsonSchema)]
pub(crate) struct Area {
    pub(crate) total_pages: u32,
    pub(crate) flags: u16,
    pub(crate) order: u8,
    pub(crate) pages: Vec<Hex>,
}

/// A subtree that Linux registers.
#[derive(Clone, Debug, serde::Serialize, schemars::JsonSchema)]
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
            compatible: luo.compat.to_string(),
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
        let name = session.name.to_string();
        let mut kept = BTreeMap::new();
        let unlisted = match listing {
            Listing::Files(all) => {
                let mut more = 0;
                for file in all.flatten() {
                    match room.checked_sub(1) {
                        Some(rest) => {
                            *room = rest;
                            if file.token == 0
                                && super::kinds::session(&name).is_some()
                                && let Ok(Some(memfd)) = file.memfd(left)
                            {
                                kept = proposed::kept(left, want.image, &memfd);
                            }
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
            Listing::Broken(error) => Some(said::reader(error, left.page_size()).to_string()),
        };
        for file in &mut files {
            file.kept = kept.remove(&file.token);
        }
        Self { name, files, unlisted }
    }
}

impl File {
    fn of(file: &linux::File, left: &Left<'_, Image>, want: &Want<'_>) -> Self {
        let (memfd, broken) = match file.memfd(left) {
            Ok(memfd) => (memfd, None),
            Err(error) => (None, Some(said::reader(error, left.page_size()).to_string())),
        };
        let kind = file.compatible.to_string();
        Self {
            token: file.token,
            data: Hex(file.data),
            memfd: memfd.map(|memfd| Memfd::of(&memfd, left, want)),
            proposed: proposed::fields(left, &kind, file.data),
            name: proposed::name(left, &kind, file.data),
            compatible: kind,
            kept: None,
            broken,
        }
    }
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
        Self { compatible: memblock.compat.to_string(), regions }
    }
}

impl KhoTest {
    fn of(test: &linux::KhoTest, left: &Left<'_, Image>, want: &Want<'_>) -> Self {
        let (mut folios, mut pages): (Vec<Folio>, Vec<Hex>) = Default::default();
        let mut bytes = 0_u64;
        // As for the regions.
        let _ = test.for_each_folio(left, |block: Block| {
            folios.push((block.addr().into(), said::order(block.order(), left.page_size())));
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
            compatible: test.compat.to_string(),
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
