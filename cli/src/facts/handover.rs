//! What a handover says and preserves, and the one within, if Linux lends to heirloom.

use std::borrow::Cow;
use std::collections::BTreeMap;

use heirloom_kho::linux::{self as kho, Known};
use heirloom_kho::tree::{FolioRange, Geometry};
use heirloom_kho::{Block, Order, PAGE_SIZE, PageSize, Pfn, Run};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::ser::{Serialize, Serializer};

use super::basic::Hex;
use super::layout::Layout;
use super::linux::Linux;
use super::own::Own;
use super::published::Published;
use super::want::Want;
use crate::heap::Heap;
use crate::lent::Lent;
use crate::said;
use crate::survey::Survey;

/// A stretch of memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, schemars::JsonSchema)]
pub(crate) struct Stretch {
    pub(crate) start: Hex,
    pub(crate) bytes: u64,
}

impl From<Run> for Stretch {
    fn from(run: Run) -> Self {
        Self { start: run.addr().into(), bytes: run.bytes() }
    }
}

/// What a handover says and preserves.
#[derive(Clone, Debug, serde::Serialize, schemars::JsonSchema)]
pub(crate) struct Handover {
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
    /// By name, as the root page has them.
    #[serde(serialize_with = "by_name")]
    #[schemars(with = "BTreeMap<String, Subtree>")]
    pub(crate) subtrees: Vec<Subtree>,
    pub(crate) preserved: Folios,
    /// Folios that cannot be, in none of the numbers.
    pub(crate) faulty: Faulty,
}

/// Folios that the tree names and that cannot be.
#[derive(Clone, Debug, serde::Serialize, schemars::JsonSchema)]
pub(crate) struct Faulty {
    pub(crate) folios: u64,
    /// The first of those that are memory.
    pub(crate) blocks: Vec<(Hex, u8)>,
}

fn pair(block: Block, page: PageSize) -> (Hex, u8) {
    (block.addr().into(), said::order(block.order(), page))
}

/// What the root page has under a name.
#[derive(Clone, Debug, serde::Serialize, schemars::JsonSchema)]
pub(crate) struct Subtree {
    #[serde(skip)]
    pub(crate) name: String,
    pub(crate) phys: Hex,
    /// Bytes, where the writer said so.
    pub(crate) size: Option<u64>,
    #[serde(flatten)]
    pub(crate) what: What,
}

/// What is known of a subtree.
#[derive(Clone, Debug, serde::Serialize, schemars::JsonSchema)]
#[serde(untagged)]
pub(crate) enum What {
    Own(Own),
    Linux(Linux),
    Loans(Loans),
    /// A root that was published with heirloom.
    Published(Box<Published>),
    /// Nothing: its maker's alone.
    Other {},
}

fn by_name<S: Serializer>(subtrees: &[Subtree], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(subtrees.iter().map(|subtree| (&subtree.name, subtree)))
}

/// Folios, by address: `[["0x1000", 0], …]`, each with its order.
#[derive(Clone, Debug)]
pub(crate) struct Folios {
    pub(crate) rows: Vec<FolioRange>,
    /// What their orders are counted in, where they are printed.
    pub(crate) page: PageSize,
}

impl Folios {
    /// Each one.
    pub(crate) fn each(&self) -> impl Iterator<Item = (Pfn, Order)> + '_ {
        self.rows.iter().flat_map(|row| {
            let (first, order) = (row.first().pfn(), row.first().order());
            (0..row.count()).map(move |i| (first.add(i << order.get()), order))
        })
    }
}

impl JsonSchema for Folios {
    fn schema_name() -> Cow<'static, str> {
        "Folios".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut schema = <Vec<(Hex, u8)>>::json_schema(generator);
        schema.insert("description".to_owned(), "Folios by address, each with its order.".into());
        schema
    }
}

impl Serialize for Folios {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let order = |order| said::order(order, self.page);
        let pairs = self.each().map(|(pfn, of)| (Hex::from(pfn.addr()), order(of)));
        serializer.collect_seq(pairs)
    }
}

/// The list of loans.
#[derive(Clone, Debug, serde::Serialize, schemars::JsonSchema)]
pub(crate) struct Loans {
    pub(crate) version: u32,
    /// Pages of the list.
    pub(crate) list_pages: u64,
    pub(crate) lent_folios: u64,
    pub(crate) lent_bytes: u64,
    /// The memory that is lent: folios that touch together.
    pub(crate) lent: Vec<Stretch>,
    /// The handover there; none if its root page cannot be read.
    pub(crate) handover: Option<Box<Handover>>,
    /// Where it starts: what the list says.
    pub(crate) entry: Entry,
}

/// Where a handover starts.
#[derive(Clone, Copy, Debug, serde::Serialize, schemars::JsonSchema)]
pub(crate) struct Entry {
    pub(crate) root: Hex,
    pub(crate) scratch: Hex,
    pub(crate) scratch_bytes: u64,
}

impl Loans {
    /// What `lent` is, and `survey` found there.
    pub(super) fn of(lent: &Lent, survey: &Survey<'_>, want: &Want<'_>) -> Self {
        let kho::Loans { root, scratch, scratch_bytes, .. } = lent.loans;
        let want = Want::new(survey, want.folios, want.hash);
        let handover = Handover::of(survey, None, &want);
        want.bar.finish_and_clear();
        let memory: Vec<Stretch> = lent.image().runs().map(Stretch::from).collect();
        Self {
            version: kho::Loans::VERSION,
            list_pages: lent.pages,
            lent_folios: lent.folios,
            lent_bytes: memory.iter().map(|stretch| stretch.bytes).sum(),
            lent: memory,
            handover: handover.map(Box::new),
            entry: Entry { root: root.into(), scratch: scratch.into(), scratch_bytes },
        }
    }
}

/// What is lent, and the handover there.
type Within<'i> = (&'i Lent, Survey<'i>);

impl Handover {
    /// What `survey` found; `within` is what is within it. `None` if the root page cannot be read.
    pub(super) fn of(
        survey: &Survey<'_>,
        within: Option<&Within<'_>>,
        want: &Want<'_>,
    ) -> Option<Self> {
        let (root, counts) = (survey.root.as_ref()?, survey.counts.as_ref()?);
        let page = survey.image.page_size();
        let levels = (0..Geometry::new(page.shift()).levels)
            .map(|level| (level, counts.nodes_at(level as u8)));
        let orders = (0..=page.max_order()).filter_map(|of| Some((of, page.order_of(of)?)));
        let orders = orders.map(|(of, order)| (of, counts.folios(order)));
        let heap = Heap::new(survey);
        let subtrees =
            survey.subtrees().map(|subtree| Subtree::of(survey, &heap, within, &subtree, want));
        let subtrees = subtrees.collect();
        Some(Self {
            fdt: survey.at.into(),
            compatible: survey.compatible.clone(),
            map: root.map().into(),
            nodes: counts.nodes(),
            nodes_by_level: levels.filter(|(_, nodes)| *nodes > 0).collect(),
            folios: counts.total(),
            frames: page.pages(counts.frames()),
            bytes: counts.frames().saturating_mul(PAGE_SIZE as u64),
            overlaps: survey.overlaps,
            faulty: Faulty {
                folios: survey.faulty.folios,
                blocks: survey.faulty.blocks.iter().map(|block| pair(*block, page)).collect(),
            },
            orders: orders.filter(|(_, folios)| *folios > 0).collect(),
            layout: Layout::of(&survey.rows),
            scratch: survey.scratch.as_ref().map(|s| s.iter().map(|run| (*run).into()).collect()),
            subtrees,
            preserved: Folios { rows: survey.rows.clone(), page },
        })
    }
}

impl Subtree {
    fn of(
        survey: &Survey<'_>,
        heap: &Heap<'_>,
        within: Option<&Within<'_>>,
        subtree: &heirloom_kho::Subtree,
        want: &Want<'_>,
    ) -> Self {
        let name = subtree.name.as_str();
        let is_own = name == heirloom_kho::SUBTREE;
        let what = if is_own && let Some(header) = survey.header.as_ref() {
            What::Own(Own::of(survey, header))
        } else if is_own && let Some((lent, survey)) = within {
            What::Loans(Loans::of(lent, survey, want))
        } else {
            // What cannot be read is among the findings.
            let left = survey.left();
            let known = Known::read(&left, subtree).ok().flatten();
            let known = known.and_then(|known| Linux::of(&known, &left, want));
            let published = || {
                survey.header.as_ref()?;
                Published::of(heap, subtree.addr, subtree.size?, want)
                    .map(Box::new)
                    .map(What::Published)
            };
            known.map(What::Linux).or_else(published).unwrap_or(What::Other {})
        };
        Self { name: name.to_owned(), phys: subtree.addr.into(), size: subtree.size, what }
    }
}
