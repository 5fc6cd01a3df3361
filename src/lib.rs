//! A preservation allocator: memory that outlives the kernel that allocated it.
//!
//! A kernel (or a process) takes frames, folios, slab objects and `void*` buffers from heirloom,
//! says which of them must survive, and jumps into its successor. The successor finds them at the
//! same physical addresses and claims them back as what they were; everything else is free memory
//! again. What was claimed survives the next jump too, until it is freed or let go.
//!
//! ```text
//!   old kernel                                       new kernel
//!   ──────────                                       ──────────
//!   alloc ─> object ─> slab ─> folio ─> frames       frames ─> folio ─> slab ─> object ─> free
//!               │                 │                     ^        ^        ^       ^
//!            preserve ──────> tracker (a tree)          │        │        │       │
//!               │                 │                   reserve  claim    adopt   restore
//!            16-byte handle    root page ══ jump ══> checked, then believed
//! ```
//!
//! | crate | what it holds |
//! |---|---|
//! | [`folio`] | frames, folios, the page allocator, the tracker of what survives |
//! | [`slab`] | object caches and `void*` buffers on folios |
//! | [`restore`] | the handover: the root, the check, claiming back |
//! | [`kho`] | what crosses the jump, and no allocator: units, tables as they are read |
//! | `heirloom` | this face: what most programs name, from all of them; arena, jump, live update |
//!
//! # Examples
//! Two generations over one memfd. The second could as well be another program, after an `exec`;
//! see `jump`.
//! ```
//! # #[cfg(all(feature = "std", target_os = "linux"))] {
//! use heirloom::arena::{Arena, RangeSpec};
//! use heirloom::{Disposition, Handle, Heirloom, NodeId, PhysAddr, Run, SealPolicy, persist};
//! use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};
//!
//! /// A typed object that survives: plain bytes, with a fingerprint of how they lie.
//! #[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
//! #[repr(C)]
//! struct Session {
//!     id: u64,
//!     buffer: [u8; 16],
//! }
//! persist!(Session { id, buffer });
//!
//! // 16 MiB of physical memory at 4 GiB, and the scratch that its metadata needs.
//! let memory = RangeSpec { start: PhysAddr::new(4 << 30), bytes: 16 << 20, node: NodeId(0) };
//! let arena = Arena::create("example", &[memory])?;
//! let map: Vec<_> = arena.ranges().iter().map(|range| (range.run(), range.node())).collect();
//! let scratch = Run::covering(memory.start, arena.scratch_bytes()).unwrap();
//!
//! // The old kernel. Nothing below needs a last step: from `publish` on, a crash would do.
//! // SAFETY: the arena is ours alone.
//! let old = unsafe { Heirloom::boot(&arena, &map, &[scratch], "old 1.0") }?;
//! let buffer = old.alloc(6)?;
//! // SAFETY: allocated just now.
//! unsafe { buffer.copy_from_nonoverlapping(std::ptr::NonNull::from(b"hello\n").cast(), 6) };
//! let sessions = old.slabs().typed::<Session>("session", true)?;
//! // SAFETY: ours, and nothing frees it.
//! let handle = unsafe { old.preserve(buffer) }?;
//! let session = sessions.insert(Session { id: 7, buffer: handle.into() })?;
//! let (addr, tag) = session.handle_parts();
//! session.leak();
//! old.publish("sessions", addr.get().to_le_bytes().as_slice())?;
//! let (entry, fd) = (old.entry(), arena.share()?);
//! drop(old);
//! drop(arena);
//!
//! // The new kernel: the memory is elsewhere, the physical addresses are the same.
//! let arena = Arena::open(fd)?;
//! // SAFETY: the old one is gone.
//! let new = unsafe { Heirloom::revive(&arena, &map, entry, "new 2.0", SealPolicy::Checked) }?;
//! assert_eq!(new.generation(), 1);
//! let root = new.claim_root("sessions")?;
//! assert_eq!(root.bytes(), addr.get().to_le_bytes());
//! let sessions = new.adopt::<Session>("session", true)?;
//! let session = sessions.claim(addr, tag)?;
//! assert_eq!(session.id, 7);
//! let buffer = new.restore(Handle::from(session.buffer))?;
//! // SAFETY: claimed just now; six bytes were stored.
//! assert_eq!(unsafe { std::slice::from_raw_parts(buffer.as_ptr(), 6) }, b"hello\n");
//! // SAFETY: ours, and not used again. An ordinary free.
//! unsafe { new.free(buffer) }?;
//! drop((root, session));
//! let finished = new.finish(|_| Disposition::Free)?;
//! assert_eq!(finished, Default::default(), "everything was claimed");
//! # }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Without the feature `std` everything is `no_std` and needs no `alloc`. With it, `arena` is
//! physical memory made of a memfd, and `jump` replaces the process by its successor. With
//! `liveupdate` that memory outlives Linux itself: `liveupdate` carries it through a kexec. `service` finds
//! it again for a program that a service manager starts anew.
//!
//! These four modules need Linux, and are left out on any other system; all else is the same there.
#![cfg_attr(not(feature = "std"), no_std)]

#[cfg(all(feature = "liveupdate", not(target_os = "linux")))]
compile_error!(
    "the feature `liveupdate` needs Linux, which keeps the memory through a kexec of its own"
);

pub use heirloom_folio as folio;
pub use heirloom_kho as kho;
pub use heirloom_restore as restore;
pub use heirloom_slab as slab;

#[cfg(all(feature = "std", target_os = "linux"))]
pub mod arena;
#[cfg(all(feature = "std", target_os = "linux"))]
pub mod jump;
#[cfg(all(feature = "liveupdate", target_os = "linux"))]
pub mod liveupdate;
#[cfg(all(feature = "std", target_os = "linux"))]
pub mod service;

pub use heirloom_folio::{
    CpuId, Cpus, DirectMap, Disposition, Folio, FrameState, FrameType, Machine, Memory, NodeId,
    OneCpu, OwnedRun, PreservedFolio, PreservedRun, Request,
};
pub use heirloom_kho::{
    Block, Fault, Handle, HandleFault, Order, PAGE_SIZE, Pfn, PhysAddr, Run, Table, TableError,
};
pub use heirloom_restore::{
    Entry, Error, Finished, Heirloom, MemoryMap, Placement, PreservedArea, Records, Root,
    SealPolicy, Unclaimed,
};
pub use heirloom_slab::{
    AllocOptions, Cache, CacheSpec, Object, Persist, PreservedObject, Slabs, TypedCache, persist,
};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
