//! What a kernel keeps: how a successor names it, restores it, and knows that it is whole.

mod life;

use heirloom::kho::{Block, Handle, Parts, PhysAddr, Run};
use heirloom::restore::Error;
use heirloom::slab::CacheSpec;

use super::machine::{Kernel, PAGE};

/// An entry of the lists of records: the list's seed, the entry's number, and its complement.
pub type Record = [u64; 3];

crate::listed! {
    /// What an object is.
    #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
    #[repr(u8)]
    pub enum ObjectKind {
        /// A folio.
        Folio,
        /// Frames in a row.
        Run,
        /// A buffer, small or large.
        Buffer,
        /// An object of a cache. `index`: of which, to a driver that numbers them.
        Object,
        /// An area of several blocks.
        Area,
        /// A list of [records](Record). `bytes`: how many entries.
        Records,
        /// Published bytes; `index`: under which of the driver's names.
        Root,
        /// A name for a folio, which is an object of its own; the seed is its address.
        Subtree,
    }
}

impl ObjectKind {
    /// Whether it is a name in the root page, and has no handle.
    pub const fn is_name(self) -> bool {
        matches!(self, Self::Root | Self::Subtree)
    }
}

/// What to make.
#[derive(Clone, Copy, Debug)]
pub enum Recipe {
    /// A folio of this order.
    Folio(u8),
    /// A run of so many frames.
    Run(u64),
    /// A buffer of so many bytes; whether it is preserved from birth.
    Buffer(usize, bool),
    /// An object of a cache, which is created if there is none.
    Object(CacheSpec),
    /// An area of so many blocks of an order.
    Area(u64, u8),
    /// A list of so many records.
    Records(u64),
}

/// An object, as its owner writes it down for a successor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TestObject {
    /// What it is.
    pub kind: ObjectKind,
    /// A driver's number; see [`ObjectKind`].
    pub index: u8,
    /// Whether it is preserved from birth, as long as it is not freed.
    pub born: bool,
    handle: [u8; 16],
    /// Bytes that its owner asked for, and stamps.
    pub bytes: u64,
    /// What its content is made of; `None`: not written yet.
    pub seed: Option<u64>,
}

/// Whether an error says that there is no memory.
pub const fn is_full(error: &Error) -> bool {
    error.is_out_of_memory()
}

/// How it is written down.
impl TestObject {
    /// An object by its handle, not stamped.
    pub fn new(kind: ObjectKind, index: u8, handle: Handle, bytes: u64) -> Self {
        Self { kind, index, born: false, handle: handle.into(), bytes, seed: None }
    }

    /// What is found by its name and not by a handle.
    pub const fn named(kind: ObjectKind, index: u8, bytes: u64, seed: u64) -> Self {
        Self { kind, index, born: false, handle: [0; 16], bytes, seed: Some(seed) }
    }

    /// An object of which a handle tells all, stamped as far as the handle names bytes.
    ///
    /// # Errors
    /// [`Error::Handle`]: it is none.
    pub fn of(handle: Handle, seed: u64) -> Result<Self, Error> {
        let (kind, bytes) = match handle.parts()? {
            Parts::Folio(block) => (ObjectKind::Folio, block.order().bytes()),
            Parts::Run(run) => (ObjectKind::Run, run.bytes()),
            Parts::Buffer { bytes, .. } => (ObjectKind::Buffer, bytes),
            Parts::Object { bytes, .. } => (ObjectKind::Object, bytes),
            Parts::Area(info) => (ObjectKind::Area, u64::from(info.pages()) * PAGE),
            Parts::Records { .. } => (ObjectKind::Records, 0),
            Parts::Blob { .. } => (ObjectKind::Root, 0),
        };
        Ok(Self::new(kind, 0, handle, bytes).stamped(seed))
    }

    /// A folio.
    ///
    /// # Panics
    /// Never: every folio has a handle.
    pub fn folio(block: Block) -> Self {
        let handle = Handle::new(Parts::Folio(block)).expect("every folio has a handle");
        Self::new(ObjectKind::Folio, 0, handle, block.order().bytes())
    }

    /// The same with the content of a seed.
    #[must_use]
    pub const fn stamped(self, seed: u64) -> Self {
        Self { seed: Some(seed), ..self }
    }

    /// The same of another length.
    #[must_use]
    pub const fn sized(self, bytes: u64) -> Self {
        Self { bytes, ..self }
    }

    /// The same, preserved from birth or not.
    #[must_use]
    pub const fn born(self, born: bool) -> Self {
        Self { born, ..self }
    }

    /// The handle.
    pub fn handle(&self) -> Handle {
        Handle::from(self.handle)
    }

    /// The handle and all else as words; see [`TestObject::from_words`].
    pub fn words(&self) -> [u64; 6] {
        let handle = u128::from_le_bytes(self.handle);
        let kind = self.kind as u64 | u64::from(self.index) << 8 | u64::from(self.born) << 16;
        [
            kind,
            handle as u64,
            (handle >> 64) as u64,
            self.bytes,
            self.seed.is_some().into(),
            self.seed.unwrap_or(0),
        ]
    }

    /// The object of these words, if they are one's.
    pub fn from_words([kind, a, b, bytes, stamped, seed]: [u64; 6]) -> Option<Self> {
        let handle = (u128::from(a) | u128::from(b) << 64).to_le_bytes();
        let seed = (stamped == 1).then_some(seed);
        let (index, born) = ((kind >> 8) as u8, kind >> 16 & 1 == 1);
        let kind = *ObjectKind::ALL.get(usize::from(kind as u8))?;
        Some(Self { kind, index, born, handle, bytes, seed })
    }

    /// What the handle names.
    ///
    /// # Panics
    /// If it is none.
    pub fn parts(&self) -> Parts {
        self.handle().parts().expect("handles are written down as the library made them")
    }

    /// Its block, if it is a folio.
    ///
    /// # Panics
    /// If it is not.
    pub fn block(&self) -> Block {
        let Parts::Folio(block) = self.parts() else { panic!("no folio: {self:?}") };
        block
    }

    /// Whether it is a small buffer or an object: in a slab.
    pub fn is_small(&self) -> bool {
        matches!(self.kind, ObjectKind::Buffer | ObjectKind::Object)
            && matches!(self.parts(), Parts::Object { .. })
    }

    /// Whether it is in a slab, and preserved from birth.
    pub fn is_born_small(&self) -> bool {
        self.born && self.is_small()
    }

    /// Whether a plain free frees it once it is restored.
    pub const fn is_held(&self) -> bool {
        matches!(self.kind, ObjectKind::Buffer | ObjectKind::Object)
    }

    /// Whether it is preserved by its making, and let go by its end: not by itself.
    pub const fn is_preserved_by_its_making(&self) -> bool {
        matches!(self.kind, ObjectKind::Area | ObjectKind::Records)
    }

    /// Where its bytes are, if they are in one place: not an area's or a list's.
    pub fn addr(&self) -> Option<PhysAddr> {
        self.extent().map(|(addr, _)| addr)
    }

    /// The first byte and how many there are, of what has them in one place.
    pub fn extent(&self) -> Option<(PhysAddr, u64)> {
        if self.kind.is_name() {
            return None;
        }
        match self.parts() {
            Parts::Folio(block) => Some((block.addr(), block.order().bytes())),
            Parts::Run(run) => Some((run.addr(), run.bytes())),
            Parts::Buffer { addr, bytes } | Parts::Object { addr, bytes, .. } => {
                Some((addr, bytes))
            }
            _ => None,
        }
    }

    /// The frames that it has to itself, if they are in a row.
    pub fn run(&self) -> Option<Run> {
        if self.is_small() {
            return None;
        }
        self.extent().and_then(|(addr, bytes)| Run::covering(addr, bytes))
    }

    /// How many frames it has to itself; of a list none.
    pub fn frames(&self) -> u64 {
        match self.kind {
            ObjectKind::Area => self.bytes / PAGE,
            _ => self.run().map_or(0, Run::frames),
        }
    }

    /// The bytes that are its alone, as stretches, to see whether two objects share any.
    ///
    /// # Panics
    /// If it is an area that is not this kernel's.
    pub fn extents(&self, kernel: &Kernel<'_>) -> Vec<(u64, u64)> {
        match self.kind {
            ObjectKind::Area => {
                let blocks = self.blocks(kernel).into_iter();
                blocks.map(|block| (block.addr().get(), block.order().bytes())).collect()
            }
            ObjectKind::Records => {
                let Parts::Records { first, .. } = self.parts() else { panic!("{self:?}") };
                vec![(first.get(), PAGE)]
            }
            _ => self.extent().map(|(addr, bytes)| (addr.get(), bytes)).into_iter().collect(),
        }
    }
}
