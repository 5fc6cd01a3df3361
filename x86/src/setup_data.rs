//! The list of `setup_data`: what a boot loader has to say beside the boot parameters.

use core::iter::FusedIterator;

use heirloom_kho::PhysAddr;
use heirloom_kho::narrow::usize_to_u64;
use heirloom_restore::Entry;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::error::{Error, Fault, Structure};
use crate::source::{Source, behind, load};

/// `SETUP_E820_EXT`: more regions than the boot parameters have room for.
pub const E820_EXT: u32 = 1;
/// `SETUP_KEXEC_KHO`: what a kernel hands over.
pub const KEXEC_KHO: u32 = 10;

/// The most nodes that are followed: a list with more has a loop.
const NODES: usize = 1024;

/// `struct setup_data`, before its data.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct SetupDataHead {
    /// The address of the next node, or 0.
    pub next: U64,
    /// What the data is.
    pub kind: U32,
    /// Bytes of data.
    pub len: U32,
}

/// `struct kho_data`: the data of a node of type [`KEXEC_KHO`].
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct KhoData {
    /// The root page.
    pub fdt_addr: U64,
    /// Its bytes: a page.
    pub fdt_size: U64,
    /// The scratch list.
    pub scratch_addr: U64,
    /// Its bytes.
    pub scratch_size: U64,
}

/// A node that hands over, to be put where the successor finds it.
///
/// # Examples
/// ```
/// use heirloom_kho::PhysAddr;
/// use heirloom_restore::Entry;
/// use heirloom_x86::boot_params::KhoNode;
/// use zerocopy::IntoBytes;
///
/// let (root, scratch) = (PhysAddr::new(0x10_0000), PhysAddr::new(0x10_1000));
/// let node = KhoNode::new(Entry { root, scratch, scratch_bytes: 16 });
/// assert_eq!(node.as_bytes().len(), 48);
/// ```
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct KhoNode {
    /// The head of the node.
    pub head: SetupDataHead,
    /// Its data.
    pub data: KhoData,
}

const _: () = assert!(size_of::<SetupDataHead>() == 16 && size_of::<KhoNode>() == 48, "packed");

impl KhoNode {
    /// Returns the last node of a list, which passes `entry` on.
    pub fn new(entry: Entry) -> Self {
        let data = usize_to_u64(size_of::<KhoData>());
        Self {
            head: SetupDataHead {
                next: U64::ZERO,
                kind: KEXEC_KHO.into(),
                len: u32::try_from(data).unwrap_or(0).into(),
            },
            data: KhoData {
                fdt_addr: entry.root.get().into(),
                fdt_size: usize_to_u64(heirloom_kho::PAGE_SIZE).into(),
                scratch_addr: entry.scratch.get().into(),
                scratch_size: entry.scratch_bytes.into(),
            },
        }
    }
}

/// A node of the list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SetupData {
    /// Where the node is.
    pub at: PhysAddr,
    /// What its data is: `SETUP_*` of Linux's `asm/setup_data.h`.
    pub kind: u32,
    /// Where its data starts.
    pub data: PhysAddr,
    /// Bytes of data.
    pub bytes: u32,
}

impl SetupData {
    /// Returns what the node says is handed over; `None` if it is of another type, or says that nothing
    /// is.
    ///
    /// # Errors
    /// Data that is too short, or cannot be read.
    pub fn entry(&self, source: &impl Source) -> Result<Option<Entry>, Error> {
        if self.kind != KEXEC_KHO {
            return Ok(None);
        }
        let fail = |offset, fault: Fault| fault.of(Structure::SetupData, self.at, offset);
        let needed = usize_to_u64(size_of::<KhoData>());
        if u64::from(self.bytes) < needed {
            return Err(fail(12, Fault::TooShort { needed, found: self.bytes.into() }));
        }
        let data: KhoData = load(source, self.data).ok_or(fail(16, Fault::OutsideMemory))?;
        let entry = Entry {
            root: PhysAddr::new(data.fdt_addr.get()),
            scratch: PhysAddr::new(data.scratch_addr.get()),
            scratch_bytes: data.scratch_size.get(),
        };
        Ok((entry.root.get() != 0).then_some(entry))
    }
}

/// The nodes of a list, in order. Ends with the first that cannot be read.
#[derive(Clone, Debug)]
pub struct SetupDataList<'s, S> {
    source: &'s S,
    next: PhysAddr,
    left: usize,
}

impl<'s, S: Source> SetupDataList<'s, S> {
    /// Returns the list whose first node is at `first`; none if that is 0.
    pub(crate) const fn new(source: &'s S, first: PhysAddr) -> Self {
        Self { source, next: first, left: NODES }
    }
}

impl<S: Source> Iterator for SetupDataList<'_, S> {
    type Item = Result<SetupData, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let at = core::mem::replace(&mut self.next, PhysAddr::new(0));
        if at.get() == 0 {
            return None;
        }
        let fail = |fault: Fault| Some(Err(fault.of(Structure::SetupData, at, 0)));
        let Some(left) = self.left.checked_sub(1) else {
            return fail(Fault::TooMany { limit: NODES });
        };
        let head: Option<SetupDataHead> = load(self.source, at);
        let data = behind(at, usize_to_u64(size_of::<SetupDataHead>()));
        let Some((head, data)) = head.zip(data) else { return fail(Fault::OutsideMemory) };
        self.left = left;
        self.next = PhysAddr::new(head.next.get());
        Some(Ok(SetupData { at, kind: head.kind.get(), data, bytes: head.len.get() }))
    }
}

impl<S: Source> FusedIterator for SetupDataList<'_, S> {}
