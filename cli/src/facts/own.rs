//! What heirloom itself left: caches, slabs, objects, and the seal over its tables.

use std::collections::HashSet;

use heirloom_kho::PageSize;
use heirloom_kho::{Header, Pages, PhysAddr, SealInfo, SealState};
use heirloom_slab::CacheRecord;
use heirloom_slab::internal::ImageCaches;

use super::basic::Hex;
use crate::heap::Bounded;
use crate::said;
use crate::survey::Survey;

/// The `heirloom` subtree.
#[derive(Clone, Debug, serde::Serialize, schemars::JsonSchema)]
pub(crate) struct Own {
    pub(crate) compatible: &'static str,
    /// Whether its page is longer than this program knows, so that more is said there.
    pub(crate) longer: bool,
    /// The name of the kernel that wrote the handover.
    pub(crate) producer: String,
    /// How many handovers led to this one.
    pub(crate) generation: u64,
    /// The first page of the cache directory.
    pub(crate) cache_directory: Option<Hex>,
    /// The predecessor's root page, if its entry may be good beside this one's.
    pub(crate) before: Option<Hex>,
    pub(crate) caches: Vec<Cache>,
    /// Why not all caches and slabs are in that list, if so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) unlisted: Option<String>,
    /// The seal, if it holds.
    pub(crate) seal: Option<Seal>,
    /// Whether there was a seal, and a successor found it whole and has been at work since.
    pub(crate) opened: bool,
}

/// A cache whose slabs survive.
#[derive(Clone, Debug, serde::Serialize, schemars::JsonSchema)]
pub(crate) struct Cache {
    pub(crate) name: String,
    pub(crate) object_size: usize,
    pub(crate) align: usize,
    pub(crate) stride: usize,
    pub(crate) order: u8,
    /// Whether its objects are preserved from birth.
    pub(crate) preserving: bool,
    pub(crate) fingerprint: Hex,
    pub(crate) slabs: u64,
    /// Slabs that are not sound; their objects are not counted.
    pub(crate) broken_slabs: u64,
    /// Objects that survive.
    pub(crate) objects: u64,
    /// Places without one.
    pub(crate) free: u64,
    /// Why not all of its slabs are in these numbers, if so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) unlisted: Option<String>,
}

/// The seal.
#[derive(Clone, Debug, serde::Serialize, schemars::JsonSchema)]
pub(crate) struct Seal {
    pub(crate) first: Hex,
    /// Tables that it covers.
    pub(crate) entries: u64,
    /// Those of them that are as they were when it was made.
    pub(crate) sound: u64,
    pub(crate) hash: Hex,
}

impl Own {
    /// What `header`, which the survey found sound, and the tables behind it say.
    pub(super) fn of(survey: &Survey<'_>, header: &Header) -> Self {
        let left = survey.left();
        let mut unlisted = None;
        let caches = header.cache_directory.map_or_else(Vec::new, |directory| {
            let pages = Bounded::new(left, survey.image.pages());
            let caches = ImageCaches::new(&pages, directory);
            let mut seen = HashSet::new();
            let page = survey.image.page_size();
            let records =
                caches.caches().map(|record| Cache::of(&caches, &record, &mut seen, page));
            let caches = records.collect();
            unlisted = pages.is_spent().then(|| {
                "its tables lead to each other: going through all of them would not end soon"
                    .to_owned()
            });
            caches
        });
        let seal = |SealInfo { first, entries, hash }| Seal {
            first: first.into(),
            entries,
            sound: survey.sealed,
            hash: Hex(hash),
        };
        Self {
            compatible: "heirloom-v2",
            longer: header.longer,
            producer: header.producer.as_str().to_owned(),
            generation: header.generation,
            cache_directory: header.cache_directory.map(Hex::from),
            before: header.before.map(Hex::from),
            caches,
            unlisted,
            seal: header.seal.info().map(seal),
            opened: header.seal == SealState::Opened,
        }
    }
}

impl Cache {
    /// `seen` are the slabs of the caches before: one that comes again, as none of a sound handover
    /// does, ends the list. So there are no more to go through, with all caches, than there are slabs
    /// and caches.
    fn of<P: Pages>(
        caches: &ImageCaches<'_, P>,
        record: &CacheRecord,
        seen: &mut HashSet<PhysAddr>,
        page: PageSize,
    ) -> Self {
        let (mut slabs, mut broken_slabs, mut objects, mut free) = (0, 0, 0, 0);
        let mut unlisted = None;
        for slab in caches.slabs(record) {
            if !seen.insert(slab) {
                let why =
                    format!("the slab at {slab} was gone through before, and the rest was not");
                unlisted = Some(why);
                break;
            }
            slabs += 1;
            match caches.slab(record, slab) {
                Ok(slab) => {
                    objects += u64::from(slab.preserved);
                    free += u64::from(slab.free);
                }
                Err(_) => broken_slabs += 1,
            }
        }
        Self {
            name: record.name().as_str().to_owned(),
            object_size: record.object_size(),
            align: record.align(),
            stride: record.stride(),
            order: said::order(record.order(), page),
            preserving: record.is_preserving(),
            fingerprint: Hex(record.fingerprint()),
            slabs,
            broken_slabs,
            objects,
            free,
            unlisted,
        }
    }
}
