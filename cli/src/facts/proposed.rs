//! Files of kinds that are under review for Linux, or another program's: what is in them, as their layout is public now.
//!
//! A layout that is not Linux's yet may be another tomorrow, under the same name. So what is shown here is a help to a reader and
//! no more: a check does not look at it.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;

use anyhow::Context;
use heirloom_kho::linux::{Memfd, Part};
use heirloom_kho::{Block, Left, Order, Pages, PhysAddr};
use serde_json::Value;

use super::memfd::each_piece;
use crate::image::Image;

/// A field of a structure: where it is, and how many bytes.
type Field = (&'static str, usize, usize);

/// The structures with a public layout: the kind that a file says it is of, and the fields of its structure.
const KNOWN: [(&str, &[Field]); 7] = [
    (
        "guest_memfd_luo_v1",
        &[("size", 0, 8), ("flags", 8, 8), ("nr_folios", 16, 8), ("vm_token", 24, 8)],
    ),
    ("kvm_vm_luo_v1", &[("type", 0, 8)]),
    ("kvm_vcpu_luo_v1", &[("vcpu_id", 0, 4), ("flags", 4, 4), ("vm_token", 8, 8)]),
    ("huge-memfd-v1", &[("size", 0, 8), ("pos", 8, 8), ("nr_folios", 16, 8), ("order", 40, 1)]),
    ("tmpfs-mnt-v1", &[("max_blocks", 0, 8), ("mode", 8, 4), ("flags", 12, 4)]),
    (
        TMPFS_FILE,
        &[
            ("mnt_token", 0, 8),
            ("pos", 8, 8),
            ("size", 16, 8),
            ("mode", 24, 4),
            ("flags", 28, 4),
            ("nr_folios", 32, 8),
        ],
    ),
    ("vfio-pci-v2", &[("domain", 0, 4), ("bdf", 4, 2), ("reset_works", 6, 1)]),
];

/// A file of a tmpfs, and where its name is: 256 bytes, as many of them as stand before a zero.
const TMPFS_FILE: &str = "tmpfs-file-v1";
const TMPFS_NAME: usize = 56;

/// Reads the structure at `data` of a file of this kind. Returns its fields; `None` if the layout is not known, or if no memory at
/// `data` is preserved.
pub(super) fn fields(
    left: &Left<'_, Image>,
    kind: &str,
    data: u64,
) -> Option<BTreeMap<&'static str, u64>> {
    let (_, fields) = KNOWN.iter().find(|(known, _)| *known == kind)?;
    let all = preserved(left, data, fields.iter().map(|(_, at, bytes)| at + bytes).max()?)?;
    let field = |(name, at, bytes): &Field| {
        let mut value = [0; 8];
        value.get_mut(..*bytes)?.copy_from_slice(all.get(*at..at + bytes)?);
        // As an image is of a machine with this one's byte order, and on x86 and arm64 that is little-endian.
        Some((*name, u64::from_le_bytes(value)))
    };
    fields.iter().map(field).collect()
}

/// Reads `bytes` bytes at `data`; `None` if no memory there is preserved.
fn preserved(left: &Left<'_, Image>, data: u64, bytes: usize) -> Option<Vec<u8>> {
    let at = PhysAddr::new(data);
    let mut orders = (0..=Order::MAX.get()).filter_map(Order::new);
    if !orders.any(|order| left.holds(Block::containing(at.pfn(), order))) {
        return None;
    }
    let words = left.words(at, bytes.next_multiple_of(8))?.iter();
    Some(words.flat_map(|word| word.load(Relaxed).to_ne_bytes()).collect())
}

/// Reads the name that a file of a tmpfs has there, from its structure at `data`.
pub(super) fn name(left: &Left<'_, Image>, kind: &str, data: u64) -> Option<String> {
    let all = (kind == TMPFS_FILE).then(|| preserved(left, data, TMPFS_NAME + 256))??;
    let name = all.get(TMPFS_NAME..TMPFS_NAME + 256)?.split(|byte| *byte == 0).next()?;
    (!name.is_empty()).then(|| String::from_utf8_lossy(name).into_owned())
}

/// The largest map of a descriptor store that is read, in bytes.
const LARGEST: u64 = 1 << 20;

/// Reads systemd's map of its descriptor store, the memfd with token 0. Returns which unit has each token, and under which name.
pub(super) fn kept(left: &Left<'_, Image>, image: &Image, memfd: &Memfd) -> BTreeMap<u64, String> {
    let mut text = Vec::new();
    let whole = memfd.size <= LARGEST
        && memfd
            .for_each_part(left, |part| {
                let there = match part {
                    Part::Hole { bytes, .. } => {
                        text.resize(text.len() + usize::try_from(bytes).unwrap_or_default(), 0);
                        Some(())
                    }
                    Part::Data { bytes, addr, .. } => {
                        each_piece(image, addr, bytes, |piece| text.extend(piece))
                    }
                };
                there.context("not in the image")
            })
            .is_ok();
    // Behind the map the last page is zeroes.
    let end = text.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let map = if whole { text.get(..end) } else { None };
    let Some(Value::Object(units)) = map.and_then(|map| serde_json::from_slice(map).ok()) else {
        return BTreeMap::new();
    };
    let mut kept = BTreeMap::new();
    for (unit, entries) in &units {
        for entry in entries.as_array().into_iter().flatten() {
            if let (Some(token), Some(name)) = (entry["token"].as_u64(), entry["name"].as_str()) {
                kept.insert(token, format!("{name} of {unit}"));
            }
        }
    }
    kept
}
