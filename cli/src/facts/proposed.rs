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
const KNOWN: [(&str, &[Field]); 4] = [
    (
        "guest_memfd_luo_v1",
        &[("size", 0, 8), ("flags", 8, 8), ("nr_folios", 16, 8), ("vm_token", 24, 8)],
    ),
    ("kvm_vm_luo_v1", &[("type", 0, 8)]),
    ("kvm_vcpu_luo_v1", &[("vcpu_id", 0, 4), ("flags", 4, 4), ("vm_token", 8, 8)]),
    ("huge-memfd-v1", &[("size", 0, 8), ("pos", 8, 8), ("nr_folios", 16, 8), ("order", 40, 1)]),
];

/// Reads the structure at `data` of a file of this kind. Returns its fields; `None` if the layout is not known, or if no memory at
/// `data` is preserved.
pub(super) fn fields(
    left: &Left<'_, Image>,
    kind: &str,
    data: u64,
) -> Option<BTreeMap<&'static str, u64>> {
    let (_, fields) = KNOWN.iter().find(|(known, _)| *known == kind)?;
    let at = PhysAddr::new(data);
    let mut orders = (0..=Order::MAX.get()).filter_map(Order::new);
    if !orders.any(|order| left.holds(Block::containing(at.pfn(), order))) {
        return None;
    }
    let bytes = fields.iter().map(|(_, at, bytes)| at + bytes).max()?.next_multiple_of(8);
    let words = left.words(at, bytes)?.iter().map(|word| word.load(Relaxed).to_ne_bytes());
    let all: Vec<u8> = words.flatten().collect();
    let field = |(name, at, bytes): &Field| {
        let mut value = [0; 8];
        value.get_mut(..*bytes)?.copy_from_slice(all.get(*at..at + bytes)?);
        // As an image is of a machine with this one's byte order, and on x86 and arm64 that is little-endian.
        Some((*name, u64::from_le_bytes(value)))
    };
    fields.iter().map(field).collect()
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
    let map = text.get(..end).filter(|_| whole);
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
