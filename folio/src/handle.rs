//! Ownership in types: a folio is freed by dropping it, a preserved one cannot be.
//!
//! ```text
//! Memory::folio ──> Folio ── preserve ──> PreservedFolio
//!                   │   ^                 │
//!                 drop  └── unpreserve ───┘      (no drop that frees)
//! ```

use core::fmt;
use core::mem::ManuallyDrop;
use core::ptr::NonNull;

use heirloom_kho::narrow::u64_to_usize;
use heirloom_kho::{Block, Order, Run};

use crate::error::Error;
use crate::frame_type::Kind;
use crate::freeze;
use crate::machine::{Machine, NodeId};
use crate::memory::Memory;
use crate::request::Request;

/// An operation on an owned value that was refused: the reason, and the value unchanged.
pub struct Refused<T> {
    /// Why.
    pub error: Error,
    /// What was passed in, still the caller's.
    pub value: T,
}

impl<T> fmt::Debug for Refused<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Refused").field("error", &self.error).finish_non_exhaustive()
    }
}

impl<T> fmt::Display for Refused<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl<T> core::error::Error for Refused<T> {}

/// Returns the bytes of frames that the caller owns.
fn bytes<M: Machine>(memory: &Memory<M>, run: Run) -> NonNull<[u8]> {
    let start = memory.machine().ptr(run.addr());
    NonNull::slice_from_raw_parts(start, u64_to_usize(run.bytes()))
}

macro_rules! owned_frames {
    ($owned:ident, $preserved:ident, $value:ident: $Value:ty, $kind:expr,
     $run:expr, $free:ident, $keep:ident, $unkeep:ident) => {
        impl<'m, M: Machine> $owned<'m, M> {
            /// Makes the owner of frames that were allocated by a raw call, or claimed and let go.
            ///
            /// # Safety
            /// They are allocated from `memory` as this kind, not preserved, and the caller's to
            /// give away; no other handle for them exists.
            pub unsafe fn from_raw(memory: &'m Memory<M>, $value: $Value) -> Self {
                freeze::settle(memory.machine().ptr($value.addr()));
                Self { memory, $value }
            }

            /// Makes the owner of frames that were allocated just now.
            #[inline]
            fn fresh(memory: &'m Memory<M>, $value: $Value, request: Request) -> Self {
                // What was cleared just now is bytes.
                if !request.wants_zeroes() {
                    let bytes = bytes(memory, $run($value));
                    // SAFETY: just allocated.
                    unsafe { freeze::settle_any(bytes.cast(), bytes.len()) };
                }
                Self { memory, $value }
            }

            /// Returns the frames, which nothing frees any more but a raw call or
            #[doc = concat!("[`", stringify!($owned), "::from_raw`].")]
            pub fn into_raw(self) -> $Value {
                ManuallyDrop::new(self).$value
            }

            /// Returns the contents: what was there before where nothing was written since.
            pub fn bytes(&self) -> &[u8] {
                // SAFETY: the frames are ours alone, mapped, and writes need `&mut self`; each byte
                // has a value since the handle was made.
                unsafe { bytes(self.memory, $run(self.$value)).as_ref() }
            }

            /// Returns the contents, to write.
            pub fn bytes_mut(&mut self) -> &mut [u8] {
                // SAFETY: the frames are ours alone, mapped, and we are borrowed mutably; each byte
                // has a value since the handle was made.
                unsafe { bytes(self.memory, $run(self.$value)).as_mut() }
            }

            /// Returns the node that the frames belong to.
            pub fn node(&self) -> NodeId {
                let start = $run(self.$value).start();
                self.memory.node_of(start).unwrap_or_default()
            }

            /// Makes the frames survive a jump.
            ///
            /// # Errors
            /// [`Error::OutOfMemory`] for a node of the tracker. The value comes back unchanged.
            pub fn preserve(self) -> Result<$preserved<'m, M>, Refused<Self>> {
                // The contract of the raw call: the handle is the frames' one owner, and is given up.
                match self.memory.$keep(self.$value, $kind) {
                    Ok(()) => Ok($preserved {
                        memory: self.memory,
                        $value: ManuallyDrop::new(self).$value,
                    }),
                    Err(error) => Err(Refused { error, value: self }),
                }
            }
        }

        impl<M: Machine> Drop for $owned<'_, M> {
            fn drop(&mut self) {
                // SAFETY: the handle is the frames' one owner, and it ends here.
                let freed = unsafe { self.memory.$free(self.$value, $kind) };
                debug_assert!(freed.is_ok(), "the frames of a handle are allocated: {freed:?}");
            }
        }

        impl<'m, M: Machine> $preserved<'m, M> {
            /// Makes the owner of preserved frames that [`Self::into_raw`] gave up, or that were claimed.
            ///
            /// # Safety
            /// They are allocated from `memory` as this kind, preserved, and the caller's to
            /// give away; no other handle for them exists.
            pub unsafe fn from_raw(memory: &'m Memory<M>, $value: $Value) -> Self {
                freeze::settle(memory.machine().ptr($value.addr()));
                Self { memory, $value }
            }

            /// Returns the frames; they stay preserved.
            pub fn into_raw(self) -> $Value {
                self.$value
            }

            /// Returns the contents: what was there before where nothing was written since.
            pub fn bytes(&self) -> &[u8] {
                // SAFETY: the frames are ours alone, mapped, and writes need `&mut self`; each byte
                // has a value since the handle was made.
                unsafe { bytes(self.memory, $run(self.$value)).as_ref() }
            }

            /// Returns the contents, to write: what stands here at the jump is what survives.
            pub fn bytes_mut(&mut self) -> &mut [u8] {
                // SAFETY: the frames are ours alone, mapped, and we are borrowed mutably; each byte
                // has a value since the handle was made.
                unsafe { bytes(self.memory, $run(self.$value)).as_mut() }
            }

            /// Gives the frames back as ones that do not survive, and that dropping frees.
            ///
            /// # Errors
            /// None for frames that are preserved, which those of a handle are.
            pub fn unpreserve(self) -> Result<$owned<'m, M>, Refused<Self>> {
                // The contract of the raw call: as in `preserve`.
                match self.memory.$unkeep(self.$value, $kind) {
                    Ok(()) => Ok($owned { memory: self.memory, $value: self.$value }),
                    Err(error) => Err(Refused { error, value: self }),
                }
            }
        }

        impl<M: Machine> fmt::Debug for $owned<'_, M> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($owned), self.$value)
            }
        }

        impl<M: Machine> fmt::Debug for $preserved<'_, M> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($preserved), self.$value)
            }
        }
    };
}

/// An owned folio: `2^order` frames, naturally aligned. Dropping it frees them.
///
/// # Examples
/// See [`Memory`] and [`PreservedFolio`].
pub struct Folio<'m, M: Machine> {
    memory: &'m Memory<M>,
    block: Block,
}

/// A folio that survives a jump. It has no drop that frees: letting go of the handle leaves the
/// folio preserved, and only [`PreservedFolio::unpreserve`] leads back to one that can be freed.
pub struct PreservedFolio<'m, M: Machine> {
    memory: &'m Memory<M>,
    block: Block,
}

/// Owned frames in a row, exactly as many as were asked for. Dropping it frees them.
pub struct FolioRun<'m, M: Machine> {
    memory: &'m Memory<M>,
    run: Run,
}

/// A run that survives a jump; like [`PreservedFolio`], nothing frees it by accident.
pub struct PreservedRun<'m, M: Machine> {
    memory: &'m Memory<M>,
    run: Run,
}

const fn frames(run: Run) -> Run {
    run
}

owned_frames!(Folio, PreservedFolio, block: Block, Kind::Folio,
              Block::run, free, preserve_kind, unpreserve_kind);
owned_frames!(FolioRun, PreservedRun, run: Run, Kind::Run,
              frames, free_run, preserve_run_kind, unpreserve_run_kind);

impl<M: Machine> Folio<'_, M> {
    /// Returns the frames.
    pub const fn block(&self) -> Block {
        self.block
    }

    /// Returns the order.
    pub const fn order(&self) -> Order {
        self.block.order()
    }
}

impl<M: Machine> PreservedFolio<'_, M> {
    /// Returns the frames.
    pub const fn block(&self) -> Block {
        self.block
    }

    /// Returns the order.
    pub const fn order(&self) -> Order {
        self.block.order()
    }
}

impl<M: Machine> FolioRun<'_, M> {
    /// Returns the frames.
    pub const fn run(&self) -> Run {
        self.run
    }
}

impl<M: Machine> PreservedRun<'_, M> {
    /// Returns the frames.
    pub const fn run(&self) -> Run {
        self.run
    }
}

impl<M: Machine> Memory<M> {
    /// Allocates an owned folio.
    ///
    /// # Errors
    /// As for [`Memory::alloc`]; the request's kind is [`Kind::Folio`] whatever it says.
    pub fn folio(&self, request: Request) -> Result<Folio<'_, M>, Error> {
        let block = self.alloc(request.kind(Kind::Folio))?;
        Ok(Folio::fresh(self, block, request))
    }

    /// Allocates an owned run of exactly `frames` frames.
    ///
    /// # Errors
    /// As for [`Memory::alloc_run`]; the request's kind is [`Kind::Run`] whatever it says.
    pub fn run(&self, frames: u64, request: Request) -> Result<FolioRun<'_, M>, Error> {
        let run = self.alloc_run(frames, request.kind(Kind::Run))?;
        Ok(FolioRun::fresh(self, run, request))
    }

    /// Claims a folio that a predecessor preserved; once. It stays preserved.
    ///
    /// # Errors
    /// As for [`Memory::claim`].
    pub fn claim_folio(&self, block: Block) -> Result<PreservedFolio<'_, M>, Error> {
        self.claim(block, Kind::Folio)?;
        // SAFETY: claimed just now, by this call alone.
        Ok(unsafe { PreservedFolio::from_raw(self, block) })
    }
}
