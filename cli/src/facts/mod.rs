//! What is known of a handover, as a value that is printed: as JSON, as text, as a picture.
//!
//! Addresses are strings in hexadecimal, since JSON's numbers do not hold them.

mod layout;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Result, anyhow};
use heirloom_folio::tracker::{Adjacent, Geometry};
use heirloom_folio::{Order, PAGE_SIZE, Pfn, PhysAddr, Run};
use serde::ser::{Serialize, Serializer};

use crate::roots::Roots;
use crate::survey::Survey;

pub(crate) use layout::Layout;

/// A number as text: `"0x1000"`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Hex(pub(crate) u64);

impl From<PhysAddr> for Hex {
    fn from(addr: PhysAddr) -> Self {
        Self(addr.get())
    }
}

impl std::fmt::Display for Hex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&format!("{:#x}", self.0))
    }
}

impl Serialize for Hex {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A stretch of memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
pub(crate) struct Stretch {
    pub(crate) start: Hex,
    pub(crate) bytes: u64,
}

impl From<Run> for Stretch {
    fn from(run: Run) -> Self {
        Self { start: run.addr().into(), bytes: run.bytes() }
    }
}

/// All that is known of a handover.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct Facts {
    /// The file, and what it is.
    pub(crate) image: ImageFacts,
    /// The root page.
    pub(crate) fdt: Hex,
    pub(crate) compatible: String,
    /// The tree's root node.
    pub(crate) map: Hex,
    pub(crate) nodes: u64,
    pub(crate) nodes_by_level: BTreeMap<u32, u64>,
    pub(crate) folios: u64,
    pub(crate) frames: u64,
    pub(crate) bytes: u64,
    /// Folios that share a frame with something that was found before them.
    pub(crate) overlaps: u64,
    /// Folios of each order.
    pub(crate) orders: BTreeMap<u8, u64>,
    pub(crate) layout: Layout,
    pub(crate) scratch: Option<Vec<Stretch>>,
    pub(crate) preserved: Folios,
    pub(crate) findings: Vec<Fault>,
    /// All root pages in the image, if it was searched.
    pub(crate) roots: Vec<Hex>,
}

/// The file that was looked at.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct ImageFacts {
    pub(crate) path: String,
    pub(crate) format: &'static str,
    pub(crate) frames: u64,
    pub(crate) page_size: usize,
}

/// Something wrong.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct Fault {
    pub(crate) at: Hex,
    pub(crate) reason: String,
}

/// Folios, by address: `[["0x1000", 0], …]`, each with its order.
#[derive(Clone, Debug)]
pub(crate) struct Folios(pub(crate) Vec<Adjacent>);

impl Folios {
    /// Each one.
    pub(crate) fn each(&self) -> impl Iterator<Item = (Pfn, Order)> + '_ {
        self.0.iter().flat_map(|row| {
            let (first, order) = (row.first().pfn(), row.first().order());
            (0..row.count()).map(move |i| (first.add(i << order.get()), order))
        })
    }
}

impl Serialize for Folios {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let pairs = self.each().map(|(pfn, order)| (Hex::from(pfn.addr()), order.get()));
        serializer.collect_seq(pairs)
    }
}

impl Facts {
    /// What `survey` found, in the image at `path`.
    ///
    /// # Errors
    /// The root page cannot be read, so there is nothing to show.
    pub(crate) fn of(survey: &Survey<'_>, roots: &Roots, path: &Path) -> Result<Self> {
        let Some(root) = &survey.root else {
            let first = survey.findings.first().map(ToString::to_string).unwrap_or_default();
            return Err(anyhow!("{}: no root page at {}: {first}", path.display(), survey.at));
        };
        let counts = &survey.counts;
        let levels = (0..Geometry::BUILD.levels).map(|level| (level, counts.nodes_at(level as u8)));
        let orders = (0..=Order::MAX.get()).filter_map(Order::new);
        let orders = orders.map(|order| (order.get(), counts.folios(order)));
        let findings = survey.findings.iter();
        Ok(Self {
            image: ImageFacts {
                path: path.display().to_string(),
                format: survey.image.format().as_str(),
                frames: survey.image.frames(),
                page_size: PAGE_SIZE,
            },
            fdt: survey.at.into(),
            compatible: survey.compatible.clone(),
            map: root.map().into(),
            nodes: counts.nodes(),
            nodes_by_level: levels.filter(|(_, nodes)| *nodes > 0).collect(),
            folios: counts.total(),
            frames: counts.frames(),
            bytes: counts.frames().saturating_mul(PAGE_SIZE as u64),
            overlaps: survey.overlaps,
            orders: orders.filter(|(_, folios)| *folios > 0).collect(),
            layout: Layout::of(&survey.rows),
            scratch: survey.scratch.as_ref().map(|s| s.iter().map(|run| (*run).into()).collect()),
            preserved: Folios(survey.rows.clone()),
            findings: findings
                .map(|found| Fault { at: found.at.into(), reason: found.reason.clone() })
                .collect(),
            roots: roots.found.iter().map(|found| found.at.into()).collect(),
        })
    }
}
