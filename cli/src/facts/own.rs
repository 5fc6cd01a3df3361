//! What heirloom itself left: caches, slabs, objects, and the seal over its tables.

use std::sync::atomic::Ordering::Relaxed;

use heirloom_folio::{PAGE_SIZE, PhysAddr};
use heirloom_restore::{Handle, Header, Parts, SealInfo};
use heirloom_slab::{CacheRecord, LeftCaches};

use super::Hex;
use crate::survey::Survey;

/// The `heirloom` subtree.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct Own {
    pub(crate) compatible: &'static str,
    /// Who wrote the handover.
    pub(crate) producer: String,
    /// How many handovers led to this one.
    pub(crate) generation: u64,
    /// The first page of the roll.
    pub(crate) roll: Option<Hex>,
    pub(crate) caches: Vec<Cache>,
    pub(crate) seal: Option<Seal>,
}

/// A cache whose slabs survive.
#[derive(Clone, Debug, serde::Serialize)]
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
}

/// The seal.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct Seal {
    pub(crate) first: Hex,
    /// Tables that it covers.
    pub(crate) entries: u64,
    /// Those of them that are as they were when it was made.
    pub(crate) sound: u64,
    pub(crate) hash: Hex,
}

/// A root that was published and is a handle, or reads like one.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct Published {
    /// What kind of memory it names.
    pub(crate) handle: &'static str,
    pub(crate) addr: Hex,
    pub(crate) bytes: u64,
}

impl Published {
    /// What the `bytes` bytes at `addr` say, if they are a handle.
    pub(super) fn of(survey: &Survey<'_>, addr: PhysAddr, bytes: u64) -> Option<Self> {
        let [a, b] = survey.image.words(addr, size_of::<Handle>())? else { return None };
        let words = [a, b].map(|word| word.load(Relaxed).to_ne_bytes());
        let handle: [u8; 16] = words.as_flattened().try_into().ok()?;
        let parts = Handle::from(handle).parts().ok().filter(|_| bytes == handle.len() as u64)?;
        let page = PAGE_SIZE as u64;
        let (handle, addr, bytes) = match parts {
            Parts::Folio(block) => ("folio", block.addr(), block.order().bytes()),
            Parts::Run(run) => ("run", run.addr(), run.bytes()),
            Parts::Buffer { addr, bytes } => ("buffer", addr, bytes),
            Parts::Object { addr, bytes, .. } => ("object", addr, bytes),
            Parts::Area(area) => ("area", area.first(), u64::from(area.pages()) * page),
            Parts::Records { first, entry } => ("records", first, entry),
            Parts::Blob { addr, bytes } => ("blob", addr, bytes),
        };
        Some(Self { handle, addr: addr.into(), bytes })
    }
}

impl Own {
    /// What `header`, which the survey found sound, and the tables behind it say.
    pub(super) fn of(survey: &Survey<'_>, header: &Header) -> Self {
        let left = survey.left();
        let caches = header.roll.map_or_else(Vec::new, |roll| {
            let caches = LeftCaches::new(&left, roll);
            caches.caches().map(|record| Cache::of(&caches, &record)).collect()
        });
        let seal = |SealInfo { first, entries, hash }| Seal {
            first: first.into(),
            entries,
            sound: survey.sealed,
            hash: Hex(hash),
        };
        Self {
            compatible: "heirloom-v1",
            producer: header.producer.as_str().to_owned(),
            generation: header.generation,
            roll: header.roll.map(Hex::from),
            caches,
            seal: header.seal.map(seal),
        }
    }
}

impl Cache {
    fn of<P: heirloom_restore::Pages>(caches: &LeftCaches<'_, P>, record: &CacheRecord) -> Self {
        let (mut slabs, mut broken_slabs, mut objects, mut free) = (0, 0, 0, 0);
        for slab in caches.slabs(record) {
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
            order: record.order().get(),
            preserving: record.is_preserving(),
            fingerprint: Hex(record.fingerprint()),
            slabs,
            broken_slabs,
            objects,
            free,
        }
    }
}
