//! What a handle names, and which handles a published root holds.

use heirloom_kho::{Handle, Parts, PhysAddr, Run};

use super::{Container, Heap};

/// What a handle names.
#[derive(Clone, Debug)]
pub(crate) struct Named {
    /// Where in the root it stands, in bytes.
    pub(crate) offset: u64,
    pub(crate) what: What,
    pub(crate) addr: PhysAddr,
    pub(crate) bytes: u64,
    /// The cache of an object.
    pub(crate) cache: Option<String>,
    /// Whether what it names survives.
    pub(crate) is_there: bool,
}

/// A kind of memory that a handle names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum What {
    Folio,
    Run,
    Buffer,
    Object,
    Area,
    Records,
    Blob,
}

impl What {
    /// What a person calls it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Folio => "folio",
            Self::Run => "run",
            Self::Buffer => "buffer",
            Self::Object => "object",
            Self::Area => "area",
            Self::Records => "records",
            Self::Blob => "blob",
        }
    }
}

impl Named {
    /// Returns what a handle at `offset` of a root names; `None` if these bytes are no handle.
    pub(crate) fn of(heap: &Heap<'_>, handle: [u8; 16], offset: u64) -> Option<Self> {
        let page = heap.image.page_size();
        let parts = Handle::from(handle).parts_sized(page).ok()?;
        let preserved = |run: Option<Run>| run.is_some_and(|run| heap.preserves(run));
        let (what, addr, bytes, is_there) = match parts {
            Parts::Folio(block) => {
                (What::Folio, block.addr(), block.order().bytes(), preserved(Some(block.run())))
            }
            Parts::Run(run) => (What::Run, run.addr(), run.bytes(), preserved(Some(run))),
            Parts::Buffer { addr, bytes } => {
                (What::Buffer, addr, bytes, preserved(page.covering(addr, bytes)))
            }
            Parts::Object { addr, bytes, tag } => {
                let object = heap.object(addr);
                let same = object.is_some_and(|object| {
                    object.addr == addr && object.tag == tag && object.bytes >= bytes
                });
                (What::Object, addr, bytes, same)
            }
            Parts::Area(area) => {
                let bytes = u64::from(area.pages()) * page.bytes() as u64;
                (What::Area, area.first(), bytes, preserved(page.covering(area.first(), 1)))
            }
            Parts::Records { first, entry } => {
                (What::Records, first, entry, preserved(page.covering(first, 1)))
            }
            Parts::Blob { addr, bytes } => {
                (What::Blob, addr, bytes, preserved(page.covering(addr, bytes)))
            }
        };
        let object = if what == What::Object { heap.object(addr) } else { None };
        let cache = object.map(|object| object.cache.name().as_str().to_owned());
        Some(Self { offset, what, addr, bytes, cache, is_there })
    }

    /// Returns the container, if what the handle names is the head of one.
    pub(crate) fn container<'h, 'i>(&self, heap: &'h Heap<'i>) -> Option<Container<'h, 'i>> {
        (self.what == What::Object && self.is_there).then(|| Container::at(heap, self.addr))?
    }
}

/// Bytes of a root that are looked through for handles.
const LOOKED: u64 = 64 << 10;

/// Returns the handles that a root holds: each sixteen of its bytes, from a multiple of eight on, that are one and name something
/// that survives. A root of sixteen bytes is a handle whatever that names.
pub(crate) fn in_root(heap: &Heap<'_>, addr: PhysAddr, bytes: u64) -> Vec<Named> {
    let length = usize::try_from(bytes.min(LOOKED)).unwrap_or_default();
    let mut root = vec![0; length];
    if heap.image.read(addr, &mut root).is_none() {
        return Vec::new();
    }
    let (mut found, mut at) = (Vec::new(), 0);
    while let Some(handle) = root.get(at..).and_then(<[u8]>::first_chunk) {
        match Named::of(heap, *handle, at as u64) {
            Some(named) if named.is_there || length == handle.len() => {
                found.push(named);
                at += 16;
            }
            _ => at += 8,
        }
    }
    found
}
