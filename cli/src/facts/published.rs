//! Roots that were published with heirloom: the handles in them, and what these name.

use std::collections::BTreeMap;

use heirloom_kho::PhysAddr;
use sha2::{Digest, Sha256};

use super::basic::Hex;
use super::memfd::{each_piece, hex};
use super::want::Want;
use crate::heap::{self, Container, Entry, Heap, Kind};

/// A root that was published and holds handles, or reads like that.
#[derive(Clone, Debug, serde::Serialize, schemars::JsonSchema)]
pub(crate) struct Published {
    /// What the root names, if it is one handle and nothing else.
    #[serde(flatten)]
    pub(crate) only: Option<Named>,
    /// What the handles in it name, where there is more in it than one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) handles: Vec<Named>,
}

/// What a handle names.
#[derive(Clone, Debug, serde::Serialize, schemars::JsonSchema)]
pub(crate) struct Named {
    /// Where in the root it stands, in bytes.
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) offset: u64,
    /// What kind of memory it names.
    pub(crate) handle: &'static str,
    pub(crate) addr: Hex,
    pub(crate) bytes: u64,
    /// The cache of an object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cache: Option<String>,
    /// Whether nothing is there that it names.
    #[serde(skip_serializing_if = "core::ops::Not::not")]
    pub(crate) gone: bool,
    /// The hash of what it names, but of a container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sha256: Option<String>,
    /// What it is the head of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) container: Option<Held>,
}

/// What a container holds.
#[derive(Clone, Debug, serde::Serialize, schemars::JsonSchema)]
pub(crate) struct Held {
    /// `map`, `vector`, `log`.
    pub(crate) kind: &'static str,
    pub(crate) entries: u64,
    /// Each by its key or number, as far as they are listed. A vector that an older build made does not say how large its
    /// elements are.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) listed: BTreeMap<String, Item>,
    /// How many are not.
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) unlisted: u64,
    /// What in it is not sound.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) broken: Option<String>,
}

/// An entry of a container.
#[derive(Clone, Debug, serde::Serialize, schemars::JsonSchema)]
pub(crate) struct Item {
    pub(crate) bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sha256: Option<String>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "as serde wants it")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// Entries of a container that are listed.
const LISTED: usize = 10_000;

impl Published {
    /// What the `bytes` bytes at `addr` say, if there are handles in them.
    pub(super) fn of(heap: &Heap<'_>, addr: PhysAddr, bytes: u64, want: &Want<'_>) -> Option<Self> {
        let mut handles = heap::in_root(heap, addr, bytes);
        if handles.is_empty() {
            return None;
        }
        if bytes == 16 {
            let only = handles.pop().map(|named| Named::of(heap, &named, want));
            return Some(Self { only, handles: Vec::new() });
        }
        let handles = handles.iter().map(|named| Named::of(heap, named, want)).collect();
        Some(Self { only: None, handles })
    }

    /// All that it names.
    pub(crate) fn each(&self) -> impl Iterator<Item = &Named> {
        self.only.iter().chain(&self.handles)
    }
}

impl Named {
    fn of(heap: &Heap<'_>, named: &heap::Named, want: &Want<'_>) -> Self {
        let heap::Named { offset, what, addr, bytes, cache, is_there } = named;
        let container = named.container(heap);
        let whole = !matches!(what, heap::What::Area | heap::What::Records);
        let hashed = want.hash && *is_there && whole && container.is_none();
        Self {
            offset: *offset,
            handle: what.as_str(),
            addr: (*addr).into(),
            bytes: *bytes,
            cache: cache.clone(),
            gone: !is_there,
            sha256: hashed.then(|| hash(want, *addr, *bytes)).flatten(),
            container: container.map(|container| Held::of(&container, want)),
        }
    }
}

impl Held {
    fn of(container: &Container<'_, '_>, want: &Want<'_>) -> Self {
        let (mut listed, mut entries, mut unlisted) = (BTreeMap::new(), 0, 0);
        let gone_through = match container.kind {
            Kind::Vec if container.element().is_none() => Ok(()),
            _ => container.each(None, &mut |Entry { key, at, bytes }| {
                entries += 1;
                if want.folios && listed.len() < LISTED {
                    let sha256 = want.hash.then(|| hash(want, at, bytes)).flatten();
                    listed.insert(key.to_string(), Item { bytes, sha256 });
                } else if want.folios {
                    unlisted += 1;
                }
                Ok(true)
            }),
        };
        let entries = match container.kind {
            Kind::Vec => container.length().unwrap_or_default(),
            Kind::Map | Kind::Log => entries,
        };
        // That it is this container's is said by where it stands.
        let broken = gone_through.err().map(|error| {
            error.chain().skip(1).map(ToString::to_string).collect::<Vec<_>>().join(": ")
        });
        Self { kind: container.kind.as_str(), entries, listed, unlisted, broken }
    }
}

/// The hash of memory, if it is in the image and worth the time.
fn hash(want: &Want<'_>, addr: PhysAddr, bytes: u64) -> Option<String> {
    want.read(bytes, 0).ok()?;
    let mut hash = Sha256::new();
    each_piece(want.image, addr, bytes, |piece| hash.update(piece))?;
    Some(hex(&hash.finalize()))
}
