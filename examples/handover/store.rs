//! Bytes in preserved memory: small buffers, large ones, and areas of single frames.

use std::ptr::NonNull;

use heirloom::Heirloom;
use heirloom::arena::{Arena, Mapping};
use heirloom::folio::{FrameType, Request};
use heirloom::kho::{AreaInfo, Block, Handle, Order, PAGE_SIZE, Parts};
use heirloom::restore::PreservedArea;
use heirloom::slab::Owner;
use heirloom::slab::internal::DirectoryPart;

use crate::run::Failure;
use crate::steps::{Stage, Steps};

/// Every so many large files, one is an area of single frames instead of a buffer.
const AREA_EVERY: u64 = 4;

/// Where a file's bytes are in this generation.
pub(crate) enum Data {
    Empty,
    Small(NonNull<u8>),
    Large(NonNull<u8>),
    /// Frames of an area that is still to be preserved.
    Frames(Vec<Block>),
    /// A preserved area.
    Area(AreaInfo),
}

/// Whether what is kept survives.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// Stored by this generation: not yet.
    New,
    /// Preserved by this generation.
    Preserved,
    /// Claimed from the generation before: as it did all the time.
    Claimed,
}

/// The memory that the bytes are in.
pub(crate) struct Store<'a> {
    pub(crate) arena: &'a Arena,
    pub(crate) heirloom: Heirloom<&'a Arena>,
    pub(crate) steps: &'a Steps,
    /// How many large files were stored.
    pub(crate) large: u64,
}

impl Store<'_> {
    /// Claims what the generation before kept under a handle: `bytes` bytes.
    pub(crate) fn claim(&self, handle: Handle, bytes: u64) -> Result<Data, Failure> {
        if bytes == 0 {
            return Ok(Data::Empty);
        }
        Ok(match handle.parts()? {
            Parts::Object { .. } => Data::Small(self.heirloom.restore(handle)?),
            Parts::Buffer { .. } => Data::Large(self.heirloom.restore(handle)?),
            Parts::Area(_) => Data::Area(self.heirloom.claim_area(handle)?.into_raw()),
            other => return Err(format!("a file is no {other:?}").into()),
        })
    }

    /// Stores bytes; they do not survive yet.
    pub(crate) fn put(&mut self, bytes: &[u8]) -> Result<Data, Failure> {
        match bytes.len() {
            0 => Ok(Data::Empty),
            n if n < PAGE_SIZE => Ok(self.placed(self.buffer(bytes)?)),
            _ => {
                self.large += 1;
                if self.large.is_multiple_of(AREA_EVERY) {
                    self.frames(bytes)
                } else {
                    Ok(self.placed(self.buffer(bytes)?))
                }
            }
        }
    }

    /// A buffer as what it is: an object of a size class, or whole frames.
    fn placed(&self, buffer: NonNull<u8>) -> Data {
        match self.heirloom.slabs().owner_of(buffer) {
            Ok(Owner::Large { .. }) => Data::Large(buffer),
            _ => Data::Small(buffer),
        }
    }

    /// A buffer with these bytes, at least one.
    pub(crate) fn buffer(&self, bytes: &[u8]) -> Result<NonNull<u8>, Failure> {
        let buffer = self.heirloom.alloc(bytes.len().max(1))?;
        // SAFETY: allocated just now, at least that long.
        unsafe { buffer.copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len()) };
        Ok(buffer)
    }

    /// Single frames with these bytes, written through one view of all of them.
    fn frames(&self, bytes: &[u8]) -> Result<Data, Failure> {
        let mut blocks = Vec::new();
        for _ in 0..bytes.len().div_ceil(PAGE_SIZE) {
            blocks.push(self.heirloom.memory().alloc(Request::new(Order::ZERO))?);
        }
        let mut mapping = self.view(&blocks)?;
        // SAFETY: the frames were allocated just now, and nothing else reads or writes them.
        if let Some(start) = unsafe { mapping.bytes_mut() }.get_mut(..bytes.len()) {
            start.copy_from_slice(bytes);
        }
        Ok(Data::Frames(blocks))
    }

    /// Scattered blocks as one stretch of addresses.
    fn view(&self, blocks: &[Block]) -> Result<Mapping, Failure> {
        let runs: Vec<_> = blocks.iter().map(|block| block.run()).collect();
        Ok(self.arena.map_area(&runs)?)
    }

    /// Makes what was put survive: how many things that were, and the handle to them.
    pub(crate) fn preserve(&self, data: &mut Data) -> Result<(u64, Option<Handle>), Failure> {
        match data {
            Data::Empty => Ok((0, None)),
            Data::Small(buffer) | Data::Large(buffer) => {
                // SAFETY: in use, and nothing frees it meanwhile.
                Ok((1, Some(unsafe { self.heirloom.preserve(*buffer) }?)))
            }
            Data::Frames(blocks) => {
                let count = blocks.len() as u64;
                let (memory, blocks) = (self.heirloom.memory(), blocks.iter().copied());
                // SAFETY: allocated by `frames`, and told to nothing else.
                let area = unsafe { PreservedArea::preserve(memory, blocks, Order::ZERO, false) }?;
                let info = area.into_raw();
                *data = Data::Area(info);
                Ok((count, Some(Handle::new(Parts::Area(info))?)))
            }
            Data::Area(info) => Ok((0, Some(Handle::new(Parts::Area(*info))?))),
        }
    }

    /// The first `length` bytes, as long as `f` looks at them.
    pub(crate) fn with_bytes<R>(
        &self,
        data: &Data,
        length: usize,
        f: impl FnOnce(&[u8]) -> R,
    ) -> Result<R, Failure> {
        let mapping = match data {
            Data::Empty => return Ok(f(&[])),
            Data::Small(buffer) | Data::Large(buffer) => {
                // SAFETY: the buffer is ours and has at least that many bytes.
                return Ok(f(unsafe { std::slice::from_raw_parts(buffer.as_ptr(), length) }));
            }
            Data::Frames(blocks) => self.view(blocks)?,
            Data::Area(info) => self.view(&self.blocks(*info)?)?,
        };
        // SAFETY: the frames are ours, and nothing writes them meanwhile.
        Ok(f(unsafe { mapping.bytes() }.get(..length).ok_or("an area is too short")?))
    }

    fn blocks(&self, info: AreaInfo) -> Result<Vec<Block>, Failure> {
        let mut blocks = Vec::new();
        // SAFETY: the area is ours; the value is let go below without unpreserving it.
        let area = unsafe { PreservedArea::from_raw(self.heirloom.memory(), info) };
        area.for_each(|block| blocks.push(block))?;
        area.into_raw();
        Ok(blocks)
    }

    /// Frees a file's bytes.
    pub(crate) fn free(&self, data: Data, state: State) -> Result<(), Failure> {
        let blocks = match data {
            Data::Empty => Vec::new(),
            Data::Small(buffer) | Data::Large(buffer) => {
                return self.free_buffer(buffer, state);
            }
            Data::Frames(blocks) => blocks,
            Data::Area(info) => {
                self.steps.at(Stage::Free);
                let mut blocks = Vec::new();
                // SAFETY: the area is ours, and ends here.
                let area = unsafe { PreservedArea::from_raw(self.heirloom.memory(), info) };
                area.unpreserve(|block| blocks.push(block)).map_err(|(_, error)| error)?;
                blocks
            }
        };
        for block in blocks {
            self.steps.at(Stage::Free);
            // SAFETY: the blocks are ours, and nothing leads to them any more.
            unsafe { self.heirloom.memory().free(block) }?;
        }
        Ok(())
    }

    /// Frees a buffer. One that was claimed needs no more; one that this generation preserved has to be
    /// unpreserved first.
    pub(crate) fn free_buffer(&self, buffer: NonNull<u8>, state: State) -> Result<(), Failure> {
        if state == State::Preserved {
            self.steps.at(Stage::Free);
            // SAFETY: in use, and nothing frees it meanwhile.
            unsafe { self.heirloom.unpreserve(buffer) }?;
        }
        self.steps.at(Stage::Free);
        // SAFETY: the buffer is ours, and the item that led to it ends here.
        Ok(unsafe { self.heirloom.free(buffer) }?)
    }

    /// Counts frames in use, by what for.
    pub(crate) fn used(&self) -> Result<Used, Failure> {
        Used::of(&self.heirloom)
    }
}

/// Frames in use, by what for.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Used {
    pub(crate) buffers: u64,
    pub(crate) folios: u64,
    pub(crate) slabs: u64,
    pub(crate) tables: u64,
    /// Tables that say which caches there are, and where their slabs. They stay for the next ones.
    pub(crate) roll: u64,
    pub(crate) scratch: u64,
}

impl Used {
    /// Counts them in a memory at rest.
    pub(crate) fn of(heirloom: &Heirloom<&Arena>) -> Result<Self, Failure> {
        let audit = heirloom.memory().audit()?;
        let of = |kind: FrameType| audit.allocated.get(kind as usize).copied().unwrap_or(0);
        let mut roll = 0;
        heirloom
            .slabs()
            .for_each_table(|part| roll += u64::from(matches!(part, DirectoryPart::Page(_))));
        Ok(Self {
            buffers: of(FrameType::Buffer) + of(FrameType::Tail) + of(FrameType::Run),
            folios: of(FrameType::Folio),
            slabs: of(FrameType::Slab),
            tables: of(FrameType::Table) - roll,
            roll,
            scratch: audit.reserved,
        })
    }
}
